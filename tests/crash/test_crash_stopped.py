"""SIGSTOP, another takes over, SIGCONT: what the late owner knows is charged, once (money rule 15)."""

import os
import signal

import pytest

from countwerk_meter._flow.recover import OVERDUE_AFTER

from .boundaries import is_a_commit
from .scenarios import HELD_MINUTES, KILLED, SCENARIOS
from .trials import deep


def _without_locks(bench, trials):
    """Its lock file is gone, by a tidy-up of someone's: on this host that says that its process has ended."""
    for trial in trials:
        bench.store.forget_owners(trial)


def _overdue(bench, trials):
    """It leaves its rows alone for too long; the holds still live."""
    bench.pass_time(trials, HELD_MINUTES * 60 / 3)


def _expired(bench, trials):
    """It leaves its rows alone until the holds are over, and for too long after that."""
    bench.pass_time(trials, HELD_MINUTES * 60 + OVERDUE_AFTER + 1)


# Where a crash costs the hold, what was charged for a call that seemed lost is more than its late owner knows of.
_STOPPED = tuple(name for name in KILLED if SCENARIOS[name].on_crash != "reserved")
_WAYS = {"its lock was taken": _without_locks, "overdue": _overdue, "its holds are over": _expired}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("scenario", _STOPPED if deep() else ("streamed, with checkpoints",))
def test_a_stopped_process_that_goes_on_loses_nothing_and_doubles_nothing(crash_bench, scenario, way):
    """Stopped at any boundary that is not inside a transaction: every answered call is charged what it used."""
    points = [point for point in crash_bench.boundaries(scenario) if not is_a_commit(point)]
    trials = [crash_bench.trial(scenario, point) for point in points]
    crash_bench.run_stopped(f"stopped, {way}: {scenario}", trials, lambda trials: _WAYS[way](crash_bench, trials))


@pytest.mark.parametrize(
    ("scenario", "at", "late"),
    [
        ("plain", "model after #1", {"plain.late": 3}),
        ("streamed, with checkpoints", "mid-stream chunk 3 #1", {"stream": 6, "stream.late": 6}),
    ],
)
def test_what_the_late_owner_knows_goes_under_an_id_of_its_own(crash_bench, scenario, at, late):
    """Recovery charged the checkpoint, or nothing; the rest is deducted under `<id>.late`."""
    trial = crash_bench.trial(scenario, at)
    crash_bench.run_stopped(f"late: {scenario}", [trial], lambda trials: _without_locks(crash_bench, trials))
    rows = crash_bench.books(trial)["transactions"]
    charged = {
        row["usage_event_id"].removeprefix(f"{trial.account}."): row["amount"]
        for row in rows
        if row["kind"] == "deduct"
    }
    assert sum(late.values()) == crash_bench.books(trial)["spent"]
    assert {name: credits for name, credits in late.items() if name.endswith(".late")} == charged


def test_a_process_that_is_stopped_inside_a_transaction_makes_others_fail_closed(crash_bench):
    """It holds the journal's lock: a call elsewhere is refused in time and nothing is sent; then both go on."""
    trial = crash_bench.trial("plain, in a hurry", "commit Commit before #1")
    stopped = crash_bench.start(trial, "stopped.log", act=["stop inside"])
    crash_bench.wait_for(trial, stopped, stopped=True)
    held = crash_bench.books(trial)["reserved"]
    other = crash_bench.start(trial, "other.log", prefix="other.")
    refused = crash_bench.fact(trial, "other.log", "failed")
    assert ("JournalError", True) == (refused["failed"], refused["after"] < 5), refused
    assert held == crash_bench.books(trial)["reserved"]
    os.kill(stopped, signal.SIGCONT)
    for pid in (stopped, other):
        crash_bench.wait_for(trial, pid)
    crash_bench.finish("stopped inside a transaction", trial, "stopped.log", "other.log")
    assert 3 == trial.finding.charged
