"""A replay's progress and its result, for a person or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from countwerk_meter.cli.answers import console

if TYPE_CHECKING:
    from countwerk_meter.cli.replay.accounting import Account
    from countwerk_meter.cli.replay.run import Outcome, Plan

_ACCOUNTS_SHOWN: Final = 20
_DIFFERENCES_SHOWN: Final = 20
_COLUMNS: Final = (
    ("Calls", "calls", True),
    ("Charged", "charged_calls", True),
    ("Refused", "refused", False),
    ("No answer", "unavailable", False),
    ("Held", "held", True),
    ("Credits", "charged", True),
    ("Open", "open", False),
    ("Books", "spent", True),
    ("Still held", "reserved", False),
)


class Display:
    """A progress bar on stderr; nothing where that is no terminal."""

    def __init__(self, rows: int, *, quiet: bool) -> None:
        stderr = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=stderr,
            disable=quiet or not stderr.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=rows)

    def advanced(self) -> None:
        self._progress.advance(self._task)

    def phase(self, text: str) -> None:
        self._progress.update(self._task, description=f"{text:<22}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def accounted_for(outcome: Outcome) -> bool:
    """Whether every credit is: settled, or listed, and the books agree."""
    return outcome.drained and not outcome.result.differences


def as_json(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Return all of it as JSON data."""
    total = outcome.result.total
    return {
        "rows": len(plan.rows),
        "ledger": outcome.ledger if plan.base_url else "sandbox",
        "fault_rate": plan.fault_rate,
        "rounding": plan.rounding,
        "seconds": round(outcome.seconds, 2),
        "settling_seconds": round(outcome.settling_seconds, 2),
        "calls_per_second": round(total.calls / outcome.seconds, 1) if outcome.seconds else None,
        "total": total.as_json(),
        "eur": str(total.charged * plan.prices.eur_per_credit),
        "profile": {"id": plan.prices.profile_version_id, "ruleset_hash": plan.prices.ruleset_hash},
        "accounts": [account.as_json() for account in outcome.result.accounts.values()],
        "settled_in_time": outcome.drained,
        "clock_moved_past_validity": outcome.time_moved,
        "differences": outcome.result.differences,
        "books_balance": accounted_for(outcome),
    }


def show(plan: Plan, outcome: Outcome) -> None:
    """Print tables."""
    screen = console()
    total = outcome.result.total
    screen.print(_table(outcome))
    screen.print()
    per_second = f", {total.calls / outcome.seconds:,.0f} calls a second" if outcome.seconds else ""
    screen.print(
        f"{total.calls:,} calls in {outcome.seconds:.1f} s{per_second}; "
        f"settled {outcome.settling_seconds:.1f} s after the last one",
        soft_wrap=True,
    )
    eur = total.charged * plan.prices.eur_per_credit
    screen.print(
        f"Charged {total.charged:,} credits = {eur:,.2f} EUR; exact price {total.exact:,.2f} credits, "
        f'rounded with "{plan.rounding}"',
        soft_wrap=True,
    )
    for text, style in _remarks(outcome, total):
        screen.print(Text(text, style=style), soft_wrap=True)
    _verdict(outcome)


def _table(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True, footer_style="bold")
    total = outcome.result.total
    accounts = list(outcome.result.accounts.values())
    # What did not happen to anybody gets no column.
    columns = [(title, name) for title, name, always in _COLUMNS if always or _figure(total, name)]
    table.add_column("Account", "Total", no_wrap=True, overflow="ellipsis")
    for title, name in columns:
        table.add_column(title, f"{_figure(total, name):,}", justify="right")
    table.add_column("", Text("ok", style="green") if not outcome.result.differences else Text("!", style="red"))
    wrong = {difference.partition(": ")[0] for difference in outcome.result.differences}
    for account in accounts[:_ACCOUNTS_SHOWN]:
        mark = Text("!", style="bold red") if account.account_id in wrong else Text("ok", style="green")
        table.add_row(account.account_id, *(f"{_figure(account, name):,}" for _, name in columns), mark)
    if len(accounts) > _ACCOUNTS_SHOWN:
        table.add_row(f"and {len(accounts) - _ACCOUNTS_SHOWN} more", style="dim")
    return table


def _figure(account: Account, name: str) -> int:
    if name == "open":
        return account.unresolved + account.uncollected + account.pending
    return getattr(account, name)


def _remarks(outcome: Outcome, total: Account) -> list[tuple[str, str]]:
    remarks: list[tuple[str, str]] = []
    if total.refused:
        refused = f"{_counted(total.refused, 'call was', 'calls were')} refused for lack of credits, before running"
        remarks.append((refused, "yellow"))
    if total.unavailable:
        calls = _counted(total.unavailable, "call", "calls")
        text = f"{calls} did not run because the ledger gave no definite answer"
        remarks.append((text, "yellow"))
    if total.in_doubt_holds:
        ended = outcome.time_moved and not total.reserved_at_the_end
        text = (
            f"{_counted(total.in_doubt_holds, 'hold', 'holds')} over {total.in_doubt:,} credits in doubt: "
            f"the ledger had {total.reserved:,} of them" + (", until their validity had passed" if ended else "")
        )
        remarks.append((text, "yellow"))
    for name in ("unresolved", "uncollected", "pending"):
        number = getattr(total, f"{name}_charges")
        if number:
            charges = _counted(number, "charge", "charges")
            remarks.append(
                (f"{charges} over {getattr(total, name):,} credits {name}, and not in the price above", "red")
            )
    if not outcome.drained:
        remarks.append(("settlement was not done in time: give it more with --drain", "red"))
    return remarks


def _counted(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _verdict(outcome: Outcome) -> None:
    screen = console()
    differences = outcome.result.differences
    if accounted_for(outcome):
        screen.print(Text("The books balance to the credit: every charge once, with its own amount.", "bold green"))
        return
    screen.print(Text("Not every credit is accounted for:", style="bold red"))
    for difference in differences[:_DIFFERENCES_SHOWN]:
        screen.print(f"  {difference}", soft_wrap=True)
    if len(differences) > _DIFFERENCES_SHOWN:
        screen.print(f"  and {len(differences) - _DIFFERENCES_SHOWN} more (--json has them all)")
