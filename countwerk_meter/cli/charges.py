"""`countwerk-meter charges`: what the journal knows, without the ledger: no key, no network."""

import time
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from countwerk_meter._flow.attempts import Load, LoadCharge
from countwerk_meter._flow.legs import LATE, OVER
from countwerk_meter._flow.overview import EVERY, Charges
from countwerk_meter._flow.states import ChargeState
from countwerk_meter._metering.amounts import NESTED
from countwerk_meter._metering.charges import Charge
from countwerk_meter._metering.hold import Hold
from countwerk_meter._metering.summary import Total, summary
from countwerk_meter.cli.answers import NO, console, print_json, print_whole, refuse, reported
from countwerk_meter.cli.default_command import with_default
from countwerk_meter.cli.existing_journal import ledger_named, opened
from countwerk_meter.cli.options import AsJson, BaseUrl, Enforcement, JournalUrl, age

_STYLES = {
    "unresolved": "red",
    "uncollected": "red",
    "lost": "red",
    "committed": "yellow",
    "open": "cyan",
    "settled": None,
}


_DEFAULT = "list"
charges = typer.Typer(
    cls=with_default(_DEFAULT),
    help="List charges, show one in full (`charges show ID`), or add them up (`charges summary`).",
)


@charges.command(_DEFAULT, epilog="One in full: countwerk-meter charges show ID. Added up: charges summary.")
def list_charges(
    *,
    state: Annotated[
        list[ChargeState] | None, typer.Option("--state", "-s", help="Only these; may be given several times.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=EVERY, help="The newest so many.")] = 50,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    enforcement: Enforcement = "on",
    as_json: AsJson = False,
) -> None:
    """List a ledger's charges in the journal, newest first."""
    with reported("charges", as_json=as_json):
        ledger = ledger_named(base_url, enforcement)
        with opened("charges", journal, as_json=as_json) as store:
            read = min(limit + 1, EVERY) if account is None else EVERY
            rows = store.run(Charges(ledger, frozenset(state) if state else None, read))
    found = [Charge.of(row) for row in rows if account is None or row.account_id == account]
    more, found = len(found) > limit, found[:limit]
    if as_json:
        listed = [charge.to_dict() for charge in found]
        print_json({"ledger": ledger, "journal": store.name, "charges": listed, "more": more})
    elif found:
        _list(found)
        if more:
            console().print(f"The newest {limit:,}; there are more: --limit", style="dim")
    else:
        _none(ledger, store.name, enforcement)


@charges.command()
def show(
    charge_id: Annotated[str, typer.Argument(metavar="ID", help="Its usage_event_id.")],
    *,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    enforcement: Enforcement = "on",
    as_json: AsJson = False,
) -> None:
    """Show one charge in full: what was measured, which rule priced it at what rate, its hold, its legs."""
    with reported("charges", as_json=as_json):
        ledger = ledger_named(base_url, enforcement)
        with opened("charges", journal, as_json=as_json) as store:
            # A second late part of one charge is `<id>.late.late`.
            legs = (charge_id, charge_id + OVER, *(charge_id + LATE * number for number in range(1, 10)))
            rows = [row for row in (store.run(LoadCharge(ledger, name)) for name in legs) if row is not None]
            key = rows[0].reservation_key if rows else None
            # Pruned, the hold is forgotten, and its charge is not.
            claim = None if key is None else store.run(Load(key))
    if not rows:
        refuse("charges", f"no charge {charge_id} of {ledger} in {store.name}", NO, as_json=as_json)
    _show_in_full([Charge.of(row) for row in rows], None if claim is None else Hold.of(claim), as_json=as_json)


@charges.command("summary")
def summarise(
    *,
    account: Annotated[str | None, typer.Option("--account", help="Only this account's.")] = None,
    since: Annotated[
        timedelta | None,
        typer.Option("--since", parser=age, metavar="AGE", help="Begun at most so long ago: 30d, 12h."),
    ] = None,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    enforcement: Enforcement = "on",
    as_json: AsJson = False,
) -> None:
    """Add charges up by account, operation and model; of a shadow meter, what would have been charged and refused."""
    with reported("charges", as_json=as_json):
        ledger = ledger_named(base_url, enforcement)
        with opened("charges", journal, as_json=as_json) as store:
            rows = store.run(Charges(ledger, None, EVERY))
    begun = 0.0 if since is None else time.time() - since.total_seconds()
    totals = summary(row for row in rows if row.created_at >= begun and account in {None, row.account_id})
    if as_json:
        print_json({"ledger": ledger, "journal": store.name, "totals": [asdict(total) for total in totals]})
    elif totals:
        _add_up(totals, shadow=enforcement == "shadow")
    else:
        _none(ledger, store.name, enforcement)


def _none(ledger: str, journal: str, enforcement: str) -> None:
    shadow = "" if enforcement == "shadow" else " (what a shadow meter noted: --enforcement shadow)"
    console().print(f"No such charges of {ledger} in {journal}{shadow}", soft_wrap=True)


def _add_up(totals: list[Total], *, shadow: bool) -> None:
    if shadow:
        console().print("Shadow mode: this is what would have happened. Nothing was charged or refused.\n")
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    for name in ("Account", "Operation", "Model"):
        table.add_column(name, footer="In all" if name == "Account" else "")
    for name, field in (
        ("Calls", "calls"), ("Credits", "credits"), ("Refused", "refused"), ("Credits refused", "refused_credits"),
        ("Listed", "listed"),
    ):  # fmt: skip
        table.add_column(name, justify="right", footer=f"{sum(getattr(total, field) for total in totals):,}")
    for total in totals:
        numbers = (total.calls, total.credits, total.refused, total.refused_credits, total.listed)
        table.add_row(total.account_id, total.operation, total.model, *(f"{number:,}" for number in numbers))
    print_whole(table)


def _state(charge: Charge) -> str:
    """Return where a charge is; one that its nested calls paid was not undone, though `cancelled` is its state."""
    return "in its calls" if charge.reason == NESTED else charge.state


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
            _state(charge),
            # What a leg carries stands in the leg's own row, so that the column adds up.
            "" if charge.amount is None else f"{charge.share:,}",
            charge.basis or "",
            charge.usage_event_id,
            style=_STYLES.get(charge.state, "dim"),
        )
    print_whole(table)


def _show_in_full(found: list[Charge], hold: Hold | None, *, as_json: bool) -> None:
    charge, legs = found[0], found[1:]
    if as_json:
        held = None if hold is None else hold.to_dict()
        print_json({"charge": charge.to_dict(), "hold": held, "legs": [leg.to_dict() for leg in legs]})
        return
    _print_fields(charge)
    if hold is not None:
        console().print("\nHold", style="bold")
        _print_fields(hold)
    for leg in legs:
        console().print()
        _print_fields(leg)


def _print_fields(shown: Charge | Hold) -> None:
    """Print what is known, a line each; of a charge how it was measured too."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for field in fields(shown):
        value = getattr(shown, field.name)
        if field.name == "state" and isinstance(shown, Charge) and _state(shown) != value:
            value = f"{value}: {_state(shown)}"
        if value is None or value is False or field.name == "lines":
            continue
        table.add_row(field.name.replace("_", " "), str(value))
    for line in shown.lines if isinstance(shown, Charge) else ():
        for said in _line(line):
            table.add_row("measured", said)
    console().print(table)


def _line(line: dict[str, Any]) -> list[str]:
    """Say what one record measured and what it cost, then each dimension's rule and rate."""
    pairs = [f"{name}={value}" for part in ("dimensions", "attributes") for name, value in line.get(part, {}).items()]
    cost = f" -> {line['credits']} credits by {', '.join(line.get('rules', []))}" if "credits" in line else ""
    unpriced = f" (no price: {', '.join(line['unmatched'])})" if line.get("unmatched") else ""
    doubt = f" ({line['quarantine']})" if line.get("quarantine") else ""
    parts = [
        f"  {part['quantity']} {part['dimension']} x {part['credits_per_unit']} = {part['credits']} ({part['rule']})"
        for part in line.get("breakdown", ())
    ]
    profile = [f"  profile {line['profile']}, ruleset {line['ruleset_hash']}"] if "profile" in line else []
    return [" ".join(pairs) + cost + unpriced + doubt, *parts, *profile]
