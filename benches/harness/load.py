"""Load by wrk, and comparisons that alternate between two servers."""

import json
import os
import pathlib
import statistics
import subprocess
import tempfile
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


def command(target: Target, connections: int, seconds: int) -> list[str]:
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), target.origin]


def shown(target: Target, connections: int, seconds: int) -> str:
    """The command as a reader could type it."""
    words = [f"BENCH_METHOD={target.method}", "BENCH_PATHS=paths.txt"]
    if target.token:
        words.append("BENCH_TOKEN=vk_...")
    if target.body:
        words.append(f"BENCH_BODY='{target.body}'")
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


def run(target: Target, connections: int, seconds: int) -> Result:
    environment = dict(os.environ, BENCH_METHOD=target.method, BENCH_ORDER=target.order)
    for name, value in (("BENCH_TOKEN", target.token), ("BENCH_BODY", target.body)):
        environment.pop(name, None)
        if value:
            environment[name] = value
    with tempfile.NamedTemporaryFile("w", suffix=".paths") as paths:
        paths.write("".join(f"{path}\n" for path in target.paths))
        paths.flush()
        environment["BENCH_PATHS"] = paths.name
        done = subprocess.run(
            command(target, connections, seconds), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds + 60,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"wrk failed:\n{done.stdout}{done.stderr}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
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


def pairs(a: Target, b: Target, *, connections: int, seconds: int, count: int, say) -> Pairs:
    """A/B/A/B..., after a short warm-up of both."""
    for target in (a, b):
        run(target, connections, 2)
    found = Pairs([], [], shown(b, connections, seconds))
    for number in range(count):
        found.a.append(run(a, connections, seconds))
        found.b.append(run(b, connections, seconds))
        left, right = found.a[-1], found.b[-1]
        say(f"  pair {number + 1}: {left.rate:,.0f}/s p50 {left.p50:.0f} µs | {right.rate:,.0f}/s p50 {right.p50:.0f} µs")
    return found
