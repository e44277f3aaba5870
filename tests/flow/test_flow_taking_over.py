"""Rows that are taken over while their owner still acts on them: no part of a call is left to nobody, or charged for."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.recover import TakeOverdue
from countwerk_meter.errors import LedgerUnavailableError


def heir_of(world):
    """Another process of the same Meter's key."""
    return replace(world.terms, owner="heir", on_crash="reserved")


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


def take_overdue(world):
    """Let the heir take what has been left alone for too long."""
    world.pass_time(300)
    return world.journal.run(TakeOverdue(heir_of(world), world.wall))


def test_a_gate_that_hung_and_then_died_is_not_charged(world, say):
    """Its call never ran, whatever the policy charges for one that did."""
    world.dies = True  # the process dies: nothing is written down any more
    world.then(say.cut)
    world.cut(world.reserve)
    assert 1 == take_overdue(world)
    assert ("orphaned", "heir") == (world.state(), world.charge().owner)
    world.adopt("me", "heir", "reserved")
    world.settle_until_quiet()
    assert (0, "expired") == (world.spent(), world.all_holds()[0].state)


@pytest.mark.parametrize("answer", ["carried", "lost"])
def test_a_gate_that_hung_lets_no_call_through(world, say, answer):
    """It is a possible orphan by then, whose hold is given back as soon as it has a name (I4)."""
    world.then(say.meanwhile(lambda: take_overdue(world), getattr(say, answer)))
    with pytest.raises(LedgerUnavailableError):
        world.reserve()
    assert "orphaned" == world.state()
    world.terms = heir_of(world)
    world.settle(world.all_holds()[0].key)
    assert 0 == world.held()
