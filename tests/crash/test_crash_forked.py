"""A server that makes its Meter before it forks: a child dies, and its parent, which lives, recovers it."""

import pytest


@pytest.mark.parametrize("scenario", ["plain", "plain, settled inline"])
def test_a_forked_child_that_is_killed_is_recovered_by_its_parent(crash_bench, scenario):
    """At any boundary: the child is an owner of its own, and what its parent holds keeps none of it alive."""
    points = [point for point in crash_bench.boundaries(scenario) if not point.startswith("close ")]
    crash_bench.run_forked(f"forked: {scenario}", [crash_bench.trial(scenario, point) for point in points])
