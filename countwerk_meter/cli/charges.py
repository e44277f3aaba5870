"""`countwerk-meter charges`: what the journal knows, without the ledger: no key, no network."""

from dataclasses import fields
from typing import Annotated, Any

import typer
from rich.table import Table

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.overview import Charges
from countwerk_meter._flow.states import ChargeState
from countwerk_meter._metering.charges import Charge
from countwerk_meter.cli.answers import NO, console, print_json, print_whole, refuse, reported
from countwerk_meter.cli.existing_journal import ledger_named, open_existing
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl

_STYLES = {
    "unresolved": "red",
    "uncollected": "red",
    "lost": "red",
    "committed": "yellow",
    "open": "cyan",
    "settled": None,
}


def charges(
    charge_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One charge, in full.")] = None,
    *,
    state: Annotated[
        list[ChargeState] | None, typer.Option("--state", "-s", help="Only these; may be given several times.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest so many.")] = 50,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List a ledger's charges in the journal, newest first."""
    with reported("charges", as_json=as_json):
        ledger = ledger_named(base_url)
        store = open_existing("charges", journal, as_json=as_json)
        try:
            if charge_id is not None:
                # A second late part of one charge is `<id>.late.late`.
                legs = (charge_id, f"{charge_id}.over", *(charge_id + ".late" * number for number in range(1, 10)))
                rows = [row for row in (store.run(LoadCharge(ledger, name)) for name in legs) if row is not None]
            else:
                read = limit if account is None else 1_000_000_000
                rows = store.run(Charges(ledger, frozenset(state) if state else None, read))
        finally:
            store.close()
    found = [Charge.of(row) for row in rows if account is None or row.account_id == account][:limit]
    if charge_id is not None:
        if not found:
            refuse("charges", f"no charge {charge_id} of {ledger} in {store.name}", NO, as_json=as_json)
        _show_in_full(found, as_json=as_json)
        return
    if as_json:
        print_json({"ledger": ledger, "journal": store.name, "charges": [charge.to_dict() for charge in found]})
    elif found:
        _list(found)
    else:
        console().print(f"No such charges of {ledger} in {store.name}", soft_wrap=True)


def _list(found: list[Charge]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("When (UTC)", "Account", "Operation", "State"):
        table.add_column(name)
    table.add_column("Credits", justify="right")
    table.add_column("Basis")
    table.add_column("Id")
    for charge in found:
        table.add_row(
            f"{charge.created_at:%m-%d %H:%M:%S}",
            charge.account_id,
            charge.operation,
            charge.state,
            "" if charge.amount is None else f"{charge.amount:,}",
            charge.basis or "",
            charge.usage_event_id,
            style=_STYLES.get(charge.state, "dim"),
        )
    print_whole(table)


def _show_in_full(found: list[Charge], *, as_json: bool) -> None:
    charge, legs = found[0], found[1:]
    if as_json:
        print_json({"charge": charge.to_dict(), "legs": [leg.to_dict() for leg in legs]})
        return
    screen = console()
    for shown in found:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for field in fields(shown):
            value = getattr(shown, field.name)
            if value is None or field.name == "lines":
                continue
            table.add_row(field.name.replace("_", " "), str(value))
        for line in shown.lines:
            table.add_row("measured", _line(line))
        screen.print(table)
        if shown is not found[-1]:
            screen.print()


def _line(line: dict[str, Any]) -> str:
    """Say in one line what one record measured, and what it cost."""
    pairs = [f"{name}={value}" for part in ("dimensions", "attributes") for name, value in line.get(part, {}).items()]
    cost = f" -> {line['credits']} credits by {', '.join(line.get('rules', []))}" if "credits" in line else ""
    unpriced = f" (no price: {', '.join(line['unmatched'])})" if line.get("unmatched") else ""
    return " ".join(pairs) + cost + unpriced
