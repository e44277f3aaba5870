"""What is the memory journal's own: what a step costs."""

import tracemalloc

import pytest

from countwerk_meter.journal import MemoryJournal
from countwerk_meter.testing.journal_steps import Do, a_charge, a_reservation


@pytest.fixture
def drawn():
    """Charge so many draws to one hold; a number's second use finds the first's."""
    journal = MemoryJournal()
    journal.run(Do(lambda books: books.save_reservation(a_reservation("k"))))

    def draw(numbers):
        for at in numbers:
            journal.run(Do(lambda books, at=at: books.save_charge(a_charge(f"c{at}", reservation_key="k"))))

    yield draw
    journal.close()


def test_a_draw_costs_no_more_for_the_draws_before_it(drawn):
    """Counted in bytes that one of them takes for a moment: with 5,000 on the hold, as with 50."""

    def taken(at):
        tracemalloc.start()
        try:
            drawn([at])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    drawn(range(50))
    few = taken(50)
    drawn(range(51, 5000))
    assert taken(5000) < few + 4096


def test_a_draw_that_is_undone_is_on_the_hold_no_longer():
    """A step that fails leaves nothing behind."""
    journal = MemoryJournal()
    journal.run(Do(lambda books: books.save_reservation(a_reservation("k"))))

    def fails(books):
        books.save_charge(a_charge("c", reservation_key="k"))
        raise OverflowError("too large")

    assert journal.submit(Do(fails)).exception() is not None
    assert [] == journal.run(Do(lambda books: books.charges_of("k")))
    journal.close()
