"""Money rules 4, 7, 9, 11 and 13: the commit that is the charge, what it carries, draws on one hold, and lapsed holds."""

from dataclasses import replace
from decimal import Decimal

import pytest

from countwerk_meter._flow.ending import Checkpoint, Measured
from countwerk_meter._flow.verdict import Verdict


def test_the_commit_freezes_nothing_and_the_first_confirm_freezes_all(world, say):
    """Attempt 1 freezes the amount and its charges: a later charge is a deduct under its own id (rule 4)."""
    gate = world.reserve("e1", 10)
    late = world.draw("e2", 4, gate)
    world.commit(gate, 3)
    assert ("held", None) == (world.hold(gate).state, world.hold(gate).frozen)
    world.save(replace(world.hold(gate), state=type(world.hold(gate).state)("closing"), due_at=world.wall))
    world.then(say.lost)
    world.settle(gate)
    assert 3 == world.hold(gate).frozen
    assert ("charge", "e2") in world.commit(late, 4, seal=False).work
    world.settle(gate)
    assert {3} == {request.body["actualAmount"] for request in world.sent if request.name == "confirm-reservation"}
    world.deduct("e2")
    assert ("settled", "settled", 7, "deduct") == (
        world.state("e1"),
        world.state("e2"),
        world.spent(),
        world.charge("e2").via,
    )


def test_a_commit_after_its_reservation_has_ended_goes_under_its_own_id(world):
    """Nothing is added to a row that is confirmed already."""
    gate = world.reserve("e1", 10)
    late = world.draw("e2", 4, gate)
    world.commit(gate, 3)
    world.pass_time(1000)
    world.settle_until_quiet()
    assert "expired" == world.hold(gate).state
    world.commit(late, 4, seal=False)
    world.settle_until_quiet()
    assert {("acct", "e1"): 3, ("acct", "e2"): 4} == world.ledger.deducts


def test_one_confirm_carries_the_sum_of_its_charges(world):
    """The description names the first id and how many more there are."""
    gate = world.reserve("e1", 10, description="Chat")
    for name in ("e2", "e3"):
        world.commit(world.draw(name, 2, gate), 2, seal=False)
        world.pass_time(1)
    world.commit(gate, 3)
    world.settle(gate)
    assert {"reservationId": "res_1", "actualAmount": 7, "description": "Chat [e2 and 2 more]"} == world.sent[-1].body
    assert ["settled"] * 3 == [world.state(name) for name in ("e1", "e2", "e3")]


def test_over_the_hold_both_legs_are_committed_together(world):
    """What lies beyond is deducted under `<id>.over` (rule 9)."""
    gate = world.reserve("e1", 5)
    done = world.commit(gate, 7)
    assert (("reservation", gate.hold.key), ("charge", "e1.over")) == done.work
    assert (7, 5, 2) == (world.charge().amount, world.charge().share, world.charge("e1.over").share)
    world.settle_until_quiet()
    assert (7, {("acct", "e1.over"): 2}) == (world.spent(), world.ledger.deducts)


def test_charges_draw_in_commit_order(world):
    """The last one to commit pays what lies beyond."""
    gate = world.reserve("e1", 5)
    first, second = world.draw("e2", 2, gate), world.draw("e3", 2, gate)
    world.commit(second, 4, seal=False)
    world.commit(first, 4, seal=False)
    world.release(gate)
    assert [4, 1, 3] == [world.charge(name).share for name in ("e3", "e2", "e2.over")]
    world.settle_until_quiet()
    assert 8 == world.spent()


def test_a_charge_wholly_beyond_the_hold_ends_as_its_leg_ends(world, say):
    """No confirm carries any of it, so nothing else may call it settled (I5)."""
    gate = world.reserve("e1", 5)
    draw = world.draw("e2", 1, gate)
    world.commit(gate, 5, seal=False)
    world.commit(draw, 2, seal=False)
    world.seal(gate.hold.key)
    world.settle(gate)
    assert ("settled", "committed", 0) == (world.state("e1"), world.state("e2"), world.charge("e2").share)
    world.then(say.code("INSUFFICIENT_CREDITS"))
    world.deduct("e2.over")
    assert ("uncollected", "uncollected") == (world.state("e2"), world.state("e2.over"))
    assert Verdict.ENDED is world.deduct("e2").verdict
    world.deduct("e2.over")
    assert ("settled", "settled", 7) == (world.state("e2"), world.state("e2.over"), world.spent())


def test_a_charge_wholly_beyond_the_hold_is_not_converted_with_it(world):
    """At expiry only what a confirm would have carried is deducted."""
    gate = world.reserve("e1", 5)
    draw = world.draw("e2", 1, gate)
    world.commit(gate, 5, seal=False)
    world.commit(draw, 2, seal=False)
    world.seal(gate.hold.key)
    world.pass_time(1000)
    world.settle_until_quiet()
    assert {("acct", "e1"): 5, ("acct", "e2.over"): 2} == world.ledger.deducts
    assert "settled" == world.state("e2")


@pytest.mark.parametrize(("exact", "amount"), [("0.0001", 1), ("2", 2), ("2.01", 3)])
def test_ceil_rounds_each_charge_up(world, exact, amount):
    """Per charge (rule 11)."""
    world.commit(world.reserve(), exact)
    assert (amount, exact) == (world.charge().amount, world.charge().exact)


def test_carry_keeps_the_accounts_fraction(world):
    """The total charged is within one credit of the true total (rule 11)."""
    world.rounding = "carry"
    for number in range(10):
        world.commit(world.reserve(f"e{number}", 2), "0.7")
    assert [0, 1, 1, 0, 1, 1, 0, 1, 1, 1] == [world.charge(f"e{number}").amount for number in range(10)]
    world.settle_until_quiet()
    assert 7 == world.spent()


def test_a_charge_that_carries_to_0_is_settled_and_met_again_adds_nothing(world):
    """It was counted: the same id does not count twice."""
    world.rounding = "carry"
    gate = world.reserve()
    world.commit(gate, "0.4")
    assert ("settled", 0, None) == (world.state(), world.charge().amount, world.charge().due_at)
    assert world.commit(gate, "0.4").late == 0
    assert Decimal("0.4") == world.carry()


def test_unknown_usage_is_the_estimate_at_most_what_is_left_of_its_hold(world):
    """`reserved` never spills over the hold (rule 13); a known amount does."""
    gate = world.reserve("e1", 5)
    draw = world.draw("e2", 4, gate)
    world.commit(gate, 3, seal=False)
    world.commit(draw, 4, basis="reserved", seal=False)
    assert (2, "2") == (world.charge("e2").amount, world.charge("e2").exact)
    assert world.charge("e2.over") is None


def test_a_priced_part_above_the_estimate_is_charged_in_full(world):
    """What is known is charged, though something else could not be priced."""
    world.commit(world.reserve("e1", 5), 7, basis="reserved")
    assert (7, 2) == (world.charge().amount, world.charge("e1.over").share)


def test_unknown_usage_of_a_hold_that_is_gone_is_its_estimate(world):
    """There is nothing left to measure it by."""
    gate = world.reserve("e1", 5)
    world.pass_time(1000)
    world.settle(gate)
    world.commit(gate, 5, basis="reserved")
    assert (5, "deduct") == (world.charge().amount, world.charge().via)


# Nested draws.


def test_a_draw_that_fits_needs_no_request(world):
    """Its estimate is set aside, and freed when it ends."""
    gate = world.reserve("e1", 10)
    draw = world.draw("e2", 6, gate)
    assert (["reserve"], 6, 2, True) == (
        world.names(),
        world.hold(gate).promised,
        world.hold(gate).open_charges,
        draw.charge.draw,
    )
    world.commit(draw, 4, seal=False)
    row = world.hold(gate)
    assert (0, 1, 4, "held") == (row.promised, row.open_charges, row.committed, row.state)


@pytest.mark.parametrize("why", ["too much", "sealed", "expired", "lapsed", "frozen", "another account", "unknown"])
def test_a_draw_is_refused(world, say, why):
    """It does not fit, the block is over, or the hold is: then the call reserves for itself."""
    gate = world.reserve("e1", 10)
    key, more = gate.hold.key, {}
    if why == "too much":
        assert world.draw("e2", 6, gate) is not None
    elif why == "sealed":
        world.draw("e2", 6, gate)
        world.commit(gate, 1)
    elif why == "expired":
        world.pass_time(895)
        world.knows_time()
    elif why == "lapsed":
        world.pass_time(1000)
        world.settle(gate)
    elif why == "frozen":
        world.commit(gate, 1)
        world.then(say.lost)
        world.settle(gate)
    elif why == "another account":
        more = {"account": "other"}
    else:
        key = "nobody"
    assert world.draw("e3", 5, key, **more) is None
    assert world.charge("e3") is None


def test_a_draw_on_a_hold_whose_time_is_unknown_is_let_through(world):
    """It costs nothing but a deduct later; asking would cost a round trip."""
    gate = world.reserve("e1", 10)
    world.heard = None
    assert world.draw("e2", 5, gate) is not None


def test_a_draw_met_again_is_not_charged_twice(world):
    """Its own id counts, whatever block it stands in."""
    from countwerk_meter.errors import ChargeAlreadySettledError

    gate = world.reserve("e1", 10)
    world.commit(world.draw("e2", 5, gate), 5, seal=False)
    with pytest.raises(ChargeAlreadySettledError):
        world.draw("e2", 5, gate)


def test_a_released_draw_frees_its_part_and_its_id(world):
    """What used nothing leaves nothing."""
    gate = world.reserve("e1", 10)
    world.release(world.draw("e2", 10, gate), seal=False)
    again = world.draw("e2", 10, gate)
    assert (1, 10) == (again.charge.epoch, world.hold(gate).promised)


def test_a_top_up_is_shared_and_closes_when_it_is_sealed_and_its_draws_have_ended(world):
    """The block's end seals it; the last draw closes it."""
    gate = world.reserve("e1", 5, shared=True)
    assert (5, True) == (world.hold(gate).promised, gate.charge.draw)
    world.seal(gate.hold.key)
    assert world.seal(gate.hold.key).work == ()
    assert "held" == world.hold(gate).state
    world.commit(gate, 4, seal=False)
    world.settle(gate)
    assert ("confirmed", 4) == (world.hold(gate).state, world.spent())
    other = world.reserve("e2", 5, shared=True)
    world.commit(other, 1, seal=False)
    assert (("reservation", other.hold.key),) == world.seal(other.hold.key).work
    assert world.seal("nobody").work == ()


# Lapse: an open block outlives its hold.


def test_a_hold_that_lives_is_looked_at_again_when_it_ends(world):
    """Its end is the ledger's: a pass that comes early asks, and waits, and counts as no failure."""
    gate = world.reserve()
    world.pass_time(100)
    done = world.settle(gate)
    assert (Verdict.LATER, world.wall + 801) == (done.verdict, pytest.approx(done.due_at))
    assert ("held", 0, done.due_at) == (world.hold(gate).state, world.hold(gate).failures, world.hold(gate).due_at)


def test_a_lapsed_hold_without_charges_is_expired(world):
    """Its open call goes under its own id when it ends."""
    gate = world.reserve()
    world.pass_time(1000)
    assert Verdict.ENDED is world.settle(gate).verdict
    assert ("expired", True, None) == (world.hold(gate).state, world.hold(gate).sealed, world.hold(gate).due_at)
    assert [5] == [fields["amount"] for fields in world.told("lapsed")]
    world.commit(gate, 3)
    world.settle_until_quiet()
    assert {("acct", "e1"): 3} == world.ledger.deducts


def test_a_lapsed_hold_with_charges_is_deducted_and_none_is_counted_twice(world):
    """The committed draw goes at once, the open block's own charge when it ends."""
    gate = world.reserve("e1", 10)
    world.commit(world.draw("e2", 4, gate), 4, seal=False)
    world.pass_time(1000)
    assert (("reservation", gate.hold.key),) == world.settle(gate).work
    world.settle_until_quiet()
    assert {("acct", "e2"): 4} == world.ledger.deducts
    world.commit(gate, 3)
    assert 4 == world.hold(gate).committed
    world.settle_until_quiet()
    assert {("acct", "e2"): 4, ("acct", "e1"): 3} == world.ledger.deducts


def test_a_hold_is_not_lapsed_while_the_ledgers_time_cannot_be_had(world, say):
    """No answer, no judgement; an answer without a time, neither."""
    gate = world.reserve()
    world.pass_time(2000)
    world.then(say.lost)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    world.heard = None
    world.then(say.untimed)
    done = world.settle(gate)
    assert (Verdict.LATER, world.wall + 60) == (done.verdict, done.due_at)
    assert "held" == world.hold(gate).state


def test_a_hold_whose_end_the_ledger_never_named_lapses_after_its_validity(world, say):
    """Whether or not it is over: it goes to a cancel and deducts, which are right either way (rule 8)."""
    data = {"reservationId": "r1", "operation": "app.chat", "amount": 5}
    world.then(say.data(data, timed=False))
    gate = world.reserve()
    assert world.hold(gate).expires_at is None
    world.commit(world.draw("e2", 2, gate), 2, seal=False)
    done = world.settle(gate)
    assert (Verdict.LATER, world.wall + 960) == (done.verdict, pytest.approx(done.due_at))
    world.pass_time(961)
    world.settle(gate)
    assert "closing" == world.hold(gate).state
    world.settle_until_quiet()
    assert ("cancelled", {("acct", "e2"): 2}) == (world.hold(gate).state, world.ledger.deducts)


def test_a_block_that_ends_while_its_hold_is_judged_is_not_lapsed(world, say):
    """Its end came first, and settles it."""
    gate = world.reserve()
    world.pass_time(1000)
    world.then(say.meanwhile(lambda: world.commit(gate, 3), say.carried))
    assert Verdict.LATER is world.settle(gate).verdict
    assert ("closing", []) == (world.hold(gate).state, world.told("lapsed"))


def test_a_checkpoint_keeps_what_is_known_of_an_open_call_only(world):
    """A closed one has its amount."""
    gate = world.reserve()
    keep = lambda exact, epoch=0: world.journal.run(  # noqa: E731
        Checkpoint(world.terms.ledger, "e1", epoch, Measured(Decimal(exact), "provider", "[]"))
    )
    keep("1.5")
    keep("9", epoch=7)
    assert ("1.5", "provider", "[]") == (world.charge().exact, world.charge().basis, world.charge().lines)
    world.commit(gate, 3)
    keep("2")
    assert "3" == world.charge().exact


def test_a_release_of_what_is_not_open_does_nothing(world):
    """Charged is charged."""
    gate = world.call()
    assert "committed" == world.release(gate).charge.state
    assert "committed" == world.state()


def test_no_flow_ever_leaves_an_open_row_without_a_date(world, say):
    """What waits for settlement is due some time (I8)."""
    world.call("e1", 5, 7)
    world.reserve("e2")
    world.then(say.lost)
    with pytest.raises(Exception, match="reserve"):
        world.reserve("e3")
    assert all(row.due_at is not None for row in world.all_holds())
    assert world.charge("e1.over").due_at is not None
