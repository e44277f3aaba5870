"""The check has teeth: each naive policy that the design names is caught by an invariant, and only the policy is."""

import pytest

from .explore import explore
from .mutants import MUTANTS
from .scenarios import SCENARIOS

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_naive_policy_is_caught(mutant, monkeypatch, capsys):
    """By the money that it loses or charges twice: a violation of a named invariant, with the way there."""
    mutant.policy(monkeypatch)
    report = explore(BY_NAME[mutant.scenario], strict=False)
    with capsys.disabled():
        print(f"\n{mutant.name}: {report.violation}, after {report.states} states\n{report.trace}")
    assert report.violation is not None, "the mutant survives"
    assert mutant.breaks == report.violation.name


@pytest.mark.parametrize("scenario", sorted({mutant.scenario for mutant in MUTANTS}))
def test_without_a_naive_policy_there_is_nothing_to_catch(scenario):
    """The same scenarios with the same settings, and the flows as they are."""
    report = explore(BY_NAME[scenario], strict=False)
    assert report.violation is None, f"{report.violation}\n{report.trace}"
