"""A meter on the sandbox, an auditor of both their books, and fake models."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from countwerk_meter_langchain import reaping
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from pydantic import Field

from countwerk_meter import Charge, Meter

PRICES = {
    "profileVersionId": "langchain-tests-1",
    "engineVersion": "runtime-v2",
    "createdAt": "2026-01-15T00:00:00Z",
    "eurPerCredit": 0.01,
    "rateRules": [
        {
            "id": "in",
            "dimensionKey": "llm_input_tokens",
            "attributesMatch": {"model": ["fake-1"]},
            "creditsPerUnit": 0.01,
        },
        {
            "id": "out",
            "dimensionKey": "llm_output_tokens",
            "attributesMatch": {"model": ["fake-1"]},
            "creditsPerUnit": 0.1,
        },
    ],
}


@dataclass
class Audit:
    """What the journal and the ledger say, once everything has settled."""

    spent: int
    charges: list[Charge]
    books: dict[str, Any]

    @property
    def told(self) -> list[tuple[str, int | None, str | None]]:
        """State, credits and basis of each charge, legs left out, in a stable order."""
        own = [charge for charge in self.charges if charge.parent is None]
        return sorted(((c.state, c.amount, c.basis) for c in own), key=str)

    @property
    def states(self) -> list[str]:
        return [state for state, _, _ in self.told]


@dataclass
class Bench:
    """A meter, its account on the sandbox, and the events it told of."""

    sandbox: Any
    meter: Meter
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def reserves(self) -> int:
        """How often the ledger was asked for a hold."""
        return self.sandbox.control.requests()["counts"].get("/api/credits/reserve", 0)

    def audit(self, account: str = "acct") -> Audit:
        """Let everything settle, and check what must hold whatever happened: no hold leaks, the books balance."""
        assert self.meter.flush()
        books = self.sandbox.control.books(account)
        charges = [charge for charge in self.meter.charges() if charge.account_id == account]
        assert books["reserved"] == 0, "a hold leaked"
        assert books["balanced"]
        assert {charge.state for charge in charges} <= {"settled", "cancelled", "denied"}
        applied = sum(
            c.amount or 0 for c in charges if c.state == "settled" and not (c.parent and ".over" in c.usage_event_id)
        )
        assert books["spent"] == applied, "the ledger charged something else than the journal says"
        return Audit(books["spent"], charges, books)


@pytest.fixture(autouse=True)
def _unmeasured():
    """Coverage is asked of the core, and its own tests reach that; measuring LangChain's lines takes half as long again."""
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    sys.settrace(here)
    threading.settrace(elsewhere)


@pytest.fixture
def make_bench(countwerk_sandbox, tmp_path):
    """Make a meter; with `prices=None` one without a profile."""
    meters: list[Meter] = []

    def make(*, balance: int = 1000, **options) -> Bench:
        countwerk_sandbox.control.account("acct", balance=balance, ai_product_id="prod")
        events: list[tuple[str, dict[str, Any]]] = []
        options.setdefault("prices", PRICES)
        meter = Meter(
            "prod",
            api_key=countwerk_sandbox.api_key,
            base_url=countwerk_sandbox.url,
            journal=f"sqlite:///{tmp_path}/journal-{len(meters)}.db",
            on_event=lambda name, fields: events.append((name, dict(fields))),
            **options,
        )
        meters.append(meter)
        return Bench(countwerk_sandbox, meter, events)

    yield make
    for meter in meters:
        meter.close()


@pytest.fixture
def bench(make_bench) -> Bench:
    """An account with 1,000 credits."""
    return make_bench()


@pytest.fixture
def broke(make_bench) -> Bench:
    """An account with 3 credits, too few for any call."""
    return make_bench(balance=3)


class ProviderError(Exception):
    """What the provider raises."""


class ChatFake(BaseChatModel):
    """
    A chat model that streams "one two three " and reports 100 input and 50 output tokens: 6 credits.

    `fail_at`: raises there: 0 before any output, n after n chunks. `hang_at`: waits there for ever (async only).
    """

    model: str = "fake-1"
    max_tokens: int = 100
    reports: bool = True
    fail_at: int | None = None
    hang_at: int | None = None
    llm_output: dict[str, Any] | None = None
    calls: list[str] = Field(default_factory=list)
    words: list[str] = Field(default_factory=lambda: ["one ", "two ", "three ", ""])

    @property
    def _llm_type(self) -> str:
        return "fake"

    @property
    def _identifying_params(self):
        return {"model": self.model, "max_tokens": self.max_tokens}

    @property
    def _usage(self):
        return {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150} if self.reports else None

    def _pass(self, index: int) -> None:
        if index == 0:
            self.calls.append("call")
        if self.fail_at == index:
            raise ProviderError("provider")

    def _chunk(self, index: int) -> ChatGenerationChunk:
        usage = self._usage if index == 3 else None
        return ChatGenerationChunk(message=AIMessageChunk(content=self.words[index], usage_metadata=usage))

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._pass(0)
        message = AIMessage("one two three ", usage_metadata=self._usage)
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=self.llm_output)

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        if self.hang_at == 0:
            self.calls.append("call")
            await asyncio.Event().wait()
        return self._generate(messages)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for index in range(4):
            self._pass(index)
            yield self._chunk(index)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for index in range(4):
            self._pass(index)
            if self.hang_at == index:
                await asyncio.Event().wait()
            yield self._chunk(index)


class TextFake(BaseLLM):
    """A text model; the first prompt of a batch reports the usage of all: 100 and 50 tokens each."""

    model: str = "fake-1"
    max_tokens: int = 100
    fail_at: int | None = None
    calls: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "fake"

    @property
    def _identifying_params(self):
        return {"model": self.model, "max_tokens": self.max_tokens}

    def _pass(self, index: int) -> None:
        if index == 0:
            self.calls.append("call")
        if self.fail_at == index:
            raise ProviderError("provider")

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
        self._pass(0)
        used = {"prompt_tokens": 100 * len(prompts), "completion_tokens": 50 * len(prompts)}
        used["total_tokens"] = sum(used.values())
        return LLMResult(
            generations=[[Generation(text="one two three")] for _ in prompts],
            llm_output={"token_usage": used, "model_name": "fake-1"},
        )

    async def _agenerate(self, prompts, stop=None, run_manager=None, **kwargs):
        return self._generate(prompts)

    def _stream(self, prompt, stop=None, run_manager=None, **kwargs):
        for index, word in enumerate(("one ", "two ", "three ")):
            self._pass(index)
            chunk = GenerationChunk(text=word)
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk


@pytest.fixture
def fakes() -> SimpleNamespace:
    """The fake models."""
    return SimpleNamespace(PRICES=PRICES, Chat=ChatFake, Text=TextFake, ProviderError=ProviderError)


@pytest.fixture(autouse=True)
def no_global_cache():
    """LangChain's cache is global: leave none behind."""
    yield
    set_llm_cache(None)


@pytest.fixture(autouse=True)
def nothing_is_looked_after():
    """What a test left to be looked after later, or with another patience, is none of the next one's."""
    yield
    timer = reaping.REAPER._timer
    if timer is not None:
        timer.cancel()
    reaping.REAPER.reset()
