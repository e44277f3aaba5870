"""The demo on a terminal: what is happening, then one table to read at a glance, then the books beside the meter's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from countwerk_meter.cli.answers import console
from countwerk_meter.cli.demo.scenario import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter.cli.demo.run import Shown
    from countwerk_meter.cli.demo.scenario import Observed

_NOT_CHARGED = frozenset({"denied", "cancelled", "orphaned"})


class Display:
    """A progress bar on stderr; nothing where that is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        stderr = console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=stderr,
            disable=quiet or not stderr.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=len(SCENARIOS))

    def phase(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def saw(self, observed: Observed) -> None:
        self._progress.update(self._task, advance=1, description=f"{observed.what}: {observed.answers}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def as_json(shown: Shown, model: str | None) -> dict[str, Any]:
    """Return all of it as JSON data."""
    verdict = shown.verdict
    return {
        "charges": verdict.charges,
        "denied": verdict.denied,
        "double_charged": verdict.double_charged,
        "lost": verdict.lost,
        "leaked_holds": verdict.leaked_holds,
        "books_balance": verdict.books_balance,
        "seconds": round(shown.seconds, 2),
        "model": model or "fake",
        "scenarios": [
            {
                "account_id": seen.account_id,
                "what": seen.what,
                "answers": seen.answers,
                "owed": [seen.least, seen.most],
                "reserved": _reserved(shown.books[seen.account_id]),
                "charged": shown.books[seen.account_id]["spent"],
                "charged_by_the_meter": _by_the_meter(shown, seen.account_id),
                "why": seen.why,
            }
            for seen in shown.observed
        ],
    }


def show(shown: Shown, model: str | None) -> None:
    """Print the tables and the verdict."""
    screen = console()
    screen.print(_what_happened(shown, model))
    screen.print()
    screen.print(_books(shown))
    screen.print()
    verdict = shown.verdict
    figures = (
        f"{verdict.charges} charges, {verdict.denied} denied; credits charged twice: {verdict.double_charged}, "
        f"lost: {verdict.lost}, still held: {verdict.leaked_holds}; "
        f"the books {'balance' if verdict.books_balance else 'do NOT balance'}; {shown.seconds:.1f} s"
    )
    screen.print(Text(figures, style="bold green" if verdict.good else "bold red"), soft_wrap=True)


def _what_happened(shown: Shown, model: str | None) -> Table:
    title = f"Credits, request by request ({model or 'a fake model'})"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("What happened", no_wrap=True)
    table.add_column("HTTP", no_wrap=True)
    table.add_column("Reserved", justify="right")
    table.add_column("Charged", justify="right", style="bold")
    table.add_column("Why", style="dim")
    for seen in shown.observed:
        statement = shown.books[seen.account_id]
        spent: int = statement["spent"]
        right = seen.least <= spent <= seen.most
        holds = [hold["amount"] for hold in statement["reservations"]]
        table.add_row(
            seen.what,
            seen.answers,
            _sum(holds),
            Text(str(spent) if right else f"{spent}, not {seen.least}", style="" if right else "bold red"),
            seen.why,
        )
    return table


def _books(shown: Shown) -> Table:
    title = "The sandbox's books beside the meter's"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Account", no_wrap=True)
    for name in ("Earned", "Available", "Held", "Spent", "Meter charged"):
        table.add_column(name, justify="right")
    table.add_column("")
    total: dict[str, int] = dict.fromkeys(("earned", "available", "reserved", "spent", "meter"), 0)
    for seen in shown.observed:
        statement = shown.books[seen.account_id]
        figures = {name: int(statement[name]) for name in total if name != "meter"}
        figures["meter"] = _by_the_meter(shown, seen.account_id)
        for name, number in figures.items():
            total[name] += number
        table.add_row(seen.account_id, *map(str, figures.values()), _mark(figures))
    table.add_section()
    table.add_row("all", *map(str, total.values()), _mark(total), style="bold")
    return table


def _mark(figures: Mapping[str, int]) -> Text:
    parts = figures["available"] + figures["reserved"] + figures["spent"]
    same = figures["spent"] == figures["meter"] and figures["earned"] == parts and not figures["reserved"]
    return Text("same", style="green") if same else Text("DIFFERENT", style="bold red")


def _sum(holds: list[int]) -> str:
    if len(holds) < 2:
        return str(sum(holds))
    return f"{len(holds)} x {holds[0]}" if len(set(holds)) == 1 else f"{sum(holds)} in {len(holds)}"


def _reserved(statement: Mapping[str, Any]) -> int:
    return sum(hold["amount"] for hold in statement["reservations"])


def _by_the_meter(shown: Shown, account_id: str) -> int:
    """Add up what the meter says it charged; what lies over a hold is part of its charge."""
    return sum(
        charge["amount"] or 0
        for charge in shown.charges
        if charge["account_id"] == account_id
        and charge["state"] not in _NOT_CHARGED
        and not charge["usage_event_id"].endswith(".over")
    )
