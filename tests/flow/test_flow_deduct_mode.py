"""`settle_with="deduct"`: the hold is only the admission; deduct under the charge's id, then cancel the hold."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.verdict import Verdict


@pytest.fixture
def world(world):
    world.terms = replace(world.terms, settle_with="deduct")
    return world


def test_the_charge_is_deducted_and_then_the_hold_is_cancelled(world):
    """In this order; whatever the amount, there is one deduct and no `.over`."""
    gate = world.call("e1", 5, 7)
    done = world.settle(gate)
    assert ["reserve", "deduct", "cancel-reservation"] == world.names()
    assert (Verdict.ENDED, ("e1",), "settled", 7, 0) == (
        done.verdict, done.charges, world.state(), world.spent(), world.held()
    )  # fmt: skip
    assert world.charge("e1.over") is None


def test_nothing_used_is_a_cancel(world):
    """There is nothing to deduct."""
    gate = world.reserve()
    world.release(gate)
    world.settle(gate)
    assert ["reserve", "cancel-reservation"] == world.names()


def test_on_a_402_the_hold_is_given_back_first(world):
    """It may be what is missing: cancel, then deduct."""
    world.ledger.available["acct"] = 5
    gate = world.call("e1", 5, 4)
    done = world.settle(gate)
    assert (["deduct", "cancel-reservation"], (("charge", "e1"),)) == (world.names()[1:], done.work)
    world.deduct("e1")
    assert ("settled", 4, 1) == (world.state(), world.spent(), world.ledger.available["acct"])


def test_a_402_after_the_hold_was_given_back_is_uncollected(world):
    """Then it is what is missing that is missing."""
    world.ledger.available["acct"] = 5
    gate = world.call("e1", 5, 9)
    world.settle(gate)
    world.deduct("e1")
    assert "uncollected" == world.state()


def test_draws_add_up_to_no_more_than_the_hold(world):
    """A small hold never lets an unlimited number through, in this mode either."""
    gate = world.reserve("e1", 5)
    world.commit(world.draw("e2", 4, gate), 4, seal=False)
    assert world.draw("e3", 4, gate) is None
    world.commit(gate, 1)
    world.settle_until_quiet()
    assert ({("acct", "e1"): 1, ("acct", "e2"): 4}, 0) == (world.ledger.deducts, world.held())


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [("not_sent", Verdict.DOUBTFUL), ("lost", Verdict.DOUBTFUL), ("429", Verdict.LATER), ("401", Verdict.PAUSED)],
)
def test_a_deduct_without_an_answer_keeps_the_hold_and_comes_back(world, say, outcome, verdict):
    """The same id again makes no second charge."""
    gate = world.call()
    world.then(
        {"429": say.code("RATE_LIMIT_EXCEEDED"), "401": say.code("INVALID_API_KEY")}.get(outcome)
        or getattr(say, outcome)
    )
    assert verdict is world.settle(gate).verdict
    assert (["reserve", "deduct"], 5) == (world.names(), world.held())
    assert world.hold(gate).due_at == world.wall + 0.5
    world.settle_until_quiet()
    assert (3, 0, "settled") == (world.spent(), world.held(), world.state())


def test_a_deduct_without_an_answer_after_expiry_goes_on_without_the_hold(world, say):
    """The hold is over by itself; the deduct is tried again on its own."""
    gate = world.call()
    world.pass_time(1000)
    world.knows_time()
    world.then(say.lost)
    world.settle(gate)
    assert ("expired", "committed", world.wall) == (world.hold(gate).state, world.state(), world.charge().due_at)
    world.settle_until_quiet()
    assert (3, "settled") == (world.spent(), world.state())


def test_a_rejected_deduct_is_unresolved_and_the_hold_is_given_back(world, say):
    """A definite no ends the charge, not the cancel."""
    gate = world.call()
    world.then(say.code("INVALID_OPERATION"))
    world.settle(gate)
    assert ("unresolved", "cancelled") == (world.state(), world.hold(gate).state)


def test_a_cancel_in_doubt_is_retried_without_a_second_deduct(world, say):
    """The deduct is settled already."""
    gate = world.call()
    world.then(say.carried, say.lost)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    world.settle(gate)
    assert (1, "cancelled") == (world.names().count("deduct"), world.hold(gate).state)


def test_a_deduct_that_falls_short_leaves_a_late_leg(world, say):
    """Which may be settled at once."""
    gate = world.call()
    world.then(say.data({"deductedAmount": 1, "operation": "app.chat"}))
    assert (("charge", "e1.late"),) == world.settle(gate).work


def test_a_lapsed_hold_with_charges_settles_them(world):
    """An open block's draws are deducted when its hold has ended."""
    gate = world.reserve("e1", 5)
    world.commit(world.draw("e2", 4, gate), 4, seal=False)
    world.pass_time(1000)
    world.settle_until_quiet()
    assert {("acct", "e2"): 4} == world.ledger.deducts
