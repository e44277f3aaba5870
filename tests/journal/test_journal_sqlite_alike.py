"""SQLite, which writes late and by what changed, takes and refuses what the journal in memory does, which does neither."""

import dataclasses
import random

from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import open_journal
from countwerk_meter.testing.conformance import Do, Look, a_charge, a_reservation

ROUNDS = 300
# The rows of so many rounds are the same few, so that most meet an old one.
TOGETHER = 10


def a_change(pick, number):
    """Return a row's name, its book, and what is to be changed in it; half of the steps are forbidden ones."""
    if pick.random() < 0.6:
        more = {
            "state": pick.choice([*ChargeState, *[ChargeState.OPEN, ChargeState.COMMITTED] * 6]),
            "amount": pick.choice([None, 1, 2]),
            "reservation_key": pick.choice(["k1", "k2", None]),
        }
        return f"{pick.choice('abcdef')}{number}", "charge", more
    more = {
        "state": pick.choice([*ReservationState, *[ReservationState.REQUESTED, ReservationState.HELD] * 6]),
        "cancels": pick.choice([0, 0, 1]),
        "confirms": pick.choice([0, 0, 1]),
        "frozen": pick.choice([None, None, 3, 4]),
        "committed": pick.randint(0, 3),
    }
    return f"{pick.choice('klmn')}{number}", "reservation", more


def row_of(books, name, book):
    return books.charge("l", name) if book == "charge" else books.reservation(name)


def carried_out(journal, changes):
    """Carry out changes in one transaction, each of a row that is read first; whether they were taken."""

    def step(books):
        for name, book, more in changes:
            row = row_of(books, name, book)
            if row is None:
                row = a_charge(name) if book == "charge" else a_reservation(name)
            save = books.save_charge if book == "charge" else books.save_reservation
            save(dataclasses.replace(row, **more))

    try:
        journal.run(Do(step))
    except JournalError:
        return False
    return True


def test_it_takes_and_refuses_what_the_journal_in_memory_does(opened):
    """I7, whichever of two connections carries it out, and however many steps of a row one transaction makes."""
    pick = random.Random(1)
    memory, two = open_journal("memory:"), [opened(), opened()]
    taken = 0
    for turn in range(ROUNDS):
        changes = [a_change(pick, turn // TOGETHER) for _ in range(pick.randint(1, 4))]
        done = carried_out(memory, changes)
        assert carried_out(pick.choice(two), changes) is done, changes
        taken += done
        for name, book, _ in changes:
            look = Look(lambda books, name=name, book=book: row_of(books, name, book))
            assert memory.run(look) == two[0].run(look) == two[1].run(look), (name, changes)
    assert ROUNDS // 5 < taken < ROUNDS * 4 // 5
    memory.close()
