"""What a store's queries must answer, as tests: part of `JournalConformance`."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.books import DueRow
from countwerk_meter._flow.rows import ReservationRow
from countwerk_meter._flow.states import ENDED, HOLDING, LIVE, OVER, ChargeState, ReservationState
from countwerk_meter.testing.journal_steps import Do, Look, a_charge, a_reservation

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter.journal import Journal

_C, _R = ChargeState, ReservationState


class QueryConformance:
    """Each query of `Books`, over rows that belong to it and rows that do not."""

    @staticmethod
    def save(journal: Journal, *rows: ReservationRow | ChargeRow) -> None:
        """Save rows in one transaction."""

        def step(books: Books) -> None:
            for row in rows:
                if isinstance(row, ReservationRow):
                    books.save_reservation(row)
                else:
                    books.save_charge(row)

        journal.run(Do(step))

    @staticmethod
    def look(journal: Journal, step: Callable[[Books], Any]) -> Any:
        """Read something."""
        return journal.run(Look(step))

    def test_it_knows_the_reservation_ids_of_a_ledger(self, journal: Journal) -> None:
        """Whatever became of the row; another ledger may use the same (rule 1)."""
        self.save(journal, a_reservation("k", reservation_id="r", state=_R.CONFIRMED), a_reservation("k2"))
        known = [
            self.look(journal, lambda books, at=at: books.knows_reservation_id(*at))
            for at in (("l", "r"), ("other", "r"), ("l", "r2"))
        ]
        assert known == [True, False, False]

    def test_charges_of_a_reservation_come_in_commit_order_open_ones_last(self, journal: Journal) -> None:
        """Legs are not drawn on it."""
        on = {"reservation_key": "k"}
        self.save(
            journal,
            a_charge("open", **on),
            a_charge("late", committed_at=3.0, state=_C.COMMITTED, **on),
            a_charge("early", committed_at=2.0, state=_C.SETTLED, **on),
            a_charge("b", committed_at=2.5, **on),
            a_charge("a", committed_at=2.5, **on),
            a_charge("early.over", committed_at=2.0, parent="early", **on),
            a_charge("elsewhere", reservation_key="k2"),
        )
        rows = self.look(journal, lambda books: books.charges_of("k"))
        assert [row.id for row in rows] == ["early", "a", "b", "late", "open"]

    def test_open_reservations_are_what_may_be_held_for_an_account(self, journal: Journal) -> None:
        """Four states of one account, key and ledger."""
        self.save(
            journal,
            *(a_reservation(state, state=state) for state in _R),
            a_reservation("x", account_id="b"),
            a_reservation("y", ledger="other"),
            a_reservation("z", principal="other"),
        )
        rows = self.look(journal, lambda books: books.open_reservations("l", "p", "a"))
        assert {str(state) for state in HOLDING} == {row.key for row in rows}

    def test_charged_adds_up_what_is_committed_or_settled(self, journal: Journal) -> None:
        """One account's, on one ledger; legs count with their own share."""
        for number, state in enumerate(ChargeState):
            self.save(journal, a_charge(f"{state}", state=state, amount=9, share=2**number))
        self.save(journal, a_charge("other", state=ChargeState.SETTLED, account_id="b", share=5))
        counted = [2**n for n, state in enumerate(ChargeState) if state in {ChargeState.COMMITTED, ChargeState.SETTLED}]
        assert sum(counted) == self.look(journal, lambda books: books.charged("l", "a"))
        assert self.look(journal, lambda books: books.charged("l", "nobody")) == 0
        assert self.look(journal, lambda books: books.charged("m", "a")) == 0

    def test_owed_is_what_found_no_credits_and_what_was_deferred(self, journal: Journal) -> None:
        """Deferred calls count while they run and until they are collected (rule 14)."""
        for reason, state in product(("deferred", None, "odd"), _C):
            self.save(journal, a_charge(f"{reason}-{state}", state=state, reason=reason))
        self.save(
            journal,
            a_charge("b", account_id="b", state=_C.UNCOLLECTED),
            a_charge("c", ledger="other", state=_C.UNCOLLECTED),
            a_charge("d", principal="other", state=_C.UNCOLLECTED),
        )
        rows = self.look(journal, lambda books: books.owed("l", "p", "a"))
        expected = {"deferred-open", "deferred-committed"} | {f"{r}-uncollected" for r in ("deferred", None, "odd")}
        assert expected == {row.id for row in rows}

    def test_due_rows_come_earliest_expiry_first(self, journal: Journal) -> None:
        """An owner's rows on one ledger that are due, and no more of them than asked for."""
        self.save(
            journal,
            a_reservation("soon", due_at=9.0, expires_at=50.0),
            a_reservation("sooner", due_at=10.0, expires_at=40.0),
            a_reservation("endless", due_at=1.0),
            a_reservation("not yet", due_at=10.5, expires_at=1.0),
            a_reservation("never", expires_at=1.0),
            a_reservation("theirs", due_at=1.0, owner="other"),
            a_reservation("there", due_at=1.0, ledger="other"),
            a_charge("c", due_at=0.5),
            a_charge("theirs", due_at=0.5, owner="other"),
            a_charge("there", due_at=0.1, ledger="other"),
        )
        rows = self.look(journal, lambda books: books.due("l", "o", 10.0, 10))
        assert [
            DueRow("reservation", "sooner", "a", 40.0),
            DueRow("reservation", "soon", "a", 50.0),
            DueRow("charge", "c", "a", None),
            DueRow("reservation", "endless", "a", None),
        ] == rows
        assert rows[:2] == self.look(journal, lambda books: books.due("l", "o", 10.0, 2))
        assert self.look(journal, lambda books: books.next_due("l", "o", 0.0)) == 0.5
        assert self.look(journal, lambda books: books.next_due("l", "nobody", 0.0)) is None

    def test_charges_come_newest_first(self, journal: Journal) -> None:
        """Of one ledger, in these states, so many."""
        self.save(
            journal,
            *(a_charge(f"c{number}", created_at=float(number)) for number in range(5)),
            a_charge("d", state=_C.SETTLED, created_at=9.0),
            a_charge("e", ledger="other"),
        )
        look = self.look
        ids = [row.id for row in look(journal, lambda books: books.charges("l", None, 3))]
        assert ids == ["d", "c4", "c3"]
        opened = look(journal, lambda books: books.charges("l", frozenset({_C.OPEN, _C.DENIED}), 100))
        assert [row.id for row in opened] == ["c4", "c3", "c2", "c1", "c0"]

    def test_reservations_come_oldest_first(self, journal: Journal) -> None:
        """In these states, so many; in none, none."""
        self.save(
            journal,
            *(a_reservation(f"k{number}", created_at=float(number)) for number in range(3)),
            a_reservation("held", state=_R.HELD),
            a_reservation("x", ledger="other"),
        )
        wanted = frozenset({_R.REQUESTED})
        rows = self.look(journal, lambda books: books.reservations("l", wanted, 2))
        assert [row.key for row in rows] == ["k0", "k1"]
        assert not self.look(journal, lambda books: books.reservations("l", frozenset[ReservationState](), 2))

    def test_owners_are_those_of_rows_that_settlement_still_moves(self, journal: Journal) -> None:
        """What has ended, or waits for a person, needs no owner; another key's rows are not ours to move."""
        self.save(
            journal,
            *(a_reservation(state, state=state, owner=f"r-{state}") for state in _R),
            *(a_charge(state, state=state, owner=f"c-{state}") for state in _C),
            a_charge("x", ledger="other", owner="far"),
            a_charge("y", principal="other", owner="another key's"),
        )
        moving = {f"c-{state}" for state in LIVE} | {f"r-{state}" for state in HOLDING}
        assert moving == self.look(journal, lambda books: books.owners("l", "p"))
        assert {*moving, "another key's"} == self.look(journal, lambda books: books.owners("l", None))
        assert self.look(journal, lambda books: books.principals("l")) == {"p": 7, "other": 1}

    def test_an_owners_rows_are_those_that_have_not_ended(self, journal: Journal) -> None:
        """And of one key; no more at once than asked for."""
        self.save(
            journal,
            *(a_reservation(state, state=state) for state in _R),
            *(a_charge(state, state=state, created_at=9.0 - number) for number, state in enumerate(_C)),
            a_reservation("theirs", owner="other"),
            a_charge("theirs", owner="other"),
            a_reservation("there", ledger="other"),
            a_charge("there", ledger="other"),
            a_reservation("another key's", principal="other"),
            a_charge("another key's", principal="other"),
        )
        rows = self.look(journal, lambda books: books.reservations_owned("l", "p", "o", 100))
        assert {str(state) for state in HOLDING} == {row.key for row in rows}
        charges = self.look(journal, lambda books: books.charges_owned("l", "p", "o", 100))
        assert {str(state) for state in LIVE} == {row.id for row in charges}
        assert len(self.look(journal, lambda books: books.reservations_owned("l", "p", "o", 2))) == 2
        assert len(self.look(journal, lambda books: books.charges_owned("l", "p", "o", 1))) == 1

    def test_overdue_rows_are_a_keys_whoever_owns_them(self, journal: Journal) -> None:
        """Longest overdue first; what has ended is never overdue."""
        self.save(
            journal,
            a_reservation("k", due_at=2.0, expires_at=7.0, owner="other"),
            a_reservation("not yet", due_at=11.0),
            a_reservation("over", due_at=1.0, state=_R.CONFIRMED),
            a_reservation("another key's", due_at=1.0, principal="other"),
            a_charge("c", due_at=1.0),
            a_charge("closed", due_at=1.0, state=_C.CLOSED),
            a_charge("there", due_at=1.0, ledger="other"),
        )
        rows = self.look(journal, lambda books: books.overdue("l", "p", 10.0, 9))
        assert [DueRow("charge", "c", "a", None), DueRow("reservation", "k", "a", 7.0)] == rows
        assert rows[:1] == self.look(journal, lambda books: books.overdue("l", "p", 10.0, 1))

    def test_one_key_takes_over_what_has_not_ended_of_another(self, journal: Journal) -> None:
        """What waits for a person too; what has ended stays whose it was."""
        self.save(
            journal,
            *(a_reservation(state, state=state) for state in _R),
            *(a_charge(state, state=state) for state in _C),
            a_charge("there", ledger="other"),
        )
        waiting = {_C.UNRESOLVED, _C.LOST}
        moved = journal.run(Do(lambda books: books.rename_principal("l", "p", "q")))
        assert moved == len(HOLDING) + len(LIVE) + len(waiting)
        charges = self.look(journal, lambda books: books.charges("l", None, 99))
        assert {str(state) for state in LIVE | waiting} == {row.id for row in charges if row.principal == "q"}

    def test_ended_charges_are_those_that_say_more_than_a_tombstone(self, journal: Journal) -> None:
        """Oldest first, of a time, so many."""
        self.save(
            journal,
            *(a_charge(state, state=state, lines="[]", created_at=2.0) for state in _C),
            a_charge("early", state=_C.SETTLED, lines="[]", created_at=1.0),
            a_charge("late", state=_C.SETTLED, lines="[]", created_at=3.0),
            a_charge("bare", state=_C.SETTLED, created_at=2.0),
            a_charge("described", state=_C.DENIED, description="d", created_at=2.5),
            a_charge("metadata", state=_C.DENIED, metadata="{}", created_at=2.5),
            a_charge("there", state=_C.SETTLED, lines="[]", created_at=2.0, ledger="other"),
        )
        rows = self.look(journal, lambda books: books.ended_charges("l", 2.0, 3.0, 99))
        assert [*sorted(map(str, ENDED)), "described", "metadata"] == [row.id for row in rows]
        assert rows[:2] == self.look(journal, lambda books: books.ended_charges("l", 2.0, 3.0, 2))

    def test_a_hold_that_is_forgotten_stays_known_by_its_id(self, journal: Journal) -> None:
        """Only those that have ended, begun before a time, so many at once."""
        self.save(
            journal,
            *(a_reservation(state, state=state, reservation_id=f"r-{state}") for state in _R),
            a_reservation("late", state=_R.CONFIRMED, created_at=3.0),
            a_reservation("there", state=_R.CONFIRMED, ledger="other"),
        )
        assert journal.run(Do(lambda books: books.forget_reservations("l", 2.0, 2))) == 2
        assert len(OVER) - 2 == journal.run(Do(lambda books: books.forget_reservations("l", 2.0, 99)))
        left = self.look(journal, lambda books: books.reservations("l", frozenset(_R), 99))
        assert {"late", *(str(state) for state in frozenset(_R) - OVER)} == {row.key for row in left}
        assert all(self.look(journal, lambda books, s=s: books.knows_reservation_id("l", f"r-{s}")) for s in _R)
        assert not self.look(journal, lambda books: books.knows_reservation_id("other", "r-confirmed"))

    def test_an_owner_that_joined_is_not_dead(self, journal: Journal) -> None:
        """As a step sees it; one that never joined, or left, is."""
        journal.join("me")
        assert not self.look(journal, lambda books: books.is_dead("me"))
        assert self.look(journal, lambda books: books.is_dead("nobody"))
        journal.leave("me")
        assert self.look(journal, lambda books: books.is_dead("me"))

    def test_a_fraction_is_kept_exactly_per_account_and_ledger(self, journal: Journal) -> None:
        """As a decimal, never as a float (rule 11)."""
        fraction = Decimal("0.1000000000000000000000000000000007")
        journal.run(Do(lambda books: books.set_carry("l", "a", fraction)))
        assert fraction == self.look(journal, lambda books: books.carry("l", "a"))
        for at in (("l", "b"), ("other", "a")):
            assert self.look(journal, lambda books, at=at: books.carry(*at)) == 0

    def test_sizes_of_answers_are_kept_per_ledger_account_operation_and_model(self, journal: Journal) -> None:
        """Saved again they are replaced; an account of "" is everybody's, and a model of "" none that was named."""
        places = [
            (ledger, account, operation, model)
            for ledger in ("l", "other")
            for account in ("a", "")
            for operation in ("app.chat", "app.sum")
            for model in ("m", "")
        ]
        for number, place in enumerate(places):
            assert self.look(journal, lambda books, at=place: books.history(*at)) is None
            for sizes in ("{}", f'{{"ä": {number}}}'):
                journal.run(Do(lambda books, at=place, sizes=sizes: books.save_history(*at, sizes)))
        for number, place in enumerate(places):
            assert self.look(journal, lambda books, at=place: books.history(*at)) == f'{{"ä": {number}}}'
