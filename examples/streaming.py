"""
Metering streams, sync and async: charged for what was consumed, also when the consumer leaves in the middle.

    python examples/streaming.py

Runs against a sandbox ledger that it starts itself, or against the one at COUNTWERK_BASE_URL (with COUNTWERK_API_KEY,
COUNTWERK_AI_PRODUCT_ID and COUNTWERK_EXAMPLE_ACCOUNT).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from countwerk_meter import Meter, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

PRICES = Path(__file__).with_name("prices.json")
ANSWER = ["A", "stream", "is", "paid", "for", "by", "what", "came", "out", "of", "it"]
# What one call holds: a prompt of 400 tokens, and at most 2,000 tokens of output.
MOST = Usage(input_tokens=400, output_tokens=2_000)


def used(words: list[str]) -> Usage:
    """Count what a stream gave so far: each word of our model is 200 tokens."""
    return Usage(input_tokens=400, output_tokens=200 * len(words))


def run(meter: Meter, account: str) -> list[int]:
    metered = {"account_id": account, "estimate": MOST, "usage": used, "model": "gpt-5"}

    @meter.metered("example.stream", **metered)
    def stream() -> Generator[str, None, None]:
        yield from ANSWER

    @meter.metered("example.astream", **metered)
    async def astream() -> AsyncGenerator[str, None]:
        for word in ANSWER:
            await asyncio.sleep(0)
            yield word

    print("sync, to the end:  ", *stream())

    with contextlib.closing(stream()) as words:
        print("sync, broken off:  ", next(words), next(words))

    async def consume() -> None:
        print("async, to the end: ", *[word async for word in astream()])
        async with contextlib.aclosing(astream()) as words:
            print("async, broken off: ", await anext(words), await anext(words), await anext(words))

    asyncio.run(consume())

    # A block says it by hand: from `yielded()` on, a stream that fails is not free.
    with contextlib.suppress(ConnectionError), meter.reserve(account, "example.block", amount=4) as reservation:
        for word in ANSWER[:3]:
            reservation.yielded()
            print("block, fails later:", word)
        raise ConnectionError("the provider hung up before it said what it used")

    meter.flush()
    charges = list(reversed(meter.charges("settled", limit=5)))
    for charge in charges:
        print(f"  {charge.operation:<16}{charge.amount} credits (basis {charge.basis}, exactly {charge.exact})")
    return [charge.amount or 0 for charge in charges]


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
            amounts = run(meter, "acct_example")
        books = sandbox.control.books("acct_example")
        print(f"books: {books['spent']} spent, {books['reserved']} held, {books['available']} left")
        # Each rounded up. What the block used is unknown: its hold.
        assert amounts == [4, 1, 4, 1, 4]
        assert (books["spent"], books["reserved"]) == (14, 0)


if __name__ == "__main__":
    main()
