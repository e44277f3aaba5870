"""The check has teeth: each naive policy is caught by an invariant, and without it there is nothing to catch."""

import pytest

from .explore import explore
from .mutants import FURTHER, NAMED, amount_not_frozen
from .scenarios import SCENARIOS

pytestmark = pytest.mark.usefixtures("unmeasured")

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
MUTANTS = (*NAMED, *FURTHER)
# A policy is caught among the first states of its scenario, which is walked to its end elsewhere.
WITHIN = 5_000


def test_every_policy_that_the_design_names_is_here():
    """The nine."""
    assert [
        "404 is fine", "404 then deduct", "catch then cancel", "doubt recorded after sending",
        "cancel after a confirm in doubt", "NotSent leaves the attempt open", "cancel sent without a commit",
        "amount not frozen", "deduct after expiry with an attempt open",
    ] == [mutant.name for mutant in NAMED]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_naive_policy_is_caught(mutant, monkeypatch, tell):
    """By what it does to somebody's money: a named invariant breaks. The shortest way there is shown with `-s`."""
    mutant.policy(monkeypatch)
    report = explore(BY_NAME[mutant.scenario], strict=False, limit=WITHIN)
    assert report.violation is not None, "the mutant survives"
    tell(f"{mutant.name}: caught after {report.states} states: {report.violation}")
    print(f"\n{report.trace}")
    assert mutant.breaks == report.violation.name


@pytest.mark.parametrize("scenario", sorted({mutant.scenario for mutant in MUTANTS}))
def test_without_a_naive_policy_there_is_nothing_to_catch(scenario):
    """The same scenarios with the same settings and as many states, and the flows as they are."""
    report = explore(BY_NAME[scenario], strict=False, limit=WITHIN)
    assert report.violation is None, f"{report.violation}\n{report.trace}"


def test_a_step_that_no_row_may_take_is_seen_where_it_is_written(monkeypatch):
    """I7, which the other mutants have switched off."""
    amount_not_frozen(monkeypatch)
    report = explore(BY_NAME["a late truth"])
    assert "I7" == report.violation.name
