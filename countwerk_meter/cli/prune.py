"""`countwerk-meter prune`: old rows that have ended shrink to what must never be forgotten."""

from datetime import timedelta
from typing import Annotated

import typer

from countwerk_meter._metering.operations import Operations
from countwerk_meter.cli.answers import console, print_json, reported
from countwerk_meter.cli.existing_journal import ledger_named, opened
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl, age


def prune(
    *,
    older_than: Annotated[
        timedelta,
        typer.Option("--older-than", parser=age, metavar="AGE", help="Begun longer ago: 90d, 36h, 4w; a day at least."),
    ],
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """
    Shrink old charges that have ended to a tombstone, and forget old holds. What is left to settle or decide stays.

    A tombstone keeps id, account, operation, state and amount: the id met again is still no second charge.
    """
    with reported("prune", as_json=as_json):
        ledger = ledger_named(base_url)
        with opened("prune", journal, as_json=as_json) as store:
            done = Operations(store, ledger).prune(older_than)
    if as_json:
        print_json({"ledger": ledger, "journal": store.name, "charges": done.charges, "holds": done.reservations})
    else:
        line = f"{done.charges:,} charges shrunk to a tombstone, {done.reservations:,} holds forgotten"
        console().print(line, soft_wrap=True)
