"""What grows, and must not: imports, memory of open reservations, the cost of a call by what is open or settled."""

import gc
import os
import sqlite3
import statistics
import subprocess
import sys
import time
import tracemalloc

from frame import Figure, folder, timed, turns
from local import null_meter

_SETTLED = 1_000_000
_OPEN = 10_000
_SETTLES_WITHIN = 0.03


def imports(rounds):
    """A fresh interpreter each time, everything compiled; one that imports nothing is taken off both."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def run(code):
        return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))

    meter = "from countwerk_meter import Meter"
    run(meter)

    bare, base, package, used = (
        statistics.median(run(code) for _ in range(rounds))
        for code in ("pass", "import httpx, pydantic, opentelemetry.trace", "import countwerk_meter", meter)
    )
    names = "import httpx, pydantic, opentelemetry"
    return [
        Figure(figure, "", names, (base - bare) * 1e3, (subject - bare) * 1e3, "ms", "1.2 x")
        for figure, subject in (("import countwerk_meter", package), (meter, used))
    ]


def metered(meter):
    with meter.reserve("acct", "bench.call", amount=2) as reservation:
        reservation.settle(1)


def open_ones(rounds):
    """Memory and the cost of a call with 10,000 reservations open, against one with none."""
    with folder() as path, null_meter(f"sqlite:///{path}/a.db") as none, null_meter(f"sqlite:///{path}/b.db") as many:
        metered(many)
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        blocks = [many.reserve(f"acct_{at % 100}", "bench.call", amount=2).begin() for at in range(_OPEN)]
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # No flush between them: it reads all that is open, and whoever comes next finds the processor's caches cold.
        settled = lambda: time.sleep(_SETTLES_WITHIN)  # noqa: E731
        base, subject = turns(rounds, lambda: metered(none), lambda: metered(many), between=settled)
        for block in blocks:
            block.cancel()
            block.finish_now()
    each = (after - before) / _OPEN / 1024
    return [
        Figure("memory of an open reservation, at 10,000", "", "1 KiB", 1.0, each, "KiB", "4 KiB"),
        Figure("a call with 10,000 open", "", "none open", base * 1e6, subject * 1e6, "µs", "1.1 x"),
    ]


def _multiply(path, times):
    """Copy the journal's rows so many times, under other names."""
    db = sqlite3.connect(path)
    for table, names in (("reservation", ("key", "reservation_id")), ("charge", ("id", "reservation_key"))):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        values = ", ".join(f"{name} || '.' || n" if name in names else name for name in columns)
        db.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {times})"
            f" INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table}, numbers"
        )
    db.commit()
    db.close()


def settled_ones(rounds):
    """The cost of a call with a million settled charges in the journal, against one with none."""
    with folder() as path:
        with null_meter(f"sqlite:///{path}/b.db") as meter:
            for _ in range(100):
                metered(meter)
            meter.flush(30)
        _multiply(f"{path}/b.db", _SETTLED // 100)
        with null_meter(f"sqlite:///{path}/a.db") as none, null_meter(f"sqlite:///{path}/b.db") as many:
            both = lambda: none.flush(5) and many.flush(5)  # noqa: E731
            base, subject = turns(rounds, lambda: metered(none), lambda: metered(many), between=both)
    return Figure("a call with 1,000,000 settled", "", "none settled", base * 1e6, subject * 1e6, "µs", "1.1 x")


def measure(url, transport, rounds):
    return [*imports(max(rounds // 50, 5)), *open_ones(rounds), settled_ones(rounds)]
