"""SIGSTOP, another takes over, SIGCONT: what the late owner knows is charged, once (money rule 15)."""

import shutil

import pytest

from countwerk_meter._flow.recover import OVERDUE_AFTER

from .scenarios import HELD_MINUTES
from .trials import table


def _without_locks(bench, trials):
    """Its lock file is gone, by a tidy-up of someone's: on this host that says that its process has ended."""
    for trial in trials:
        shutil.rmtree(trial.journal.with_name(trial.journal.name + ".owners"))


def _overdue(bench, trials):
    """It leaves its rows alone for too long; the holds still live."""
    bench.pass_time(trials, HELD_MINUTES * 60 / 3)


def _expired(bench, trials):
    """It leaves its rows alone until the holds are over, and for too long after that."""
    bench.pass_time(trials, HELD_MINUTES * 60 + OVERDUE_AFTER + 1)


@pytest.mark.parametrize("take_away", [_without_locks, _overdue, _expired])
@pytest.mark.parametrize("scenario", ["plain", "streamed, with checkpoints"])
def test_a_stopped_process_that_goes_on_loses_nothing_and_doubles_nothing(crash_bench, scenario, take_away, capsys):
    """Stopped at any boundary that is not inside a transaction: every answered call is charged what it used."""
    points = [point for point in crash_bench.boundaries(scenario) if not _in_a_transaction(point)]
    trials = [crash_bench.trial(scenario, point) for point in points]
    crash_bench.run_stopped(trials, lambda trials: take_away(crash_bench, trials))
    with capsys.disabled():
        print(f"\n{take_away.__name__}\n{table(trials)}")
    wrong = {trial.name: trial.finding for trial in trials if trial.finding.wrong}
    assert {} == wrong


def _in_a_transaction(point):
    return point.startswith("commit ") and " before #" in point
