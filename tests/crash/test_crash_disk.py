"""A disk that is full, a journal that is read-only: it fails closed, says so, and what is known is charged after all."""

import pytest

from . import auditor
from .boundaries import is_a_commit
from .trials import deep
from .worker import REFUSED


def test_a_charge_that_a_full_disk_refused_is_charged_once_there_is_room(crash_bench):
    """The answer goes back, an event fires, no new call is let through; then the charge lands (money rule 7)."""
    trial = crash_bench.trial("full disk")
    facts = crash_bench.undisturbed(trial)
    names = [next(iter(fact)) for fact in facts if not {"at", "event"} & set(fact)]
    assert ["used", "returned", "refused", "state", "used", "returned", "settled"] == names
    assert [f"{trial.account}.first"] == [fact["id"] for fact in facts if fact.get("event") == "journal_failed"]
    assert ["open"] == [fact["state"] for fact in facts if "state" in fact]
    (refused,) = [fact["refused"] for fact in facts if "refused" in fact]
    assert f"the journal {trial.journal} cannot be written, so no new call is let through" in refused
    assert "1 charges wait in memory" in refused
    assert crash_bench.api_key not in refused
    assert (6, 0) == (crash_bench.books(trial)["spent"], crash_bench.books(trial)["reserved"])


_FILLED = ("plain, settled inline", "nested draws, over the hold", "flat")
_DEEP = (
    "plain",
    "plain, async",
    "plain, settled with deducts",
    "streamed, with checkpoints",
    "deferred, its reserve in doubt",
)


@pytest.mark.parametrize("scenario", (*_FILLED, *_DEEP) if deep() else _FILLED)
def test_any_commit_that_a_full_disk_refuses_is_made_up_for(crash_bench, scenario):
    """From each commit on, one or three fail: what was answered is charged all the same, and no hold stays behind."""
    points = [point for point in crash_bench.boundaries(scenario) if is_a_commit(point)]
    fills = [(point, times) for point in points for times in (1, 3)]
    # Each point once, with one and with three in turn; deep, each with both.
    chosen = fills if deep() else fills[::4] + fills[3::4]
    trials = [crash_bench.trial(scenario, point, act=["fill disk", times]) for point, times in chosen]
    crash_bench.run_undisturbed(f"disk full for a while: {scenario}", trials)


def _file(trial):
    trial.journal.chmod(0o400)
    return trial.journal, 0o600


def _directory(trial):
    trial.folder.chmod(0o500)
    return trial.folder, 0o700


@pytest.mark.parametrize("read_only", [_file, _directory])
def test_a_read_only_journal_is_refused_and_nothing_in_it_is_lost(crash_bench, read_only):
    """No call is let through, the text says what to do and names no secret; made writable, it is recovered."""
    trial = crash_bench.trial("plain", "commit Commit after #1")
    template = crash_bench.templates[0]
    crash_bench.kill(trial)
    before = crash_bench.books(trial)
    # The side logs are there before their folder is closed.
    for name in ("refused.log", "recovery.log"):
        (trial.folder / name).touch()
    path, mode = read_only(trial)
    try:
        for do in ("recover", "work"):
            order = crash_bench.order(trial, do, "refused.log", unprivileged=True)
            assert {"code": REFUSED} == template.run(**order)
    finally:
        path.chmod(mode)
    facts = auditor.read_facts(trial.folder / "refused.log")
    assert 2 == len(facts)
    for fact in facts:
        assert f"the journal {trial.journal} cannot be opened" in fact["refused"]
        assert "make it and its directory writable for this user" in fact["refused"]
        assert crash_bench.api_key not in fact["refused"]
    assert before == crash_bench.books(trial) | {"now": before["now"]}
    crash_bench.recover(trial)
    assert (3, 3, False) == (trial.finding.due, trial.finding.charged, trial.finding.wrong)
