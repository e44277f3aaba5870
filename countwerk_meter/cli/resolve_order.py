"""`countwerk-meter resolve-order`: which account a Digistore24 order belongs to."""

from typing import Annotated

import typer

from countwerk_meter.cli.answers import console, print_json, reported
from countwerk_meter.cli.options import AsJson, BaseUrl, Timeout
from countwerk_meter.client import CountwerkClient


def resolve_order(
    order: Annotated[str, typer.Argument(help="The order.", metavar="ORDER")],
    *,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Keep asking while the order is not mapped yet.")
    ] = 0.0,
    base_url: BaseUrl = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Find the account of a Digistore24 order."""
    with (
        reported("resolve-order", as_json=as_json),
        CountwerkClient(base_url=base_url, timeout=timeout) as client,
        console(stderr=True).status(f"Waiting up to {wait:g} s for the order to be mapped"),
    ):
        found = client.resolve_order(order, wait=wait)
    if as_json:
        print_json(found.model_dump(mode="json", include={"order_id", "account_id", "ai_product_id"}))
        return
    product = f" (product {found.ai_product_id})" if found.ai_product_id else ""
    typer.echo(f"Order {found.order_id} belongs to account {found.account_id}{product}")
