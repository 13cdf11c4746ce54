"""What is on the stage while something is measured: binaries, filled databases, the upstream, and targets to aim at."""

import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass

from . import load, servers

RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", servers.REPOSITORY / "target")) / "release"
PROVIDER = "bench"


def build() -> None:
    for arguments in (
        ["-p", "valetkey-cli", "--bin", "valetkey"],
        # Apart from the binary, which must not get the features that these need; together, so that those are built once.
        ["-p", "valetkey", "-p", "valetkey-http"] + [f"--example={name}" for name in ("bench_seed", "bench_option", "bench_storm", "hello")],
    ):
        subprocess.run(["cargo", "build", "--release", "--locked", *arguments], cwd=servers.REPOSITORY, check=True, stdin=subprocess.DEVNULL)


@dataclass
class Seeded:
    """A filled database: how to open it, and who may use what is in it."""

    arguments: list[str]
    token: str
    ids: pathlib.Path


@dataclass
class Moved:
    """An import: how long it took, its highest memory in bytes, the accounts that it brought, and the bytes of the option."""

    seconds: float
    peak: int
    accounts: int
    size: int
    command: str


@dataclass
class Tried:
    """`provider try` of everything that is known: how long it took, and how many checks went well and wrong."""

    seconds: float
    providers: int
    well: int
    wrong: int
    command: str


@dataclass
class Storm:
    """Many connections that expire together. Times in seconds, of calls in milliseconds."""

    providers: int
    connections: int
    soonest: int
    latest: int
    delay: int
    slow: int
    labs: list | None = None
    rows: list | None = None
    server: servers.Server | None = None
    command: str = ""

    def log(self, lab: dict) -> list[dict]:
        """What a lab was asked; nothing where it is dead."""
        if lab["kind"] == "dead":
            return []
        status, body = servers.request(f"http://{lab['host']}", "GET", "/lab/log")
        if status != 200:
            raise RuntimeError(f"{lab['name']} answers {status}")
        return json.loads(body)

    def refreshes(self, kind: str) -> int:
        """How many refreshes succeeded at the labs of that kind."""
        return sum(counters["refreshes"] for counters in self._counters(kind))

    def requests(self, kind: str) -> int:
        """How many requests for a refresh came to the labs of that kind, with whatever token, and whatever came of them."""
        return sum(counters["requests"].get("token.refresh_token", 0) for counters in self._counters(kind))

    def _counters(self, kind: str) -> list[dict]:
        """What each lab of that kind counted."""
        labs = [lab for lab in self.labs if lab["kind"] == kind]
        return [json.loads(servers.request(f"http://{lab['host']}", "GET", "/lab/counters")[1]) for lab in labs]


class Stage:
    """Holds what several sections share; databases are filled when first asked for."""

    def __init__(self, folder: pathlib.Path, quick: bool):
        self.folder, self.quick = folder, quick
        self.pairs, self.seconds = (2, 1) if quick else (5, 3)
        self.few, self.many = (100, 2_000) if quick else (1_000, 1_000_000)
        self.few_accounts, self.many_accounts = (90, 900) if quick else (90, 90_000)
        self.granted = 200 if quick else 10_000
        self.unknown, self.revocations = (1_000, 20) if quick else (10_000, 1_000)
        self._peers = None
        self._seeded: dict[tuple[str, int], Seeded] = {}

    def __enter__(self):
        self.upstream = servers.static_upstream(self.folder)
        self.providers = self.folder / "providers"
        self.providers.mkdir()
        (self.providers / f"{PROVIDER}.toml").write_text(definition(self.upstream))
        return self

    def __exit__(self, *_):
        self.upstream.stop()
        if self._peers:
            self._peers.stop()

    def peers(self) -> servers.Peers:
        if self._peers is None:
            self._peers = servers.Peers(self.folder / "peers.log")
        return self._peers

    def hello(self) -> servers.Server:
        port = servers.free_port()
        return servers.Server("hello", [RELEASE / "examples" / "hello", f"127.0.0.1:{port}"], port, self.folder / "hello.log")

    def seeded(self, database: str, count: int) -> Seeded:
        """A database with so many connections; the same one when asked again."""
        if (database, count) not in self._seeded:
            self._seeded[database, count] = self._seed(database, count)
        return self._seeded[database, count]

    def _seed(self, database: str, count: int) -> Seeded:
        print(f"  filling {database} with {count:,} connections", file=sys.stderr, flush=True)
        if database == "SQLite":
            arguments = ["--data", str(self.folder / f"sqlite-{count}")]
        else:
            # PostgreSQL does not get a root key made for it: take the one that SQLite made.
            sqlite = self.seeded("SQLite", self.few)
            key = f"{sqlite.arguments[1]}/root.key"
            arguments = ["--database", self.peers().database(f"bench_{count}"), "--root-key-file", key]
        ids = self.folder / f"{database}-{count}.ids"
        done = subprocess.run(
            [RELEASE / "examples" / "bench_seed", *arguments, "--provider", PROVIDER, "--host", self.upstream_host(), "--connections", str(count),
             "--ids", ids],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
        if done.returncode:
            raise RuntimeError(f"bench_seed failed:\n{done.stderr}")
        if database == "PostgreSQL":
            # As autovacuum would have done by and by.
            self.peers().sql("VACUUM ANALYZE", arguments[1])
            self.peers().sql("CHECKPOINT")
        return Seeded(arguments, done.stdout.strip(), ids)

    def platform_key(self, seeded: Seeded, scopes: str = "accounts:read,accounts:reveal,accounts:write") -> str:
        """A key, by default one that reads and writes every account; made while no server runs on that database."""
        command = [
            RELEASE / "valetkey", "key", "create", *seeded.arguments, "--label", "bench", "--assert", "any",
            "--scope", scopes, "--json",
        ]
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"no key could be made:\n{done.stderr}")
        return json.loads(done.stdout)["key"]

    def account_target(self, server: servers.Server, key: str, save: bool) -> load.Target:
        """One person's account, which is read or saved again and again."""
        path = f"/v1/providers/{PROVIDER}/accounts/users/45"
        if not save:
            target = load.Target(server.origin, [f"{path}?reveal=true"], token=key)
        else:
            account = {"access_token": "bench-access-{n}", "refresh_token": "bench-refresh-{n}", "username": "user45"}
            target = load.Target(server.origin, [f"{path}?replace=true"], "PUT", key, body=json.dumps({"account": account}))
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        status, body = servers.request(server.origin, target.method, target.paths[0], headers, target.body)
        if status != 200:
            raise RuntimeError(f"an account answers {status}: {body[:500]!r}")
        return target

    def two_writers(self, saves: int, origins: list[str], key: str) -> tuple[int, float]:
        """Two writers at once, each saves so many accounts: how many are there afterwards as they were saved; and the seconds."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

        def path(writer: int, number: int) -> str:
            return f"/v1/providers/{PROVIDER}/accounts/users/writer-{writer}-{number}"

        def write(writer: int) -> None:
            for number in range(saves):
                body = json.dumps({"account": {"access_token": f"saved-{writer}-{number}"}})
                status, answer = servers.request(origins[writer % len(origins)], "PUT", path(writer, number), headers, body)
                if status not in (200, 201):
                    raise RuntimeError(f"a save answers {status}: {answer[:500]!r}")

        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(write, writer) for writer in range(2)]:
                done.result()
        took = time.perf_counter() - started
        there = 0
        for writer in range(2):
            for number in range(saves):
                status, answer = servers.request(origins[0], "GET", f"{path(writer, number)}?reveal=true", headers)
                there += status == 200 and json.loads(answer)["account"].get("access_token") == f"saved-{writer}-{number}"
        return there, took

    def idle(self, server: servers.Server) -> int:
        """Resident bytes of a server that was started and left alone for five seconds."""
        time.sleep(1 if self.quick else 5)
        return server.memory()

    def shown_server(self, database: str) -> str:
        """The command of a server, as a reader could type it."""
        return f"valetkey serve {shown_place(database)} --listen 127.0.0.1:8320 --audit batched --log warn"

    def tried(self) -> Tried:
        """Tries every definition that is built in."""
        command = ["provider", "try", "--all", "--json"]
        started = time.perf_counter()
        done = subprocess.run([str(RELEASE / "valetkey"), *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.folder)
        took = time.perf_counter() - started
        if not done.stdout:
            raise RuntimeError(f"the catalogue could not be tried:\n{done.stderr[-3000:]}")
        tried = json.loads(done.stdout)["providers"]
        results = [check["result"] for provider in tried for check in provider["checks"]]
        return Tried(took, len(tried), results.count("ok"), results.count("red"), " ".join(["valetkey", *command]))

    def moved_in(self, database: str, number: int) -> Moved:
        """Moves a large Data Machine site into a broker that is empty, another one for each number."""
        folder = self.folder / "data-machine"
        principals = 100 if self.quick else 10_000
        if not folder.exists():
            folder.mkdir()
            subprocess.run([RELEASE / "examples" / "bench_option", folder, str(principals)], stdin=subprocess.DEVNULL, check=True)
        option = folder / "auth_data.serialized"
        # What was asked for is the time of an option of 58 MB.
        if not self.quick and option.stat().st_size < 58_000_000:
            raise RuntimeError(f"bench_option writes only {option.stat().st_size:,} bytes")
        data = self.folder / f"moved-{database}-{number}"
        arguments = ["--data", str(data)]
        # A first start makes the database, and for SQLite the root key; the import is measured alone.
        if database == "PostgreSQL":
            key = f"{self.seeded('SQLite', self.few).arguments[1]}/root.key"
            arguments = ["--database", self.peers().database(f"bench_moved_{number}"), "--root-key-file", key]
        port = servers.free_port()
        first = [RELEASE / "valetkey", "serve", *arguments, "--listen", f"127.0.0.1:{port}", "--log", "warn"]
        servers.Server("valetkey", first, port, self.folder / "valetkey.log", ready="/readyz").stop()
        command = [
            RELEASE / "valetkey", "import", "data-machine", *arguments, "--auth-data", option, "--wp-config", folder / "wp-config.php", "--json",
        ]
        started = time.perf_counter()
        with (self.folder / "import.json").open("wb") as out, (self.folder / "import.log").open("wb") as log:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=log)
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
        took = time.perf_counter() - started
        # Nobody needs it any more, and the next one should not wait for its pages to reach the disk.
        shutil.rmtree(data, ignore_errors=True)
        if status:
            raise RuntimeError(f"the import failed:\n{(self.folder / 'import.log').read_text()[-3000:]}")
        accounts = json.loads((self.folder / "import.json").read_text())["report"]["counts"]["account"]["created"]
        shown = f"valetkey import data-machine {shown_place(database)} --auth-data auth_data.serialized --wp-config wp-config.php --json"
        return Moved(took, usage.ru_maxrss * 1024, accounts, option.stat().st_size, shown)

    @contextlib.contextmanager
    def storm(self):
        """Labs that play many providers, a server over connections there that are all about to expire, and which is which."""
        folder = self.folder / "storm"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        storm = Storm(
            providers=4 if self.quick else 20, connections=200 if self.quick else 10_000, soonest=20 if self.quick else 60,
            latest=60 if self.quick else 600, delay=100, slow=2_000,
        )
        flags = ["providers", "connections", "soonest", "latest", "delay", "slow"]
        command = [
            RELEASE / "examples" / "bench_storm", "--data", folder / "data", "--definitions", folder / "providers", "--plan", folder / "plan.json",
            *(word for flag in flags for word in (f"--{flag}", getattr(storm, flag))),
        ]
        storm.command = "\n".join([
            "bench_storm --data DIR --definitions DIR --plan FILE " + " ".join(f"--{flag} {getattr(storm, flag)}" for flag in flags),
            f"valetkey serve {shown_place('SQLite')} --listen 127.0.0.1:8320 --audit batched --providers DIR --loopback-http "
            "--allow-private LAB:PORT --log error  # --allow-private for each lab",
        ])
        print(f"  filling SQLite with {storm.connections:,} connections at {storm.providers} providers", file=sys.stderr, flush=True)
        with (folder / "labs.log").open("wb") as log:
            labs = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )
        try:
            if labs.stdout.readline().strip() != "ready":
                raise RuntimeError(f"bench_storm failed:\n{(folder / 'labs.log').read_text()[-3000:]}")
            plan = json.loads((folder / "plan.json").read_text())
            storm.labs, storm.rows = plan["providers"], plan["connections"]
            port = servers.free_port()
            allowed = [word for lab in storm.labs for word in ("--allow-private", lab["host"])]
            arguments = [
                RELEASE / "valetkey", "serve", "--data", folder / "data", "--listen", f"127.0.0.1:{port}", "--audit", "batched",
                "--providers", folder / "providers", "--loopback-http", *allowed, "--log", "error",
            ]
            with servers.Server("valetkey", arguments, port, self.folder / "valetkey.log", ready="/readyz") as storm.server:
                yield storm
        finally:
            labs.stdin.close()
            try:
                labs.wait(20)
            except subprocess.TimeoutExpired:
                labs.kill()
                labs.wait()

    def upstream_host(self) -> str:
        return f"127.0.0.1:{self.upstream.port}"

    def valetkey(self, seeded: Seeded, audit: str) -> servers.Server:
        port = servers.free_port()
        arguments = [
            RELEASE / "valetkey", "serve", *seeded.arguments, "--listen", f"127.0.0.1:{port}", "--audit", audit,
            "--providers", self.providers, "--loopback-http", "--allow-private", self.upstream_host(), "--log", "warn",
        ]
        return servers.Server("valetkey", arguments, port, self.folder / "valetkey.log", ready="/readyz")

    def reveal_target(self, server: servers.Server, seeded: Seeded, ids: list[str] | None = None, order: str = "cycle") -> load.Target:
        ids = ids if ids is not None else seeded.ids.read_text().split()
        target = load.Target(server.origin, [f"/v1/connections/{id}/token" for id in ids], "POST", seeded.token, order)
        status, body = servers.request(server.origin, "POST", target.paths[0], self._bearer(seeded))
        if status != 200 or not json.loads(body).get("access_token", "").startswith("bench-access-"):
            raise RuntimeError(f"a reveal answers {status}: {body[:500]!r}")
        return target

    def flood_target(self, origin: str, ids: list[str], seconds: int) -> load.Target:
        """Tokens that nobody has and whose form is right, each another one, at a steady rate for at least so many seconds."""
        count = self.unknown * seconds
        paths = [f"/v1/connections/{ids[number % len(ids)]}/token" for number in range(count)]
        return load.Target(origin, paths, "POST", tokens=[unknown_token() for _ in range(count)], rate=self.unknown)

    def revoked(self, origins: list[str], seeded: Seeded, key: str, number: int) -> "Revoked":
        """A token that callers use without a pause at every replica, while streams run by it, and that is revoked at one."""
        id = seeded.ids.read_text().split(maxsplit=1)[0]
        status, body = servers.request(origins[0], "GET", "/v1/me", self._bearer(seeded))
        agent = json.loads(body)["agent"]
        by_key = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        status, body = servers.request(origins[0], "POST", f"/v1/agents/{agent}/tokens", by_key, b"{}")
        if status != 201:
            raise RuntimeError(f"a token could not be made: {status}: {body[:500]!r}")
        made = json.loads(body)
        bearer = {"Authorization": f"Bearer {made['token']}"}
        streams = [Stream(origin, f"/v1/proxy/{id}/api/gibibyte", bearer) for origin in origins]
        stop, served = threading.Event(), []

        def call(origin: str) -> None:
            while not stop.is_set():
                began = time.perf_counter()
                status, body = servers.request(origin, "POST", f"/v1/connections/{id}/token", bearer)
                if status == 200:
                    served.append(began)
                elif status != 401:
                    raise RuntimeError(f"a reveal answers {status}: {body[:500]!r}")

        with concurrent.futures.ThreadPoolExecutor(2 * len(origins)) as pool:
            calls = [pool.submit(call, origin) for origin in origins for _ in range(2)]
            try:
                # Somewhere in the middle of their calls, and not always at the same place.
                time.sleep(0.05 + 0.007 * (number % 5))
                status, body = servers.request(origins[number % len(origins)], "DELETE", f"/v1/tokens/{made['id']}", by_key)
                returned = time.perf_counter()
                if status != 204:
                    raise RuntimeError(f"a revocation answers {status}: {body[:500]!r}")
                time.sleep(0.05)
            finally:
                stop.set()
            for done in calls:
                done.result()
        longest = max(stream.ended(returned) for stream in streams)
        return Revoked(len(served), sum(began > returned for began in served), longest)

    def evaluation_target(self, server: servers.Server, seeded: Seeded, kind: str, ids: list[str]) -> load.Target:
        """Access evaluation by AuthZEN: may the agent that asks use a connection, or has it one that it may use at the provider?"""
        status, body = servers.request(server.origin, "GET", "/v1/me", self._bearer(seeded))
        agent = json.loads(body)["agent"] if status == 200 else None
        named = ids if kind == "connection" else [PROVIDER]
        bodies = [
            json.dumps({"subject": {"type": "agent", "id": agent}, "action": {"name": "use"}, "resource": {"type": kind, "id": id}})
            for id in named
        ]
        path = "/access/v1/evaluation"
        target = load.Target(server.origin, [path] * len(bodies), "POST", seeded.token, bodies=bodies)
        headers = {**self._bearer(seeded), "Content-Type": "application/json"}
        status, body = servers.request(server.origin, "POST", path, headers, bodies[0].encode())
        if status != 200 or json.loads(body).get("decision") is not True:
            raise RuntimeError(f"an evaluation answers {status}: {body[:500]!r}")
        return target

    def introspection_target(self, server: servers.Server, seeded: Seeded, key: str) -> load.Target:
        """A resource server asks what a token is: a form, by a platform key (RFC 7662)."""
        path, kind = "/oauth/introspect", "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode({"token": seeded.token})
        target = load.Target(server.origin, [path], "POST", key, bodies=[body], kind=kind)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
        status, answer = servers.request(server.origin, "POST", path, headers, body.encode())
        if status != 200 or json.loads(answer).get("active") is not True:
            raise RuntimeError(f"an introspection answers {status}: {answer[:500]!r}")
        return target

    def proxy_target(self, server: servers.Server, seeded: Seeded) -> load.Target:
        ids = seeded.ids.read_text().split()
        target = load.Target(server.origin, [f"/v1/proxy/{id}/api/item" for id in ids], "GET", seeded.token)
        status, body = servers.request(server.origin, "GET", target.paths[0], self._bearer(seeded))
        if status != 200 or not body.startswith(b'{"text"'):
            raise RuntimeError(f"a proxied call answers {status}: {body[:500]!r}")
        return target

    def gibibyte(self, server: servers.Server, seeded: Seeded, send: bool) -> None:
        """One gibibyte through the proxy, read or written a piece at a time."""
        first = seeded.ids.read_text().split(maxsplit=1)[0]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        if send:
            piece = b"x" * (1 << 20)
            headers = {**self._bearer(seeded), "Content-Length": str(1 << 30)}
            connection.request("POST", f"/v1/proxy/{first}/api/sink", body=(piece for _ in range(1 << 10)), headers=headers)
        else:
            connection.request("GET", f"/v1/proxy/{first}/api/gibibyte", headers=self._bearer(seeded))
        answer = connection.getresponse()
        size = 0
        while piece := answer.read(1 << 20):
            size += len(piece)
        connection.close()
        if answer.status != 200 or (not send and size != 1 << 30):
            raise RuntimeError(f"a gibibyte through the proxy: {answer.status}, {size} bytes")

    def _bearer(self, seeded: Seeded) -> dict[str, str]:
        return {"Authorization": f"Bearer {seeded.token}"}


@dataclass
class Revoked:
    """What came of a token that was revoked: requests that were served, those of them that were sent afterwards, and how many
    seconds the last stream went on."""

    served: int
    late: int
    streamed: float


class Stream:
    """A gibibyte that is read slowly, so that it does not end by itself."""

    PIECE, PAUSE, PATIENCE = 16 << 10, 0.005, 30

    def __init__(self, origin: str, path: str, headers: dict[str, str]):
        self.connection = http.client.HTTPConnection(origin.removeprefix("http://"), timeout=self.PATIENCE)
        self.connection.connect()
        # Little is under way: what was sent before the end would be read after it.
        self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.connection.request("GET", path, headers=headers)
        self.answer = self.connection.getresponse()
        if self.answer.status != 200:
            raise RuntimeError(f"a stream answers {self.answer.status}: {self.answer.read()[:500]!r}")
        self.end: float | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while self.answer.read(self.PIECE):
                time.sleep(self.PAUSE)
        self.end = time.perf_counter()

    def ended(self, since: float) -> float:
        """How many seconds after `since` it ended."""
        self.thread.join(self.PATIENCE)
        self.connection.close()
        if self.end is None:
            raise RuntimeError(f"a stream goes on {self.PATIENCE} s after its token was revoked")
        return max(0.0, self.end - since)


def shown_place(database: str) -> str:
    """Where the data is, in a command that a reader could type."""
    return "--data DIR" if database == "SQLite" else "--database postgres://user@host/name --root-key-file FILE"


def unknown_token() -> str:
    """An agent's token as we make them, which nobody was given."""
    body = "vk_" + base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
    return f"{body}_{hashlib.sha256(body.encode()).hexdigest()[:6]}"


def definition(upstream: servers.Server) -> str:
    """The provider of the benchmarks: OAuth with refresh, whose API is the upstream."""
    host = f"127.0.0.1:{upstream.port}"
    return f"""
title = "Bench"
kind = "oauth2"
identity = "none"
identity_none_reason = "the accounts of the benchmarks are made up"

[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}

[oauth2]
authorize_url = "http://{host}/authorize"
token_url = "http://{host}/token"
client_auth = "basic"
pkce = "required"
scope_separator = " "
scopes = {{ default = ["read"] }}

[refresh]
strategy = "refresh_token"
rotation = "always"
before = "5m"
access_ttl = "30d"

[proxy]
base_url = "http://{host}"
hosts = ["{host}"]
path_allow = {{ "{host}" = ["/api/**"] }}
credential_paths = ["/token"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
"""
