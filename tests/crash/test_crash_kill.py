"""kill -9 at every boundary; a second process recovers; the auditor finds nothing charged twice, lost or stranded."""

import pytest

from .scenarios import KILLED
from .trials import table, trials_a_point


@pytest.mark.parametrize("scenario", KILLED)
def test_a_kill_at_any_boundary_charges_nothing_twice_and_loses_nothing(crash_bench, scenario, capsys):
    """What was committed is charged once, what was not follows the policy and is listed, and no hold stays behind."""
    points = crash_bench.boundaries(scenario)
    trials = [crash_bench.trial(scenario, point) for point in points for _ in range(trials_a_point())]
    crash_bench.run(trials)
    with capsys.disabled():
        print(f"\n{table(trials)}")
    assert {} == {trial.name: trial.finding for trial in trials if trial.finding.wrong}
