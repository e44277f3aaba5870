"""Shadow mode: everything is measured, priced and journaled as it would be; nothing is reserved, charged or refused."""

import asyncio
import time

import pytest

from countwerk_meter import ConfigurationError, Meter, Usage
from countwerk_meter.errors import InvalidRequestError, JournalError
from countwerk_meter.journal import MemoryJournal


@pytest.fixture
def shadow(bench):
    return bench.meter(enforcement="shadow")


def nothing_happened(bench):
    """The ledger was asked for balances, and for nothing else."""
    assert {"balance"} >= {name for name, count in bench.counts().items() if count}
    assert 0 == bench.books()["spent"] == bench.books()["reserved"]


def known(bench, meter):
    """Make the account's balance known to a shadow meter, as its first call does."""
    with meter.reserve(bench.account, "app.first", amount=1) as reservation:
        reservation.cancel()
    deadline = time.monotonic() + 20
    while meter._engine._shadow_ledger._accounts[bench.account].left is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert meter.flush(10)


def test_a_call_is_priced_and_journaled_as_it_would_be(bench, shadow, style):
    """With basis, lines and amount; and the ledger knows nothing of it."""

    def body(reservation):
        reservation.record(Usage(input_tokens=2000, output_tokens=100))
        return reservation.usage_event_id

    style.block(shadow.reserve(bench.account, "app.chat", amount=10, usage_event_id="one"), body)
    assert shadow.flush(10)
    (charge,) = shadow.charges()
    assert ("one", "settled", 3, "provider", "2.300") == (
        charge.usage_event_id, charge.state, charge.amount, charge.basis, charge.exact
    )  # fmt: skip
    assert "in" in str(charge.lines)
    nothing_happened(bench)


def test_a_call_that_would_be_refused_runs(bench, shadow, style):
    """Its journal row is the `denied` one that it would have left; what it uses is noted nowhere."""
    known(bench, shadow)
    ran = []

    def body(reservation):
        ran.append(reservation)
        reservation.record(Usage(input_tokens=10**9))
        nested = shadow.reserve(bench.account, "app.tool", amount=1).begin()
        ran.append("nested")
        nested.finish()

    style.block(shadow.reserve(bench.account, "app.chat", amount=101), body)
    assert 2 == len(ran)
    assert [("app.chat", "denied")] == [(c.operation, c.state) for c in shadow.charges() if c.operation != "app.first"]
    assert [101] == [fields["amount"] for fields in bench.named("refused")]
    assert ["InsufficientCreditsError"] == [fields["reason"] for fields in bench.named("let_through")]
    nothing_happened(bench)


def test_what_would_have_been_charged_counts_against_the_balance(bench, shadow):
    """A hundred credits pay for fourteen calls of seven, in this process or the next."""
    known(bench, shadow)
    for _ in range(10):
        with shadow.reserve(bench.account, "app.chat", amount=7):
            pass
    assert shadow.close(10)
    again = bench.meter(enforcement="shadow")
    known(bench, again)
    for _ in range(10):
        with again.reserve(bench.account, "app.chat", amount=7):
            pass
    assert again.flush(10)
    states = [charge.state for charge in again.charges() if charge.operation == "app.chat"]
    assert (14, 6) == (states.count("settled"), states.count("denied"))
    nothing_happened(bench)


def test_a_flat_price_is_not_charged(bench, shadow):
    """It answers with the charge that it would have made, or with the refusal."""
    known(bench, shadow)
    assert ("settled", 60) == (lambda c: (c.state, c.amount))(shadow.deduct(bench.account, "app.export", 60))
    assert "denied" == asyncio.run(shadow.adeduct(bench.account, "app.export", 41)).state
    assert "denied" == shadow.deduct(bench.account, "app.export", 41).state
    nothing_happened(bench)


def test_an_unreachable_ledger_refuses_nothing(bench, style):
    """Balances stay unknown."""
    bench.control.faults([{"path": "/api/credits/balance", "kind": "drop_before", "times": 100}])
    meter = bench.meter(enforcement="shadow")
    style.block(meter.reserve(bench.account, "app.chat", amount=10**6), lambda _: None)
    assert meter.flush(10)
    assert ["settled"] == [charge.state for charge in meter.charges()]


def test_a_journal_that_cannot_be_written_refuses_nothing(bench, style):
    """The product comes first: it runs, and an event says that it was not noted."""

    class Full(MemoryJournal):
        def submit(self, operation):
            done = super().submit(operation)
            if type(operation).__name__ != "Begin":
                return done
            from countwerk_meter.journal.outcome import Outcome

            failed = Outcome()
            failed.set_exception(JournalError("full"))
            return failed

    meter = bench.meter(enforcement="shadow", journal=Full())
    ran = []
    style.block(meter.reserve(bench.account, "app.chat", amount=1), ran.append)
    assert 1 == len(ran)
    assert ["JournalError"] == [fields["reason"] for fields in bench.named("let_through")]


def test_an_id_met_again_is_let_through(bench, shadow):
    """It would have been refused."""
    for _ in range(2):
        with shadow.reserve(bench.account, "app.chat", amount=1, usage_event_id="one"):
            pass
        assert shadow.flush(10)
    assert 1 == len(shadow.charges())
    assert ["ChargeAlreadySettledError"] == [fields["reason"] for fields in bench.named("let_through")]


def test_a_call_that_cannot_be_made_is_refused_all_the_same(bench, shadow):
    """A wrong argument is wrong in both modes."""
    with pytest.raises(InvalidRequestError):
        shadow.reserve(bench.account, "Not An Operation", amount=1)
    used = shadow.reserve(bench.account, "app.chat", amount=1)
    with used:
        pass
    with pytest.raises(ConfigurationError, match="used once"):
        used.begin()


def test_going_live_needs_no_other_change(bench, shadow):
    """The same journal and the same ids: the shadow's rows stay apart, and are settled by no live meter."""
    with shadow.reserve(bench.account, "app.chat", amount=4, usage_event_id="one"):
        pass
    shadow.close(10)
    live = bench.meter(enforcement="on")
    with live.reserve(bench.account, "app.chat", amount=4, usage_event_id="one"):
        pass
    assert 4 == bench.settled(live)
    assert 1 == len(live.charges())


def test_the_environment_says_so(bench, monkeypatch):
    """`COUNTWERK_ENFORCEMENT=shadow`."""
    for name, value in {
        "AI_PRODUCT_ID": "product_1", "API_KEY": bench.sandbox.api_key, "BASE_URL": bench.sandbox.url,
        "JOURNAL": "memory:", "ENFORCEMENT": "shadow",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"COUNTWERK_{name}", value)
    with Meter.from_env() as meter, meter.reserve(bench.account, "app.chat", amount=4):
        pass
    nothing_happened(bench)
    monkeypatch.setenv("COUNTWERK_ENFORCEMENT", "off")
    with pytest.raises(ConfigurationError, match="enforcement must be on or shadow"):
        Meter.from_env()


def test_purchase_links_are_real(bench, shadow):
    """An app's own shop goes on."""
    assert shadow.purchase_links(bench.account).enabled
