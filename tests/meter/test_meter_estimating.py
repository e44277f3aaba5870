"""How much a call holds: counted, bounded by what such calls put out before, and no more than the balance pays for."""

import dataclasses
import threading
from types import SimpleNamespace

import pytest

from countwerk_meter import ConfigurationError, InsufficientCreditsError, LedgerUnavailableError, Usage
from countwerk_meter._flow.learning import EVERYBODY, Kind, Recall
from countwerk_meter._flow.states import ReservationState
from countwerk_meter._metering.learner import LOT
from countwerk_meter.estimating import COLD_START_TOKENS

CHAT = "app.chat.reply"
WORDS = [{"role": "user", "content": "a question of some length"}]


def known(meter, account="acct_1", model="m"):
    return meter.journal.run(Recall(Kind(meter._engine.terms.ledger, account, CHAT, model)))


def answered(meter, calls, output, account="acct_1"):
    for _ in range(calls):
        meter._engine.learner.observe(account, CHAT, "m", 100, output)


def test_the_requests_own_cap_bounds_the_output(meter):
    """And the input is what is counted, or what the app counted."""
    usage = meter.estimate(CHAT, account_id="acct_1", input=WORDS, model="m", max_output_tokens=77)
    assert usage.output_tokens == 77
    assert 10 < usage.input_tokens < 40
    assert meter.estimate(CHAT, account_id="acct_1", input_tokens=9, max_output_tokens=5) == Usage(9, 5)


def test_a_cold_start_holds_for_a_thousand_tokens(meter):
    """Or for what the app says."""
    usage = meter.estimate(CHAT, account_id="acct_1", input_tokens=9)
    assert usage.output_tokens == COLD_START_TOKENS
    assert meter.estimate(CHAT, account_id="acct_1", input_tokens=9, cold_start=100).output_tokens == 100


def test_what_was_recorded_bounds_the_next_calls(bench, meter, style):
    """In this process at once, in another one once it has read the journal; reasoning counts as output."""

    def body(reservation):
        for _ in range(60):
            reservation.record(Usage(80, 30, cache_read_tokens=20, reasoning_tokens=10), model="m")
        reservation.record(Usage(100, 5_000), model="m", counted=True)
        reservation.settle(1)

    style.block(meter.reserve("acct_1", CHAT, amount=5), body)
    assert 40 <= meter.estimate(CHAT, account_id="acct_1", input_tokens=100, model="m").output_tokens <= 42
    assert meter.estimate(CHAT, account_id="acct_1", input_tokens=100, model="n").output_tokens > 1_000
    meter.close()
    another = bench.meter()
    assert 40 <= another.estimate(CHAT, account_id="acct_1", input_tokens=100, model="m").output_tokens <= 42


def test_answers_are_written_in_small_lots(meter):
    """So many at a time, and the rest when the meter closes."""
    answered(meter, LOT, 10)
    assert known(meter).own.total == LOT
    answered(meter, 3, 10)
    assert known(meter).own.total == LOT
    meter._engine.learner.flush()
    assert known(meter).own.total == LOT + 3
    assert known(meter, EVERYBODY).own.total == LOT


def test_threads_lose_no_answer(meter):
    """Each is in the journal once."""
    threads = [threading.Thread(target=answered, args=(meter, 50, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter._engine.learner.flush()
    assert known(meter).own.total == 200


def test_a_journal_that_fails_leaves_the_cold_start(meter):
    """A statistic never refuses a call, nor raises after one."""
    meter.journal.close()
    assert meter.estimate(CHAT, account_id="acct_1", input_tokens=9).output_tokens >= COLD_START_TOKENS
    answered(meter, 2 * LOT, 10)


def test_a_prompt_is_an_estimate(bench, meter, style):
    """One line: the messages themselves, with the request's cap or without."""
    reservation = meter.reserve("acct_1", CHAT, estimate=WORDS, model="m", max_output_tokens=2_000)
    style.block(reservation, lambda entered: entered.record(Usage(20, 10), model="m"))
    assert reservation.amount == 7
    assert reservation.max_tokens is None
    assert meter.reserve("acct_1", CHAT, estimate="a question", model="m").amount == 4


def test_clamping_offers_what_the_balance_pays_for(bench, meter, style):
    """The hold is what is there, `max_tokens` fits into it, and the call is charged as ever."""
    bench.control.account("acct_1", balance=10, ai_product_id="product_1")
    reservation = meter.reserve("acct_1", CHAT, estimate=Usage(1_000, 9_000), clamp=True)
    style.block(reservation, lambda entered: entered.record(Usage(1_000, entered.max_tokens)))
    assert (reservation.amount, reservation.max_tokens) == (10, 3_000)
    assert bench.settled(meter) == 10
    assert bench.counts() == {"reserve": 2, "balance": 1, "confirm-reservation": 1}
    assert [] == bench.named("refused")


def test_below_the_input_there_is_nothing_to_offer(bench, meter, style):
    """The 402 then names what all of it needs, and nothing stays held."""
    bench.control.account("acct_1", balance=1, ai_product_id="product_1")
    with pytest.raises(InsufficientCreditsError) as caught:
        style.block(meter.reserve("acct_1", CHAT, estimate=Usage(2_000, 9_000), clamp=True), lambda _: None)
    assert caught.value.required == 29
    assert caught.value.purchase_links.enabled
    assert bench.settled(meter) == 0


@pytest.mark.parametrize("fault", [{"kind": "garbage"}, {"kind": "status", "status": 503}, {"kind": "drop_after"}])
def test_without_a_balance_the_refusal_stands(bench, meter, style, fault):
    """The gate fails closed."""
    bench.control.account("acct_1", balance=10, ai_product_id="product_1")
    bench.control.faults([{"path": "/api/credits/balance", "times": 9, **fault}])
    with pytest.raises(InsufficientCreditsError):
        style.block(meter.reserve("acct_1", CHAT, estimate=Usage(1_000, 9_000), clamp=True), lambda _: None)
    assert bench.counts()["reserve"] == 1


def test_a_second_refusal_is_the_last(bench, meter, style, monkeypatch):
    """Somebody else took the rest in between: no third request."""
    bench.control.account("acct_1", balance=10, ai_product_id="product_1")
    reservation = meter.reserve("acct_1", CHAT, estimate=Usage(1_000, 9_000), clamp=True)
    monkeypatch.setattr(type(reservation.spec.clamp), "fit", lambda self, available: available + 5)
    with pytest.raises(InsufficientCreditsError) as caught:
        style.block(reservation, lambda _: None)
    assert caught.value.required == 28
    assert bench.counts()["reserve"] == 2
    assert bench.settled(meter) == 0


def test_the_smaller_reserve_in_doubt_is_not_sent_again(bench, meter, style):
    """It may hold credits: it stays listed as such until its validity has passed (money rule 3)."""
    bench.control.account("acct_1", balance=10, ai_product_id="product_1")
    # The refused first request goes through; the second one's answer is lost.
    reservation = meter.reserve("acct_1", CHAT, estimate=Usage(1_000, 9_000), clamp=True)
    fit = reservation.spec.clamp.fit

    def lose_the_next(available):
        bench.control.faults([{"path": "/api/credits/reserve", "kind": "drop_after", "times": 1}])
        return fit(available)

    clamp = SimpleNamespace(fit=lose_the_next, tokens=reservation.spec.clamp.tokens)
    reservation._spec = dataclasses.replace(reservation.spec, clamp=clamp)
    with pytest.raises(LedgerUnavailableError) as caught:
        style.block(reservation, lambda _: None)
    assert caught.value.in_doubt
    assert bench.counts()["reserve"] == 2
    (row,) = bench.rows(meter, ReservationState.ORPHAN_POSSIBLE)
    assert row.amount == 10
    assert [charge.state for charge in meter.charges()] == ["orphaned"]


def test_a_clamped_answer_that_was_cut_off_is_not_learned_from(bench, meter, style):
    """It says how much the balance paid for, not how long such answers are."""
    bench.control.account("acct_1", balance=10, ai_product_id="product_1")

    def body(entered):
        entered.record(Usage(1_000, entered.max_tokens), model="m")
        entered.record(Usage(1_000, 5), model="m")

    style.block(meter.reserve("acct_1", CHAT, estimate=Usage(1_000, 9_000), clamp=True), body)
    meter._engine.learner.flush()
    assert known(meter).own.total == 1


def test_what_cannot_be_estimated_is_refused_in_one_sentence(meter):
    """Before anything is sent."""
    for wrong in ({}, {"input": "a", "input_tokens": 1}, {"input_tokens": -1}, {"input": "a", "cold_start": -1}):
        with pytest.raises(ConfigurationError):
            meter.estimate(CHAT, account_id="acct_1", **wrong)
    for wrong in (5, b"text", {"content": "text"}):
        with pytest.raises(ConfigurationError, match="estimate must be"):
            meter.reserve("acct_1", CHAT, estimate=wrong)
    with pytest.raises(ConfigurationError, match="clamp"):
        meter.reserve("acct_1", CHAT, amount=5, clamp=True)
