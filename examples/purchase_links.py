"""
Selling credits: what a user is shown when they run out, and finding the account of a fresh order.

    python examples/purchase_links.py

Runs against a sandbox ledger that it starts itself, or against the one at COUNTWERK_BASE_URL (with COUNTWERK_API_KEY,
COUNTWERK_AI_PRODUCT_ID, COUNTWERK_EXAMPLE_ACCOUNT and, to resolve one, COUNTWERK_EXAMPLE_ORDER).
"""

from __future__ import annotations

import os

from countwerk_meter import CountwerkClient, InsufficientCreditsError, Meter, PurchaseLinks
from countwerk_meter.errors import OrderNotMappedError


def show(links: PurchaseLinks) -> None:
    """Offer what is enabled, in the ledger's order. A URL is used at once: never stored, logged or built."""
    for option in links.options:
        if option.enabled:
            kept_out_of_logs = "a fresh link" if option.url else "no link"
            print(f"  {option.type:<10}{option.label}: {kept_out_of_logs}")
        else:
            # Never shown as a way to buy; this is for the vendor's own eyes.
            print(f"  {option.type:<10}{option.label}: not now ({option.disabled_reason})")


def run(meter: Meter, client: CountwerkClient, account: str, order: str | None) -> None:
    # 1. Out of credits: the call was not made, and the error brings the ways to buy.
    try:
        with meter.reserve(account, "example.film", amount=1_000_000_000):
            raise AssertionError("nobody can pay for this, so it is never reached")
    except InsufficientCreditsError as refused:
        print(f"402: {refused}; {refused.held} credits are in use by calls of ours")
        if refused.purchase_links is None:
            print(f"  no ways to buy: {refused.purchase_error}")
        else:
            show(refused.purchase_links)
        # For your front end: `refused.to_payload()`, which the ASGI middleware sends as the 402's body.
        payload = refused.to_payload()
        print(f"payload: {payload['status']} {payload['code']}, {len(payload['data']['options'])} options")

    # 2. A page "buy credits": the same, when you ask for it.
    print("on request:", len(meter.purchase_links(account).enabled), "ways to buy")

    # 3. After the purchase: the order, mapped to its account a little later. `wait` keeps asking for so long.
    if order is not None:
        try:
            client.resolve_order(order)
        except OrderNotMappedError as error:
            print(f"order {order}: {error.code}")
        resolved = client.resolve_order(order, wait=30)
        print(f"order {order}: belongs to {resolved.account_id}")


def main() -> None:
    if os.environ.get("COUNTWERK_BASE_URL"):
        with CountwerkClient() as client, Meter.from_env() as meter:
            run(
                meter,
                client,
                os.environ.get("COUNTWERK_EXAMPLE_ACCOUNT", "acct_123"),
                os.environ.get("COUNTWERK_EXAMPLE_ORDER"),
            )
        return
    from countwerk_meter.sandbox import SandboxServer

    with SandboxServer() as sandbox, CountwerkClient(sandbox.api_key, sandbox.url) as client:
        known = {"ai_product_id": "prod_example", "order_id": "order_1", "current_tier_product_id": "STARTER_001"}
        sandbox.control.account("acct_example", balance=5, **known)
        # Digistore24 needs a moment to link an order: this one is not mapped the first two times.
        sandbox.control.settings(unmapped_orders=[{"order_id": "order_1", "times": 2}])
        with Meter("prod_example", client=client, journal="memory:") as meter:
            run(meter, client, "acct_example", "order_1")


if __name__ == "__main__":
    main()
