"""
The two rows of the journal: what is held on the ledger, and what is drawn from it. They hold no secret, prompt or URL.

What a row may never become is said here once for every store (I7).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from countwerk_meter._flow.states import CHARGE_STEPS, RESERVATION_STEPS, ChargeState, ReservationState
from countwerk_meter.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIRM, DEDUCT = "confirm", "deduct"
# What the journal key of a lease begins with: a reservation taken ahead, which no call of its own is charged to.
LEASE = "lease-"

T = TypeVar("T")


@cache
def _count(kind: type[Any]) -> int:
    return len(fields(kind))


def replace(row: T, **changes: Any) -> T:
    """
    Return a copy of a row, or of any other frozen dataclass, with some of its fields changed.

    As `dataclasses.replace`, but of a row only the dict is copied, for a tenth of the time: a call moves its rows on a
    dozen times.
    """
    if not hasattr(row, "__dict__"):
        return dataclasses.replace(cast("Any", row), **changes)
    return made(type(row), row.__dict__, **changes)


def made(kind: type[T], values: Mapping[str, Any], /, **changes: Any) -> T:
    """Make a row of all its fields' values, some of which are changed."""
    row = object.__new__(kind)
    fields_of = row.__dict__
    fields_of.update(values, **changes)
    assert len(fields_of) == _count(kind), f"{kind.__name__} has other fields"
    return row


@dataclass(frozen=True, kw_only=True)
class ReservationRow:
    """
    Credits held on the ledger: the funding of one or more charges.

    Times are POSIX seconds; `expires_at` is on the ledger's clock, the others on this machine's.
    """

    key: str
    ledger: str
    principal: str
    owner: str
    account_id: str
    operation: str
    amount: int
    validity: int
    created_at: float
    description: str | None = None
    state: ReservationState = ReservationState.REQUESTED
    epoch: int = 0
    reservation_id: str | None = None
    expires_at: float | None = None
    settle_with: str = CONFIRM
    promised: int = 0  # estimates of the open draws: what is left must cover them
    committed: int = 0  # what one confirm will carry
    open_charges: int = 0
    sealed: bool = False  # the block is over: no further draw
    frozen: int | None = None  # attempt 1 froze this amount (money rule 4)
    confirms: int = 0
    confirms_open: int = 0  # attempts without a definite answer
    confirm_delivered: bool = False  # 402, 429 or 404 came back, or doubt (money rule 5)
    cancels: int = 0  # above 0: a cancel was committed, no confirm leaves any more
    cancels_open: int = 0
    cancel_then_deduct: bool = False
    reason: str | None = None
    failures: int = 0
    due_at: float | None = None
    closed_as: str | None = None  # what somebody found out about an unresolved one: charged, not-charged, written-off
    note: str | None = None
    closed_at: float | None = None

    def checked_step(self, state: ReservationState) -> ReservationState:
        """Return `state` if it may follow this one (I7)."""
        if state is not self.state and state not in RESERVATION_STEPS[self.state]:
            raise JournalError(f"a reservation cannot go from {self.state} to {state}")
        return state


@dataclass(frozen=True, kw_only=True)
class ChargeRow:
    """
    One logical usage and its whole life, keyed by its `usage_event_id` within a ledger.

    `amount` is the whole charge in credits; `share` the part that its reservation's confirm carries, or, with
    `via` deduct, the part that is deducted under its own id. What lies beyond the hold is a leg, `<id>.over`.
    """

    id: str
    ledger: str
    principal: str
    owner: str
    account_id: str
    operation: str
    created_at: float
    description: str | None = None
    state: ChargeState = ChargeState.OPEN
    epoch: int = 0
    parent: str | None = None
    reservation_key: str | None = None
    estimate: int = 0
    draw: bool = False  # a nested draw: its estimate counts against what is left of the hold
    amount: int | None = None
    share: int = 0
    exact: str | None = None
    basis: str | None = None
    via: str = CONFIRM
    lines: str | None = None  # JSON: what was measured and how it was priced
    metadata: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    reason: str | None = None
    committed_at: float | None = None
    failures: int = 0
    due_at: float | None = None
    closed_as: str | None = None  # what somebody found out about a listed one: charged, not-charged, written-off
    note: str | None = None
    closed_at: float | None = None

    def checked_step(self, state: ChargeState) -> ChargeState:
        """Return `state` if it may follow this one (I7)."""
        if state is not self.state and state not in CHARGE_STEPS[self.state]:
            raise JournalError(f"a charge cannot go from {self.state} to {state}")
        return state

    def named(self) -> dict[str, Any]:
        """Return what every event about a charge says of it."""
        return {"usage_event_id": self.id, "account_id": self.account_id, "operation": self.operation}


def checked_reservation(before: ReservationRow | None, after: ReservationRow) -> ReservationRow:
    """Return `after` if it may replace `before`: no forbidden step, no confirm after a cancel, no other amount (I7)."""
    if before is not None:
        before.checked_step(after.state)
        if before.cancels and after.confirms > before.confirms:
            raise JournalError("no confirm leaves after a cancel was committed")
        if before.frozen is not None and after.frozen != before.frozen:
            raise JournalError("attempt 1 froze the amount of a reservation")
    return after


def checked_charge(before: ChargeRow | None, after: ChargeRow) -> ChargeRow:
    """Return `after` if it may replace `before`: no forbidden step, and what is settled keeps its amount (I7)."""
    if before is not None:
        before.checked_step(after.state)
        if before.state is ChargeState.SETTLED and after.amount != before.amount:
            raise JournalError("a settled charge keeps its amount")
    return after
