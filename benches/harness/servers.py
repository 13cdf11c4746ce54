"""Starting and stopping what is measured and what it is measured against. Everything listens on 127.0.0.1."""

import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A process that ends when it is stopped, or when this one dies."""

    def __init__(self, name: str, arguments: list, port: int, log: pathlib.Path, ready: str = "/"):
        self.name, self.port, self.log = name, port, log
        self.origin = f"http://127.0.0.1:{port}"
        self.started = time.perf_counter()
        with log.open("ab") as out:
            # The kernel ends it with us, whatever happens.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=log.parent, start_new_session=True,
            )
        try:
            self.wait_until_ready(ready)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - self.started

    def wait_until_ready(self, path: str, seconds: float = 60) -> None:
        while time.perf_counter() - self.started < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once:\n{self.log.read_text()[-3000:]}")
            try:
                status, _ = request(self.origin, "GET", path)
                if status < 500:
                    return
            except OSError:
                pass
            time.sleep(0.001)
        raise RuntimeError(f"{self.name} was not ready after {seconds:.0f} s:\n{self.log.read_text()[-3000:]}")

    def memory(self, what: str = "VmRSS") -> int:
        """Resident memory in bytes, now (`VmRSS`) or at its highest since `forget_peak` (`VmHWM`)."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc says nothing of {what}")

    def forget_peak(self) -> None:
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stop()
        # A server that answers and panics beside it measures something else.
        if kind is None and "panicked at" in self.log.read_text():
            raise RuntimeError(f"{self.name} panicked:\n{self.log.read_text()[-3000:]}")


def request(origin: str, method: str, path: str, headers: dict | None = None, body=None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(origin.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Peers:
    """PostgreSQL by the script that the tests use, but writing to disk as it does by default."""

    def __init__(self, log: pathlib.Path):
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "scripts/peers/up", "postgres"], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=log.open("ab"), text=True, env=dict(os.environ, VALETKEY_PEERS_DURABLE="1"),
        )
        self.url = None
        for line in self.process.stdout:
            if line.startswith("export VALETKEY_TEST_POSTGRES="):
                self.url = line.split("=", 1)[1].strip().strip("'")
            if line.startswith("# ready"):
                break
        if self.url is None:
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()[-3000:]}")

    def database(self, name: str) -> str:
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return f"{self.url.rsplit('/', 1)[0]}/{name}"

    def sql(self, text: str, database: str | None = None) -> str:
        url = database or self.url
        done = subprocess.run([postgres_program("psql"), "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", text],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def postgres_program(name: str) -> str:
    found = shutil.which(name) or next(iter(sorted(map(str, pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))), None)
    if found is None:
        raise RuntimeError(f"{name} of PostgreSQL is not to be found")
    return found


def nginx(folder: pathlib.Path, name: str, port: int, server: str, upstream: str = "") -> Server:
    """An nginx of our own, with its files in `folder`."""
    home = folder / name
    for part in ("tmp", "www"):
        (home / part).mkdir(parents=True, exist_ok=True)
    config = home / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(f"""
{user}
daemon off;
worker_processes auto;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    open_file_cache max=100;
    client_max_body_size 0;
    client_body_temp_path {home}/tmp/body;
    proxy_temp_path {home}/tmp/proxy;
    fastcgi_temp_path {home}/tmp/fastcgi;
    uwsgi_temp_path {home}/tmp/uwsgi;
    scgi_temp_path {home}/tmp/scgi;
    {upstream}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
""")
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    return Server(name, [program, "-c", config, "-e", home / "error.log"], port, folder / f"{name}.log")


def static_upstream(folder: pathlib.Path) -> Server:
    """The API that is proxied: 1 KiB of JSON, and a gibibyte to send and to receive."""
    www = folder / "upstream" / "www"
    (www / "api").mkdir(parents=True, exist_ok=True)
    (www / "api" / "item").write_text('{"text": "' + "x" * (1024 - 13) + '"}\n')
    with (www / "api" / "gibibyte").open("wb") as out:
        out.truncate(1 << 30)
    server = f"""
        root {www};
        default_type application/json;
        location = /api/sink {{ return 200 "taken\\n"; }}
    """
    return nginx(folder, "upstream", free_port(), server)


def proxy_pass(folder: pathlib.Path, to: Server) -> Server:
    """The yardstick: nginx in front of the same upstream, adding the same header, with its connections kept."""
    upstream = f"upstream api {{ server 127.0.0.1:{to.port}; keepalive 64; keepalive_requests 1000000000; }}"
    server = """
        location / {
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer bench-access-000000000001";
        }
    """
    return nginx(folder, "proxy-pass", free_port(), server, upstream)
