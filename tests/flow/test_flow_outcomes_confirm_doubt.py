"""The outcome table's cell `confirm` in doubt, and what expiry, the ledger's clock, other amounts and races make of it."""

import pytest

from countwerk_meter._flow.verdict import Verdict


@pytest.fixture
def gate(world):
    """A charge of 3 on a hold of 5, committed."""
    return world.call()


def state_of(world, gate):
    return str(world.hold(gate).state), world.state()


def test_confirm_in_doubt_stays_open_and_is_resent_while_the_hold_lives(world, say, gate):
    """The resend carries the same amount (rule 4)."""
    world.then(say.lost, say.failed)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert (1, True) == (world.hold(gate).confirms_open, world.hold(gate).confirm_delivered)
    assert world.wall + 0.5 == world.hold(gate).due_at
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert 2 == world.hold(gate).confirms_open
    world.settle(gate)
    assert ("confirmed", "settled", 3) == (*state_of(world, gate), world.spent())
    assert {3} == {request.body["actualAmount"] for request in world.sent if request.name == "confirm-reservation"}


def test_confirm_in_doubt_waits_as_long_as_a_bare_429_asks(world, say, gate):
    """A bare 429 is in doubt, and still says how long to wait (rule 1)."""
    world.then(say.raw(429, b"", {"retry-after": "9"}))
    done = world.settle(gate)
    assert (Verdict.DOUBTFUL, 9.0, world.wall + 9) == (done.verdict, done.wait, done.due_at)


def test_confirm_that_answers_confirmed_false_is_in_doubt(world, say, gate):
    """A success that says it did not confirm is nothing to build on."""
    world.then(say.data({"reservationId": "res_1", "confirmed": False}))
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert 1 == world.hold(gate).confirms_open


@pytest.mark.parametrize("carried_out", [False, True])
def test_confirm_in_doubt_until_expiry_is_cancelled_once(world, say, gate, carried_out):
    """Expired with an attempt open: one cancel, and its `true` alone allows the deducts (rule 8)."""
    world.then(say.unheard if carried_out else say.lost)
    world.settle(gate)
    world.pass_time(897)
    world.then(say.carried)
    world.settle(gate)
    assert ["confirm-reservation", "balance", "cancel-reservation"] == world.names()[1:]
    if carried_out:
        assert ("unresolved", "unresolved", "expired") == (*state_of(world, gate), world.charge().reason)
        assert 3 == world.spent()
    else:
        # Cancelled in the guard's last seconds: the hold was still there, so nothing had been charged.
        assert ("cancelled", "committed") == state_of(world, gate)
        world.settle_until_quiet()
        assert ("settled", 3) == (world.state(), world.spent())


def test_confirm_in_doubt_at_expiry_whose_one_cancel_is_in_doubt_is_unresolved(world, say, gate):
    """One cancel, no second guess."""
    world.then(say.lost)
    world.settle(gate)
    world.pass_time(1000)
    world.then(say.carried, say.lost)
    world.settle(gate)
    assert ("unresolved", "unresolved", "expired") == (*state_of(world, gate), world.charge().reason)
    assert (1, 1) == (world.hold(gate).cancels_open, world.hold(gate).confirms_open)


def test_confirm_at_an_unknown_time_with_an_attempt_open_is_resent(world, say, gate):
    """The ledger answers but never says what time it is (rule 8)."""
    world.then(say.lost)
    world.settle(gate)
    world.heard = None
    world.then(say.untimed, say.untimed)
    world.settle(gate)
    assert ["balance", "confirm-reservation"] == world.names()[-2:]
    assert ("confirmed", "settled") == state_of(world, gate)


@pytest.mark.parametrize("known", [True, False])
def test_expired_or_at_unknown_time_without_an_attempt_is_cancelled_and_deducted(world, say, gate, known):
    """No confirm can have been applied: the deducts do not wait for the cancel (rule 8)."""
    if known:
        world.pass_time(1000)
        world.knows_time()
    else:
        world.heard = None
        world.then(say.untimed, say.lost)
    done = world.settle(gate)
    assert (("charge", "e1"),) == done.work
    assert 0 < world.hold(gate).cancels
    world.deduct("e1")
    assert ("settled", 3, "deduct") == (world.state(), world.spent(), world.charge().via)
    world.settle_until_quiet()
    assert 0 == world.held()
    assert "confirm-reservation" not in world.names()


def test_expired_without_an_attempt_sends_no_cancel_where_the_hold_is_surely_over(world, gate):
    """Past the guard its own validity has ended it: nothing has to be sent."""
    world.pass_time(1000)
    world.knows_time()
    world.settle(gate)
    assert ["reserve"] == world.names()
    assert ("expired", 0) == (world.hold(gate).state, world.hold(gate).cancels_open)


def test_a_first_confirm_asks_balance_for_the_ledgers_time(world, gate):
    """Time that is older than a minute is no time (rule 6)."""
    world.pass_time(61)
    world.settle(gate)
    assert ["balance", "confirm-reservation"] == world.names()[1:]


def test_a_first_confirm_does_not_ask_where_the_time_is_known(world, gate):
    """At most 60 s old, carried on by the monotonic clock."""
    world.pass_time(60)
    world.settle(gate)
    assert ["confirm-reservation"] == world.names()[1:]


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [("not_sent", Verdict.DOUBTFUL), ("lost", Verdict.DOUBTFUL), ("401", Verdict.PAUSED), ("429", Verdict.DOUBTFUL)],
)
def test_no_confirm_leaves_while_the_ledgers_time_cannot_be_had(world, say, gate, outcome, verdict):
    """Without it no attempt is opened, so that an outage leaves charges that expire cleanly (rule 12)."""
    world.heard = None
    codes = {"401": say.code("INVALID_API_KEY"), "429": say.code("RATE_LIMIT_EXCEEDED", 4)}
    world.then(codes.get(outcome) or getattr(say, outcome))
    assert verdict is world.settle(gate).verdict
    assert (0, 1) == (world.hold(gate).confirms, world.hold(gate).failures)


@pytest.mark.parametrize(("seconds", "confirmed"), [(894.9, True), (895, False)])
def test_the_guard_is_five_seconds(world, gate, seconds, confirmed):
    """A confirm that could arrive too late does not leave (rule 6)."""
    world.pass_time(seconds)
    world.knows_time()
    world.settle(gate)
    assert confirmed == ("confirm-reservation" in world.names())


def test_a_confirm_that_names_less_leaves_the_rest_for_a_late_deduct(world, say, gate):
    """Another amount is definite: what falls short goes under `<id>.late` (rule 1)."""
    world.then(say.data({"reservationId": "res_1", "confirmed": True, "actualAmount": 1}))
    done = world.settle(gate)
    assert (("charge", "e1.late"),) == done.work
    assert (2, "e1") == (world.charge("e1.late").share, world.charge("e1.late").parent)
    world.deduct("e1.late")
    assert {("acct", "e1.late"): 2} == world.ledger.deducts


def test_a_confirm_that_names_less_than_nothing_is_short_by_the_whole(world, say, gate):
    """Never more than was committed is charged afterwards (I2)."""
    world.then(say.data({"reservationId": "res_1", "confirmed": True, "actualAmount": -7}))
    world.settle(gate)
    assert 3 == world.charge("e1.late").share


def test_a_confirm_that_names_more_is_an_event(world, say, gate):
    """It cannot be taken back here, and must not go unseen (rule 1)."""
    world.then(say.data({"reservationId": "res_1", "confirmed": True, "actualAmount": 5}))
    world.settle(gate)
    assert (["settled"], [2]) == ([world.state()], [fields["amount"] for fields in world.told("excess")])


def test_a_confirm_that_names_no_amount_carried_out_what_was_asked(world, say, gate):
    """The contract's default is what was sent."""
    world.then(say.data({"reservationId": "res_1", "confirmed": True}))
    world.settle(gate)
    assert ("settled", []) == (world.state(), world.told("excess"))


def test_two_workers_never_both_send_a_first_confirm(world, say, gate):
    """Opening an attempt is a compare-and-swap: the loser sends nothing (rule 4)."""
    from countwerk_meter._flow.attempts import OpenAttempt

    stale = world.hold(gate)
    world.settle(gate)
    assert world.journal.run(OpenAttempt(stale.key, stale.epoch, "confirm", 3)) is None


def test_a_row_that_moved_between_reading_and_opening_is_left_alone(world, gate):
    """The pass that lost the race comes back later."""
    from dataclasses import replace

    run = world.do

    def race(command):
        reply = run(command)
        if type(getattr(command, "operation", None)).__name__ == "Load":
            world.save(replace(world.hold(gate), epoch=world.hold(gate).epoch + 1))
        return reply

    world.do = race
    assert Verdict.LATER is world.settle(gate).verdict
    world.pass_time(1000)
    world.knows_time()
    assert Verdict.LATER is world.settle(gate).verdict
    assert ["reserve"] == world.names()


def test_an_ended_row_is_never_due_again(world, say, gate):
    """A second worker's late NotSent or doubt on a row that ended leaves it ended, and not due."""
    for late in (say.not_sent, say.lost):
        other = world.call(f"x{late.__name__}")
        world.then(say.meanwhile(lambda gate=other: world.settle(gate), late))
        world.settle(other)
        assert ("confirmed", None) == (world.hold(other).state, world.hold(other).due_at)


def test_a_late_success_still_settles_an_unresolved_row(world, say, gate):
    """A definite success is the truth whenever it comes."""
    world.then(say.meanwhile(lambda: (world.then(say.code("INVALID_INPUT")), world.settle(gate)), say.carried))
    world.settle(gate)
    assert ("confirmed", "settled", 3) == (*state_of(world, gate), world.spent())
