"""A draw on an open block is known to fit without the journal, and is queued there before all that comes later."""

import threading

import pytest

from countwerk_meter import InsufficientCreditsError
from countwerk_meter._flow.rows import replace
from countwerk_meter._flow.states import ReservationState
from countwerk_meter.events import Ordinals
from countwerk_meter.journal import SqliteJournal
from countwerk_meter.journal.outcome import Outcome


class Deaf(SqliteJournal):
    """Carries everything out, and lets nobody hear what became of a draw."""

    def submit(self, operation):
        future = super().submit(operation)
        return Outcome() if type(operation).__name__ == "Draw" else future


def nested(bench, meter, amount, **options):
    with meter.reserve(bench.account, "app.tool", amount=amount, **options) as reservation:
        return reservation


def test_a_draw_waits_for_no_journal(bench, tmp_path):
    """What is left of the block is known here, and a new id can have met nothing."""
    meter = bench.meter(journal=Deaf(tmp_path / "own.db"))
    with meter.reserve(bench.account, "app.block", amount=10):
        for _ in range(3):
            nested(bench, meter, 2)
    assert 6 == bench.settled(meter)
    assert 1 == bench.counts()["reserve"]


def test_a_draw_that_names_its_id_waits(bench, meter):
    """It may have been charged before, and only the journal knows."""
    with meter.reserve(bench.account, "app.block", amount=10):
        first = nested(bench, meter, 2, usage_event_id="step-1")
        again = nested(bench, meter, 2, usage_event_id="step-1", on_replay="run")
    assert (False, True) == (first.replayed, again.replayed)
    assert 2 == bench.settled(meter)


def test_what_draws_used_is_taken_from_the_block(bench, meter):
    """Estimates are set aside, and what was not used of them is there for the next; what was used is gone."""
    with meter.reserve(bench.account, "app.block", amount=10):
        for _ in range(5):
            with meter.reserve(bench.account, "app.tool", amount=6) as reservation:
                reservation.settle(2)
            # Read behind what was written: what it gave back is known.
            meter.charges()
    # Two fitted (6 of 10, then 6 of 8, then 6 of 6), and two reserved for themselves.
    assert 3 == bench.counts()["reserve"]
    assert 10 == bench.settled(meter)


def test_a_block_that_somebody_else_has_ended_still_charges_its_draws(bench, meter):
    """The hold has moved on before the draw was written: the call is charged under its own id, once (rule 4)."""
    with meter.reserve(bench.account, "app.block", amount=10) as block:
        nested(bench, meter, 1)
        (row,) = bench.rows(meter, ReservationState.HELD)
        bench.save(meter, replace(row, sealed=True))
        reservation = nested(bench, meter, 2)
    assert block.usage_event_id != reservation.usage_event_id
    assert 3 == bench.settled(meter)
    assert 1 == bench.counts()["deduct"]
    assert {"settled"} == {each.state for each in meter.charges() if each.amount}


def test_a_draw_that_used_nothing_and_was_never_written_costs_nothing(bench, meter):
    """There is nothing to give back, and nothing is open."""
    with meter.reserve(bench.account, "app.block", amount=10):
        (row,) = bench.rows(meter, ReservationState.HELD)
        bench.save(meter, replace(row, sealed=True))
        with meter.reserve(bench.account, "app.tool", amount=2) as reservation:
            reservation.cancel()
    assert 0 == bench.settled(meter)
    assert not meter._engine._ongoing.any()


def test_a_block_ends_behind_the_draws_that_it_let_in(bench, meter):
    """Whoever ends it waits until a draw that was let in is queued; nobody is let in after that."""
    with meter.reserve(bench.account, "app.block", amount=10) as block:
        (funding,) = block.fundings
        funding.queueing.acquire()
        closing = threading.Thread(target=funding.close)
        closing.start()
        assert funding.take(2, None)
        assert closing.is_alive()
        funding.queueing.release()
        closing.join(5)
        assert not funding.take(2, None)


def test_draws_of_many_threads_never_take_more_than_the_block_holds(bench, meter):
    """Forty calls of one credit on a hold of ten: ten draw, and the others reserve or are refused."""
    bench.control.account(bench.account, balance=25)
    refused = []

    def call(block):
        with block.entered():
            try:
                nested(bench, meter, 1)
            except InsufficientCreditsError:
                refused.append(1)

    with meter.reserve(bench.account, "app.block", amount=10) as block:
        threads = [threading.Thread(target=call, args=(block,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (25, 15) == (bench.settled(meter), len(refused))


@pytest.mark.parametrize("limit", [1, 10])
def test_an_ordinal_may_have_been_given_before_once_a_span_was_forgotten(limit):
    """Then the id is not known to be new, and the draw waits for the journal's word."""
    ordinals = Ordinals(limit)
    assert ordinals.surely_first(ordinals.next(("a",)))
    ordinals.next(("b",))
    assert (limit > 1) is ordinals.surely_first(ordinals.next(("c",)))
    assert ordinals.surely_first(ordinals.next(("c",)))
