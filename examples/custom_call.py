"""
Metering a call of your own: with a block, and with a decorator.

    python examples/custom_call.py

Runs against a sandbox ledger that it starts itself, or against the one at COUNTWERK_BASE_URL (with COUNTWERK_API_KEY,
COUNTWERK_AI_PRODUCT_ID and COUNTWERK_EXAMPLE_ACCOUNT).
"""

from __future__ import annotations

import os
from pathlib import Path

from countwerk_meter import InsufficientCreditsError, Meter, Usage

PRICES = Path(__file__).with_name("prices.json")


def call_my_model(prompt: str) -> dict[str, object]:
    """Stand in for any client that says what it used; `Usage.of` reads the common shapes."""
    if "fail" in prompt:
        raise ConnectionError("the provider is overloaded")
    return {"text": f"About {prompt}: ...", "usage": {"prompt_tokens": 1_200, "completion_tokens": 900}}


def run(meter: Meter, account: str) -> None:
    # 1. A block: hold what the call costs at most, record what it used. The rest of the hold goes back.
    most = Usage(input_tokens=1_500, output_tokens=2_000)
    with meter.reserve(account, "example.block", estimate=most, model="gpt-5") as reservation:
        answer = call_my_model("ledgers")
        reservation.record(Usage.of(answer["usage"]), model="gpt-5")
    print(f"block:     held {reservation.amount} credits for {answer['text']}")

    # 2. A decorator: every call of the function. Each argument is a value, or a callable of the call's own arguments.
    @meter.metered(
        "example.decorated",
        account_id=lambda account, _prompt: account,
        estimate=most,
        usage=lambda answer: Usage.of(answer["usage"]),
        model="gpt-5",
    )
    def ask(account: str, prompt: str) -> dict[str, object]:  # noqa: ARG001 - the decorator reads the account
        return call_my_model(prompt)

    print("decorated:", ask(account, "credits")["text"])

    # 3. A price that is known beforehand, or worked out by you.
    with meter.reserve(account, "example.flat", price=2):
        call_my_model("flat prices")
    with meter.reserve(account, "example.own", amount=10) as reservation:
        call_my_model("own prices")
        reservation.settle(3)

    # 4. A call that fails before it gave anything costs nothing.
    try:
        ask(account, "please fail")
    except ConnectionError as error:
        print("failed:   ", error)

    # 5. A call that the account cannot pay for is not made.
    try:
        with meter.reserve(account, "example.film", amount=1_000_000_000):
            raise AssertionError("nobody can pay for this, so it is never reached")
    except InsufficientCreditsError as refused:
        print("refused:  ", refused)

    # Settlement runs behind the app; here we wait for it to show what came of it.
    meter.flush()
    for charge in reversed(meter.charges(limit=6)):
        amount = "nothing" if charge.amount is None else f"{charge.amount} credits (basis {charge.basis})"
        print(f"  {charge.operation:<18}{charge.state:<10}{amount}")


def main() -> None:
    if os.environ.get("COUNTWERK_BASE_URL"):
        with Meter.from_env(prices=PRICES) as meter:
            run(meter, os.environ.get("COUNTWERK_EXAMPLE_ACCOUNT", "acct_123"))
        return
    from countwerk_meter.sandbox import SandboxServer

    with SandboxServer() as sandbox:
        sandbox.control.account("acct_example", balance=100, ai_product_id="prod_example")
        options = {"api_key": sandbox.api_key, "base_url": sandbox.url, "journal": "memory:", "prices": PRICES}
        with Meter("prod_example", **options) as meter:
            run(meter, "acct_example")
        books = sandbox.control.books("acct_example")
        print(f"books:     {books['spent']} spent, {books['reserved']} held, {books['available']} left")
        # 1.476 credits by prices.json, so 2, for the block and for the decorated call; then 2 and 3.
        assert (books["spent"], books["reserved"]) == (2 + 2 + 2 + 3, 0)


if __name__ == "__main__":
    main()
