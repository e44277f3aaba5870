"""The journal that forgets: for tests, and for a process whose charges need not survive it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from countwerk_meter._flow.begin import DEFERRED
from countwerk_meter._flow.books import DueRow
from countwerk_meter._flow.rows import ReservationRow, checked_charge, checked_reservation, replace
from countwerk_meter._flow.states import COLLECTED, ENDED, HOLDING, LISTED, LIVE, OVER, ChargeState, ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal.outcome import Outcome
from countwerk_meter.journal.port import Journal, refused

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Future

    from countwerk_meter._flow.books import Operation
    from countwerk_meter._flow.rows import ChargeRow

T = TypeVar("T")

_NEVER = float("inf")


class _Books:
    """
    Rows in dicts, with an undo list: an operation that raises leaves nothing behind.

    What has not ended stands in dicts of its own as well: a call looks through those, not through all that ever was.
    """

    def __init__(self, alive: set[str]) -> None:
        self._alive = alive
        self._reservations: dict[str, ReservationRow] = {}
        self._charges: dict[tuple[str, str], ChargeRow] = {}
        self._holding: dict[str, ReservationRow] = {}
        self._live: dict[tuple[str, str], ChargeRow] = {}
        self._owing: dict[tuple[str, str], ChargeRow] = {}
        self._drawn: dict[str, dict[tuple[str, str], bool]] = {}
        self._ids: dict[tuple[str, str], str] = {}
        self._carry: dict[tuple[str, str], Decimal] = {}
        self._histories: dict[tuple[str, str, str, str], str] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def begin(self) -> None:
        self._undo.clear()

    def roll_back(self) -> None:
        for table, key, before in reversed(self._undo):
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before
        self._undo.clear()

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        """Set a key, or with None take it away."""
        self._undo.append((table, key, table.get(key)))
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def reservation(self, key: str) -> ReservationRow | None:
        return self._reservations.get(key)

    def knows_reservation_id(self, ledger: str, reservation_id: str) -> bool:
        return (ledger, reservation_id) in self._ids

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        return self._charges.get((ledger, charge_id))

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        drawn = (self._charges[name] for name in self._drawn.get(reservation_key, ()))
        rows = [row for row in drawn if row.reservation_key == reservation_key and row.parent is None]
        return sorted(rows, key=lambda row: (_NEVER if row.committed_at is None else row.committed_at, row.id))

    def open_reservations(self, ledger: str, principal: str, account_id: str) -> list[ReservationRow]:
        return [
            row
            for row in self._holding.values()
            if (row.ledger, row.principal, row.account_id) == (ledger, principal, account_id)
        ]

    def owed(self, ledger: str, principal: str, account_id: str) -> list[ChargeRow]:
        return [
            row
            for row in self._owing.values()
            if (row.ledger, row.principal, row.account_id) == (ledger, principal, account_id)
        ]

    def charged(self, ledger: str, account_id: str) -> int:
        return sum(
            row.share
            for row in self._charges.values()
            if (row.ledger, row.account_id) == (ledger, account_id) and row.state in COLLECTED
        )

    def due(self, ledger: str, owner: str, before: float, limit: int, without: Collection[str] = ()) -> list[DueRow]:
        reservations = [
            (row.expires_at or _NEVER, row.due_at, DueRow("reservation", row.key, row.account_id, row.expires_at))
            for row in self._holding.values()
            if row.ledger == ledger and row.owner == owner and row.due_at is not None and row.due_at <= before
        ]
        charges = [
            (_NEVER, row.due_at, DueRow("charge", row.id, row.account_id, None))
            for row in self._live.values()
            if row.ledger == ledger and row.owner == owner and row.due_at is not None and row.due_at <= before
        ]
        found = [each for each in reservations + charges if each[2].account_id not in without]
        return [row for _, _, row in sorted(found, key=lambda each: each[:2])[:limit]]

    def next_due(self, ledger: str, owner: str, after: float) -> float | None:
        rows = (*self._holding.values(), *self._live.values())
        return min(
            (
                row.due_at
                for row in rows
                if row.ledger == ledger and row.owner == owner and row.due_at is not None and row.due_at > after
            ),
            default=None,
        )

    def charges(self, ledger: str, states: Collection[ChargeState] | None, limit: int) -> list[ChargeRow]:
        rows = [row for row in self._charges.values() if row.ledger == ledger and (not states or row.state in states)]
        return sorted(rows, key=lambda row: (-row.created_at, row.id))[:limit]

    def reservations(self, ledger: str, states: Collection[ReservationState], limit: int) -> list[ReservationRow]:
        rows = [row for row in self._reservations.values() if row.ledger == ledger and row.state in states]
        return sorted(rows, key=lambda row: (row.created_at, row.key))[:limit]

    def _unended(self, ledger: str) -> list[ReservationRow | ChargeRow]:
        return [row for row in (*self._holding.values(), *self._live.values()) if row.ledger == ledger]

    def owners(self, ledger: str, principal: str | None) -> set[str]:
        return {row.owner for row in self._unended(ledger) if principal in {None, row.principal}}

    def principals(self, ledger: str) -> dict[str, int]:
        return dict(Counter(row.principal for row in self._unended(ledger)))

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        waiting = [row for row in self._charges.values() if row.ledger == ledger and row.state in LISTED - LIVE]
        moved = [row for row in (*self._unended(ledger), *waiting) if row.principal == before]
        for row in moved:
            if isinstance(row, ReservationRow):
                self._keep_reservation(replace(row, principal=after))
            else:
                self._keep_charge(replace(row, principal=after))
        return len(moved)

    def is_dead(self, owner: str) -> bool:
        return owner not in self._alive

    def reservations_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ReservationRow]:
        whose = (ledger, principal, owner)
        rows = self._holding.values()
        return list(islice((row for row in rows if (row.ledger, row.principal, row.owner) == whose), limit))

    def charges_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ChargeRow]:
        whose = (ledger, principal, owner)
        rows = self._live.values()
        return list(islice((row for row in rows if (row.ledger, row.principal, row.owner) == whose), limit))

    def moving(self, ledger: str, owner: str) -> bool:
        holds = (row for row in self._holding.values() if row.state is ReservationState.CLOSING)
        calls = (row for row in self._live.values() if row.state is ChargeState.COMMITTED)
        return any((row.ledger, row.owner) == (ledger, owner) for rows in (holds, calls) for row in rows)

    def overdue(self, ledger: str, principal: str, before: float, limit: int) -> list[DueRow]:
        late = [
            row
            for row in self._unended(ledger)
            if row.principal == principal and row.due_at is not None and row.due_at <= before
        ]
        late.sort(key=lambda row: row.due_at or 0)
        return [
            DueRow("reservation", row.key, row.account_id, row.expires_at)
            if isinstance(row, ReservationRow)
            else DueRow("charge", row.id, row.account_id, None)
            for row in late[:limit]
        ]

    def ended_charges(self, ledger: str, after: float, before: float, limit: int) -> list[ChargeRow]:
        rows = [
            row
            for row in self._charges.values()
            if row.ledger == ledger
            and row.state in ENDED
            and after <= row.created_at < before
            and (row.lines is not None or row.metadata is not None or row.description is not None)
        ]
        return sorted(rows, key=lambda row: (row.created_at, row.id))[:limit]

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        rows = [
            row
            for row in self._reservations.values()
            if row.ledger == ledger and row.state in OVER and row.created_at < before
        ]
        for row in rows[:limit]:
            self._undo.append((self._reservations, row.key, row))
            del self._reservations[row.key]
        return len(rows[:limit])

    def carry(self, ledger: str, account_id: str) -> Decimal:
        return self._carry.get((ledger, account_id), Decimal(0))

    def set_carry(self, ledger: str, account_id: str, fraction: Decimal) -> None:
        self._put(self._carry, (ledger, account_id), fraction)

    def history(self, ledger: str, account_id: str, operation: str, model: str) -> str | None:
        return self._histories.get((ledger, account_id, operation, model))

    def save_history(self, ledger: str, account_id: str, operation: str, model: str, sizes: str) -> None:
        self._put(self._histories, (ledger, account_id, operation, model), sizes)

    def save_reservation(self, row: ReservationRow) -> None:
        self._keep_reservation(checked_reservation(self.reservation(row.key), row))

    def _keep_reservation(self, row: ReservationRow) -> None:
        self._put(self._reservations, row.key, row)
        self._put(self._holding, row.key, row if row.state in HOLDING else None)
        if row.reservation_id is not None:
            self._put(self._ids, (row.ledger, row.reservation_id), row.key)

    def save_charge(self, row: ChargeRow) -> None:
        self._keep_charge(checked_charge(self.charge(row.ledger, row.id), row))

    def _keep_charge(self, row: ChargeRow) -> None:
        name = (row.ledger, row.id)
        before = self._charges.get(name)
        self._put(self._charges, name, row)
        lives = row.state in LIVE
        owes = lives and (row.state is ChargeState.UNCOLLECTED or row.reason == DEFERRED)
        self._put(self._live, name, row if lives else None)
        if owes or name in self._owing:
            self._put(self._owing, name, row if owes else None)
        if row.reservation_key is not None and (before is None or before.reservation_key != row.reservation_key):
            self._put(self._drawn.setdefault(row.reservation_key, {}), name, True)


class MemoryJournal(Journal):
    """Keeps everything in this process, and loses it with the process."""

    def __init__(self) -> None:
        self._owners: set[str] = set()
        self._books = _Books(self._owners)
        self._lock = threading.RLock()
        self._inside: int | None = None  # the thread that carries out a step
        self._postponed: deque[tuple[Operation[Any], Future[Any]]] = deque()
        self._closed = False

    @property
    def name(self) -> str:
        return "memory:"

    def submit(self, operation: Operation[T]) -> Future[T]:
        future: Future[T] = Outcome()
        if self._inside == threading.get_ident():
            # The collector has ended an abandoned call in the middle of a step: its own comes after that.
            self._postponed.append((operation, future))
            return future
        self._do(operation, future)
        while self._postponed:
            try:
                postponed = self._postponed.popleft()
            except IndexError:  # another thread took the last one
                break
            self._do(*postponed)
        return future

    def _do(self, operation: Operation[Any], future: Future[Any]) -> None:
        result: Any = None
        failure: Exception | None = None
        with self._lock:
            self._inside = threading.get_ident()
            self._books.begin()
            try:
                result = self._carry_out(operation)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
                self._books.roll_back()
                failure = refused(self.name, error)
            except BaseException:
                # Ctrl-C in the middle of a step: none of it happened.
                self._books.roll_back()
                raise
            finally:
                self._inside = None
        # Outside the lock: whoever is called back may submit again.
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)

    def _carry_out(self, operation: Operation[T]) -> T:
        if self._closed:
            raise JournalError("the journal memory: is closed")
        return operation.apply(self._books)

    def join(self, owner: str) -> None:
        self._owners.add(owner)

    def is_alive(self, owner: str) -> bool:
        return owner in self._owners

    def leave(self, owner: str) -> None:
        self._owners.discard(owner)

    def close(self, timeout: float | None = None) -> None:  # noqa: ARG002 - nothing to wait for
        self._closed = True
