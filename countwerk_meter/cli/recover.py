"""
`countwerk-meter recover`: take over what dead processes left, and with one word what an older API key left.

Which keys open the same accounts is a person's word: nothing in the contract proves it, and a deduct under the wrong
key would charge somebody else. So it is a command, and never happens by itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._metering.operations import Operations
from countwerk_meter.cli.answers import NO, console, print_json, print_whole, reported
from countwerk_meter.cli.doctor.ledger import DEFAULT_ACCOUNT
from countwerk_meter.cli.existing_journal import meter_on, opened
from countwerk_meter.cli.left import MEANING, SETTLES, left, taken_over
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl, OnCrash, Policy, Product, Rounded, Rounding
from countwerk_meter.client import CountwerkClient
from countwerk_meter.errors import AuthenticationError, ConfigurationError, CountwerkError


def recover(
    *,
    take_over_key: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT",
            help="First make the rows of that API key this key's own (doctor names the keys). Only where both keys "
            "open the same accounts: nothing in the contract proves it, and a wrong word charges somebody else.",
        ),
    ] = None,
    on_crash: Policy = OnCrash.CHECKPOINT,
    rounding: Rounded = Rounding.CEIL,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to settle what it took.")] = 10.0,
    product: Product = None,
    journal: JournalUrl = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take over what dead processes of this API key left, and settle it. Exit code 1: not all of it is settled yet."""
    taken: dict[str, Any] = {"closed": 0, "resumed": 0, "orphans": 0}
    calls: list[dict[str, Any]] = []

    def hear(event: str, fields: Mapping[str, Any]) -> None:
        if event == "recovered":
            for name in taken:
                taken[name] += fields[name]
        elif event == "crashed":
            calls.append(dict(fields))

    moved = None
    with reported("recover", as_json=as_json):
        if not product:
            raise ConfigurationError("no AI product: pass --product or set COUNTWERK_AI_PRODUCT_ID")
        endpoint = Endpoint.of(None, base_url)
        with opened("recover", journal, as_json=as_json) as store:
            if take_over_key is not None:
                _not_refused(base_url)
                moved = Operations(store, endpoint.base_url).take_over_key(take_over_key, endpoint.fingerprint)
            with (
                console(stderr=True).status("Recovering"),
                meter_on(store, product, base_url, on_crash, rounding, hear) as meter,
            ):
                meter.close(timeout)
            remaining = left(store, endpoint.base_url, endpoint.fingerprint)
    settled = not any(remaining[name] for name in SETTLES)
    if as_json:
        print_json({"journal": store.name, "moved": moved, "taken_over": taken, "calls": calls, "settled": settled})
    else:
        _show(moved, taken, calls, settled=settled)
        if others := remaining["of other keys"]:
            console().print(f"{others:,} {MEANING['of other keys']}", soft_wrap=True)
    if not settled:
        raise typer.Exit(NO)


def _not_refused(base_url: str | None) -> None:
    """
    Raise if the ledger refuses this key: rows of a key that works are not given to one that does not.

    Whether it knows the account does not matter, nor whether it answers: then there is nothing against the key.
    """
    with CountwerkClient(base_url=base_url) as client:
        try:
            client.balance(DEFAULT_ACCOUNT)
        except AuthenticationError:
            raise
        except CountwerkError:
            return


def _show(moved: int | None, taken: Mapping[str, int], calls: list[dict[str, Any]], *, settled: bool) -> None:
    screen = console()
    if moved is not None:
        screen.print(f"{moved:,} rows of the other API key are this key's now")
    if not any(taken.values()):
        screen.print("Nothing to take over from dead processes.")
    else:
        screen.print(taken_over(taken), soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    for call in calls:
        state = "lost: nothing charged, see reconcile" if call["state"] == "lost" else f"{call['amount']:,} credits"
        table.add_row(call["usage_event_id"], call["account_id"], call["operation"], state)
    if calls:
        print_whole(table)
    if not settled:
        screen.print("Not all of it is settled yet: countwerk-meter settle")
