"""
The events that a Meter tells: the one table of their names, meanings and fields.

`Meter(on_event=...)` gets name and fields. A field that does not apply is left out or None. No field holds a secret, a
prompt, an answer or a URL. A test holds table and code equal, both ways.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

# `act`: somebody has to do something. `watch`: more than now and then says that something is wrong.
Alert: TypeAlias = Literal["act", "watch", "no"]

_CALL: Final = ("usage_event_id", "account_id", "operation", "amount")
_CHARGE: Final = (*_CALL, "basis", "via", "trace_id")


@frozen
class Event:
    """What an event says, which fields it may have (`amount` in credits), and whether to alert on it."""

    meaning: str
    fields: tuple[str, ...]
    alert: Alert = "no"


EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "reserved": Event("credits are held for a call", (*_CALL, "reservation_id")),
        "charged": Event("the ledger has it", _CHARGE),
        "refused": Event("the ledger refused a call before it was made", (*_CHARGE, "reason")),
        "let_through": Event(
            "nothing is enforced: a call runs that would have been refused", ("account_id", "operation", "reason")
        ),
        "deferred": Event("the ledger was not there: the call runs and is deducted later", _CALL),
        "lapsed": Event("a hold ended by its validity while its block was open", ("account_id", "operation", "amount")),
        "converted": Event("a hold ended before its confirm: deducted instead", ("account_id", "amount", "reason")),
        "inferred": Event("a second confirm says that the first was carried out", ("account_id", "amount")),
        "leased": Event(
            "credits are taken ahead for an account's calls: `busy`, or `renewed`",
            ("account_id", "operation", "amount", "reservation_id", "reason"),
        ),
        "lease_ended": Event(
            "a lease is drawn on no more: `idle`, `used up`, `old`, `recalled`, `debt`, `flushed`, or `lapsed`",
            ("account_id", "operation", "amount", "reason"),
        ),
        "late": Event("a truth came after recovery had closed the call: deducted too", _CALL),
        "recovered": Event("a dead process' rows were taken over", ("closed", "resumed", "orphans")),
        "resumed": Event("the API key works again: settlement goes on", ("account_id",)),
        "closed": Event("a person closed a listed row", (*_CHARGE, "closed_as")),
        "orphan_possible": Event("a reserve in doubt: credits may be held until its end", (*_CALL, "reason"), "watch"),
        "in_doubt": Event("no definite answer: sent again", (*_CHARGE, "of", "reason"), "watch"),
        "unpriced": Event(
            "usage that the profile cannot price: charged as held",
            _CALL,
            "watch",
        ),
        "usage_mismatch": Event(
            "a provider's total and its parts differ by so many tokens: the larger is charged",
            ("usage_event_id", "account_id", "operation", "tokens"),
            "watch",
        ),
        "uncollected": Event("too few credits for a deduct: kept, tried again", _CHARGE, "watch"),
        "crashed": Event(
            "a process died during a call: `state` says whether its usage is lost",
            (*_CHARGE, "state", "reason"),
            "watch",
        ),
        "unresolved": Event("the client cannot decide: `countwerk-meter reconcile`", (*_CHARGE, "reason"), "act"),
        "excess": Event("the ledger charged so much too much", _CHARGE, "act"),
        "superseded": Event(
            "a truth came too late, `amount` credits: its id was begun anew or closed",
            _CALL,
            "act",
        ),
        "paused": Event("the API key is refused: nothing settles", ("account_id",), "act"),
        "parked": Event("the key is forbidden this account: nothing of it settles", ("account_id",), "act"),
        "journal_failed": Event(
            "a charge cannot be written: no new call is let through",
            ("usage_event_id", "account_id", "operation", "reason"),
            "act",
        ),
        "settlement_failed": Event("a row cannot be settled here now", ("account_id", "key", "reason"), "act"),
    }
)
# Told to the driver alone, for the span's links.
INTERNAL: Final = frozenset({"settling"})


def table() -> str:
    """Return the table as markdown, those to alert on first."""
    order = {"act": 0, "watch": 1, "no": 2}
    rows = sorted(EVENTS.items(), key=lambda each: order[each[1].alert])
    lines = ["| event | says | alert | fields |", "|---|---|---|---|"]
    for name, event in rows:
        fields = ", ".join(f"`{field}`" for field in event.fields)
        lines.append(f"| `{name}` | {event.meaning} | {event.alert} | {fields} |")
    return "\n".join(lines)
