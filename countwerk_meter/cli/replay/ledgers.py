"""
The ledger that a replay runs against: a sandbox of its own, whose books are open, or one that the user names.

What a replay wants of a ledger is little: accounts with credits, and afterwards what each was charged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from countwerk_meter.client import CountwerkClient
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.sandbox.remote import SandboxControl

if TYPE_CHECKING:
    from collections.abc import Mapping

_ID: Final = re.compile(r"\[([a-z0-9._-]+)\]\Z")
_KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503},
    {"kind": "garbage"},
    {"kind": "delay", "seconds": 0.2},
)


@dataclass(slots=True)
class Statement:
    """
    What a ledger says about one account, in credits.

    `by_id` has what was charged under each usage event id, in order; None where the ledger does not show that.
    """

    spent: int
    reserved: int
    balanced: bool = True
    by_id: dict[str, list[int]] | None = None


class Ledger(Protocol):
    """A ledger to replay against."""

    url: str

    def open(self, balances: Mapping[str, int]) -> None:
        """Make the accounts ready."""
        ...

    def statement(self, account_id: str) -> Statement:
        """Read one account."""
        ...

    def pass_time(self, seconds: float) -> bool:
        """Move its clock; False: it has none that can be moved."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


@dataclass(slots=True)
class OwnSandbox:
    """A sandbox that belongs to the replay."""

    url: str
    fault_rate: float = 0.0
    seed: int = 0
    _control: SandboxControl = field(init=False)

    def __post_init__(self) -> None:
        self._control = SandboxControl(self.url)

    def open(self, balances: Mapping[str, int]) -> None:
        for account_id, balance in balances.items():
            try:
                self._control.account(account_id, balance)
            except ValueError as error:
                raise ConfigurationError(f"account {account_id}: {error}") from None
        self._control.settings(seed=self.seed)
        self._control.faults(fault_plan(self.fault_rate))

    def statement(self, account_id: str) -> Statement:
        books = self._control.books(account_id)
        charged: dict[str, list[int]] = {}
        for entry in books["transactions"]:
            if entry["kind"] in {"confirm", "deduct"}:
                charged.setdefault(_id_of(entry), []).append(entry["amount"])
        return Statement(books["spent"], books["reserved"], books["balanced"], charged)

    def pass_time(self, seconds: float) -> bool:
        self._control.faults([])
        self._control.advance(seconds)
        return True

    def close(self) -> None:
        self._control.close()


@dataclass(slots=True)
class NamedLedger:
    """A ledger that the user named: its accounts are what they are, and only balances can be asked for."""

    url: str
    _before: dict[str, int] = field(default_factory=dict[str, int])

    def open(self, balances: Mapping[str, int]) -> None:
        with CountwerkClient(base_url=self.url) as client:
            for account_id in balances:
                self._before[account_id] = client.balance(account_id).total_spent

    def statement(self, account_id: str) -> Statement:
        with CountwerkClient(base_url=self.url) as client:
            now = client.balance(account_id)
        return Statement(now.total_spent - self._before[account_id], now.reserved_balance)

    def pass_time(self, seconds: float) -> bool:  # noqa: ARG002 - as the protocol has it
        return False

    def close(self) -> None:
        """There is nothing to close: each question has its own connection."""


def fault_plan(rate: float) -> list[dict[str, Any]]:
    """Return faults of every kind, equally often, that together strike so many of the requests."""
    plan: list[dict[str, Any]] = []
    if not rate:
        return plan
    share = rate / len(_KINDS)
    for number, kind in enumerate(_KINDS):
        # Drawn one after the other: a later one is only drawn where none before it struck.
        plan.append({"path": "*", "probability": share / (1 - number * share), "times": None, **kind})
    return plan


def _id_of(entry: Mapping[str, Any]) -> str:
    """Return the charge that a booking belongs to: a deduct says so, a confirm at the end of its description."""
    if entry["usage_event_id"]:
        return entry["usage_event_id"]
    found = _ID.search(entry["description"] or "")
    return found[1] if found else f"{entry['transaction_id']} (no id)"
