"""`countwerk-meter balance`: an account's credits, as the ledger has them."""

from typing import Annotated

import typer
from rich.table import Table

from countwerk_meter.cli.answers import console, print_json, reported
from countwerk_meter.cli.options import AsJson, BaseUrl, Timeout
from countwerk_meter.client import Balance, CountwerkClient


def balance(
    account: Annotated[str, typer.Argument(help="The account.", metavar="ACCOUNT")],
    *,
    base_url: BaseUrl = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show an account's credits."""
    with reported("balance", as_json=as_json), CountwerkClient(base_url=base_url, timeout=timeout) as client:
        found = client.balance(account)
    if as_json:
        print_json({"account_id": account, **found.model_dump(mode="json", include=set(Balance.model_fields))})
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, number in (
        ("Available", found.available_balance),
        ("Reserved", found.reserved_balance),
        ("Balance", found.balance),
        ("Earned", found.total_earned),
        ("Spent", found.total_spent),
    ):
        table.add_row(name, f"{number:,}", style="bold" if name == "Available" else None)
    screen = console()
    screen.print(f"{account}, in credits", soft_wrap=True)
    screen.print(table)
    if found.next_expiration is not None:
        screen.print(f"Next expiration {found.next_expiration:%Y-%m-%d %H:%M:%S %Z}")
