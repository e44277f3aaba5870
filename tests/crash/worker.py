"""
The processes that die, and those that recover: forked from one that has imported everything already.

The template reads orders as JSON, one a line, and answers each with one line. A child writes what is true to its side
log with a single `write` each, so that what it wrote is there however it ends.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import warnings

from countwerk_meter import Meter
from countwerk_meter._drivers.transport import tls
from countwerk_meter.errors import CountwerkError, JournalError
from countwerk_meter.journal import open_journal

from . import acts, clock, privileges
from .boundaries import Boundaries, WatchedJournal, sql_watched, watch_sends
from .scenarios import SCENARIOS, Run

PRODUCT = "product_1"
PRICES = {
    "profileVersionId": "crash-1",
    "eurPerCredit": 0.01,
    "rateRules": [{"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 0.003}],
}
SETTLES_WITHIN = 25.0
# The exit code of a process whose journal could not be opened.
REFUSED = 3


class SideLog:
    """A file of facts, each in its own `write`."""

    def __init__(self, path):
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, fact):
        os.write(self._handle, json.dumps(fact).encode() + b"\n")


def _meter(order, log, journal):
    def event(name, fields):
        log.note({"event": name, "id": fields.get("usage_event_id")})

    return Meter(
        PRODUCT,
        api_key=order["api_key"],
        base_url=order["url"],
        prices=PRICES,
        journal=journal,
        on_event=event,
        **SCENARIOS[order["scenario"]].options,
    )


def _watched(order, log):
    os.environ["COUNTWERK_TRANSPORT"] = order.get("transport", "httpx")
    act, *how = order.get("act", ["kill"])
    if act.startswith("tear"):
        acts.limit_kills()
    journal = None
    boundaries = Boundaries(log.note, order.get("at"), lambda: acts.ACTS[act](journal, *how))
    watch_sends(boundaries)
    with sql_watched(boundaries) if order.get("opening") else contextlib.nullcontext():
        opened = open_journal(order["journal"])
    journal = WatchedJournal(opened, boundaries)
    return journal, boundaries


def work(order):
    """Run a scenario to its end, unless it is killed on the way."""
    log = SideLog(order["log"])
    journal, boundaries = _watched(order, log)
    meter = _meter(order, log, journal)
    began = time.monotonic()
    try:
        SCENARIOS[order["scenario"]].body(
            Run(meter, order["account"], log.note, boundaries.reach, journal.name, order.get("prefix", ""))
        )
    except CountwerkError as error:
        log.note({"failed": type(error).__name__, "after": time.monotonic() - began})
    # Twice: where the clocks were moved on meanwhile, the first one's time is over at once.
    log.note({"settled": meter.flush(SETTLES_WITHIN) or meter.flush(SETTLES_WITHIN)})
    boundaries.reach("close before")
    meter.close()
    journal.close()
    boundaries.reach("close after")


def recover(order):
    """Open the journal that another process left, and wait until nothing is due any more."""
    log = SideLog(order["log"])
    began = time.monotonic()
    journal, _ = _watched(order, log)
    meter = _meter(order, log, journal)
    settled = meter.flush(SETTLES_WITHIN)
    log.note({"settled": settled, "seconds": time.monotonic() - began})
    meter.close()
    journal.close()


def preload(order):
    """Make a Meter, let a forked child use it and die, and recover what it left: a pre-forking server."""
    log = SideLog(order["log"])
    journal, boundaries = _watched(order, log)
    meter = _meter(order, log, journal)
    journal.quiet()
    with warnings.catch_warnings():
        # What 3.12 and later say of every fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        SCENARIOS[order["scenario"]].body(Run(meter, order["account"], log.note, boundaries.reach, journal.name))
        meter.flush(SETTLES_WITHIN)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    boundaries.disarm()
    # The auditor looks at the journal as the child left it.
    acts.stop(journal)
    began = time.monotonic()
    meter.recover()
    log.note({"settled": meter.flush(SETTLES_WITHIN), "seconds": time.monotonic() - began})
    meter.close()
    journal.close()


_DO = {"work": work, "recover": recover, "preload": preload}


def _start(order):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sys.stdin.close()
        clock.follow(order["clock"])
        if order.get("unprivileged"):
            privileges.drop()
        _DO[order["do"]](order)
        code = 0
    except JournalError as error:
        SideLog(order["log"]).note({"refused": str(error)})
        code = REFUSED
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(child):
    _, status = os.waitpid(child, os.WUNTRACED)
    return {"stopped": True} if os.WIFSTOPPED(status) else {"code": os.waitstatus_to_exitcode(status)}


def main():
    """Serve orders until stdin ends."""
    warnings.simplefilter("error")
    tls()
    # What is imported at the first request only, by every child anew.
    for name in ("anyio._backends._asyncio", "anyio.streams.tls", "encodings.idna", "sniffio"):
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        answer = _wait(order["pid"]) if order["do"] == "wait" else {"pid": _start(order)}
        print(json.dumps({"number": order["number"], **answer}), flush=True)


if __name__ == "__main__":
    main()
