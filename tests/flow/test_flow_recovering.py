"""Adopt and money rule 15: what a dead process left behind, each crash policy, and truths that come late."""

from dataclasses import replace
from decimal import Decimal

import pytest

from countwerk_meter._flow.ending import Checkpoint, Commit, Measured
from countwerk_meter._flow.recover import Recovered
from countwerk_meter.errors import ChargeAlreadySettledError


def checkpoint(world, gate, exact):
    operation = Checkpoint(world.terms.ledger, gate.charge.id, gate.charge.epoch, Measured(Decimal(exact), "provider"))
    world.journal.run(operation)


@pytest.mark.parametrize(
    ("on_crash", "kept", "amount", "basis"),
    [
        ("checkpoint", "2.5", 3, "provider"),
        ("checkpoint", None, None, None),
        ("cancel", "2.5", None, "provider"),
        ("cancel", None, None, None),
        ("reserved", "2.5", 5, "reserved"),
        ("reserved", None, 5, "reserved"),
    ],
)
def test_each_policy_closes_an_open_call(world, on_crash, kept, amount, basis):
    """The last checkpoint, what was reserved, or nothing."""
    gate = world.reserve()
    if kept is not None:
        checkpoint(world, gate, kept)
    assert Recovered(closed=1, resumed=1) == world.adopt(on_crash=on_crash)
    assert ("heir", "heir") == (world.charge().owner, world.hold(gate).owner)
    assert (amount, basis) == (world.charge().amount, world.charge().basis)
    world.settle_until_quiet()
    assert (amount or 0, 0) == (world.spent(), world.held())
    assert ("settled" if amount else "lost") == world.state()


def test_a_reserve_that_was_out_is_a_possible_orphan(world, say):
    """It is never sent again (rule 3)."""
    world.then(say.cut)
    world.dies = True  # the process dies: nothing is written down any more
    world.cut(world.reserve)
    assert Recovered(orphans=1) == world.adopt()
    (row,) = world.all_holds()
    assert ("orphan_possible", "orphaned", row.created_at + 960) == (row.state, world.state(), row.due_at)
    assert "heir" == world.charge().owner
    world.settle_until_quiet()
    assert "expired" == world.all_holds()[0].state


def test_what_waits_is_settled_as_it_stands(world, say):
    """Confirms with their attempts, deducts, uncollected ones, holds whose block had ended."""
    gate = world.call("e1", 5, 7)
    world.then(say.unheard)
    world.settle(gate)
    other = world.call("e2", 5, 2)
    assert Recovered(resumed=5) == world.adopt()
    assert 1 == world.hold(gate).confirms_open
    world.settle_until_quiet()
    assert (9, "inferred") == (world.spent(), world.hold(gate).reason)
    assert "confirmed" == world.hold(other).state


def test_a_hold_without_open_calls_is_given_back(world):
    """Its block died between two draws."""
    gate = world.reserve("e1", 5, shared=True)
    world.commit(gate, 4, seal=False)
    world.adopt()
    assert ("closing", True) == (world.hold(gate).state, world.hold(gate).sealed)
    world.settle_until_quiet()
    assert (4, 0) == (world.spent(), world.held())


def test_a_flat_price_that_may_have_left_is_sent_until_it_is_answered(world, say):
    """The same id makes no second charge."""
    world.dies = True
    world.then(lambda w, r: (w.modelled(r), say.cut(w, r)))
    world.cut(world.deduct_now)
    assert "open" == world.state("d1")
    assert Recovered(resumed=1) == world.adopt()
    world.settle_until_quiet()
    assert ("settled", 5) == (world.state("d1"), world.spent())


def test_a_deferred_call_is_closed_by_the_policy_too(world, say):
    """It has no hold; its estimate is what was reserved."""
    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.lost)
    world.reserve()
    world.adopt(on_crash="reserved")
    world.settle_until_quiet()
    assert {("acct", "e1"): 5} == world.ledger.deducts


def test_only_the_dead_owners_rows_are_taken(world):
    """Another process lives, and goes on."""
    world.reserve("e1")
    world.terms = replace(world.terms, owner="other")
    alive = world.reserve("e2")
    world.call("e3", 5, 7)
    world.adopt("me", "heir")
    assert ("open", "other", "other") == (world.state("e2"), world.charge("e2").owner, world.hold(alive).owner)


def test_two_recoverers_never_take_one_row_both(world):
    """One transaction each: the second finds nothing."""
    world.reserve()
    world.adopt("me", "heir")
    assert Recovered() == world.adopt("me", "second")


def test_a_zombies_attempt_does_not_open_after_its_row_was_taken(world):
    """The epoch moved (rule 4)."""
    from countwerk_meter._flow.attempts import OpenAttempt

    gate = world.call()
    stale = world.hold(gate)
    world.adopt()
    assert world.journal.run(OpenAttempt(stale.key, stale.epoch, "confirm", 3)) is None


def test_reserved_is_at_most_what_is_left_of_the_hold(world):
    """A crash never charges more than was held for it."""
    gate = world.reserve("e1", 5)
    world.commit(world.draw("e2", 4, gate), 4, seal=False)
    world.adopt(on_crash="reserved")
    world.settle_until_quiet()
    assert 5 == world.spent()


# Rule 15.


@pytest.mark.parametrize("used", [None, 40])
def test_reserved_is_no_more_than_the_hold_though_that_has_lapsed(world, used):
    """A block and a draw in it: together what was held, not each of them its own estimate."""
    gate = world.reserve(amount=50)
    drawn = world.draw("e2", 40, gate)
    assert drawn is not None
    if used is not None:
        world.commit(drawn, used, seal=False)
    world.pass_time(20 * 60)
    world.knows_time()
    world.pass_over_due()
    world.adopt(on_crash="reserved")
    world.settle_until_quiet()
    assert (50, 0) == (world.spent(), world.held())


def test_an_unknown_truth_that_comes_late_is_no_more_than_the_hold(world):
    """Recovery has charged the others, and the draw of the owner that wakes up is as unknown as before."""
    gate = world.reserve(amount=50)
    world.commit(world.draw("e3", 15, gate), 20, seal=False)
    drawn = world.draw("e2", 30, gate)
    world.adopt(on_crash="reserved")
    world.settle_until_quiet()
    assert 50 == world.spent()
    world.commit(drawn, 30, basis="reserved", seal=False)
    world.settle_until_quiet()
    assert (50, 0) == (world.spent(), world.held())


def test_what_waits_for_a_clock_that_ran_ahead_is_sent_at_once(world, say):
    """The dead process' clock was a year ahead of ours, and its next try with it."""
    gate = world.call("e1", 5, 4)
    world.save(replace(world.hold(gate), due_at=world.wall + 365 * 86_400))
    world.adopt()
    assert 1 == world.pass_over_due()
    assert (4, 0) == (world.spent(), world.held())


@pytest.mark.parametrize(
    ("on_crash", "kept", "truth", "late"),
    [
        ("checkpoint", "2", "7", 5),
        ("checkpoint", "2", "2", 0),
        ("checkpoint", "2", "1", 0),
        ("checkpoint", "2.5", "2.9", 0),
        ("checkpoint", None, "4", 4),
        ("cancel", "2", "4", 4),
        ("reserved", None, "5", 0),
        ("reserved", None, "6", 1),
    ],
)
def test_an_owner_that_wakes_up_has_what_recovery_left_out_deducted(world, on_crash, kept, truth, late):
    """Under `<id>.late`, once."""
    gate = world.reserve()
    if kept is not None:
        checkpoint(world, gate, kept)
    world.adopt(on_crash=on_crash)
    world.settle_until_quiet()
    before = world.spent()
    done = world.commit(gate, truth)
    assert (late, False) == (done.late, done.superseded)
    assert ((("charge", "e1.late"),) if late else ()) == done.work
    again = world.commit(gate, truth)
    assert (0, ()) == (again.late, again.work)
    world.settle_until_quiet()
    assert before + late == world.spent()


def test_a_late_truth_whose_id_was_begun_anew_is_superseded(world):
    """It has nowhere to go: an event."""
    gate = world.reserve()
    world.adopt(on_crash="cancel")
    world.reserve()
    assert world.commit(gate, 3).superseded
    assert "open" == world.state()


@pytest.mark.parametrize("truth", [3, 0])
def test_an_id_whose_usage_was_charged_late_does_not_begin_anew(world, truth):
    """A retry of the same step is not a second charge (I2); one that had used nothing may begin anew."""
    gate = world.reserve()
    world.adopt(on_crash="cancel")
    world.commit(gate, truth)
    if truth:
        with pytest.raises(ChargeAlreadySettledError):
            world.reserve()
    else:
        world.release(world.reserve())
    world.settle_until_quiet()
    assert (truth, 0) == (world.spent(), world.held())


def test_a_late_truth_beside_a_shortfall_gets_an_id_of_its_own(world, say):
    """`<id>.late` is taken by what a confirm left short: neither part is lost, and no id stands for both (I2, I3)."""
    gate = world.reserve()
    checkpoint(world, gate, "3")
    world.adopt()
    world.then(say.data({"reservationId": "res_1", "confirmed": True, "actualAmount": 2}))
    world.settle(gate)
    assert 1 == world.charge("e1.late").share
    done = world.commit(gate, 7)
    assert (4, (("charge", "e1.late.late"),)) == (done.late, done.work)
    world.settle_until_quiet()
    assert {("acct", "e1.late"): 1, ("acct", "e1.late.late"): 4} == world.ledger.deducts


def test_two_late_truths_add_up(world):
    """Each says more than the one before."""
    gate = world.reserve()
    world.adopt(on_crash="cancel")
    assert [2, 3, 0] == [world.commit(gate, truth).late for truth in (2, 5, 4)]
    assert "e1" == world.charge("e1.late.late").parent


def test_a_late_truth_is_carried_like_any_other(world):
    """With `carry` the account's fraction counts, and the same truth does not count twice."""
    world.rounding = "carry"
    gate = world.reserve()
    checkpoint(world, gate, "2.6")
    world.adopt()
    assert 2 == world.charge().amount
    assert [0, 0] == [world.commit(gate, "2.6").late, world.commit(gate, "2.9").late]
    assert [1, 0] == [world.commit(gate, "3.1").late, world.commit(gate, "3.1").late]
    assert Decimal("0.1") == world.carry()


def test_a_commit_that_is_tried_again_charges_once(world):
    """One whose answer was lost inside the process is submitted again (rule 7)."""
    world.rounding = "carry"
    gate = world.reserve()
    for _ in range(3):
        world.commit(gate, "2.6")
    world.settle_until_quiet()
    assert (2, None) == (world.spent(), world.charge("e1.late"))


def test_a_commit_of_a_charge_that_never_was_is_superseded(world):
    """There is no row to put it on."""
    operation = Commit(world.terms.ledger, "nobody", 0, Measured(Decimal(1), "set"), world.wall)
    assert world.journal.run(operation).superseded


def test_what_comes_late_is_settled_by_whoever_brings_it(world):
    """Whoever closed the charge may be dead by now (I8)."""
    gate = world.reserve()
    world.adopt("me", "heir", "cancel")
    measured = Measured(Decimal(3), "set")
    operation = Commit(world.terms.ledger, "e1", 0, measured, world.wall, owner="me")
    world.journal.run(operation)
    assert "me" == world.charge("e1.late").owner
    assert "heir" == world.charge("e1").owner
    assert gate.charge.owner == "me"
