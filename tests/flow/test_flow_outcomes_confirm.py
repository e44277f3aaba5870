"""Every cell of the outcome table's row `confirm`, by name; and money rules 5, 6 and 8, which it refers to."""

import pytest

from countwerk_meter._flow.verdict import Verdict


@pytest.fixture
def gate(world):
    """A charge of 3 on a hold of 5, committed."""
    return world.call()


def state_of(world, gate):
    return str(world.hold(gate).state), world.state()


def test_confirm_done_settles_and_gives_the_rest_back(world, gate):
    """The plain case: one confirm, carrying the amount and the id."""
    done = world.settle(gate)
    assert (Verdict.ENDED, ("e1",)) == (done.verdict, done.charges)
    assert {"reservationId": "res_1", "actualAmount": 3, "description": "[e1]"} == world.sent[-1].body
    assert ("confirmed", "settled") == state_of(world, gate)
    assert (3, 0) == (world.spent(), world.held())
    assert [3] == [fields["amount"] for fields in world.told("charged")]


def test_confirm_not_sent_was_not_applied_and_backs_off(world, say, gate):
    """The attempt is closed again: later the hold may expire cleanly into deducts."""
    world.then(say.not_sent)
    done = world.settle(gate)
    row = world.hold(gate)
    assert (Verdict.DOUBTFUL, world.wall + 0.5) == (done.verdict, done.due_at)
    assert (1, 0, False, row.due_at) == (row.confirms, row.confirms_open, row.confirm_delivered, done.due_at)


def test_confirm_402_cancels_and_deducts(world, say, gate):
    """A refused confirm leaves the hold; only its definite cancel allows the deducts (rule 5)."""
    world.then(say.code("INSUFFICIENT_CREDITS"))
    done = world.settle(gate)
    assert ["confirm-reservation", "cancel-reservation"] == world.names()[1:]
    assert (("charge", "e1"),) == done.work
    assert ("cancelled", "committed") == state_of(world, gate)
    world.deduct("e1")
    assert ("settled", 3, {("acct", "e1"): 3}) == (world.state(), world.spent(), world.ledger.deducts)


def test_confirm_402_with_an_earlier_attempt_in_doubt_is_unresolved(world, say, gate):
    """The earlier one may still be applied: no deduct (rule 5)."""
    world.then(say.lost, say.code("INSUFFICIENT_CREDITS"))
    world.settle(gate)
    done = world.settle(gate)
    assert (Verdict.ENDED, ("unresolved", "unresolved")) == (done.verdict, state_of(world, gate))
    assert "refused in doubt" == world.charge().reason
    assert 1 == world.hold(gate).confirms_open
    assert 0 == world.spent()


@pytest.mark.parametrize("answer", ["RESERVATION_NOT_FOUND", "INVALID_INPUT"])
def test_confirm_402_whose_cancel_is_no_definite_true_is_unresolved(world, say, gate, answer):
    """Any other outcome than `cancelled: true` allows no deduct (rule 5)."""
    world.then(say.code("INSUFFICIENT_CREDITS"), say.code(answer))
    world.settle(gate)
    assert ("unresolved", "unresolved") == state_of(world, gate)
    assert ["e1"] == [fields["usage_event_id"] for fields in world.told("unresolved") if "usage_event_id" in fields]


def test_confirm_402_whose_cancel_says_cancelled_false_is_unresolved(world, say, gate):
    """`cancelled: false` counts as a 404 (rule 1)."""
    world.then(say.code("INSUFFICIENT_CREDITS"), say.data({"reservationId": "res_1", "cancelled": False}))
    world.settle(gate)
    assert ("unresolved", "unresolved") == state_of(world, gate)


def test_confirm_402_whose_cancel_is_lost_is_cancelled_again_while_the_hold_lives(world, say, gate):
    """A cancel in doubt is tried again to expiry: its definite answer still allows the deducts."""
    world.then(say.code("INSUFFICIENT_CREDITS"), say.lost)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert ("closing", "committed") == state_of(world, gate)
    world.settle(gate)
    assert ("cancelled", "committed") == state_of(world, gate)
    world.settle_until_quiet()
    assert ("settled", 3) == (world.state(), world.spent())
    assert 1 == world.names().count("confirm-reservation")


def test_confirm_402_whose_cancel_stays_lost_is_unresolved_at_expiry(world, say, gate):
    """At expiry one cancel more, and then no guess."""
    world.then(say.code("INSUFFICIENT_CREDITS"), say.lost)
    world.settle(gate)
    world.pass_time(1000)
    world.knows_time()
    world.then(say.lost)
    world.settle(gate)
    assert ("unresolved", "unresolved") == state_of(world, gate)


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("not_sent", Verdict.DOUBTFUL), ("429", Verdict.LATER), ("401", Verdict.PAUSED)]
)
def test_confirm_402_whose_cancel_was_not_carried_out_tries_the_cancel_again(world, say, gate, outcome, verdict):
    """NotSent, 429 and 401 decide nothing, and no confirm leaves any more (rule 5)."""
    reply = {
        "not_sent": say.not_sent,
        "429": say.code("RATE_LIMIT_EXCEEDED", 7),
        "401": say.code("INVALID_API_KEY"),
    }[outcome]
    world.then(say.code("INSUFFICIENT_CREDITS"), reply)
    assert verdict is world.settle(gate).verdict
    assert 0 == world.hold(gate).cancels_open
    world.settle(gate)
    assert 1 == world.names().count("confirm-reservation")
    assert "cancelled" == world.hold(gate).state


def test_confirm_429_backs_off_as_long_as_it_is_told(world, say, gate):
    """It was not carried out (A1): its attempt is closed, and everybody waits."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 20))
    done = world.settle(gate)
    assert (Verdict.LATER, 20.0, world.wall + 20) == (done.verdict, done.wait, done.due_at)
    assert (0, True) == (world.hold(gate).confirms_open, world.hold(gate).confirm_delivered)
    world.settle(gate)
    assert ("confirmed", "settled") == state_of(world, gate)


def test_confirm_429_until_expiry_is_not_deducted_without_a_definite_cancel(world, say, gate):
    """A confirm that was delivered is never followed by a deduct on a guess (rule 5)."""
    world.then(say.code("RATE_LIMIT_EXCEEDED"))
    world.settle(gate)
    world.pass_time(1000)
    world.settle(gate)
    assert ("unresolved", "unresolved") == state_of(world, gate)
    assert 0 == world.spent()


def test_confirm_401_pauses_all_settlement(world, say, gate):
    """The key is wrong: nothing was applied, the row stays, everything stops."""
    world.then(say.code("INVALID_API_KEY"))
    assert Verdict.PAUSED is world.settle(gate).verdict
    assert (0, False, "closing") == (
        world.hold(gate).confirms_open, world.hold(gate).confirm_delivered, world.hold(gate).state
    )  # fmt: skip


def test_confirm_403_parks_that_account(world, say, gate):
    """The account waits some minutes, the others go on."""
    world.then(say.code("FORBIDDEN"))
    done = world.settle(gate)
    assert (Verdict.PARKED, "acct", world.wall + 300) == (done.verdict, done.account_id, done.due_at)


@pytest.mark.parametrize("code", ["INVALID_AMOUNT", "DS24_KEY_REQUIRED", "ORDER_NOT_FOUND"])
def test_confirm_400_409_and_other_4xx_is_unresolved_rejected(world, say, gate, code):
    """Nothing was charged, the hold goes by its expiry, and somebody has to look."""
    world.then(say.code(code))
    assert Verdict.ENDED is world.settle(gate).verdict
    assert ("unresolved", "unresolved", f"rejected: {code}") == (*state_of(world, gate), world.charge().reason)
    assert f"rejected: {code}" == world.told("unresolved")[0]["reason"]
    assert (None, None) == (world.hold(gate).due_at, world.charge().due_at)


def test_confirm_404_before_expiry_on_a_first_attempt_is_unresolved_vanished(world, say, gate):
    """Nobody confirmed it and it has not expired: somebody else ended it (rule 8)."""
    world.then(say.code("RESERVATION_NOT_FOUND"))
    world.settle(gate)
    assert ("unresolved", "unresolved", "vanished") == (*state_of(world, gate), world.charge().reason)


def test_confirm_404_before_expiry_after_an_attempt_that_never_left_is_vanished(world, say, gate):
    """An attempt that was closed by NotSent is none."""
    world.then(say.not_sent, say.code("RESERVATION_NOT_FOUND"))
    world.settle(gate)
    world.settle(gate)
    assert "vanished" == world.charge().reason


def test_confirm_404_before_expiry_with_an_earlier_attempt_open_is_settled_by_inference(world, say, gate):
    """The earlier one was carried out: only it can have ended the hold (rule 8)."""
    world.then(say.unheard)
    assert Verdict.DOUBTFUL is world.settle(gate).verdict
    assert Verdict.ENDED is world.settle(gate).verdict
    assert ("confirmed", "settled", "inferred") == (*state_of(world, gate), world.hold(gate).reason)
    assert (3, 3) == (world.spent(), world.told("inferred")[0]["amount"])


def test_confirm_404_after_expiry_is_unresolved_expired(world, say, gate):
    """Expired while it was out: the 404 says nothing any more (rule 8)."""
    world.pass_time(880)
    world.knows_time()
    world.then(say.after(20, say.carried))
    world.settle(gate)
    assert ("unresolved", "unresolved", "expired") == (*state_of(world, gate), world.charge().reason)


def test_confirm_404_in_the_last_seconds_of_a_hold_infers_nothing(world, say, gate):
    """Less than the guard of 5 s before its end, a hold counts as over (rule 6)."""
    world.then(say.unheard)
    world.settle(gate)
    world.pass_time(893)
    world.knows_time()
    world.then(say.after(3, say.carried))
    world.settle(gate)
    assert "expired" == world.charge().reason


def test_confirm_404_at_an_unknown_time_infers_nothing(world, say, gate):
    """Without the ledger's time nobody knows whether it is before expiry (rules 6 and 8)."""
    world.then(say.unheard)
    world.settle(gate)
    world.then(lambda w, r: (setattr(w, "heard", None), say.untimed(w, r))[1])
    world.settle(gate)
    assert "expired" == world.charge().reason


def test_confirm_404_after_another_worker_committed_a_cancel_infers_nothing(world, say, gate):
    """The cancel may have ended it: what counts is the row as it is now, not as it was when the confirm left."""
    from dataclasses import replace

    world.then(say.lost)
    world.settle(gate)
    cancel = lambda: world.save(replace(world.hold(gate), cancels=1, cancels_open=1))  # noqa: E731
    world.then(say.meanwhile(cancel, say.code("RESERVATION_NOT_FOUND")))
    world.settle(gate)
    assert ("unresolved", "unresolved", "expired") == (*state_of(world, gate), world.charge().reason)


def test_confirm_404_after_another_worker_settled_it_changes_nothing(world, say, gate):
    """Two workers, one confirm carried out: the second's 404 leaves what the first recorded."""
    world.then(say.meanwhile(lambda: world.settle(gate), say.carried))
    world.settle(gate)
    assert ("confirmed", "settled", 3) == (*state_of(world, gate), world.spent())
    assert ([], 1) == (world.told("unresolved"), len(world.told("charged")))
