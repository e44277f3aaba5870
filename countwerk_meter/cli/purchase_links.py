"""
`countwerk-meter purchase-links`: an account's ways to buy, fetched now.

The rule: URLs go to stdout, where they were asked for, and nowhere else; none is made up or kept.
"""

from typing import Annotated

import typer

from countwerk_meter.cli.answers import NO, console, print_json, reported
from countwerk_meter.cli.options import AsJson, BaseUrl, Product, Timeout
from countwerk_meter.client import CountwerkClient, PurchaseOption
from countwerk_meter.errors import ConfigurationError


def purchase_links(
    account: Annotated[str, typer.Argument(help="The account.", metavar="ACCOUNT")],
    *,
    product: Product = None,
    base_url: BaseUrl = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show an account's ways to buy credits, with fresh links. Exit code 1: there is none at the moment."""
    with reported("purchase-links", as_json=as_json):
        if not product:
            raise ConfigurationError("no AI product: pass --product or set COUNTWERK_AI_PRODUCT_ID")
        with CountwerkClient(base_url=base_url, timeout=timeout) as client:
            links = client.purchase_links(product, account)
    if as_json:
        known = {"ai_product_id", "account_id", "current_order_id", "current_tier_product_id"}
        print_json({**links.model_dump(mode="json", include=known), "options": links.wire_options()})
    else:
        _show(links.options)
    if not links.enabled:
        raise typer.Exit(NO)


def _show(options: tuple[PurchaseOption, ...]) -> None:
    screen = console()
    if not any(option.enabled for option in options):
        screen.print("No way to buy at the moment.")
    for option in options:
        name = f"{option.type}: {option.label or option.to_product_id or ''}".rstrip(": ")
        if option.enabled and option.url:
            screen.print(name, style="bold", soft_wrap=True)
            # Whole, so that it can be copied out of a terminal of any width.
            screen.print(f"  {option.url}", soft_wrap=True)
        else:
            screen.print(
                f"{name} (not now: {option.disabled_reason or 'no reason given'})", style="dim", soft_wrap=True
            )
