"""
The journal of the model: immutable snapshots, and the package's own rows and operations over them.

What nothing that is modelled depends on is made equal, so that states meet: how often a row failed, how long its
back-off is, when exactly it was committed. I7 is checked here, where rows are written, by rules of its own.
"""

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from countwerk_meter._flow.states import CHARGE_STEPS, HOLDING, LIVE, WAITING, ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal.memory import _Books

# Before every time of the model: a row that is due since then is due.
SOMEWHEN = 1.0


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, name, what):
        super().__init__(f"{name}: {what}")
        self.name = name


class Snapshot:
    """The whole journal after one commit. Equal snapshots are one object, so comparing them costs nothing."""

    __slots__ = ("_owners", "carry", "charges", "reservations")

    def __init__(self, reservations, charges, carry):
        self.reservations = reservations
        self.charges = charges
        self.carry = carry
        self._owners = None

    @property
    def owners(self):
        """Who owns rows that have not ended."""
        if self._owners is None:
            rows = [row for row in self.reservations.values() if row.state in HOLDING]
            live = [row for row in self.charges.values() if row.state in LIVE]
            self._owners = frozenset(row.owner for row in (*rows, *live))
        return self._owners

    def due(self, owner, wall):
        """Return the rows of an owner that are due, as passes to make."""
        found = [
            ("settle", row.key)
            for row in self.reservations.values()
            if row.owner == owner and row.due_at is not None and row.due_at <= wall
        ]
        found += [
            ("deduct", row.id)
            for row in self.charges.values()
            if row.owner == owner and row.due_at is not None and row.due_at <= wall
        ]
        return found


class Done(NamedTuple):
    """What one operation answered, and the journal after it."""

    result: object
    snapshot: Snapshot


class _Working(_Books):
    """The memory journal's books, over a copy of one snapshot."""

    def __init__(self, snapshot, dead, *, strict):
        super().__init__(set())
        self._dead = dead
        self._strict = strict
        for hold in snapshot.reservations.values():
            self._keep_reservation(hold)
        for charge in snapshot.charges.values():
            self._keep_charge(charge)
        self._carry = dict(snapshot.carry)

    def is_dead(self, owner):
        return owner in self._dead

    def _due(self, row, *, waits):
        """A row that waits is due from now on: its back-off may be over at any moment."""
        return SOMEWHEN if waits and row.due_at is not None else row.due_at

    def save_reservation(self, row):
        before = self.reservation(row.key)
        if before is not None and self._strict:
            if before.cancels and row.confirms > before.confirms:
                raise Violation("I7", f"a confirm of {row.key} is opened after its cancel was committed")
            if before.frozen is not None and row.frozen != before.frozen:
                raise Violation("I7", f"the amount of {row.key} changed after attempt 1 froze it")
        due = self._due(row, waits=row.state is ReservationState.CLOSING)
        row = replace(row, failures=0, due_at=due)
        if self._strict:
            super().save_reservation(row)
        else:
            self._keep_reservation(row)

    def save_charge(self, row):
        before = self.charge(row.ledger, row.id)
        if before is not None and self._strict and row.state not in {before.state, *CHARGE_STEPS[before.state]}:
            raise Violation("I7", f"the charge {row.id} went from {before.state} to {row.state}")
        due = self._due(row, waits=row.state in WAITING)
        row = replace(row, failures=0, due_at=due, committed_at=None if row.committed_at is None else SOMEWHEN)
        if self._strict:
            super().save_charge(row)
        else:
            self._keep_charge(row)


class Journals:
    """Carries operations out over snapshots, each distinct step once."""

    def __init__(self, *, strict=True):
        self._strict = strict
        self._rows = {}
        self._snapshots = {}
        self._done = {}
        self.empty = self._made({}, {}, {})

    def _made(self, reservations, charges, carry):
        rows = self._rows
        name = (
            tuple(sorted(rows.setdefault(row, len(rows)) for row in (*reservations.values(), *charges.values()))),
            tuple(sorted(carry.items())),
        )
        return self._snapshots.setdefault(name, Snapshot(reservations, charges, carry))

    @property
    def met(self):
        """The states that rows were in, their reasons, and the names of the operations that were carried out."""
        operations = {type(operation).__name__ for operation, _, _ in self._done}
        return frozenset(operations.union(*((row.state, row.reason) for row in self._rows)))

    def run(self, operation, snapshot, dead):
        """Carry out one operation; raises `Violation` (I7) where the journal refuses the step."""
        name = (operation, snapshot, dead)
        done = self._done.get(name)
        if done is None:
            done = self._done[name] = self._carried_out(operation, snapshot, dead)
        if isinstance(done, Violation):
            raise done
        return done

    def _carried_out(self, operation, snapshot, dead):
        books = _Working(snapshot, dead, strict=self._strict)
        try:
            result = operation.apply(books)
        except Violation as violation:
            return violation
        except (AssertionError, JournalError) as error:
            return Violation("I7", f"{type(operation).__name__} was refused: {error}")
        charges = {row.id: row for row in books._charges.values()}
        carry = {key: value for key, value in books._carry.items() if value != Decimal(0)}
        return Done(result, self._made(books._reservations, charges, carry))
