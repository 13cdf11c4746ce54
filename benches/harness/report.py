"""The results in docs/performance.md, between two markers: what falls short, tables, and pictures."""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
from html import escape

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
RESULTS = REPOSITORY / "benches" / "results.json"
PAGE = REPOSITORY / "docs" / "performance.md"
PICTURE = REPOSITORY / "docs" / "performance.svg"
STORM = REPOSITORY / "docs" / "storm.svg"
BEGIN, END = "<!-- written by benches/run: begin -->", "<!-- written by benches/run: end -->"


class Results:
    """What was measured, by section, so that one section can be measured again without the others. `names` are those of all
    sections, in their order."""

    def __init__(self, names: list[str]):
        self.names = names
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.sections = {name: known[name] for name in names if name in known}

    def section(self, name: str, rows: list[dict], machine: dict, seconds: float) -> None:
        """`seconds` is how long it took to measure it, databases and all."""
        self.sections[name] = {"machine": machine, "seconds": round(seconds), "rows": rows}
        self.sections = {name: self.sections[name] for name in self.names if name in self.sections}
        RESULTS.write_text(json.dumps(self.sections, indent=1) + "\n")

    def rows(self):
        for section in self.sections.values():
            yield from section["rows"]


def row(what: str, value: float, unit: str, target: float | None, better: str, detail: str, command: str = "") -> dict:
    """`better` is "higher", "lower" or "equal"; `target` is what was asked for, where something was."""
    return locals()


def unfinished(what: str, why: str) -> dict:
    """What was to be measured, and was not."""
    return row(what, None, "", None, "higher", why)


SIGNS = {"higher": "≥", "lower": "≤", "equal": "="}


def met(found: dict) -> bool | None:
    value, target = found["value"], found["target"]
    if value is None:
        return False
    if target is None:
        return None
    return {"higher": value >= target, "lower": value <= target, "equal": value == target}[found["better"]]


def asked(found: dict) -> str:
    return "" if found["target"] is None else f"{SIGNS[found['better']]} {number(found['target'], found['unit'])}"


def machine() -> dict:
    def said(*arguments: str) -> str:
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=REPOSITORY)
        except FileNotFoundError:
            return "unknown"
        return (done.stdout + done.stderr).strip()

    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    nginx = said(shutil.which("nginx") or "/usr/sbin/nginx", "-v")
    changed = bool(said("git", "status", "--porcelain", "--", "crates", "Cargo.toml", "Cargo.lock", "providers"))
    return {
        "day": said("date", "-u", "+%Y-%m-%d"),
        "commit": said("git", "rev-parse", "--short=10", "HEAD") + (" with changes" if changed else ""),
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{int(memory.group(1)) / 1048576:.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "rustc": said("rustc", "--version").split(" (")[0],
        "nginx": nginx.rsplit("/", 1)[-1],
        "wrk": next(iter(re.findall(r"\d+\.\d+\.\d+", said("wrk", "-v"))), "unknown"),
    }


def number(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    if unit == "ratio":
        return f"{value:.2f}"
    if unit in ("µs", "requests", "requests/s", "saves"):
        return f"{value:,.0f} {unit}"
    return f"{value:.2f} {unit}" if unit == "s" else f"{value:.1f} {unit}"


def write(results: Results) -> None:
    PICTURE.write_text(picture([found for found in results.rows() if found["unit"] == "ratio"]))
    lines = [BEGIN, "", "## What falls short", "", *falls_short(results), ""]
    lines += ["## Results", "", "![Ratios, with what was asked for](performance.svg)", ""]
    for section in results.sections.values():
        for found in section["rows"]:
            if "storm" in found:
                STORM.write_text(storm(found["storm"]))
                lines += ["![A refresh storm: what expired, and what was refreshed before](storm.svg)", ""]
        lines += table(section)
    lines.append(END)
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise RuntimeError(f"{PAGE} has lost its markers")
    PAGE.write_text(before + "\n".join(lines) + after)


def falls_short(results: Results) -> list[str]:
    """A line for everything that a reader should know before they believe the tables."""
    lines = []
    for found in results.rows():
        if found["value"] is None:
            lines.append(f"- **{found['what']}**: not measured: {found['detail']}.")
        elif met(found) is False:
            lines.append(f"- **{found['what']}**: {number(found['value'], found['unit'])}, where {asked(found)} is asked for.")
    missing = [name for name in results.names if name not in results.sections]
    if missing:
        lines.append(f"- Not measured yet: {', '.join(missing)} (`./benches/run {' '.join(missing)}`).")
    by_commit: dict[str, list[str]] = {}
    for name, section in results.sections.items():
        by_commit.setdefault(section["machine"]["commit"], []).append(name)
    if len(by_commit) > 1:
        said = "; ".join(f"{commit} ({', '.join(names)})" for commit, names in by_commit.items())
        lines.append(f"- The numbers are not of one commit: {said}.")
    return lines or ["Nothing that was asked for."]


def table(section: dict) -> list[str]:
    at = section["machine"]
    lines = ["| | measured | asked for | | detail |", "|---|---:|---:|---|---|"]
    commands = []
    for found in section["rows"]:
        word = {True: "met", False: "**missed**", None: ""}[met(found)]
        lines.append(f"| {found['what']} | {number(found['value'], found['unit'])} | {asked(found)} | {word} | {found['detail']} |")
        if found["command"] and found["command"] not in commands:
            commands.append(found["command"])
    if commands:
        lines += ["", "```sh", *commands, "```"]
    lines += [
        "",
        f"{at['day']}, commit {at['commit']}; {at['cores']} cores of {at['cpu']}, {at['memory']}, Linux {at['kernel']}; "
        f"{at['rustc']}, nginx {at['nginx']}, wrk {at['wrk']}." + took(section),
        "",
    ]
    return lines


def took(section: dict) -> str:
    # Nothing is known of sections that were measured before this was written down.
    return f" It took {section['seconds'] / 60:.1f} min." if "seconds" in section else ""


def picture(rows: list[dict]) -> str:
    """A bar for each ratio, and a mark where it was asked to be."""
    width, left, top, step, right = 860, 400, 34, 26, 70
    height = top + step * len(rows) + 20
    largest = max([1.0, *(found["value"] for found in rows), *(found["target"] or 0 for found in rows)]) * 1.05
    across = width - left - right

    def x(value: float) -> float:
        return left + across * value / largest

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        "<title>Ratios to the yardstick, with what was asked for</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="20" fill="#57606a">ratio to the yardstick; the mark is what was asked for, the line is 1</text>',
        f'<line x1="{x(1):.1f}" y1="{top - 6}" x2="{x(1):.1f}" y2="{height - 14}" stroke="#8c959f" stroke-dasharray="3 3"/>',
    ]
    for index, found in enumerate(rows):
        y = top + step * index
        good = met(found)
        color = {True: "#2da44e", False: "#cf222e", None: "#6e7781"}[good]
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end" fill="#24292f">{escape(found["what"])}</text>')
        bar = max(1.0, x(found["value"]) - left)
        parts.append(f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="18" fill="{color}"/>')
        parts.append(f'<text x="{x(found["value"]) + 6:.1f}" y="{y + 14}" fill="#24292f">{found["value"]:.2f}</text>')
        if found["target"] is not None:
            at = x(found["target"])
            parts.append(f'<line x1="{at:.1f}" y1="{y - 3}" x2="{at:.1f}" y2="{y + 21}" stroke="#000000" stroke-width="2"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def storm(lines: dict[str, list]) -> str:
    """How many had expired and how many were refreshed, over time: the refreshes must stay above and to the left."""
    width, height, left, top, right, bottom = 860, 420, 70, 40, 30, 50
    points = [point for line in lines.values() for point in line]
    last, most = max((x for x, _ in points), default=1), max((y for _, y in points), default=1)
    across, down = width - left - right, height - top - bottom
    names = {
        "expire": ("would have expired (healthy providers)", "#8c959f"),
        "healthy": ("refreshed, healthy providers", "#2da44e"),
        "slow": ("refreshed, the slow provider", "#bf8700"),
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        "<title>A refresh storm: connections that would have expired and connections that were refreshed, over time</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<path d="M {left} {top} V {top + down} H {left + across}" fill="none" stroke="#57606a"/>',
        f'<text x="{left - 8}" y="{top + 5}" text-anchor="end" fill="#57606a">{most:,}</text>',
        f'<text x="{left - 8}" y="{top + down}" text-anchor="end" fill="#57606a">0</text>',
        f'<text x="{left + across}" y="{top + down + 20}" text-anchor="end" fill="#57606a">{last:,.0f} s</text>',
        f'<text x="{left}" y="{top + down + 20}" fill="#57606a">seconds since the storm began</text>',
    ]
    for index, (name, (label, color)) in enumerate(names.items()):
        path = " L ".join(f"{left + across * x / last:.1f} {top + down - down * y / most:.1f}" for x, y in lines.get(name, []))
        if path:
            parts.append(f'<path d="M {path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<rect x="{left + 270 * index}" y="12" width="14" height="14" fill="{color}"/>')
        parts.append(f'<text x="{left + 270 * index + 20}" y="24" fill="#24292f">{escape(label)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
