"""`charge_at_once`: a flat price deducted now, in every outcome; and what it leaves when it is cut short or dies."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.begin import Direct
from countwerk_meter._flow.commands import Sleep
from countwerk_meter._flow.deducted import Deducted
from countwerk_meter._flow.states import ChargeState
from countwerk_meter._flow.verdict import Verdict
from countwerk_meter.errors import (
    AuthenticationError,
    ChargeAlreadySettledError,
    ChargeInProgressError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    LedgerUnavailableError,
    PermissionDeniedError,
    RateLimitError,
)


def test_done_is_settled_at_once(world):
    """One request, under its own id, journaled before it leaves."""
    row = world.deduct_now()
    assert ("settled", None, ["deduct"], {("acct", "d1"): 5}) == (
        row.state, row.due_at, world.names(), world.ledger.deducts
    )  # fmt: skip
    assert world.operations[0].durable


def test_the_same_id_again_answers_with_the_charge_that_stands(world):
    """Idempotent: no second request, whatever amount is asked for."""
    first = world.deduct_now()
    assert (first, 1) == (world.deduct_now(amount=9), len(world.sent))


def test_not_sent_is_retried_inside_the_budget_and_then_nothing_was_charged(world, say):
    """Then the same id may be tried again."""
    world.then(*[say.not_sent] * 50)
    with pytest.raises(LedgerUnavailableError) as caught:
        world.deduct_now()
    assert (False, "cancelled", None) == (caught.value.in_doubt, world.state("d1"), world.charge("d1").due_at)
    world.script.clear()
    assert ("settled", 1) == (world.deduct_now().state, world.charge("d1").epoch)


def test_402_is_raised_and_nothing_is_owed(world):
    """With fresh links and what our own holds hold."""
    world.reserve("e1", 99)
    with pytest.raises(InsufficientCreditsError) as caught:
        world.deduct_now()
    assert (5, 99, "denied") == (caught.value.required, caught.value.held, world.state("d1"))


def test_429_waits_if_it_fits_and_is_raised_if_not(world, say):
    """A rate limit was not carried out (A1)."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 2), say.code("RATE_LIMIT_EXCEEDED"))
    world.deduct_now()
    assert [(2.0, False), (0.1, True)] == world.sleeps
    world.then(say.code("RATE_LIMIT_EXCEEDED", 30))
    with pytest.raises(RateLimitError) as caught:
        world.deduct_now("d2")
    assert (False, "cancelled") == (caught.value.in_doubt, world.state("d2"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("INVALID_API_KEY", AuthenticationError),
        ("FORBIDDEN", PermissionDeniedError),
        ("INVALID_OPERATION", InvalidRequestError),
    ],
)
def test_401_403_and_400_are_raised_and_nothing_was_charged(world, say, code, error):
    """A definite no ends it."""
    world.then(say.code(code))
    with pytest.raises(error):
        world.deduct_now()
    assert ("cancelled", [5]) == (world.state("d1"), [fields["amount"] for fields in world.told("refused")])


def test_in_doubt_is_sent_again_under_the_same_id(world, say):
    """The id makes it safe; one answer is enough."""
    world.then(say.unheard, say.lost, say.failed)
    world.deduct_now()
    assert (4, {("acct", "d1"): 5}) == (len(world.sent), world.ledger.deducts)


def test_in_doubt_waits_as_long_as_a_bare_429_asks(world, say):
    """In doubt, and yet it says how long."""
    world.then(say.raw(429, b"", {"retry-after": "3"}))
    world.deduct_now()
    assert [(3.0, False)] == world.sleeps


def test_in_doubt_to_the_end_stays_in_the_journal_and_is_sent_until_it_is_answered(world, say):
    """The app hears `in_doubt`; settlement goes on."""
    world.then(say.after(5, say.unheard))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.deduct_now()
    assert (True, "committed", world.wall) == (caught.value.in_doubt, world.state("d1"), world.charge("d1").due_at)
    world.settle_until_quiet()
    assert ("settled", 5) == (world.state("d1"), world.spent())


@pytest.mark.parametrize("last", ["not_sent", "429"])
def test_an_attempt_that_was_never_carried_out_says_nothing_about_the_one_before(world, say, last):
    """Doubt is not undone by a later NotSent or 429: `in_doubt` stays true."""
    final = say.not_sent if last == "not_sent" else say.code("RATE_LIMIT_EXCEEDED", 60)
    world.then(say.lost, say.after(5, final))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.deduct_now()
    assert (True, "committed") == (caught.value.in_doubt, world.state("d1"))


def test_402_after_a_doubt_is_raised_and_the_charge_is_kept(world, say):
    """The doubtful one may still land: it must not become "never happened"."""
    world.then(say.lost, say.code("INSUFFICIENT_CREDITS"))
    with pytest.raises(InsufficientCreditsError):
        world.deduct_now()
    assert "committed" == world.state("d1")


def test_400_after_a_doubt_is_raised_and_the_charge_is_kept(world, say):
    """Settlement hears the same no, and lists it."""
    world.then(say.lost, say.code("INVALID_OPERATION"))
    with pytest.raises(InvalidRequestError):
        world.deduct_now()
    assert "committed" == world.state("d1")


def test_an_answer_that_names_less_or_more(world, say):
    """What falls short goes under `.late`; an excess is an event (rule 1)."""
    world.then(say.data({"deductedAmount": 2, "operation": "app.chat"}))
    assert "settled" == world.deduct_now().state
    assert (3, world.wall) == (world.charge("d1.late").share, world.charge("d1.late").due_at)
    world.then(say.data({"deductedAmount": 8, "operation": "app.chat"}))
    world.deduct_now("d2")
    assert [3] == [fields["amount"] for fields in world.told("excess")]


def test_a_shortfall_without_an_id_left_is_unresolved(world, say):
    """A 59-character id takes one suffix; the second late part stays listed, with an event (I3)."""
    long = "x" * 59
    world.then(say.data({"deductedAmount": 2, "operation": "app.chat"}))
    world.deduct_now(long)
    world.then(say.data({"deductedAmount": 1, "operation": "app.chat"}))
    assert () == world.deduct(f"{long}.late").work
    left = world.charge(f"{long}.late.late")
    assert ("unresolved", 2, None) == (left.state, left.share, left.due_at)
    assert [2] == [fields["amount"] for fields in world.told("unresolved")]
    assert all(len(request.body["usage_event_id"]) <= 64 for request in world.sent)


def test_a_confirm_shortfall_without_an_id_left_is_unresolved_too(world, say):
    """As above, for a confirm: the whole is settled, the rest is listed."""
    long = "x" * 59
    gate = world.call(long)
    world.save(replace(world.charge(long), id=f"{long}.late", parent=long))
    world.then(say.data({"reservationId": "res_1", "confirmed": True, "actualAmount": 1}))
    done = world.settle(gate)
    assert ((), (long, f"{long}.late.late")) == (done.work, done.charges)
    assert [2] == [fields["amount"] for fields in world.told("unresolved")]


# An id that stands already.


def test_an_id_that_waits_for_its_reservations_confirm_is_not_deducted_beside_it(world):
    """It would be charged twice (I2)."""
    gate = world.call("e1")
    with pytest.raises(ChargeAlreadySettledError):
        world.deduct_now("e1")
    assert ["reserve"] == world.names()
    world.settle(gate)
    assert 3 == world.spent()


def test_an_id_that_waits_is_sent_again_and_keeps_its_amount(world, say):
    """Its own deduct, in doubt before."""
    world.then(say.after(5, say.lost))
    with pytest.raises(LedgerUnavailableError):
        world.deduct_now()
    world.deduct_now(amount=9)
    assert {("acct", "d1"): 5} == world.ledger.deducts


def test_an_uncollected_id_is_sent_again_and_stays_uncollected_on_a_402(world):
    """A no does not make what is owed unowed."""
    world.ledger.available["acct"] = 0
    world.save(world.charge_row("d1", 5, amount=5, share=5, via="deduct", state=ChargeState.UNCOLLECTED))
    with pytest.raises(InsufficientCreditsError):
        world.deduct_now()
    assert "uncollected" == world.state("d1")
    world.ledger.available["acct"] = 5
    world.deduct_now()
    assert "settled" == world.state("d1")


def test_a_deferred_charge_that_is_asked_for_again_stays_a_debt(world, say):
    """Its reason says that it is one (rule 14)."""
    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.lost)
    world.commit(world.reserve("e1"), 4)
    world.then(say.after(5, say.lost))
    with pytest.raises(LedgerUnavailableError):
        world.deduct_now("e1")
    assert ("committed", "deferred") == (world.state(), world.charge().reason)


def test_an_open_id_is_in_progress_and_another_account_is_refused(world):
    """As for a reserve."""
    world.reserve("e1")
    with pytest.raises(ChargeInProgressError):
        world.deduct_now("e1")
    world.deduct_now("d1")
    with pytest.raises(ConfigurationError):
        world.deduct_now("d1", account="other")


def test_an_unresolved_id_runs_again_without_a_charge_where_replays_run(world):
    """`on_replay="run"` gives the charge that stands."""
    world.save(world.charge_row("d1", 5, amount=5, share=5, via="deduct", state=ChargeState.UNRESOLVED))
    with pytest.raises(ChargeAlreadySettledError):
        world.deduct_now()
    world.terms = replace(world.terms, on_replay="run")
    assert ("unresolved", []) == (world.deduct_now().state, world.sent)


# Cut short.


def test_interrupted_while_it_is_out_it_is_kept_and_settled(world, say):
    """In doubt: the same id is sent until it is answered."""
    world.then(say.cut)
    world.cut(world.deduct_now)
    assert ("committed", world.wall) == (world.state("d1"), world.charge("d1").due_at)
    world.settle_until_quiet()
    assert 5 == world.spent()


def test_interrupted_between_attempts_that_were_never_sent_it_is_cancelled(world, say):
    """Nothing was charged, and nothing will be."""
    world.then(say.not_sent)
    world.cut_at = Sleep
    world.cut(world.deduct_now)
    assert "cancelled" == world.state("d1")


def test_interrupted_between_attempts_after_a_doubt_it_is_kept(world, say):
    """The first one may have been carried out."""
    world.then(say.unheard)
    world.cut_at = Sleep
    world.cut(world.deduct_now)
    assert "committed" == world.state("d1")


@pytest.mark.parametrize("state", ["committed", "uncollected"])
def test_interrupted_when_it_waited_before_it_waits_as_before(world, say, state):
    """An interruption never raises over the row's state."""
    world.save(world.charge_row("d1", 5, amount=5, share=5, via="deduct", state=ChargeState(state), due_at=1.0))
    world.then(say.cut)
    world.cut(world.deduct_now)
    assert state == world.state("d1")
    world.then(say.not_sent)
    world.cut_at = Sleep
    world.cut(world.deduct_now)
    assert state == world.state("d1")


def test_interrupted_while_it_begins_nothing_is_sent(world):
    """The queued commit is taken back."""
    world.cut_at = Direct
    world.cut(world.deduct_now)
    assert ("cancelled", [], None) == (world.state("d1"), world.sent, world.charge("d1").due_at)


def test_interrupted_while_it_is_recorded_it_is_recorded(world):
    """The commit was queued."""
    world.cut_at = Deducted
    world.cut(world.deduct_now)
    assert "settled" == world.state("d1")


def test_a_gate_that_dies_without_a_word_is_taken_up_by_settlement(world, monkeypatch):
    """A journal that failed just then must not leave a charge that nobody ends (I3, I8)."""
    real = Deducted.apply

    def broken(self, books):
        raise JournalError("disk full")

    monkeypatch.setattr(Deducted, "apply", broken)
    with pytest.raises(JournalError):
        world.deduct_now()
    monkeypatch.setattr(Deducted, "apply", real)
    assert ("open", 5) == (world.state("d1"), world.spent())
    assert (Verdict.ENDED, 1) == (world.deduct("d1").verdict, len(world.sent))
    assert world.due().next_due == world.wall + 65
    world.pass_time(65)
    world.pass_over_due()
    assert ("settled", 5) == (world.state("d1"), world.spent())


def test_a_zombies_late_no_does_not_undo_what_recovery_took_over(world, say):
    """Its process was thought dead; recovery deducts, and the old gate's NotSent changes nothing and raises nothing odd."""
    world.then(say.meanwhile(lambda: world.adopt("me", "heir"), say.after(5, say.not_sent)))
    with pytest.raises(LedgerUnavailableError):
        world.deduct_now()
    assert "committed" == world.state("d1")
    world.settle_until_quiet()
    assert 5 == world.spent()
