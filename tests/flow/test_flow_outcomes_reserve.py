"""Every cell of the outcome table's row `reserve`, by name."""

from dataclasses import replace

import pytest

from countwerk_meter.errors import (
    ApiError,
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)


def test_reserve_not_sent_is_retried_with_full_jitter_inside_the_budget(world, say):
    """What was never sent is sent again, after a random part of a growing wait."""
    world.then(say.not_sent, say.not_sent, say.not_sent)
    gate = world.reserve()
    assert ["reserve"] * 4 == world.names()
    assert [(0.05, True), (0.1, True), (0.2, True)] == world.sleeps
    assert "held" == world.hold(gate).state


def test_reserve_not_sent_until_the_budget_is_spent_is_unavailable_and_not_in_doubt(world, say):
    """The budget ends the retries, and nothing was carried out."""
    world.then(*[say.not_sent] * 50)
    before = world.monotonic
    with pytest.raises(LedgerUnavailableError) as caught:
        world.reserve()
    assert caught.value.in_doubt is False
    assert world.monotonic - before <= world.terms.reserve_timeout
    assert "cancelled" == world.state()
    assert ["refused"] == [str(row.state) for row in world.all_holds()]


def test_reserve_402_raises_with_purchase_options_and_leaves_a_tombstone(world):
    """A denial carries fresh links; of the charge only its tombstone stays."""
    with pytest.raises(InsufficientCreditsError) as caught:
        world.reserve(amount=101)
    assert 101 == caught.value.required
    assert "https://buy.test/x" == caught.value.purchase_links.options[0].url
    assert ["reserve", "purchase-links"] == world.names()
    assert "denied" == world.state()
    assert ["refused"] == [str(row.state) for row in world.all_holds()]


def test_reserve_402_says_what_our_own_reservations_hold(world):
    """Nobody is told to buy what is merely in use."""
    gate = world.reserve("e1", 90)
    with pytest.raises(InsufficientCreditsError) as caught:
        world.reserve("e2", 20)
    assert 90 == caught.value.held
    assert world.hold(gate).expires_at == caught.value.held_until.timestamp()


@pytest.mark.parametrize(
    ("links", "problem"),
    [("not_sent", "LEDGER_UNREACHABLE"), ("lost", "LEDGER_UNAVAILABLE"), ("failed", "INTERNAL_ERROR")],
)
def test_reserve_402_is_never_hidden_by_failing_purchase_links(world, say, links, problem):
    """The denial is raised all the same, without links, and says why there are none."""
    world.then(say.carried, getattr(say, links))
    with pytest.raises(InsufficientCreditsError) as caught:
        world.reserve(amount=101)
    assert caught.value.purchase_links is None
    assert problem == caught.value.purchase_error


def test_reserve_402_with_unreadable_or_refused_links_offers_no_way_to_buy(world, say):
    """What a failed answer carried is shown disabled, or not at all."""
    world.then(say.carried, say.data({"options": "none"}))
    with pytest.raises(InsufficientCreditsError) as caught:
        world.reserve(amount=101)
    assert "UNREADABLE_ANSWER" == caught.value.purchase_error
    world.then(say.carried, say.code("DS24_KEY_REQUIRED"))
    with pytest.raises(InsufficientCreditsError) as caught:
        world.reserve(amount=101)
    assert (None, "DS24_KEY_REQUIRED") == (caught.value.purchase_links, caught.value.purchase_error)


def test_reserve_429_waits_as_long_as_it_is_told_if_that_fits(world, say):
    """`Retry-After` is kept to the second, without jitter."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 2))
    gate = world.reserve()
    assert [(2.0, False)] == world.sleeps
    assert "held" == world.hold(gate).state


def test_reserve_429_without_retry_after_backs_off_with_jitter(world, say):
    """Without a word on how long, the wait is drawn at random."""
    world.then(say.code("RATE_LIMIT_EXCEEDED"))
    world.reserve()
    assert [(0.05, True)] == world.sleeps


def test_reserve_429_that_does_not_fit_the_budget_is_a_rate_limit_error(world, say):
    """No call waits longer than it is allowed, and nothing was carried out (A1)."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 30))
    with pytest.raises(RateLimitError) as caught:
        world.reserve()
    assert (False, 30.0, []) == (caught.value.in_doubt, caught.value.retry_after, world.sleeps)
    assert "cancelled" == world.state()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("INVALID_API_KEY", AuthenticationError),
        ("FORBIDDEN", PermissionDeniedError),
        ("INVALID_AMOUNT", InvalidRequestError),
        ("DS24_KEY_REQUIRED", ApiError),
        ("RESERVATION_NOT_FOUND", NotFoundError),
    ],
)
def test_reserve_401_403_400_409_and_404_raise(world, say, code, error):
    """A definite refusal is raised as what it is, and leaves nothing open."""
    world.then(say.code(code))
    with pytest.raises(error) as caught:
        world.reserve()
    assert code == caught.value.code
    assert ["reserve"] == world.names()
    assert ("cancelled", "refused") == (world.state(), str(world.all_holds()[0].state))


@pytest.mark.parametrize("doubt", ["lost", "unheard", "failed"])
def test_reserve_in_doubt_is_never_sent_again(world, say, doubt):
    """It has no key: in doubt it is journaled as a possible orphan and surfaced."""
    world.then(getattr(say, doubt))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.reserve()
    assert caught.value.in_doubt
    assert ["reserve"] == world.names()
    assert ("orphaned", "orphan_possible") == (world.state(), str(world.all_holds()[0].state))
    assert 5 == world.told("orphan_possible")[0]["amount"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, b"slow down"),
        (200, b"{}"),
        (200, b'{"success": true}'),
        (200, b'{"success": true, "data": {"operation": "other", "reservationId": "r"}}'),
        (200, b'{"success": true, "data": {"operation": "app.chat", "amount": 5}}'),
        (302, b""),
        (404, b"<html>"),
        (400, b'{"success": false, "code": "WHO_KNOWS"}'),
        (200, b'{"success": false, "code": "RESERVATION_ERROR"}'),
    ],
)
def test_reserve_answers_that_say_nothing_definite_are_in_doubt(world, say, status, body):
    """No envelope, an unknown code, a redirect, no echo, no name for the hold: all in doubt (rule 1)."""
    world.then(say.raw(status, body))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.reserve()
    assert caught.value.in_doubt
    assert "orphan_possible" == world.all_holds()[0].state


def test_reserve_that_names_a_reservation_we_know_is_in_doubt(world, say):
    """A reservation id that the journal knows already is no new hold (rule 1)."""
    first = world.reserve("e1")
    known = {"reservationId": world.hold(first).reservation_id, "operation": "app.chat", "amount": 5}
    world.then(say.data(known))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.reserve("e2")
    assert caught.value.in_doubt
    assert ("orphaned", "open") == (world.state("e2"), world.state("e1"))


def test_reserve_counts_a_2xx_that_says_no_by_its_code(world, say):
    """`success: false` is an error whatever the HTTP status (rule 1)."""
    world.then(say.raw(200, b'{"success": false, "code": "INSUFFICIENT_CREDITS"}'))
    with pytest.raises(InsufficientCreditsError):
        world.reserve()


def test_reserve_one_budget_covers_the_purchase_links_too(world, say):
    """The links are asked for with the same deadline as the reserve (rule 2)."""
    deadlines = []
    run = world.do
    world.do = lambda command: (deadlines.append(getattr(command, "deadline", None)), run(command))[1]
    world.then(say.after(3, say.carried))
    with pytest.raises(InsufficientCreditsError):
        world.reserve(amount=101)
    assert 1 == len({deadline for deadline in deadlines if deadline is not None})


def test_reserve_keeps_a_hold_of_less_than_asked(world, say):
    """What the ledger holds is what can be drawn on; more than asked is not believed."""
    world.then(say.data({"reservationId": "r1", "operation": "app.chat", "amount": 3}))
    assert 3 == world.hold(world.reserve("e1")).amount
    world.then(say.data({"reservationId": "r2", "operation": "app.chat", "amount": 50}))
    assert 5 == world.hold(world.reserve("e2")).amount


def test_reserve_takes_a_missing_expiry_from_the_ledgers_clock_alone(world, say):
    """This machine's clock says nothing about a hold (rule 6)."""
    data = {"reservationId": "r1", "operation": "app.chat", "amount": 5}
    world.then(say.data(data))
    assert world.ledger_now + 900 == world.hold(world.reserve("e1")).expires_at
    world.then(say.data({**data, "reservationId": "r2"}, timed=False))
    assert world.ledger_now + 900 == world.hold(world.reserve("e2")).expires_at
    world.heard = None
    world.then(say.data({**data, "reservationId": "r3", "expiresAt": "2030-01-01T00:00:00"}, timed=False))
    assert 1893456000 == world.hold(world.reserve("e3")).expires_at
    world.heard = None
    world.then(say.data({**data, "reservationId": "r4"}, timed=False))
    gate = world.reserve("e4")
    assert world.hold(gate).expires_at is None
    assert world.wall + 960 == world.hold(gate).due_at


def test_reserve_lapses_by_the_ledgers_distance_not_by_its_absolute_time(world):
    """A row falls due a minute after its hold's end, however far the ledger's clock is from ours."""
    assert world.wall + 900 + 60 == world.hold(world.reserve()).due_at


def test_reserve_puts_the_id_at_the_end_of_its_description(world):
    """Reserve takes no key, so the id stands in its description."""
    world.reserve("e1")
    world.reserve("e2", description="Chat reply")
    assert ["[e1]", "Chat reply [e2]"] == [request.body["description"] for request in world.sent]
    assert 15 == world.sent[0].body["validityMinutes"]


def test_reserve_commits_row_and_id_before_the_request_leaves(world, say):
    """Its row and its charge's id are there before anything is sent (rule 3)."""
    seen = []
    world.then(say.meanwhile(lambda: seen.append((world.state(), str(world.all_holds()[0].state))), say.carried))
    world.reserve()
    assert [("open", "requested")] == seen


@pytest.mark.parametrize("outcome", ["not_sent", "lost", "429"])
def test_unavailable_with_defer_runs_the_call_and_deducts_later(world, say, outcome):
    """NotSent, in doubt or an exhausted 429: the call runs, and is deducted under its own id."""
    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(
        *{"not_sent": [say.not_sent] * 50, "lost": [say.lost], "429": [say.code("RATE_LIMIT_EXCEEDED", 99)]}[outcome]
    )
    gate = world.reserve()
    world.script.clear()
    assert (None, "open", "deferred") == (gate.hold, world.state(), world.charge().reason)
    assert 5 == world.told("deferred")[0]["amount"]
    assert (("charge", "e1"),) == world.commit(gate, 4).work
    assert "ended" == world.deduct("e1").verdict.value
    assert ("settled", {("acct", "e1"): 4}) == (world.state(), world.ledger.deducts)


def test_a_refusal_is_not_deferred(world, say):
    """Only a ledger that cannot be reached is worked around, never one that said no."""
    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.code("FORBIDDEN"))
    with pytest.raises(PermissionDeniedError):
        world.reserve()
