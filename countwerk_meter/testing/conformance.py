"""
What every journal must do, as tests: subclass `JournalConformance` and give it a `journal` fixture.

    class TestMyJournal(JournalConformance):
        @pytest.fixture
        def journal(self):
            journal = MyJournal(...)
            yield journal
            journal.close()

A store reads and writes rows, in transactions, and refuses what must never be (I7); the rules live in the operations.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from countwerk_meter._flow.rows import DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.states import CHARGE_STEPS, RESERVATION_STEPS, ChargeState, ReservationState
from countwerk_meter.errors import ConfigurationError, JournalError
from countwerk_meter.testing.conformance_queries import QueryConformance
from countwerk_meter.testing.journal_steps import Do, DoDurably, Look, a_charge, a_reservation, filled

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._flow.books import Books
    from countwerk_meter.journal import Journal

__all__ = ["Do", "DoDurably", "JournalConformance", "Look", "a_charge", "a_reservation"]

_C, _R = ChargeState, ReservationState


class JournalConformance(QueryConformance):
    """The port's promises. Needs a fixture `journal`: an open, empty one, closed afterwards."""

    def test_rows_come_back_whole(self, journal: Journal) -> None:
        """Every field of both rows, whatever is in it."""
        reservation = replace(
            a_reservation("k"),
            **filled(
                a_reservation("k"),
                {"state": _R.CLOSING, "amount": 99, "frozen": 20, "committed": 20, "closed_as": "charged"},
            ),
        )
        charge = replace(a_charge("c"), **filled(a_charge("c"), {"state": _C.COMMITTED, "closed_as": "not-charged"}))
        plain_reservation, plain_charge = a_reservation("k2"), a_charge("c2")
        self.save(journal, reservation, charge, plain_reservation, plain_charge)
        for row in (reservation, plain_reservation):
            assert row == self.look(journal, lambda books, key=row.key: books.reservation(key))
        for row in (charge, plain_charge):
            assert row == self.look(journal, lambda books, row=row: books.charge(row.ledger, row.id))

    def test_what_is_not_there_is_none(self, journal: Journal) -> None:
        """An unknown key, an id of another ledger."""
        self.save(journal, a_charge("c"))
        assert self.look(journal, lambda books: books.reservation("k")) is None
        assert self.look(journal, lambda books: books.charge("other", "c")) is None
        assert not self.look(journal, lambda books: books.charges_of("k"))

    def test_saving_again_replaces(self, journal: Journal) -> None:
        """One row a key, one charge an id and ledger."""
        self.save(journal, a_reservation("k"), a_charge("c"), a_charge("c", ledger="other"))
        self.save(journal, a_reservation("k", description="new"), a_charge("c", description="new"))
        assert self.look(journal, lambda books: books.reservation("k")).description == "new"
        assert [row.description for row in self.look(journal, lambda books: books.charges("other", None, 10))] == [None]

    def test_operations_are_carried_out_in_the_order_they_came(self, journal: Journal) -> None:
        """And each sees what the ones before it wrote, and what it wrote itself."""

        def step(number: int) -> Callable[[Books], int]:
            def count(books: Books) -> int:
                books.set_carry("l", "a", books.carry("l", "a") * 10 + number)
                return int(books.carry("l", "a"))

            return count

        futures = [journal.submit((DoDurably if number % 2 else Do)(step(number))) for number in range(1, 6)]
        assert [future.result(10) for future in futures] == [1, 12, 123, 1234, 12345]

    def test_an_operation_that_fails_leaves_nothing_behind(self, journal: Journal) -> None:
        """Not even what it wrote before it failed, and the ones around it are carried out."""
        self.save(journal, a_charge("kept", description="before"))

        def fail(books: Books) -> None:
            books.save_charge(a_charge("kept", description="after"))
            books.save_charge(a_charge("new"))
            books.save_reservation(a_reservation("k", reservation_id="r"))
            books.set_carry("l", "a", Decimal(7))
            raise ConfigurationError("no")

        before = journal.submit(Do(lambda books: books.save_charge(a_charge("first"))))
        failed = journal.submit(Do(fail))
        after = journal.submit(Do(lambda books: books.save_charge(a_charge("last"))))
        before.result(10)
        after.result(10)
        with pytest.raises(ConfigurationError, match="no"):
            failed.result(10)
        rows = self.look(journal, lambda books: books.charges("l", None, 10))
        assert {"first", "kept", "last"} == {row.id for row in rows}
        assert {"before", None} == {row.description for row in rows}
        assert self.look(journal, lambda books: books.reservation("k")) is None
        assert not self.look(journal, lambda books: books.knows_reservation_id("l", "r"))
        assert self.look(journal, lambda books: books.carry("l", "a")) == 0

    @pytest.mark.parametrize("error", [AssertionError("odd"), ZeroDivisionError("odd"), KeyError("odd")])
    def test_any_other_failure_is_a_journal_error_that_names_the_journal(
        self, journal: Journal, error: Exception
    ) -> None:
        """No store's own exception, and no bug's, reaches whoever waits."""

        def fail(_: Books) -> None:
            raise error

        with pytest.raises(JournalError, match="odd") as caught:
            journal.run(Do(fail))
        assert journal.name in str(caught.value)
        self.save(journal, a_charge("c"))

    def test_a_queued_operation_cannot_be_cancelled(self, journal: Journal) -> None:
        """It is carried out even if nobody waits for it."""
        future = journal.submit(Do(lambda books: books.save_charge(a_charge("c"))))
        assert not future.cancel()
        assert self.look(journal, lambda books: books.charge("l", "c")) is not None

    def test_whoever_is_called_back_may_submit_again(self, journal: Journal) -> None:
        """A callback runs outside the transaction."""
        again: list[Any] = []
        done = threading.Event()

        def call_back(_: Any) -> None:
            again.append(journal.submit(Do(lambda books: books.save_charge(a_charge("again")))))
            done.set()

        journal.submit(Do(lambda _: None)).add_done_callback(call_back)
        assert done.wait(10)
        again[0].result(10)
        assert self.look(journal, lambda books: books.charge("l", "again")) is not None

    def test_many_threads_may_submit_at_once(self, journal: Journal) -> None:
        """No step is lost, none is carried out twice."""

        def count(books: Books) -> None:
            books.set_carry("l", "a", books.carry("l", "a") + 1)

        def many() -> None:
            for _ in range(50):
                journal.run(Do(count))

        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.look(journal, lambda books: books.carry("l", "a")) == 200

    @pytest.mark.parametrize("before", list(_R))
    def test_it_refuses_every_step_of_a_reservation_that_is_not_in_the_table(
        self, journal: Journal, before: ReservationState
    ) -> None:
        """I7: whatever an operation tries."""
        for after in _R:
            key = f"{before}-{after}"
            self.save(journal, a_reservation(key, state=before))
            self._tries(
                journal,
                replace(a_reservation(key), state=after),
                allowed=after is before or after in RESERVATION_STEPS[before],
            )

    @pytest.mark.parametrize("before", list(_C))
    def test_it_refuses_every_step_of_a_charge_that_is_not_in_the_table(
        self, journal: Journal, before: ChargeState
    ) -> None:
        """I7: whatever an operation tries."""
        for after in _C:
            name = f"{before}-{after}"
            self.save(journal, a_charge(name, state=before))
            self._tries(journal, a_charge(name, state=after), allowed=after is before or after in CHARGE_STEPS[before])

    def test_it_refuses_a_confirm_after_a_cancel_another_amount_and_another_price(self, journal: Journal) -> None:
        """Rules 4 and 5, and what is settled keeps its amount."""
        row = a_reservation("k", state=_R.CLOSING, confirms=1, cancels=1, frozen=5, committed=5)
        charge = a_charge("c", state=_C.SETTLED, amount=5, via=DEDUCT)
        self.save(journal, row, charge)
        self._tries(journal, replace(row, confirms=2), allowed=False)
        self._tries(journal, replace(row, frozen=4), allowed=False)
        self._tries(journal, replace(row, frozen=None), allowed=False)
        self._tries(journal, replace(charge, amount=6), allowed=False)
        self._tries(journal, replace(row, cancels=2, confirms_open=1), allowed=True)
        self._tries(journal, replace(charge, exact="4.5"), allowed=True)

    def _tries(self, journal: Journal, row: ReservationRow | ChargeRow, *, allowed: bool) -> None:
        def read(books: Books) -> ReservationRow | ChargeRow | None:
            return books.reservation(row.key) if isinstance(row, ReservationRow) else books.charge(row.ledger, row.id)

        before = self.look(journal, read)
        if allowed:
            self.save(journal, row)
        else:
            with pytest.raises(JournalError):
                self.save(journal, row)
        assert (row if allowed else before) == self.look(journal, read)

    def test_an_owner_lives_from_join_to_leave(self, journal: Journal) -> None:
        """A name that never joined is dead."""
        assert not journal.is_alive("me")
        journal.join("me")
        assert journal.is_alive("me")
        journal.leave("me")
        journal.leave("me")
        assert not journal.is_alive("me")

    def test_close_carries_out_what_is_queued_and_refuses_the_rest(self, journal: Journal) -> None:
        """Twice does no harm; a late step hears of it, and names the journal."""
        futures = [
            journal.submit(Do(lambda books, number=number: books.save_charge(a_charge(f"c{number}"))))
            for number in range(100)
        ]
        journal.close()
        journal.close()
        assert [future.result(10) for future in futures] == [None] * 100
        with pytest.raises(JournalError, match="closed") as caught:
            journal.run(Do(lambda _: None))
        assert journal.name in str(caught.value)
