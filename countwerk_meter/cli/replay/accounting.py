"""
Whether every credit is accounted for: the ledger's books against the meter's journal, charge by charge.

The rule: whatever does not match is listed, never netted against something else. What the client cannot decide
(unresolved) is a range, from nothing to all of it, and is shown as such.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.overview import EVERY, Charges, Unsettled
from countwerk_meter._flow.states import ChargeState, ReservationState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter.cli.replay.ledgers import Statement
    from countwerk_meter.cli.replay.traffic import Tally
    from countwerk_meter.journal import Journal

_NO_CHARGE = frozenset({ChargeState.DENIED, ChargeState.CANCELLED, ChargeState.ORPHANED})


@dataclass(slots=True)
class Account:
    """One account, or the sum of several: calls and credits by what became of them."""

    account_id: str
    calls: int = 0
    charged_calls: int = 0
    refused: int = 0
    unavailable: int = 0
    held: int = 0
    charged: int = 0
    exact: Decimal = Decimal(0)
    unresolved: int = 0
    unresolved_charges: int = 0
    uncollected: int = 0
    uncollected_charges: int = 0
    pending: int = 0
    pending_charges: int = 0
    in_doubt: int = 0
    in_doubt_holds: int = 0
    spent: int = 0
    reserved: int = 0
    reserved_at_the_end: int = 0

    def add(self, other: Account) -> None:
        """Add another account's figures to these."""
        for name in self.__slots__:
            if name != "account_id":
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {name: str(self.exact) if name == "exact" else getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Result:
    """A whole replay's accounts and what does not add up in them."""

    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    differences: list[str] = field(default_factory=list[str])

    @property
    def total(self) -> Account:
        """All accounts together."""
        total = Account("total")
        for account in self.accounts.values():
            total.add(account)
        return total


def account_for(
    journal: Journal,
    ledger: str,
    tallies: Mapping[str, Tally],
    at_rest: Mapping[str, Statement],
    at_the_end: Mapping[str, Statement] | None,
    since: float,
) -> Result:
    """
    Compare.

    Args:
        journal: The meter's journal.
        ledger: Whose rows count.
        tallies: What the callers saw.
        at_rest: The books once settlement had come to rest.
        at_the_end: The books after the validity of every hold has passed, where time could be moved.
        since: Rows older than this (POSIX seconds) are of an earlier run.

    """
    rows: defaultdict[str, list[ChargeRow]] = defaultdict(list)
    for row in journal.run(Charges(ledger, None, EVERY)):
        if row.created_at >= since:
            rows[row.account_id].append(row)
    orphans: defaultdict[str, list[int]] = defaultdict(list)
    for hold in journal.run(Unsettled(ledger, EVERY, frozenset({ReservationState.ORPHAN_POSSIBLE}))):
        if hold.created_at >= since:
            orphans[hold.account_id].append(hold.amount)
    result = Result()
    for account_id, tally in tallies.items():
        account = _of_the_journal(account_id, tally, rows[account_id], orphans[account_id])
        said = at_rest[account_id]
        end = at_the_end[account_id] if at_the_end is not None else said
        account.spent, account.reserved, account.reserved_at_the_end = said.spent, said.reserved, end.reserved
        result.accounts[account_id] = account
        result.differences += _differences(account, said, end, rows[account_id], time_moved=at_the_end is not None)
    return result


def _of_the_journal(account_id: str, tally: Tally, rows: Iterable[ChargeRow], orphans: list[int]) -> Account:
    account = Account(
        account_id,
        calls=tally.calls,
        refused=tally.refused,
        unavailable=tally.unavailable,
        held=tally.held,
        in_doubt=sum(orphans),
        in_doubt_holds=len(orphans),
    )
    for row in rows:
        share, whole = row.share, row.parent is None
        if row.state is ChargeState.SETTLED:
            account.charged += share
            account.charged_calls += whole
        elif row.state is ChargeState.UNRESOLVED:
            account.unresolved += share
            account.unresolved_charges += 1
        elif row.state is ChargeState.UNCOLLECTED:
            account.uncollected += share
            account.uncollected_charges += 1
        elif row.state not in _NO_CHARGE:
            account.pending += share
            account.pending_charges += 1
        if whole and row.exact is not None and row.state not in _NO_CHARGE:
            account.exact += Decimal(row.exact)
    return account


def _differences(
    account: Account, said: Statement, end: Statement, rows: Iterable[ChargeRow], *, time_moved: bool
) -> list[str]:
    found: list[str] = []

    def expect(good: bool, what: str) -> None:
        if not good:
            found.append(f"{account.account_id}: {what}")

    ended = account.charged_calls + account.refused + account.unavailable
    kept = account.unresolved_charges + account.uncollected_charges + account.pending_charges
    expect(
        ended <= account.calls <= ended + kept,
        f"{account.calls} calls, but {ended} were charged, refused or unavailable",
    )
    least, most = account.charged, account.charged + account.unresolved + account.pending
    expect(least <= said.spent <= most, f"the books say {said.spent} credits spent, the meter charged {least}")
    expect(
        said.reserved <= account.in_doubt + (account.held if kept else 0),
        f"{said.reserved} credits are still held, and only {account.in_doubt} are in doubt",
    )
    expect(said.balanced and end.balanced, "its books do not balance")
    if time_moved:
        expect(end.reserved == 0, f"{end.reserved} credits are still held after every validity has passed")
        expect(end.spent == said.spent, f"spent changed from {said.spent} to {end.spent} while nothing ran")
    if said.by_id is not None:
        found += [f"{account.account_id}: {what}" for what in _charge_by_charge(said.by_id, rows)]
    return found


def _charge_by_charge(by_id: Mapping[str, list[int]], rows: Iterable[ChargeRow]) -> list[str]:
    """Compare each charge: settled once and with its own amount, or not settled and not in the books."""
    found: list[str] = []
    booked = dict(by_id)
    for row in rows:
        amounts = booked.pop(row.id, [])
        undecided = row.state not in _NO_CHARGE and row.state is not ChargeState.SETTLED
        expected = [row.share] if row.state is ChargeState.SETTLED and row.share else []
        if amounts != expected and not (undecided and amounts in ([], [row.share])):
            found.append(f"{row.id} is {row.state} with {row.share} credits, and the books have {amounts or 'none'}")
    found += [f"the books have {amounts} for {name}, unknown to the journal" for name, amounts in booked.items()]
    return found
