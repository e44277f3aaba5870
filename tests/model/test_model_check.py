"""Every state that the scenarios can reach keeps the invariants, and every one of them leads to rest."""

import functools
import os

import pytest

from .explore import explore
from .scenarios import SCENARIOS

DEEP = bool(os.environ.get("COUNTWERK_TEST_DEEP"))
# So that the check does not shrink unnoticed.
AT_LEAST = 100_000


@functools.cache
def report_of(scenario):
    """Walk a scenario once, whoever asks."""
    return explore(SCENARIOS[scenario], deep=DEEP)


@pytest.mark.timeout(7200 if DEEP else 120)
@pytest.mark.parametrize("scenario", range(len(SCENARIOS)), ids=[scenario.name for scenario in SCENARIOS])
def test_no_state_of_a_scenario_breaks_an_invariant(scenario, capsys):
    """I2, I5 and I7 in every state; I3, I4 and I8 at the rest that follows when faults end."""
    report = report_of(scenario)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.violation is None, f"{report.violation}\n{report.trace}"


@pytest.mark.timeout(7200 if DEEP else 120)
def test_the_check_is_as_large_as_it_says(capsys):
    """All scenarios together: tens of thousands of distinct states at least."""
    reports = [report_of(scenario) for scenario in range(len(SCENARIOS))]
    states, steps = sum(report.states for report in reports), sum(report.steps for report in reports)
    violations = sum(report.violation is not None for report in reports)
    with capsys.disabled():
        print(f"\nmodel check: {len(reports)} scenarios, {states} states, {steps} steps, {violations} violations")
    assert states >= AT_LEAST
