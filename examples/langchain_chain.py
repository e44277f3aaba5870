"""
A LangChain chain whose model calls are metered.

    python examples/langchain_chain.py

Runs against a sandbox ledger that it starts itself, or against the one at COUNTWERK_BASE_URL (with COUNTWERK_API_KEY,
COUNTWERK_AI_PRODUCT_ID and COUNTWERK_EXAMPLE_ACCOUNT). The model is a fake one that streams: no
provider's key is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate

from countwerk_meter import InsufficientCreditsError, Meter

if TYPE_CHECKING:
    from collections.abc import Iterator

PRICES = Path(__file__).with_name("prices.json")
ANSWER = "A ledger remembers, so that nobody has to. "


class FakeChatModel(BaseChatModel):
    """Streams one sentence, and reports its usage as a real model does."""

    model: str = "gpt-5"
    max_tokens: int = 2_000

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        usage = {"input_tokens": 1_200, "output_tokens": 800, "total_tokens": 2_000}
        return ChatResult(generations=[ChatGeneration(message=AIMessage(ANSWER, usage_metadata=usage))])

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for word in ANSWER.split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))
        usage = {"input_tokens": 1_200, "output_tokens": 800, "total_tokens": 2_000}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=usage))


def run(meter: Meter, account_id: str) -> None:
    handler = CountwerkCallbackHandler(meter, account_id=account_id, operation="example.chat")
    config = {"callbacks": [handler]}
    before = {charge.usage_event_id for charge in meter.charges()}
    chain = ChatPromptTemplate.from_template("Tell me about {topic}.") | FakeChatModel() | StrOutputParser()

    print("invoke:  ", chain.invoke({"topic": "ledgers"}, config))
    print("stream:  ", "".join(chain.stream({"topic": "credits"}, config)))
    print("ainvoke: ", asyncio.run(chain.ainvoke({"topic": "holds"}, config)))

    # Leave a stream early: what was consumed is charged, the rest of the hold is given back.
    with contextlib.closing(FakeChatModel().stream("Tell me more.", config)) as stream:
        print("left at: ", next(stream).text)

    # An account without credits: the model never runs.
    broke = CountwerkCallbackHandler(meter, account_id="acct_without_credits", operation="example.chat")
    try:
        chain.invoke({"topic": "debts"}, {"callbacks": [broke]})
    except InsufficientCreditsError as denied:
        links = denied.purchase_links
        print("denied:  ", denied, f"({len(links.enabled) if links else 0} ways to buy)")

    meter.flush()
    for charge in reversed(meter.charges("settled")):
        if charge.usage_event_id not in before and charge.parent is None:
            print(f"charged:   {charge.amount} credits, basis {charge.basis}, {charge.usage_event_id}")


def main() -> None:
    if os.environ.get("COUNTWERK_BASE_URL"):
        with Meter.from_env(prices=PRICES) as meter:
            run(meter, os.environ.get("COUNTWERK_EXAMPLE_ACCOUNT", "acct_123"))
        return
    from countwerk_meter.sandbox import SandboxServer

    with SandboxServer() as sandbox:
        sandbox.control.account("acct_demo", balance=100, ai_product_id="prod_demo", order_id="order_demo")
        options = {"api_key": sandbox.api_key, "base_url": sandbox.url, "journal": "memory:", "prices": PRICES}
        with Meter("prod_demo", **options) as meter:
            run(meter, "acct_demo")
        books = sandbox.control.books("acct_demo")
        print(f"books:     {books['spent']} spent, {books['reserved']} held, {books['available']} left")


if __name__ == "__main__":
    main()
