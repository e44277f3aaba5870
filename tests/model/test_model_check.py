"""Every state that the scenarios can reach keeps the invariants, and every one of them leads to rest."""

import functools
import os

import pytest

from countwerk_meter._flow.states import ChargeState, ReservationState

from .explore import explore
from .scenarios import SCENARIOS

DEEP = bool(os.environ.get("COUNTWERK_TEST_DEEP"))
TIMEOUT = 7200 if DEEP else 120

pytestmark = pytest.mark.usefixtures("unmeasured")
# So that the check does not shrink unnoticed.
AT_LEAST = 300_000


@functools.cache
def report_of(number):
    """Walk a scenario once, whoever asks."""
    return explore(SCENARIOS[number], deep=DEEP)


def all_reports():
    """Return the report of every scenario."""
    return [report_of(number) for number in range(len(SCENARIOS))]


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("number", range(len(SCENARIOS)), ids=[scenario.name for scenario in SCENARIOS])
def test_no_state_of_a_scenario_breaks_an_invariant(number, tell):
    """I2, I5 and I7 in every state; I3, I4 and I8 at the rest that follows when faults end."""
    report = report_of(number)
    tell(report)
    assert report.violation is None, f"{report.violation}\n{report.trace}"


@pytest.mark.timeout(TIMEOUT)
def test_the_check_is_as_large_as_it_says(tell):
    """All scenarios together: so many distinct states, each of them walked to its end."""
    reports = all_reports()
    states, steps = sum(report.states for report in reports), sum(report.steps for report in reports)
    violations = sum(report.violation is not None for report in reports)
    tell(f"model check: {len(reports)} scenarios, {states} states, {steps} steps, {violations} violations")
    assert states >= AT_LEAST


@pytest.mark.timeout(TIMEOUT)
def test_the_walks_come_by_everything_that_settlement_does():
    """A walk that never met a doubt or an expiry would prove little: every state, every operation, every reason."""
    met = frozenset().union(*(report.met for report in all_reports()))
    by_hand = {ReservationState.CLOSED, ChargeState.CLOSED}
    assert {*ReservationState, *ChargeState} - by_hand <= met
    assert {
        "Abandon", "Adopt", "Begin", "BeginLease", "Checkpoint", "CloseAttempt", "Commit", "Confirmed", "Convert",
        "Deducted", "Defer", "Direct", "Draw", "End", "ExpireOrphan", "Fail", "ForgoLease", "Forsake", "Lapse",
        "MarkHeld", "NotThere", "OpenAttempt", "Postpone", "Recall", "Release", "Seal", "TakeOverdue",
    } <= met  # fmt: skip
    assert {
        "inferred", "vanished", "expired", "lapsed", "not found", "refused in doubt", "rejected: INVALID_INPUT",
        "insufficient credits", "deferred", "in doubt", "its process died", "its process died while reserving",
        "no answer was recorded", "interrupted while reserving",
    } <= met  # fmt: skip
