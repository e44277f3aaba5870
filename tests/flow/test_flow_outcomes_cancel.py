"""Every cell of the outcome table's row `cancel`, by name; and money rule 10: nothing used is a cancel."""

import pytest

from countwerk_meter._flow.verdict import Verdict


@pytest.fixture
def gate(world):
    """A hold of 5 whose call used nothing."""
    gate = world.reserve()
    world.release(gate)
    return gate


def test_cancel_done_gives_the_hold_back(world, gate):
    """The plain case."""
    assert Verdict.ENDED is world.settle(gate).verdict
    assert ["reserve", "cancel-reservation"] == world.names()
    assert {"reservationId": "res_1", "reason": "nothing used"} == world.sent[-1].body
    assert ("cancelled", "cancelled", 0) == (world.hold(gate).state, world.state(), world.held())


def test_cancel_not_sent_backs_off(world, say, gate):
    """Never sent: closed, and tried again."""
    world.then(say.not_sent)
    done = world.settle(gate)
    assert (Verdict.DOUBTFUL, world.wall + 0.5) == (done.verdict, done.due_at)
    assert (1, 0) == (world.hold(gate).cancels, world.hold(gate).cancels_open)


def test_cancel_429_backs_off_as_long_as_it_is_told(world, say, gate):
    """Not carried out, and everybody waits."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 8))
    done = world.settle(gate)
    assert (Verdict.LATER, 8.0, world.wall + 8) == (done.verdict, done.wait, done.due_at)


def test_cancel_401_pauses(world, say, gate):
    """The key is wrong."""
    world.then(say.code("API_KEY_MISSING"))
    assert Verdict.PAUSED is world.settle(gate).verdict


def test_cancel_403_parks(world, say, gate):
    """The account waits."""
    world.then(say.code("FORBIDDEN"))
    done = world.settle(gate)
    assert (Verdict.PARKED, world.wall + 300) == (done.verdict, done.due_at)


@pytest.mark.parametrize("code", ["INVALID_INPUT", "INSUFFICIENT_CREDITS", "DS24_KEY_INVALID", "ORDER_NOT_FOUND"])
def test_cancel_4xx_is_unresolved(world, say, gate, code):
    """The hold goes by its expiry, and somebody has to look."""
    world.then(say.code(code))
    assert Verdict.ENDED is world.settle(gate).verdict
    assert ("unresolved", f"rejected: {code}") == (world.hold(gate).state, world.hold(gate).reason)
    assert [0] == [fields["amount"] for fields in world.told("unresolved")]


def test_cancel_404_is_done(world, say, gate):
    """What is not there need not be given back; `cancelled: false` counts the same."""
    world.then(say.code("RESERVATION_NOT_FOUND"))
    world.settle(gate)
    assert ("cancelled", "not found") == (world.hold(gate).state, world.hold(gate).reason)
    other = world.reserve("e2")
    world.release(other)
    world.then(say.data({"reservationId": "res_2", "cancelled": False}))
    world.settle(other)
    assert "not found" == world.hold(other).reason


def test_cancel_in_doubt_is_retried_to_expiry(world, say, gate):
    """The attempt stays open, no confirm leaves any more, and it is sent again."""
    world.then(say.lost, say.failed)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert 1 == world.hold(gate).cancels_open
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert world.wall + 1 == world.hold(gate).due_at
    world.settle(gate)
    assert ("cancelled", 0) == (world.hold(gate).state, world.held())


def test_cancel_in_doubt_is_closed_by_expiry(world, say, gate):
    """After its validity the hold is over whatever became of the cancel; its attempt stays open as evidence (rule 4)."""
    world.then(say.raw(429, b"", {"retry-after": "3"}))
    assert 3.0 == world.settle(gate).wait
    world.pass_time(910)
    world.knows_time()
    world.settle(gate)
    assert ("expired", 1, None) == (world.hold(gate).state, world.hold(gate).cancels_open, world.hold(gate).due_at)
    assert 1 == world.names().count("cancel-reservation")


def test_a_charge_of_nothing_is_a_cancel(world):
    """0 is never confirmed (rule 10)."""
    gate = world.call(used=0)
    world.settle(gate)
    assert ["reserve", "cancel-reservation"] == world.names()
    assert ("settled", 0) == (world.state(), world.charge().amount)


def test_a_block_whose_draws_used_nothing_is_a_cancel(world):
    """The block and its draws all ended without a charge."""
    gate = world.reserve("e1", 10)
    first = world.draw("e2", 4, gate)
    world.release(first, seal=False)
    world.release(gate)
    world.settle(gate)
    assert (["reserve", "cancel-reservation"], "cancelled") == (world.names(), world.hold(gate).state)
