"""
`countwerk-meter reconcile`: what the client cannot decide, what speaks for what, and how to close it.

Looking and closing need no key and no network; only a deduct by hand (`close --deduct`) does.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from countwerk_meter._flow.reconcile import Closed, Finding
from countwerk_meter._metering.charges import Charge
from countwerk_meter._metering.listed import Listed
from countwerk_meter._metering.operations import Operations, checked_note
from countwerk_meter.cli.answers import NO, console, print_json, reported
from countwerk_meter.cli.existing_journal import ledger_named, meter_on, opened
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl, OnCrash, Policy, Product, Rounded, Rounding
from countwerk_meter.errors import ConfigurationError

_MEANING = {
    "charged": "the ledger has it; nothing more is sent",
    "not-charged": "the ledger does not have it; with --deduct it is charged now, once, under ID.late",
    "written-off": "forgiven, or nobody will find out; nothing more is sent",
}
_MADE_UP_FOR = ("vanished", "expired", "refused in doubt", "rejected")

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def reconcile(
    context: typer.Context,
    *,
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List what the client cannot decide, and how to close it. Exit code 1: something waits for a person."""
    if context.invoked_subcommand is not None:
        sources = [context.get_parameter_source(name) for name in context.params]
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(f"options go behind the command: reconcile {context.invoked_subcommand} ...")
        return
    with reported("reconcile", as_json=as_json):
        ledger = ledger_named(base_url)
        with opened("reconcile", journal, as_json=as_json) as store:
            listed = Operations(store, ledger).listed()
    found = [item for item in listed if account in {None, item.account_id}]
    if as_json:
        rows = [item.to_dict() | {"ways": _ways(item)} for item in found]
        print_json({"ledger": ledger, "journal": store.name, "listed": rows, "closing": _MEANING})
    elif found:
        _show(found)
    else:
        console().print(f"Nothing is left to decide for {ledger} in {store.name}", soft_wrap=True)
    if any(item.decidable for item in found):
        raise typer.Exit(NO)


@app.command()
def close(
    name: Annotated[str, typer.Argument(metavar="ID", help="As reconcile lists it.")],
    *,
    finding: Annotated[Finding, typer.Option("--as", help="What you found out.")],
    note: Annotated[str, typer.Option("--note", help="Who found out what, and how: one line, kept for good.")],
    deduct: Annotated[
        bool,
        typer.Option("--deduct", help="With not-charged: charge it now, once, under ID.late. Needs the hold expired."),
    ] = False,
    on_crash: Policy = OnCrash.CHECKPOINT,
    rounding: Rounded = Rounding.CEIL,
    product: Product = None,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """
    Close one listed row. The note stays with it: `countwerk-meter charges show ID` shows both.

    No closing moves money, but for --deduct: who says wrongly that it was not charged, charges it twice.
    """
    with reported("reconcile close", as_json=as_json):
        checked_note(note)
        ledger = ledger_named(base_url)
        if deduct and not product:
            raise ConfigurationError("a deduct needs an AI product: pass --product or set COUNTWERK_AI_PRODUCT_ID")
        with opened("reconcile close", journal, as_json=as_json) as store:
            if deduct and product:
                with meter_on(store, product, base_url, on_crash, rounding) as meter:
                    done = meter.operations.close(name, finding, note=note, deduct=True)
                    meter.flush()
                    leg = next(
                        (each for each in meter.charges() if done.deduct and done.deduct.id == each.usage_event_id),
                        None,
                    )
            else:
                done, leg = Operations(store, ledger).close(name, finding, note=note), None
    if as_json:
        print_json({"closed": name, "as": str(finding), "again": done.again, "deduct": leg and leg.to_dict()})
    else:
        _show_closed(name, finding, done, leg)


def _show_closed(name: str, finding: Finding, done: Closed, leg: Charge | None) -> None:
    screen = console()
    already = " before, with the same words" if done.again else ""
    screen.print(f"{name} is closed{already} as {finding}: {_MEANING[finding].partition(';')[0]}.", soft_wrap=True)
    if leg is not None:
        screen.print(f"{leg.usage_event_id}: {leg.amount} credits, {leg.state}.", soft_wrap=True)
    else:
        screen.print("Nothing was sent.")


def _can_be_deducted(item: Listed) -> bool:
    return item.kind in _MADE_UP_FOR and item.confirms > 0


def _ways(item: Listed) -> list[str]:
    """Return the commands that close a row."""
    if not item.decidable:
        return []
    command = f"countwerk-meter reconcile close {item.id}"
    ways = [f"{command} --as {finding} --note ..." for finding in Finding]
    if _can_be_deducted(item):
        ways.insert(2, f"{command} --as not-charged --deduct --note ...")
    return ways


def _show(found: list[Listed]) -> None:
    screen = console()
    for item in found:
        screen.print(Text(item.id, style="bold"), soft_wrap=True)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in _lines(item):
            table.add_row(f"  {label}", text)
        screen.print(table)
        _print_way(screen, item)
        screen.print()
    _legend(screen, found)


def _lines(item: Listed) -> Iterable[tuple[str, Text]]:
    stake = f"{item.credits:,} credits of {item.account_id} for {item.operation}"
    yield "what", Text(f"{stake}, begun {_when(item.created_at)}")
    colour = "red" if item.decidable else "cyan"
    yield "why", Text.assemble((item.kind, colour), f": {item.why}")
    if item.reason and item.reason != item.kind:
        yield "noted", Text(item.reason)
    if item.confirms or item.cancels:
        yield "sent", Text(", ".join(_attempts(item)))
    if item.call:
        yield "call", Text(item.call)
    if item.held is not None:
        yield "hold", Text(_hold(item))
    if item.trace_id:
        yield "trace", Text(item.trace_id)


def _attempts(item: Listed) -> Iterable[str]:
    for word, number, unanswered in (
        ("confirm", item.confirms, item.confirms_open),
        ("cancel", item.cancels, item.cancels_open),
    ):
        if number:
            plural = "" if number == 1 else "s"
            yield f"{number} {word}{plural}, {unanswered} of them without a definite answer"


def _hold(item: Listed) -> str:
    name = item.reservation_id or "never named"
    if item.expires_at is None:
        return f"{name}, {item.held:,} credits"
    clock = "by the ledger's clock" if item.reservation_id else "by its validity"
    verb = "ended" if item.expires_at < datetime.now(UTC) else "ends"
    return f"{name}, {item.held:,} credits, {verb} {_when(item.expires_at)} {clock}"


def _print_way(screen: Console, item: Listed) -> None:
    """Say how to close it, in one line that can be copied."""
    if item.decidable:
        line = f"  countwerk-meter reconcile close {item.id} --as FINDING --note 'who found out what'"
        screen.print(Text(line, style="dim"), soft_wrap=True)


def _legend(screen: Console, found: list[Listed]) -> None:
    if any(item.decidable for item in found):
        screen.print("Look the hold or the id up in the ledger's own transactions, then close each row. FINDING is")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        deducts = any(_can_be_deducted(item) for item in found)
        for finding, meaning in _MEANING.items():
            short = finding == Finding.NOT_CHARGED and not deducts
            table.add_row(f"  {finding}", meaning.partition(";")[0] if short else meaning)
        screen.print(table)
    counts = Counter(item.kind for item in found)
    stake = sum(item.credits for item in found if item.decidable)
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    screen.print(Text(f"{kinds}. To decide: {stake:,} credits.", style="bold"), soft_wrap=True)


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
