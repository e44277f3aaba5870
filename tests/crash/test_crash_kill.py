"""kill -9 at every boundary; a second process recovers; the auditor finds nothing charged twice, lost or stranded."""

import pytest

from .scenarios import KILLED, SCENARIOS
from .trials import deep, trials_a_point


@pytest.mark.parametrize("scenario", KILLED)
def test_a_kill_at_any_boundary_charges_nothing_twice_and_loses_nothing(crash_bench, scenario):
    """
    What was committed is charged once, what was not follows the policy and is listed, and no hold stays behind.

    The same step, tried again under the same id by somebody else, then costs once.
    """
    points = crash_bench.boundaries(scenario)
    trials = [crash_bench.trial(scenario, point) for point in points for _ in range(trials_a_point())]
    crash_bench.run(scenario, trials)
    if SCENARIOS[scenario].costs:
        crash_bench.run_again(trials[:: 1 if deep() else 3])


@pytest.mark.parametrize("scenario", KILLED if deep() else ("plain", "plain, async"))
def test_so_it_is_with_the_fast_transports(crash_bench, scenario):
    """They send and receive on sockets of their own; the boundaries are the same."""
    points = crash_bench.boundaries(scenario, transport="fast")
    assert {"send reserve head #1", "send reserve body #1", "receive reserve before #1"} <= set(points)
    crash_bench.run(f"fast: {scenario}", [crash_bench.trial(scenario, point, transport="fast") for point in points])


_DEATHS = (
    ("plain", "receive reserve before #1"),
    ("plain, settled with deducts", "receive deduct before #1"),
    ("nested draws, over the hold", "commit Commit after #3"),
)
_MORE_DEATHS = (
    ("plain", "model after #1"),
    ("plain", "commit Commit after #1"),
    ("plain", "receive confirm-reservation before #1"),
    ("streamed, with checkpoints", "mid-stream chunk 3 #1"),
    ("flat", "commit Direct after #1"),
)


@pytest.mark.parametrize(("scenario", "death"), _DEATHS + (_MORE_DEATHS if deep() else ()))
def test_a_recovery_that_is_killed_itself_is_taken_up_by_the_next(crash_bench, scenario, death):
    """At each of its own commits, sends and receives; a third process then finds the same truth."""
    points = crash_bench.boundaries_of_recovery(scenario, death)
    trials = [crash_bench.trial(scenario, death, point) for point in points]
    crash_bench.run(f"recovering {scenario}: {death}", trials)
