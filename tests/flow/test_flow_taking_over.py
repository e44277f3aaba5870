"""Rows that are taken over while their owner still acts on them: no part of a call is left to nobody, or charged for."""

from dataclasses import replace


def test_a_call_that_runs_on_trust_belongs_to_whoever_runs_it(world, say):
    """Its gate was thought dead, and its charge taken over, before it began anew: should it die now, it is found (I8)."""
    world.terms = mine = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.meanwhile(lambda: world.adopt("me", "heir"), say.lost))
    gate = world.reserve()
    assert ("open", "me", "me") == (world.state(), world.charge().owner, gate.charge.owner)
    world.terms = mine
    world.adopt("me", "second")
    assert "lost" == world.state()


def test_a_call_that_was_to_run_on_trust_and_is_cut_short_is_closed(world, say):
    """Wherever its charge had been taken meanwhile: nothing ran (I8)."""
    from countwerk_meter._flow.begin import Defer

    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.meanwhile(lambda: world.adopt("me", "heir"), say.lost))
    world.cut_at = Defer
    world.cut(world.reserve)
    assert "cancelled" == world.state()
