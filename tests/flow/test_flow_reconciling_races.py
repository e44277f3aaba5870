"""
Closing against what is still on its way: every order of a delayed confirm, a truthful person, and the hold's end.

The person looks into the ledger's own books and says what is true at that moment. Then nothing is charged twice (I2), and
with `deduct` everything is charged once in the end.
"""

from itertools import product

import pytest

from countwerk_meter._flow.reconcile import Finding, close_listed

ENDS = 15 * 60
# Seconds after the hold was made. The guard after its end is 5 s.
MOMENTS = (1, ENDS - 1, ENDS + 1, ENDS + 4, ENDS + 6, ENDS + 400)


def unresolved_with_a_confirm_on_its_way(world, say):
    """The first confirm is delayed, the second one is rejected: nobody can tell."""
    delayed = []

    def later(of, request):
        delayed.append(request)
        return say.lost(of, request)

    world.knows_time()
    gate = world.call("e1", 5, 3)
    world.then(later, say.code("INVALID_INPUT"))
    world.settle(gate)
    world.settle(gate)
    assert ("unresolved", 1) == (world.state(), world.hold(gate).confirms_open)
    return delayed[0]


def look_and_close(world, *, deduct):
    """What a truthful person does; they try again later where they are told to wait."""
    world.ledger.expire(world.ledger_now)
    (hold,) = world.ledger.holds.values()
    charged = hold["state"] == "confirmed"
    finding = Finding.CHARGED if charged else Finding.NOT_CHARGED
    world.heard = None
    return world.run(close_listed(world.terms, "e1", finding, "looked", deduct=deduct and not charged))


@pytest.mark.parametrize(("looks", "arrives"), [*product(MOMENTS, MOMENTS)])
@pytest.mark.parametrize("first", ["person", "confirm"])
def test_a_confirm_on_its_way_is_never_charged_twice(world, say, looks, arrives, first):
    """Whichever comes first; and whoever was told to wait asks again when the hold has surely ended."""
    confirm = unresolved_with_a_confirm_on_its_way(world, say)
    begun = world.wall
    steps = sorted([(looks, first != "person", "person"), (arrives, first == "person", "confirm")])
    for at, _, who in steps:
        world.pass_time(max(begun + at - world.wall, 0))
        if who == "confirm":
            world.modelled(confirm)
        else:
            look_and_close(world, deduct=True)
    world.pass_time(max(begun + ENDS + 600 - world.wall, 0))
    if world.state() == "unresolved":
        assert look_and_close(world, deduct=True).refusal is None
    world.settle_until_quiet()
    assert 3 == world.spent()
    assert ("closed", []) == (world.state(), world.told("excess"))


@pytest.mark.parametrize("at", MOMENTS)
def test_a_deduct_waits_until_the_hold_has_surely_ended(world, say, at):
    """By the ledger's clock, with a guard for what is on its way."""
    unresolved_with_a_confirm_on_its_way(world, say)
    world.pass_time(at)
    done = look_and_close(world, deduct=True)
    assert (at > ENDS + 5) == (done.refusal is None)
