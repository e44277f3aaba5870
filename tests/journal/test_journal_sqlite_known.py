"""What the SQLite journal knows from one transaction to the next, and when it reads again."""

import contextlib
import dataclasses
import sqlite3

import pytest

from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import sqlite_rows
from countwerk_meter.testing.conformance import Do, Look, a_charge, a_reservation


def save(row):
    return lambda books: books.save_charge(row)


def amount_of(journal, charge_id):
    return journal.run(Look(lambda books: books.charge("l", charge_id).amount))


def test_what_another_connection_has_written_is_read(opened, path):
    """A row is known from one transaction to the next, until somebody else writes."""
    ours, theirs = opened(), opened()
    for amount in range(1, 7):
        writer, reader = (ours, theirs) if amount % 2 else (theirs, ours)
        known = None if amount == 1 else amount_of(writer, "c")
        assert known == (amount - 1 or None)
        writer.run(Do(save(a_charge("c", amount=amount))))
        assert amount_of(writer, "c") == amount
        assert amount_of(reader, "c") == amount
    with contextlib.closing(sqlite3.connect(path)) as stranger:
        stranger.execute("UPDATE charge SET amount = 99")
        stranger.commit()
    assert (99, 99) == (amount_of(ours, "c"), amount_of(theirs, "c"))


def test_what_nobody_else_has_written_is_not_read_again(traced, opened):
    journal = opened()
    journal.run(Do(save(a_charge("c", amount=1))))
    del traced[:]
    assert amount_of(journal, "c") == 1
    assert not [statement for statement in traced if "FROM charge" in statement]


def test_what_was_undone_is_not_known(held):
    """Neither a step that fails in a group of its own, nor the last of a group, nor a transaction that cannot end."""

    def fails(books):
        books.save_charge(a_charge("c", amount=2))
        raise ValueError

    held.submit(Do(save(a_charge("c", amount=1))))
    last = held.submit(Do(fails))
    held.release()
    with pytest.raises(JournalError):
        last.result(10)
    assert amount_of(held, "c") == 1
    with pytest.raises(JournalError):
        held.run(Do(fails))
    assert amount_of(held, "c") == 1


def test_no_more_rows_are_known_than_are_needed(monkeypatch, opened):
    monkeypatch.setattr(sqlite_rows, "_ROWS_KEPT", 4)
    journal = opened()
    for number in range(20):
        journal.run(Do(save(a_charge(f"c{number}", amount=number))))
    assert [amount_of(journal, f"c{number}") for number in range(20)] == list(range(20))
    known = journal.run(Look(lambda books: (len(books._known), len(books._stored))))
    assert max(known) <= 5


@pytest.fixture
def drawn(opened):
    """Save a hold; gives a function that saves one of its charges in a journal, and one that names them all."""
    opened().run(Do(lambda books: books.save_reservation(a_reservation("k"))))

    def draw(journal, name, **more):
        journal.run(Do(save(a_charge(name, reservation_key="k", **more))))

    def names(journal):
        return [row.id for row in journal.run(Look(lambda books: books.charges_of("k")))]

    return draw, names


def test_what_has_drawn_on_a_hold_is_known_and_what_another_connection_has_drawn_is_read(opened, drawn):
    draw, names = drawn
    ours, theirs = opened(), opened()
    for number in range(6):
        draw((ours, theirs)[number % 2], f"c{number}", committed_at=10.0 - number)
        assert [f"c{at}" for at in range(number, -1, -1)] == names(ours) == names(theirs)
    # Of one hold and on another: that is no longer the first one's.
    theirs.run(Do(save(a_charge("c3"))))
    assert "c3" not in names(ours)
    draw(theirs, "leg", parent="c1")
    assert "leg" not in names(ours)
    assert ["c5", "c4", "c2", "c1", "c0"] == names(ours) == names(theirs)


def test_what_has_drawn_on_a_new_hold_is_not_asked_for(traced, opened):
    journal = opened()
    journal.run(Do(lambda books: books.save_reservation(a_reservation("new"))))
    journal.run(Do(save(a_charge("c", reservation_key="new"))))
    del traced[:]
    assert ["c"] == [row.id for row in journal.run(Look(lambda books: books.charges_of("new")))]
    assert not [statement for statement in traced if "FROM charge" in statement]


def test_open_ones_come_last_and_those_of_one_moment_by_name(opened, drawn):
    draw, names = drawn
    journal = opened()
    for name, at in (("b", 2.0), ("open", None), ("a", 2.0), ("early", 1.0)):
        draw(journal, name, committed_at=at)
        names(journal)
    assert ["early", "a", "b", "open"] == names(journal) == names(opened())


def test_a_draw_that_was_undone_is_on_no_hold(opened, drawn):
    draw, names = drawn
    journal = opened()
    draw(journal, "c")

    def fails(books):
        books.save_charge(a_charge("undone", reservation_key="k"))
        raise ValueError

    assert ["c"] == names(journal)
    with pytest.raises(JournalError):
        journal.run(Do(fails))
    assert ["c"] == names(journal)


def test_the_charges_of_more_holds_than_are_kept_are_read_again(monkeypatch, traced, opened, drawn):
    draw, names = drawn
    monkeypatch.setattr(sqlite_rows, "_ROWS_KEPT", 4)
    journal = opened()
    for number in range(20):
        draw(journal, f"c{number:02}")
        assert [f"c{at:02}" for at in range(number + 1)] == names(journal)
    assert "ROLLBACK" not in traced


def written(traced):
    """Return each statement that writes a row; SQLite tells of an update once more for its trigger."""
    return list(dict.fromkeys(text for text in traced if text.startswith(("INSERT INTO", "UPDATE"))))


def test_a_row_that_is_saved_twice_is_written_once_but_for_its_steps(traced, opened):
    """The file checks every step of a row (I7): two of them are not one."""
    journal = opened()
    journal.run(Do(save(a_charge("c"))))
    del traced[:]

    def taken_and_lost(books):
        books.save_charge(a_charge("c", owner="heir"))
        books.save_charge(a_charge("c", owner="heir", state=ChargeState.LOST))

    journal.run(Do(taken_and_lost))
    assert 1 == len(written(traced))

    def two_steps(books):
        books.save_charge(a_charge("c", owner="heir", state=ChargeState.CANCELLED))
        books.save_charge(a_charge("c", owner="heir", state=ChargeState.OPEN))

    del traced[:]
    journal.run(Do(two_steps))
    assert 2 == len(written(traced))
    with pytest.raises(JournalError, match="cannot go from denied to settled"):
        journal.run(
            Do(
                lambda books: [
                    books.save_charge(a_charge("c", owner=f"o{at}", state=state))
                    for at, state in enumerate((ChargeState.OPEN, ChargeState.DENIED, ChargeState.SETTLED))
                ]
            )
        )


def test_a_row_that_is_new_is_written_as_what_it_has_become(traced, opened):
    """A draw of which the usage is known at once is one row, written once; and its hold is one more."""
    journal = opened()
    journal.run(Do(lambda books: books.save_reservation(a_reservation("k"))))
    del traced[:]

    def drawn_and_charged(books):
        hold = books.reservation("k")
        books.save_reservation(dataclasses.replace(hold, promised=5, open_charges=1))
        books.save_charge(a_charge("c", reservation_key="k"))
        books.save_reservation(dataclasses.replace(hold, committed=3))
        books.save_charge(a_charge("c", reservation_key="k", state=ChargeState.COMMITTED, amount=3))

    journal.run(Do(drawn_and_charged))
    assert 2 == len(written(traced))
    seen = journal.run(Look(lambda books: (books.charge("l", "c").state, books.reservation("k").committed)))
    assert (ChargeState.COMMITTED, 3) == seen
    assert seen == opened().run(Look(lambda books: (books.charge("l", "c").state, books.reservation("k").committed)))


@pytest.mark.parametrize("unread", [True, False], ids=["an old one", "a new one"])
def test_what_a_row_has_become_it_may_have_become(opened, unread):
    """I7 for a row that is not read before: its steps are checked one by one, and what the file has against the last."""
    journal = opened()
    if unread:
        opened().run(Do(save(a_charge("c", state=ChargeState.SETTLED, amount=1))))

    def steps(*states):
        return Do(lambda books: [books.save_charge(a_charge("c", amount=2, state=state)) for state in states])

    with pytest.raises(JournalError):
        journal.run(steps(ChargeState.OPEN, ChargeState.CANCELLED, ChargeState.COMMITTED))
    if unread:
        with pytest.raises(JournalError, match="forbidden"):
            journal.run(steps(ChargeState.OPEN, ChargeState.COMMITTED))
        assert amount_of(journal, "c") == 1
    else:
        journal.run(steps(ChargeState.OPEN, ChargeState.COMMITTED))
        assert amount_of(journal, "c") == 2


@pytest.mark.parametrize("alone", [True, False], ids=["one step", "two of a group"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"cancels": 1}, {"confirms": 1, "state": ReservationState.CONFIRMED}),
        ({"cancels": 1}, {"confirms": 1}),
        ({"frozen": 3}, {"frozen": 4, "state": ReservationState.CONFIRMED}),
    ],
)
def test_the_file_sees_each_change_that_it_judges(held, opened, first, then, alone):
    """I7, in one transaction too: no confirm after a cancel, and the first attempt's amount for good."""
    plain = {"state": ReservationState.CLOSING, "reservation_id": "res"}
    opened().run(Do(lambda books: books.save_reservation(a_reservation("k", **plain))))

    def saves(**more):
        def step(books):
            assert books.reservation("k") is not None
            books.save_reservation(a_reservation("k", **plain | first | more))

        return step

    if alone:
        done = [held.submit(Do(lambda books: [saves()(books), saves(**then)(books)]))]
    else:
        done = [held.submit(Do(saves())), held.submit(Do(saves(**then)))]
    held.release()
    with pytest.raises(JournalError, match="forbidden"):
        done[-1].result(10)
