"""
Every entry point of LangChain's models against every way a call can end.

Each cell asserts how often the model ran, what was charged and on what basis, and, through the bench's audit, that no
hold leaked and that the ledger charged what the journal says.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from countwerk_meter import InsufficientCreditsError

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")

PROMPT = ChatPromptTemplate.from_messages([("human", "{topic}")])


def chain(model):
    return PROMPT | model | StrOutputParser()


@dataclass(frozen=True)
class Entry:
    """One way to call a model: `run` calls it to the end, `begin` takes one chunk and leaves."""

    name: str
    run: Callable
    calls: int = 1
    streams: bool = False
    text: bool = False
    leave: Callable | None = None
    wrapped: bool = False  # another runnable around the model: a chain, a retry


def drain(stream):
    return list(stream)


async def adrain(stream):
    return [part async for part in stream]


def leave(stream):
    next(stream)
    stream.close()


async def aleave(stream):
    await anext(stream)
    await stream.aclose()


async def others_end():
    """Let LangChain's producer tell of the end; a loop that is closed before loses that, and validity has to do."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


async def aevents_v3(model, config):
    stream = await model.astream_events("x", config, version="v3")
    try:
        return [event async for event in stream]
    finally:
        await others_end()


async def aleave_v3(model, config):
    async with await model.astream_events("x", config, version="v3") as stream:
        async for event in stream:
            if event["event"] == "content-block-delta":
                return


async def leave_events(model, config):
    stream = model.astream_events("x", config, version="v2")
    async for event in stream:
        if event["event"] == "on_chat_model_stream":
            break
    await stream.aclose()


CHAT = [
    Entry("invoke", lambda m, c: m.invoke("x", c)),
    Entry("stream", lambda m, c: drain(m.stream("x", c)), streams=True, leave=lambda m, c: leave(m.stream("x", c))),
    Entry("batch", lambda m, c: m.batch(["x", "y"], c), calls=2),
    Entry(
        "generate",
        lambda m, c: m.generate([[HumanMessage("x")], [HumanMessage("y")], [HumanMessage("z")]], **c),
        calls=3,
    ),
    Entry("ainvoke", lambda m, c: asyncio.run(m.ainvoke("x", c))),
    Entry(
        "astream",
        lambda m, c: asyncio.run(adrain(m.astream("x", c))),
        streams=True,
        leave=lambda m, c: asyncio.run(aleave(m.astream("x", c))),
    ),
    Entry("abatch", lambda m, c: asyncio.run(m.abatch(["x", "y"], c)), calls=2),
    Entry(
        "agenerate",
        lambda m, c: asyncio.run(m.agenerate([[HumanMessage("x")], [HumanMessage("y")], [HumanMessage("z")]], **c)),
        calls=3,
    ),
    Entry(
        "astream_events v2",
        lambda m, c: asyncio.run(adrain(m.astream_events("x", c, version="v2"))),
        streams=True,
        leave=lambda m, c: asyncio.run(leave_events(m, c)),
    ),
    Entry("stream_events v3", lambda m, c: drain(m.stream_events("x", c, version="v3")), streams=True),
    Entry(
        "astream_events v3",
        lambda m, c: asyncio.run(aevents_v3(m, c)),
        streams=True,
        leave=lambda m, c: asyncio.run(aleave_v3(m, c)),
    ),
    Entry("chain invoke", lambda m, c: chain(m).invoke({"topic": "x"}, c), wrapped=True),
    Entry("chain ainvoke", lambda m, c: asyncio.run(chain(m).ainvoke({"topic": "x"}, c)), wrapped=True),
    Entry(
        "chain stream",
        lambda m, c: drain(chain(m).stream({"topic": "x"}, c)),
        streams=True,
        leave=lambda m, c: leave(chain(m).stream({"topic": "x"}, c)),
        wrapped=True,
    ),
    Entry(
        "chain astream",
        lambda m, c: asyncio.run(adrain(chain(m).astream({"topic": "x"}, c))),
        streams=True,
        leave=lambda m, c: asyncio.run(aleave(chain(m).astream({"topic": "x"}, c))),
        wrapped=True,
    ),
    Entry("chain batch", lambda m, c: chain(m).batch([{"topic": "x"}, {"topic": "y"}], c), calls=2, wrapped=True),
    Entry(
        "chain abatch",
        lambda m, c: asyncio.run(chain(m).abatch([{"topic": "x"}, {"topic": "y"}], c)),
        calls=2,
        wrapped=True,
    ),
    Entry("with_config", lambda m, c: m.with_config(c).invoke("x")),
    Entry("bind", lambda m, c: m.bind(stop=["!"]).invoke("x", c)),
    Entry("with_fallbacks", lambda m, c: m.with_fallbacks([m]).invoke("x", c), wrapped=True),
]
if not hasattr(BaseChatModel, "stream_events"):  # an older langchain-core has no event streams of the third version
    CHAT = [entry for entry in CHAT if not entry.name.endswith("v3")]
TEXT = [
    Entry("text invoke", lambda m, c: m.invoke("x", c), text=True),
    Entry("text ainvoke", lambda m, c: asyncio.run(m.ainvoke("x", c)), text=True),
    Entry("text batch", lambda m, c: m.batch(["x", "y"], c), text=True),
    Entry("text abatch", lambda m, c: asyncio.run(m.abatch(["x", "y"], c)), text=True),
    Entry("text generate", lambda m, c: m.generate(["x", "y", "z"], **c), text=True),
    Entry("text chain", lambda m, c: (PROMPT | m).invoke({"topic": "x"}, c), text=True),
]


def named(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


@pytest.fixture
def call(fakes):
    """Call an entry point of a fake model with a handler."""

    def run(bench, entry, how="run", handler=None, **model):
        fake = (fakes.Text if entry.text else fakes.Chat)(**model)
        handler = handler or CountwerkCallbackHandler(bench.meter, account_id="acct")
        try:
            getattr(entry, how)(fake, {"callbacks": [handler]})
        finally:
            handler.flush()
        return fake

    return run


@named(CHAT)
def test_ok(bench, call, entry):
    """A call that ends is charged what the provider reports, once."""
    model = call(bench, entry)
    assert len(model.calls) == entry.calls
    assert bench.audit().told == [("settled", 6, "provider")] * entry.calls


@named(CHAT + TEXT)
def test_denied(broke, fakes, entry):
    """Without credits the caller gets the denial with its purchase options, and the model never runs."""
    model = (fakes.Text if entry.text else fakes.Chat)()
    handler = CountwerkCallbackHandler(broke.meter, account_id="acct")
    with pytest.raises(InsufficientCreditsError) as caught:
        entry.run(model, {"callbacks": [handler]})
    assert caught.value.purchase_links is not None
    assert model.calls == []
    audit = broke.audit()
    assert audit.spent == 0
    assert set(audit.states) <= {"denied", "cancelled"}


@named([entry for entry in CHAT + TEXT if entry.calls == 1 and entry.name != "with_fallbacks"])
def test_provider_error_before_output(bench, call, fakes, entry):
    """A call that failed before it gave anything costs nothing, and the provider's error is what the caller sees."""
    with pytest.raises(fakes.ProviderError):
        call(bench, entry, fail_at=0)
    audit = bench.audit()
    assert audit.spent == 0
    assert set(audit.states) == {"cancelled"}


@named([entry for entry in CHAT if entry.streams])
def test_provider_error_in_mid_stream(bench, call, fakes, entry):
    """Once something was yielded, a failed stream is charged what was counted (money rule 13)."""
    with pytest.raises(fakes.ProviderError):
        call(bench, entry, fail_at=2)
    # 9 input tokens, and "one two " as 3 (text) or 4 (chunks rounded together) of output.
    ((state, amount, basis),) = bench.audit().told
    assert (state, basis) == ("settled", "counted")
    assert amount == 1


@named([entry for entry in CHAT if entry.leave])
def test_consumer_leaves(bench, call, entry):
    """A stream that its consumer leaves is charged for what was consumed, and holds nothing."""
    call(bench, entry, how="leave")
    ((state, amount, basis),) = bench.audit().told
    assert state == "settled"
    # A sync chain drains what its consumer left, and then the provider reports.
    assert (amount, basis) in {(1, "counted"), (6, "provider")}


@named(CHAT)
def test_cache_hit(bench, fakes, entry):
    """An answer from LangChain's cache is not charged; what does not use the cache is."""
    set_llm_cache(InMemoryCache())
    model = fakes.Chat()
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    entry.run(model, {"callbacks": [handler]})
    once = len(model.calls)
    entry.run(model, {"callbacks": [handler]})
    charged = [told for told in bench.audit().told if told[0] == "settled"]
    assert charged == [("settled", 6, "provider")] * len(model.calls)
    if not entry.streams:
        assert len(model.calls) == once == entry.calls


@named(TEXT)
def test_text_models(bench, call, entry):
    """A text model's batch is charged the total that its first prompt reports."""
    model = call(bench, entry)
    prompts = {"text batch": 2, "text abatch": 2, "text generate": 3}.get(entry.name, 1)
    assert len(model.calls) == 1
    audit = bench.audit()
    assert audit.spent == 6 * prompts
    assert audit.states.count("cancelled") == prompts - 1


@named(CHAT)
def test_flat_price(bench, call, entry):
    """A flat price is charged per call, whatever it used."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", price=2)
    call(bench, entry, handler=handler)
    assert bench.audit().told == [("settled", 2, "price")] * entry.calls


@named(CHAT)
def test_unreported_usage(bench, call, entry):
    """Usage that nobody reports is charged as counted, never free."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", amount=5)
    call(bench, entry, handler=handler, reports=False)
    told = bench.audit().told
    assert len(told) == entry.calls
    assert {(state, basis) for state, _, basis in told} == {("settled", "counted")}
    assert all(amount > 0 for _, amount, _ in told)
