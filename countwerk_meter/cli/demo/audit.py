"""
The verdict: the sandbox's books against what the client saw.

The rule: nothing here comes from the meter. What it says about itself is shown beside the books, and decides nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from countwerk_meter.cli.demo.scenario import Observed

_ID: Final = re.compile(r"\[([a-z0-9._-]+)\]\Z")
_CHARGING: Final = frozenset({"confirm", "deduct"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Credits, but for `charges` and `denied`, which are numbers of them."""

    charges: int
    denied: int
    double_charged: int
    lost: int
    leaked_holds: int
    books_balance: bool

    @property
    def good(self) -> bool:
        """Whether nothing was charged twice, lost or kept, and the books are right."""
        return not (self.double_charged or self.lost or self.leaked_holds) and self.books_balance


def judge(
    observed: Sequence[Observed], books: Mapping[str, Mapping[str, Any]], requests: Sequence[Mapping[str, Any]]
) -> Verdict:
    """
    Judge.

    Args:
        observed: What the client saw, and owes for it.
        books: The sandbox's statement of each account.
        requests: What the sandbox was asked, and answered.

    """
    double = lost = 0
    for seen in observed:
        spent: int = books[seen.account_id]["spent"]
        # More than was owed in all, or one charge booked again where another was lost: whichever is worse.
        double += max(spent - seen.most, booked_again(books[seen.account_id]), 0)
        lost += max(seen.least - spent, 0)
    return Verdict(
        charges=sum(len(_charges(statement)) for statement in books.values()),
        denied=sum(
            request["path"] == "/api/credits/reserve" and request["code"] == "INSUFFICIENT_CREDITS"
            for request in requests
        ),
        double_charged=double,
        lost=lost,
        leaked_holds=sum(statement["reserved"] for statement in books.values()),
        books_balance=all(_balances(statement) for statement in books.values()),
    )


def booked_again(statement: Mapping[str, Any]) -> int:
    """Return the credits that were booked under a usage event id, or on a reservation, after its first time."""
    seen: Counter[str] = Counter()
    again = 0
    for entry in _charges(statement):
        for name in {charge_of(entry), entry["reservation_id"] or ""} - {""}:
            seen[name] += 1
        again += entry["amount"] if any(seen[name] > 1 for name in (charge_of(entry), entry["reservation_id"])) else 0
    return again


def charge_of(entry: Mapping[str, Any]) -> str:
    """Return a booking's usage event id: a deduct has it, a confirm at the end of its description."""
    found = _ID.search(entry["description"] or "")
    return entry["usage_event_id"] or (found[1] if found else entry["transaction_id"])


def _charges(statement: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in statement["transactions"] if entry["kind"] in _CHARGING]


def _balances(statement: Mapping[str, Any]) -> bool:
    parts = statement["available"] + statement["reserved"] + statement["spent"]
    return statement["balanced"] and statement["earned"] == parts
