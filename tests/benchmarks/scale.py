"""
What one journal carries: charges a second by 1 to 8 processes that share it, and whose time that takes.

In PostgreSQL, or with `--sqlite` in a file in the user's own directory, whose disk is then waited for as in production.

Each process makes calls in 16 tasks; a charge counts once it is settled. The ledger answers at once and is a process of
its own, as is PostgreSQL. On one machine they all share its cores, so the CPU seconds of a charge, in the app's
processes and in PostgreSQL, say more about a larger one than the charges a second.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fast_ledger import fast_ledger
from frame import KEY

from countwerk_meter import Meter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.postgres import database, server

_TASKS = 16


async def _work(url, journal, seconds):
    meter = Meter("product", api_key=KEY, base_url=url, journal=journal, reserve_timeout=30)
    made, longest = 0, 0.0

    async def calls(number, until):
        nonlocal made, longest
        while (began := time.monotonic()) < until:
            async with meter.reserve(f"acct_{os.getpid()}_{number}", "bench.call", amount=2) as reservation:
                reservation.settle(1)
            made, longest = made + 1, max(longest, time.monotonic() - began)

    # Warm, then wait for the others: they start together.
    await calls(0, time.monotonic() + 0.2)
    await meter.aflush(30)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    made, longest, started, used = 0, 0.0, time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(calls(number, started + seconds) for number in range(_TASKS)))
    assert await meter.aflush(120)
    taken, now = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(made, taken, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, longest, flush=True)
    await meter.aclose()


def _ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _postgres_seconds():
    """CPU seconds of every living PostgreSQL process of this machine."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text(encoding="utf-8").startswith("postgres"):
                total += _ticks(folder.name)
        except OSError:
            continue
    return total


def run(url, journal, workers, seconds):
    """Charges a second, the CPU milliseconds of one in the app and in PostgreSQL, and seconds of the longest call."""
    command = [sys.executable, __file__, "--work", url, journal, str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    for each in started:
        assert each.stdout.readline() == "ready\n"
    before = _postgres_seconds()
    for each in started:
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.stdout.readline().split() for each in started]
    database_seconds = _postgres_seconds() - before
    for each in started:
        each.communicate()
    made = sum(int(line[0]) for line in said)
    longest = max(float(line[1]) for line in said)
    app = sum(float(line[2]) for line in said) / made * 1e3
    return made / longest, app, database_seconds / made * 1e3, max(float(line[3]) for line in said)


@contextlib.contextmanager
def _journals(*, sqlite):
    """Give what makes one new journal after the other."""

    @contextlib.contextmanager
    def file():
        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            yield f"sqlite:///{folder}/journal.db"

    if sqlite:
        yield file
        return
    with server() as postgres:
        yield lambda: database(postgres)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        asyncio.run(_work(options.work[0], options.work[1], float(options.work[2])))
        return
    print(f"{os.cpu_count()} cores; journal, ledger and all processes on them")
    print("| processes | charges/s | CPU of a charge, app | CPU of a charge, PostgreSQL | longest call |")
    print("|---|---|---|---|---|")
    with fast_ledger() as url, _journals(sqlite=options.sqlite) as journals:
        for workers in options.workers:
            with journals() as journal:
                rate, app, stored, longest = run(url, journal, workers, options.seconds)
            print(f"| {workers} | {rate:.0f} | {app:.1f} ms | {stored:.1f} ms | {longest:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
