"""Load by wrk, and comparisons that alternate between two servers."""

import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "request.lua"


@dataclass
class Target:
    """What wrk is pointed at."""

    origin: str
    paths: list[str]
    method: str = "GET"
    token: str | None = None
    order: str = "cycle"
    body: str | None = None
    bodies: list[str] | None = None
    # What the bodies are; JSON when absent.
    kind: str | None = None
    # A bearer for each path, in the place of `token`.
    tokens: list[str] | None = None
    # So many requests a second; as many as it takes when absent.
    rate: int | None = None


def command(target: Target, connections: int, seconds: int) -> list[str]:
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), target.origin]


def shown(target: Target, connections: int, seconds: int) -> str:
    """The command as a reader could type it."""
    words = [f"BENCH_METHOD={target.method}", "BENCH_PATHS=paths.txt"]
    if target.token:
        words.append("BENCH_TOKEN=vk_...")
    if target.body:
        words.append(f"BENCH_BODY='{target.body}'")
    if target.bodies:
        words.append("BENCH_BODIES=bodies.txt")
    if target.kind:
        words.append(f"BENCH_TYPE={target.kind}")
    if target.tokens:
        words.append("BENCH_TOKENS=tokens.txt")
    if target.rate:
        words.append(f"BENCH_RATE={target.rate}")
    if target.order != "cycle":
        words.append(f"BENCH_ORDER={target.order}")
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", "benches/request.lua", "http://127.0.0.1:PORT"]
    return " ".join(words + wrk)


@dataclass
class Result:
    """One run of wrk. Times in microseconds."""

    rate: float
    p50: float
    p99: float


@contextlib.contextmanager
def prepared(target: Target):
    """What wrk's script reads: settings, and files that are there as long as this is."""
    environment = dict(os.environ, BENCH_METHOD=target.method, BENCH_ORDER=target.order)
    rate = str(target.rate) if target.rate else None
    settings = (("BENCH_TOKEN", target.token), ("BENCH_BODY", target.body), ("BENCH_TYPE", target.kind), ("BENCH_RATE", rate))
    for name, value in settings:
        environment.pop(name, None)
        if value:
            environment[name] = value
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("BENCH_PATHS", target.paths), ("BENCH_BODIES", target.bodies), ("BENCH_TOKENS", target.tokens)):
            environment.pop(name, None)
            if lines:
                path = pathlib.Path(folder) / name
                path.write_text("".join(f"{line}\n" for line in lines))
                environment[name] = str(path)
        yield environment


def said(returncode: int, out: str, err: str) -> dict:
    """What wrk's script said at the end."""
    lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
    if returncode != 0 or not lines:
        raise RuntimeError(f"wrk failed:\n{out}{err}")
    return json.loads(lines[-1].removeprefix("RESULT "))


@contextlib.contextmanager
def beside(target: Target, connections: int):
    """Load that goes on as long as this does. What came of it stands in what is yielded, afterwards; it judges nothing."""
    found: dict = {}
    with prepared(target) as environment:
        # The kernel ends it with us, whatever happens.
        words = ["setpriv", "--pdeathsig", "TERM", *command(target, connections, 86_400)]
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        try:
            time.sleep(1)
            yield found
            # wrk ends its run by it as if the time were over.
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            found.update(said(process.returncode, out, err))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def run(target: Target, connections: int, seconds: int) -> Result:
    with prepared(target) as environment:
        done = subprocess.run(
            command(target, connections, seconds), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds + 60,
        )
    found = said(done.returncode, done.stdout, done.stderr)
    # An answer that is no answer is fast: a run with errors counts for nothing.
    if found["refused"] or found["broken"] or not found["requests"]:
        raise RuntimeError(f"{target.origin}: of {found['requests']} requests {found['refused']} were refused, {found['broken']} broke")
    return Result(found["requests"] / found["microseconds"] * 1e6, found["p50"], found["p99"])


@dataclass
class Pairs:
    """Runs of A and B in turn."""

    a: list[Result]
    b: list[Result]
    command: str

    def median(self, value) -> float:
        """The median over the pairs of `value(a, b)`."""
        return statistics.median(value(a, b) for a, b in zip(self.a, self.b))

    def rate_ratio(self) -> float:
        return self.median(lambda a, b: b.rate / a.rate)

    def p50_ratio(self) -> float:
        return self.median(lambda a, b: b.p50 / a.p50)

    def spread(self, value) -> tuple[float, float]:
        values = [value(a, b) for a, b in zip(self.a, self.b)]
        return min(values), max(values)


# The most of the cores' time that the host of a virtual machine may take away while something is measured. Beyond, the number says more
# of its neighbours than of the servers, and does not count.
STOLEN = 0.1
# How long one comparison waits for times in which the host leaves the cores alone, in seconds. Such times come and go within seconds.
PATIENCE = 15 * 60


class Host:
    """How much of the cores' time the host took away since this was made: 0 to 1. Always 0 on a machine of its own."""

    def __init__(self) -> None:
        self.before = self.times()

    @staticmethod
    def times() -> list[int]:
        # user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); what comes after is counted in user already.
        return [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]

    def stolen(self) -> float:
        spent = [now - then for now, then in zip(self.times(), self.before)]
        return spent[7] / max(1, sum(spent))


class Undisturbed:
    """Measures only while the host of the machine leaves the cores alone; what it disturbed is measured again, whatever it came to."""

    def __init__(self, say, patience: int = PATIENCE) -> None:
        self.say = say
        self.until = time.monotonic() + patience
        self.worst = 0.0

    def measure(self, what):
        """What `what()` returns, which can be said in a line."""
        while True:
            self.wait()
            host = Host()
            found = what()
            taken = host.stolen()
            if taken <= STOLEN:
                return found
            self.say(f"  does not count, the host took {taken:.0%} of the cores: {found}")
            self.spoilt(taken)

    def wait(self) -> None:
        """Until the host took next to nothing for a second."""
        while True:
            host = Host()
            time.sleep(1)
            taken = host.stolen()
            if taken <= STOLEN:
                return
            self.spoilt(taken)

    def spoilt(self, taken: float) -> None:
        self.worst = max(self.worst, taken)
        if time.monotonic() > self.until:
            raise RuntimeError(f"the host took up to {self.worst:.0%} of the cores away; measure again when it is quiet")


@dataclass
class Pair:
    """A run of A and one of B right after it."""

    a: Result
    b: Result

    def __str__(self) -> str:
        return f"{self.a.rate:,.0f}/s p50 {self.a.p50:.0f} µs | {self.b.rate:,.0f}/s p50 {self.b.p50:.0f} µs"


def pairs(a: Target, b: Target, *, connections: int, seconds: int, count: int, say) -> Pairs:
    """A/B/A/B..., after a short warm-up of both, each pair undisturbed."""
    for target in (a, b):
        run(target, connections, 2)
    found, undisturbed = Pairs([], [], shown(b, connections, seconds)), Undisturbed(say)
    while len(found.a) < count:
        pair = undisturbed.measure(lambda: Pair(run(a, connections, seconds), run(b, connections, seconds)))
        found.a.append(pair.a)
        found.b.append(pair.b)
        say(f"  pair {len(found.a)}: {pair}")
    return found
