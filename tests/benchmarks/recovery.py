"""
Ten thousand calls were open when their process was killed: how long until the last of their holds is given back.

The ledger takes a millisecond for each answer. Meanwhile the heir makes calls of its own, one after another: none of
them waits for all of the others.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from fast_ledger import fast_ledger
from frame import KEY, Figure, folder

from countwerk_meter import Meter

_OPEN = 10_000
_LEDGER_SECONDS = 0.001


def _meter(url, journal):
    return Meter("product", api_key=KEY, base_url=url, journal=journal, reserve_timeout=60)


def open_and_die(url, journal):
    """Open them all, and be killed."""
    from local import NullLedger

    meter = _meter(url, journal)
    meter._engine.interpose(NullLedger())
    for at in range(_OPEN):
        meter.reserve(f"acct_{at % 100}", "bench.call", amount=2).begin()
    os.kill(os.getpid(), signal.SIGKILL)


def _recovered(url):
    with folder() as path:
        journal = f"sqlite:///{path}/journal.db"
        died = subprocess.run([sys.executable, __file__, url, journal], check=False)
        assert died.returncode == -signal.SIGKILL, died.returncode
        waits, over = [], threading.Event()

        def call(meter):
            while not over.wait(0.05):
                started = time.perf_counter()
                with meter.reserve("acct_heir", "bench.call", amount=2) as reservation:
                    reservation.settle(1)
                waits.append(time.perf_counter() - started)

        started = time.perf_counter()
        with _meter(url, journal) as meter:
            caller = threading.Thread(target=call, args=(meter,))
            caller.start()
            while meter.charges(state="open", limit=1) or not meter.flush(60):
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            over.set()
            caller.join()
        return seconds, max(waits)


def measure(url, transport, rounds):
    del url, rounds
    with fast_ledger(_LEDGER_SECONDS) as slow:
        seconds, waited = _recovered(slow)
    aim = {"httpx": "15 s", "fast": "5 s"}[transport]
    return [
        Figure("recovery of 10,000 open charges, ledger at 1 ms", transport, "-", 1.0, seconds, "s", aim),
        Figure("the longest of the heir's own calls meanwhile", transport, "-", 1.0, waited, "s"),
    ]


if __name__ == "__main__":
    open_and_die(*sys.argv[1:])
