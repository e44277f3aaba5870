"""
What every measurement stands on: subject and baseline take turns in one process, and medians are compared.

Whatever else the machine does falls on both, so a ratio says more than a time. The journals lie in memory
(`/dev/shm`) with every commit as durable as in production: what the disk's own fsync takes is reported beside it.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

KEY = "cs_benchmark"
_MEMORY = Path("/dev/shm")
_WARM = 30


@dataclass(frozen=True)
class Figure:
    """One row: what was measured against what. `ratio` is subject by baseline; `more` says which way is better."""

    figure: str
    transport: str
    baseline: str
    base: float
    subject: float
    unit: str
    target: str = ""
    more: bool = False

    @property
    def ratio(self):
        return self.subject / self.base

    @property
    def name(self):
        return f"{self.figure} ({self.transport})" if self.transport else self.figure

    def as_dict(self):
        return asdict(self) | {"ratio": round(self.ratio, 3)}


@contextlib.contextmanager
def folder():
    """A folder for journals whose fsync takes no time, where this machine has one."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield path


def timed(function):
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def turns(rounds, *functions, between=lambda: None):
    """Median seconds of each function; they take turns, and `between` is in nobody's time."""
    times = [[] for _ in functions]
    for turn in range(rounds + _WARM):
        for function, taken in zip(functions, times, strict=True):
            seconds = timed(function)
            between()
            if turn >= _WARM:
                taken.append(seconds)
    return [statistics.median(taken) for taken in times]


def cpu():
    """CPU seconds that this process has used, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def per_call(function, calls, clock=cpu):
    """What each of so many calls takes by a clock that is too coarse for one."""
    started = clock()
    for _ in range(calls):
        function()
    return (clock() - started) / calls


async def at_once(call, calls, workers):
    """Calls per second with so many of them in flight."""
    left = iter(range(calls))

    async def work():
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return calls / (time.perf_counter() - started)


def fsync_microseconds(times=200):
    """Median microseconds of one fsync of a page on the disk on which a journal lies by default."""
    found = []
    with tempfile.TemporaryFile(dir=Path.home()) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            found.append(timed(lambda: os.fsync(file.fileno())))
    return round(statistics.median(found) * 1e6)


def machine():
    """What the figures were measured on."""
    names = ("countwerk-meter", "httpx", "httpcore", "httptools", "pydantic", "langchain-core", "starlette")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "fsync_us": fsync_microseconds(),
    }


def lines(figures):
    """One line of the table for each row."""
    said = []
    for row in figures:
        base, subject = (f"{row[name]:,.{1 if row[name] < 100 else 0}f} {row['unit']}" for name in ("base", "subject"))
        more = f"{row['subject'] - row['base']:+,.{1 if row['subject'] < 100 else 0}f} {row['unit']}"
        said.append(
            f"| {row['figure']} | {row['transport']} | {row['baseline']} | {base} | {subject} | "
            f"{row['ratio']:.2f} x | {more} | {row['target']} |"
        )
    return "\n".join(said)


def table(about, figures):
    """A Markdown table, with the machine above it."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}; {versions}. "
        f"One fsync of this disk takes {about['fsync_us']} µs, and is in none of the figures.\n\n"
        "| figure | transport | baseline | baseline | measured | ratio | difference | aim |\n"
        "|---|---|---|---|---|---|---|---|\n"
        f"{lines(figures)}\n"
    )


def worse(stored, found):
    """Lines about every ratio that got worse by more than a tenth."""
    before = {(row["figure"], row["transport"]): row for row in stored}
    said = []
    for row in found:
        old = before.get((row["figure"], row["transport"]))
        if old is None:
            continue
        change = old["ratio"] / row["ratio"] if row["more"] else row["ratio"] / old["ratio"]
        if change > 1.1:
            said.append(
                f"{row['figure']} ({row['transport'] or '-'}): {old['ratio']} x was stored, now {row['ratio']} x"
            )
    return said


def load(path):
    """The stored figures, none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": []}
