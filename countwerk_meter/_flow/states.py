"""
The tables: the states of a reservation and of a charge, the steps between them, and what each outcome leads to.

Theory first; code only reads these tables, and RULES.md is written from them. A step that is not in a table is a bug,
and is refused before it is written (I7).
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class ReservationState(StrEnum):
    """Where a hold stands."""

    REQUESTED = "requested"  # committed before the request leaves (money rule 3)
    HELD = "held"  # the ledger named it
    CLOSING = "closing"  # its block is over and every charge on it is known
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # ended by its validity
    REFUSED = "refused"  # the ledger made no hold
    ORPHAN_POSSIBLE = "orphan_possible"  # in doubt: may be held until its validity has passed
    UNRESOLVED = "unresolved"  # the client cannot decide; listed until someone closes it
    CLOSED = "closed"  # someone did


class ChargeState(StrEnum):
    """Where a charge stands."""

    OPEN = "open"  # its call is running
    DENIED = "denied"  # 402: the call never ran
    CANCELLED = "cancelled"  # nothing was used
    ORPHANED = "orphaned"  # its reserve is in doubt, the call never ran
    COMMITTED = "committed"  # the amount is known and durable: the commit is the charge (money rule 7)
    SETTLED = "settled"  # the ledger has it
    UNCOLLECTED = "uncollected"  # 402 on a deduct: kept, tried again on a schedule
    UNRESOLVED = "unresolved"  # the client cannot decide; listed until someone closes it
    LOST = "lost"  # its process died, and nobody knows what it used; listed until someone closes it
    CLOSED = "closed"  # someone did


_R, _C = ReservationState, ChargeState

RESERVATION_STEPS: Final[Mapping[ReservationState, frozenset[ReservationState]]] = MappingProxyType(
    {
        _R.REQUESTED: frozenset({_R.HELD, _R.REFUSED, _R.ORPHAN_POSSIBLE}),
        _R.HELD: frozenset({_R.CLOSING, _R.EXPIRED}),
        _R.CLOSING: frozenset({_R.CONFIRMED, _R.CANCELLED, _R.EXPIRED, _R.UNRESOLVED}),
        # Its answer came after all, too late for the call: the hold has a name now and is given back (I4).
        _R.ORPHAN_POSSIBLE: frozenset({_R.EXPIRED, _R.CLOSING}),
        # A late definite success is the one truth that may still arrive after the client gave up deciding.
        _R.UNRESOLVED: frozenset({_R.CONFIRMED, _R.CLOSED}),
        _R.CLOSED: frozenset({_R.CONFIRMED}),
        _R.CONFIRMED: frozenset(),
        _R.CANCELLED: frozenset(),
        _R.EXPIRED: frozenset(),
        _R.REFUSED: frozenset(),
    }
)

CHARGE_STEPS: Final[Mapping[ChargeState, frozenset[ChargeState]]] = MappingProxyType(
    {
        _C.OPEN: frozenset({_C.DENIED, _C.CANCELLED, _C.ORPHANED, _C.COMMITTED, _C.SETTLED, _C.LOST}),
        _C.DENIED: frozenset({_C.OPEN}),
        _C.CANCELLED: frozenset({_C.OPEN}),
        _C.ORPHANED: frozenset({_C.OPEN}),
        _C.COMMITTED: frozenset({_C.SETTLED, _C.UNCOLLECTED, _C.UNRESOLVED}),
        _C.UNCOLLECTED: frozenset({_C.SETTLED, _C.UNRESOLVED, _C.CLOSED}),
        _C.UNRESOLVED: frozenset({_C.SETTLED, _C.CLOSED}),
        # Begun anew, or its process was not dead after all and says what it used.
        _C.LOST: frozenset({_C.OPEN, _C.CANCELLED, _C.CLOSED}),
        # A late definite success is the truth, whatever somebody closed it as.
        _C.CLOSED: frozenset({_C.SETTLED}),
        _C.SETTLED: frozenset(),
    }
)

RESTARTABLE: Final = frozenset(state for state, steps in CHARGE_STEPS.items() if _C.OPEN in steps)
HOLDING: Final = frozenset({_R.REQUESTED, _R.HELD, _R.CLOSING, _R.ORPHAN_POSSIBLE})
WAITING: Final = frozenset({_C.COMMITTED, _C.UNCOLLECTED})
# Rows that settlement or recovery still moves.
LIVE: Final = frozenset({_C.OPEN, *WAITING})
# Rows that nothing moves any more, but for a late truth or an id met again.
ENDED: Final = frozenset({_C.SETTLED, _C.DENIED, _C.CANCELLED, _C.ORPHANED, _C.CLOSED})
OVER: Final = frozenset({_R.CONFIRMED, _R.CANCELLED, _R.EXPIRED, _R.REFUSED, _R.CLOSED})
# Charges that the ledger has, or will have.
COLLECTED: Final = frozenset({_C.COMMITTED, _C.SETTLED})
# Charges that wait for a person's decision.
LISTED: Final = frozenset({_C.UNRESOLVED, _C.UNCOLLECTED, _C.LOST})


class Outcome(StrEnum):
    """What became of one request, as far as it matters to what follows (money rule 1)."""

    DONE = "done"
    NOT_SENT = "NotSent"
    NO_CREDITS = "402"
    RATE_LIMITED = "429"
    BAD_KEY = "401"
    FORBIDDEN = "403"
    REJECTED = "400, 409, other 4xx"
    NOT_FOUND = "404"  # RESERVATION_NOT_FOUND, and nothing else; a cancel that says `cancelled: false` counts as one
    IN_DOUBT = "in doubt (5xx too)"


class Sequel(StrEnum):
    """What follows."""

    RECORD = "record it"
    BACK_OFF = "not applied: back off"
    RESEND = "the attempt stays open: send again, as long as that can do no harm"
    PAUSE = "pause all settlement, alert"
    PARK = "park that account, alert"
    UNRESOLVED = "unresolved"
    RULE_5 = "a cancel, whose `true` alone allows deducts (rule 5), else unresolved"
    RULE_8 = "rule 8"
    UNCOLLECTED = "`uncollected`"
    RETRY = "retry inside the budget, then raise"
    DENY = "`InsufficientCreditsError` with purchase options; a `denied` tombstone stays"
    RAISE = "raise"
    ORPHAN = "never sent again: `LedgerUnavailableError(in_doubt=True)`, or defer"


_O, _S = Outcome, Sequel
_SETTLING: Final = {
    _O.DONE: _S.RECORD,
    _O.NOT_SENT: _S.BACK_OFF,
    _O.RATE_LIMITED: _S.BACK_OFF,
    _O.BAD_KEY: _S.PAUSE,
    _O.FORBIDDEN: _S.PARK,
    _O.REJECTED: _S.UNRESOLVED,
    _O.IN_DOUBT: _S.RESEND,
}

ON_RESERVE: Final[Mapping[Outcome, Sequel]] = MappingProxyType(
    {
        _O.DONE: _S.RECORD,
        _O.NOT_SENT: _S.RETRY,
        _O.NO_CREDITS: _S.DENY,
        _O.RATE_LIMITED: _S.RETRY,
        _O.BAD_KEY: _S.RAISE,
        _O.FORBIDDEN: _S.RAISE,
        _O.REJECTED: _S.RAISE,
        _O.NOT_FOUND: _S.RAISE,
        _O.IN_DOUBT: _S.ORPHAN,
    }
)
ON_CONFIRM: Final[Mapping[Outcome, Sequel]] = MappingProxyType(
    {**_SETTLING, _O.NO_CREDITS: _S.RULE_5, _O.NOT_FOUND: _S.RULE_8}
)
ON_CANCEL: Final[Mapping[Outcome, Sequel]] = MappingProxyType(
    {**_SETTLING, _O.NO_CREDITS: _S.UNRESOLVED, _O.NOT_FOUND: _S.RECORD}
)
ON_DEDUCT: Final[Mapping[Outcome, Sequel]] = MappingProxyType(
    {**_SETTLING, _O.NO_CREDITS: _S.UNCOLLECTED, _O.NOT_FOUND: _S.UNRESOLVED}
)
