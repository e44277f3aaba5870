"""
`countwerk-meter settle`: settle now what waits in the journal.

It takes over what dead processes left, and leaves alone what belongs to processes that live: they settle it themselves.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter.cli.answers import NO, console, print_json, reported
from countwerk_meter.cli.existing_journal import meter_on, opened
from countwerk_meter.cli.left import MEANING, NOT_LEFT, left, taken_over
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl, OnCrash, Policy, Product, Rounded, Rounding
from countwerk_meter.errors import ConfigurationError


def settle(
    *,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to go on.")] = 60.0,
    on_crash: Policy = OnCrash.CHECKPOINT,
    rounding: Rounded = Rounding.CEIL,
    product: Product = None,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Settle what waits in the journal. Exit code 1: something is left."""
    counts: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    recovered: dict[str, Any] = {"closed": 0, "resumed": 0, "orphans": 0}

    def hear(event: str, fields: Mapping[str, Any]) -> None:
        if event == "recovered":
            recovered.update(fields)
        amount = fields.get("amount")
        counts[event] += 1
        amounts[event] += amount if isinstance(amount, int) else 0

    with reported("settle", as_json=as_json):
        if not product:
            raise ConfigurationError("no AI product: pass --product or set COUNTWERK_AI_PRODUCT_ID")
        endpoint = Endpoint.of(None, base_url)
        with opened("settle", journal, as_json=as_json) as store:
            with (
                console(stderr=True).status("Settling"),
                meter_on(store, product, base_url, on_crash, rounding, hear) as meter,
            ):
                meter.flush(timeout)
                meter.close(1.0)
            remaining = left(store, endpoint.base_url, endpoint.fingerprint)
    to_do = sum(number for name, number in remaining.items() if name not in NOT_LEFT)
    done = {"charges": counts["charged"], "credits": amounts["charged"]}
    if as_json:
        print_json({"journal": store.name, "taken_over": recovered, "settled": done, "left": remaining})
    else:
        _show(store.name, recovered, done, remaining)
        if counts["paused"]:
            console().print(
                "The ledger refuses this API key, and nothing settles: check COUNTWERK_API_KEY", style="red"
            )
    if to_do:
        raise typer.Exit(NO)


def _show(journal: str, recovered: Mapping[str, Any], done: Mapping[str, int], remaining: Mapping[str, int]) -> None:
    screen = console()
    if any(recovered.values()):
        screen.print(taken_over(recovered), soft_wrap=True)
    screen.print(f"Settled: {done['charges']} charges, {done['credits']:,} credits")
    rest = {name: number for name, number in remaining.items() if number}
    if not rest:
        screen.print(f"Nothing is left in {journal}.", soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim", overflow="fold")
    for name, number in rest.items():
        table.add_row(f"{number:,}", name, MEANING[name], style=None if name in NOT_LEFT else "yellow")
    screen.print(table)
