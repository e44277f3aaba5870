"""`meter.operations`: listed, close, prune and keys on a running Meter, and what its events say of them."""

from datetime import timedelta

import pytest

from countwerk_meter import ConfigurationError, CountwerkClient, CountwerkError
from countwerk_meter._metering.operations import Operations, checked_note


@pytest.fixture
def vanished(bench, meter):
    """A charge whose hold somebody else gave back."""
    with CountwerkClient(bench.sandbox.api_key, bench.sandbox.url) as client:
        with meter.reserve(bench.account, "app.chat.reply", amount=5, usage_event_id="event-1") as reservation:
            reservation.settle(3)
            client.cancel_reservation(reservation.reservation_id)
    assert meter.flush()
    return meter.operations


def test_what_is_left_is_listed(bench, meter, vanished):
    """With what speaks for what; times are told in UTC."""
    (row,) = vanished.listed()
    assert ("event-1", "vanished", 3, bench.account) == (row.id, row.kind, row.credits, row.account_id)
    assert row.created_at < row.committed_at < row.expires_at
    assert "+00:00" == row.to_dict()["expires_at"][-6:]
    (told,) = bench.named("unresolved")
    assert ("event-1", "vanished") == (told["usage_event_id"], told["reason"])


def test_closing_is_told(bench, meter, vanished):
    """Once, with what was found; and the charge keeps it."""
    for _ in range(2):
        vanished.close("event-1", "charged", note=" seen in the dashboard ")
    (told,) = bench.named("closed")
    assert ("event-1", 3, "charged") == (told["usage_event_id"], told["amount"], told["closed_as"])
    (charge,) = meter.charges("closed")
    assert ("charged", "seen in the dashboard") == (charge.closed_as, charge.note)
    assert charge.closed_at.isoformat() == charge.to_dict()["closed_at"]
    assert [] == vanished.listed()


def test_a_deduct_by_hand_settles_by_itself(bench, meter, vanished):
    """On the meter's own thread; asked for while the hold lives, it is refused."""
    with pytest.raises(CountwerkError, match="may still be confirmed"):
        vanished.close("event-1", "not-charged", note="n", deduct=True)
    bench.control.advance(3600)
    meter = bench.meter()  # one that did not hear the ledger's time before
    done = meter.operations.close("event-1", "not-charged", note="n", deduct=True)
    assert ("event-1.late", 3) == (done.deduct.id, done.deduct.share)
    assert 3 == bench.settled(meter)
    assert "settled" == next(each for each in meter.charges() if each.parent).state


def test_an_inline_meter_settles_it_when_it_is_flushed(bench, vanished):
    """It has no thread."""
    bench.control.advance(3600)
    inline = bench.meter(settlement="inline")
    inline.operations.close("event-1", "not-charged", note="n", deduct=True)
    assert 3 == bench.settled(inline)


def test_without_a_meter_there_is_no_deduct(meter, vanished):
    """It would need the key."""
    alone = Operations(meter.journal, meter._engine.terms.ledger)
    with pytest.raises(ConfigurationError, match="needs a Meter"):
        alone.close("event-1", "not-charged", note="n", deduct=True)
    alone.close("event-1", "not-charged", note="n")
    assert [] == alone.listed()


def test_what_cannot_be_closed(vanished):
    """No such finding, no note, no such row."""
    with pytest.raises(ConfigurationError, match="there are charged, not-charged, written-off"):
        vanished.close("event-1", "lost", note="n")
    with pytest.raises(ConfigurationError, match="a note of 1 to 500"):
        vanished.close("event-1", "charged", note="  ")
    with pytest.raises(CountwerkError, match="no charge and no hold event-2"):
        vanished.close("event-2", "charged", note="n")


@pytest.mark.parametrize("note", ["a\nb", "a\x00b", "a\x1b[1mb", "a\u2028b", "a\u202eb", "a\ud800b"])
def test_a_note_cannot_play_tricks_on_a_terminal(note):
    """Nor can it break a line of a log."""
    with pytest.raises(ConfigurationError, match="one line"):
        checked_note(note)


def test_other_languages_are_fine():
    """Any character that can be seen."""
    assert "geprüft: 東京 ✓" == checked_note(" geprüft: 東京 ✓ ")


def test_only_old_rows_are_pruned(meter, vanished):
    """A day at least."""
    assert 0 == vanished.prune(timedelta(days=1)).charges
    with pytest.raises(ConfigurationError, match="older than a day"):
        vanished.prune(timedelta(hours=23))


def test_keys_by_fingerprint(bench, meter):
    """The key itself stands nowhere."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5):
        ours = meter._engine.terms.principal
        assert {ours: 2} == meter.operations.keys()
        assert bench.sandbox.api_key not in ours
        with pytest.raises(ConfigurationError, match="is the key in use"):
            meter.operations.take_over_key(ours, ours)
        with pytest.raises(CountwerkError, match="has no rows left here"):
            meter.operations.take_over_key("nobody", ours)
