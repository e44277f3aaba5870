"""Calls of which LangChain says nothing more: cancelled, abandoned, left behind by their batch or their chain."""

import asyncio
import gc
import os
import threading
import time

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler, reaping, settling
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")


needs_v3 = pytest.mark.skipif(
    not hasattr(BaseChatModel, "stream_events"), reason="an older langchain-core has no event streams of version 3"
)


def make(bench, **options):
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", **options)
    return handler, {"callbacks": [handler]}


async def cancelled(work, ready):
    """Cancel a call once `ready` says that it runs."""
    task = asyncio.create_task(work)
    while not ready():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("entry", ["ainvoke", "abatch"])
async def test_cancelled_in_a_chain(bench, fakes, entry):
    """A chain that is cancelled gives back what the call below it held."""
    _, config = make(bench)
    model = fakes.Chat(hang_at=0)
    chain = RunnableLambda(lambda x: x) | model
    call = chain.ainvoke("x", config) if entry == "ainvoke" else chain.abatch(["x"], config)
    await cancelled(call, lambda: model.calls)
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


async def test_timed_out_in_a_chain(bench, fakes):
    """So does one that timed out."""
    _, config = make(bench)
    model = fakes.Chat(hang_at=0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for((RunnableLambda(lambda x: x) | model).ainvoke("x", config), 0.5)
    assert model.calls
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


async def test_timed_out_below_a_chain_that_goes_on(bench, fakes):
    """A call that timed out inside a step is given up when the chain around it ends."""
    _, config = make(bench)
    model = fakes.Chat(hang_at=0)

    async def step(x):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.ainvoke(x), 0.5)
        return "done"

    assert await RunnableLambda(step).ainvoke("x", config) == "done"
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


@pytest.mark.parametrize("how", ["cancelled", "timed out", "abatch"])
async def test_a_bare_call_that_is_cancelled(bench, fakes, monkeypatch, how):
    """LangChain tells nobody of its end: it is given up once nobody could tell of it any more."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.05)
    _, config = make(bench)
    model = fakes.Chat(hang_at=0)
    if how == "timed out":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.ainvoke("x", config), 0.5)
    else:
        call = model.ainvoke("x", config) if how == "cancelled" else model.abatch(["x", "y"], config)
        await cancelled(call, lambda: len(model.calls) == (2 if how == "abatch" else 1))
    del config
    await settled(bench)
    assert set((await asyncio.to_thread(bench.audit)).states) == {"cancelled"}


async def test_handlers_of_many_requests_share_one_thread(bench, fakes, monkeypatch):
    """Each is made for its request, and gone with it; the calls that nobody tells the end of are ended all the same."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(reaping.REAPER, "_timer", None)
    model = fakes.Chat(hang_at=0)
    tasks = [asyncio.create_task(model.ainvoke("x", make(bench)[1])) for _ in range(20)]
    while len(model.calls) < 20:
        await asyncio.sleep(0.01)
    # Two for the moment in which one that has looked hands over to the next.
    assert sum(thread.name == "countwerk-langchain" for thread in threading.enumerate()) in (1, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
    del task
    gc.collect()
    await settled(bench)
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_looks_after_its_own_calls(bench, fakes):
    """The thread that does is not in the child: it starts its own."""
    _, config = make(bench)
    stream = fakes.Chat().stream("x", config)
    next(stream)
    assert reaping.REAPER.armed
    child = os.fork()
    if not child:
        reaping.REAPER.watch(settling.Settling.__new__(settling.Settling), 60.0)
        os._exit(0 if reaping.REAPER.armed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    list(stream)
    bench.audit()


async def test_a_call_that_still_runs_is_not_given_up(bench, fakes, monkeypatch):
    """However long it takes, and whatever is collected meanwhile."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.01)
    _, config = make(bench)
    model, go = fakes.Chat(), asyncio.Event()
    answer = model._agenerate

    async def slow(*args, **kwargs):
        await go.wait()
        return await answer(*args, **kwargs)

    object.__setattr__(model, "_agenerate", slow)
    task = asyncio.create_task(model.ainvoke("x", config))
    while not await asyncio.to_thread(bench.meter.charges, "open"):
        await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0.2)
    assert [charge.state for charge in await asyncio.to_thread(bench.meter.charges)] == ["open"]
    go.set()
    await task
    assert (await asyncio.to_thread(bench.audit)).told == [("settled", 6, "provider")]


def test_the_other_call_of_a_batch_whose_loop_closes(bench, fakes):
    """`asyncio.run` cancels it when the first one's error ends the program; its hold goes back as well."""
    handler, config = make(bench)
    model = fakes.Chat(fail_at=0)
    with pytest.raises(fakes.ProviderError):
        asyncio.run(model.abatch(["x", "y"], config))
    # What the error has passed through refers to itself.
    gc.collect()
    handler.flush()
    assert set(bench.audit().states) == {"cancelled"}


@pytest.mark.parametrize("hang_at", [1, 3])
async def test_stream_cancelled(bench, fakes, hang_at):
    """A stream that is cancelled while it waits is charged what was counted so far."""
    _, config = make(bench)
    model = fakes.Chat(hang_at=hang_at)
    got = []

    async def consume():
        async for part in model.astream("x", config):
            got.append(part)

    await cancelled(consume(), lambda: len(got) == hang_at)
    await asyncio.sleep(0)
    ((state, amount, basis),) = (await asyncio.to_thread(bench.audit)).told
    assert (state, amount, basis) == ("settled", 1, "counted")


async def test_stream_cancelled_before_its_first_chunk(bench, fakes):
    """Nothing was yielded: nothing is charged."""
    _, config = make(bench)
    model = fakes.Chat(hang_at=0)

    async def consume():
        async for _ in model.astream("x", config):
            pass

    await cancelled(consume(), lambda: model.calls)
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


async def test_invoke_that_streams_cancelled_in_a_chain(bench, fakes, monkeypatch):
    """An `ainvoke` whose tokens were streamed to a listener is charged for them, once it has been silent."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.05)
    _, config = make(bench)
    model = fakes.Chat(hang_at=2)
    seen = []

    async def consume():
        async for event in (RunnableLambda(lambda x: x) | model.bind(stream=True)).astream_events(
            "x", config, version="v2"
        ):
            if event["event"] == "on_chat_model_stream":
                seen.append(event)

    await cancelled(consume(), lambda: len(seen) == 2)
    await settled(bench)
    assert (await asyncio.to_thread(bench.audit)).told == [("settled", 1, "counted")]


async def settled(bench):
    """Wait until no charge is open."""
    async with asyncio.timeout(10):
        while await asyncio.to_thread(bench.meter.charges, "open"):
            await asyncio.sleep(0.01)


async def test_cancelled_at_the_gate(bench, fakes):
    """A hold that lands after its caller was cancelled is given back."""
    model = fakes.Chat()
    at_gate, go = threading.Event(), threading.Event()

    def wait(metadata):
        at_gate.set()
        go.wait(10)
        return "acct"

    handler = CountwerkCallbackHandler(bench.meter, account_id=wait)
    chain = RunnableLambda(lambda x: x) | model
    await cancelled(chain.ainvoke("x", {"callbacks": [handler]}), at_gate.is_set)
    go.set()
    async with asyncio.timeout(10):
        while bench.reserves() == 0 or await asyncio.to_thread(bench.meter.charges, "open"):
            await asyncio.sleep(0.01)
    assert model.calls == []
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


@pytest.mark.parametrize(
    ("options", "reports", "late"), [({}, True, 6), ({}, False, 1), ({"price": 2}, True, 2), ({"price": 2}, False, 2)]
)
async def test_left_running_on_purpose_is_charged_late(bench, fakes, options, reports, late):
    """A call that outlives its chain and answers after all is charged for what it used, under `<id>.late`."""
    _, config = make(bench, **options)
    model, go, entered, tasks = fakes.Chat(reports=reports), asyncio.Event(), asyncio.Event(), []
    answer = model._agenerate

    async def slow(*args, **kwargs):
        entered.set()
        await go.wait()
        return await answer(*args, **kwargs)

    object.__setattr__(model, "_agenerate", slow)

    async def step(x):
        tasks.append(asyncio.create_task(model.ainvoke(x)))
        await entered.wait()
        return "done"

    await RunnableLambda(step).ainvoke("x", config)
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]
    go.set()
    await tasks[0]
    audit = await asyncio.to_thread(bench.audit)
    assert audit.spent == late
    assert [c.amount for c in audit.charges if c.usage_event_id.endswith(".late")] == [late]


async def test_a_cached_answer_that_comes_late_is_free(bench, fakes):
    """Only an answer from the cache costs nothing, whenever it comes."""
    _, config = make(bench, price=2)
    cache, go, entered, tasks = InMemoryCache(), asyncio.Event(), asyncio.Event(), []
    model = fakes.Chat(cache=cache)
    model.invoke("x")
    look = cache.alookup

    async def slow(*args):
        entered.set()
        await go.wait()
        return await look(*args)

    cache.alookup = slow

    async def step(x):
        tasks.append(asyncio.create_task(model.ainvoke(x)))
        await entered.wait()
        return "done"

    await RunnableLambda(step).ainvoke("x", config)
    go.set()
    await tasks[0]
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


@pytest.mark.parametrize("end", ["ends", "breaks off", "falls silent again"])
def test_a_stream_that_was_silent_for_long_is_charged_for_its_rest(bench, fakes, monkeypatch, end):
    """What was given up after a silence and goes on is charged for what it used in all, once."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.0 if end == "falls silent again" else 60.0)
    handler, config = make(bench)
    model = fakes.Chat(fail_at=3 if end == "breaks off" else None)
    model.words = ["one ", "two " * 200, "three ", ""]
    inner = {}

    def step(x):
        inner["stream"] = model.stream(x)
        return next(inner["stream"]).text

    RunnableLambda(step).invoke("x", config)
    handler.flush()
    assert bench.audit().spent == 1
    next(inner["stream"])
    if end == "ends":
        list(inner["stream"])
        assert bench.audit().spent == 6
    elif end == "breaks off":
        with pytest.raises(fakes.ProviderError):
            list(inner["stream"])
        assert bench.audit().spent == 28
    else:
        deadline = time.monotonic() + 10
        # The books alone: an audit in between could see the rest between its commit and its settlement.
        while bench.sandbox.control.books("acct")["spent"] != 27 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert bench.audit().spent == 27
    assert not handler._runs.abandoned()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_generate_of_three_with_one_failing(bench, fakes, failing):
    """Sync `generate` says nothing of the prompts beside the one that failed; none of them keeps a hold."""
    _, config = make(bench)
    model = fakes.Chat()
    answer = model._generate

    def fail(messages, **kwargs):
        if len(model.calls) == failing:
            raise fakes.ProviderError("provider")
        return answer(messages, **kwargs)

    object.__setattr__(model, "_generate", fail)
    with pytest.raises(fakes.ProviderError):
        model.generate([[HumanMessage("x")]] * 3, **config)
    assert bench.audit().states == ["cancelled"] * 3


async def test_agenerate_of_three_with_one_failing(bench, fakes):
    """Async `generate` goes on with the others, and they are charged."""
    _, config = make(bench)
    model = fakes.Chat()
    answer = model._generate

    def fail(messages, **kwargs):
        if messages[0].content == "bad":
            raise fakes.ProviderError("provider")
        return answer(messages, **kwargs)

    object.__setattr__(model, "_generate", fail)
    with pytest.raises(fakes.ProviderError):
        await model.agenerate([[HumanMessage(text)] for text in ("x", "bad", "y")], **config)
    told = (await asyncio.to_thread(bench.audit)).told
    assert told == [("cancelled", None, None), ("settled", 6, "provider"), ("settled", 6, "provider")]


def test_consumer_leaves_a_chain_whose_stream_goes_on(bench, fakes, monkeypatch):
    """What is told of a stream after its chain's end still counts: the provider's report, not an early guess."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 60.0)
    handler, config = make(bench)
    stream = (fakes.Chat() | StrOutputParser()).stream("x", config)
    next(stream)
    stream.close()
    del stream
    assert bench.audit().told[0][0] == "settled"
    assert handler._runs.abandoned() == []


@needs_v3
def test_abandoned_stream_of_events(bench, fakes):
    """A v3 stream that nobody reads on is told of nowhere: it is charged once it is gone."""
    handler, config = make(bench)
    stream = iter(fakes.Chat().stream_events("x", config, version="v3"))
    while next(stream)["event"] != "content-block-delta":
        pass
    del stream
    gc.collect()
    handler.flush()
    assert bench.audit().told == [("settled", 1, "counted")]


@needs_v3
def test_stale_calls_are_given_up(bench, fakes):
    """What is older than its hold's validity is dropped when the next call comes."""
    handler, config = make(bench, validity=1)
    stream = iter(fakes.Chat().stream_events("x", config, version="v3"))
    next(stream)
    (run,) = handler._runs.older_than(0.0)
    run.began -= 61
    fakes.Chat().invoke("x", config)
    assert handler._runs.older_than(0.0) == []
    assert len(bench.audit().charges) == 2


def test_nothing_is_remembered(bench, fakes):
    """Once all has ended, only the bounded memory of ended ids is left."""
    handler, config = make(bench)
    for _ in range(3):
        (RunnableLambda(lambda x: x) | fakes.Chat()).invoke("x", config)
        fakes.Chat().generate([[HumanMessage("x")]] * 2, **config)
    runs = handler._runs
    left = runs._open, runs._chains, runs._under, runs._batches, runs.denials, runs._released
    assert not any(left)
    bench.audit()


def test_a_stream_that_is_still_heard_of_is_not_given_up(bench, fakes, monkeypatch):
    """The silence counts, not the time since the chain's end: each chunk begins it anew."""
    handler, config = make(bench)
    inner = {}

    def step(x):
        inner["stream"] = fakes.Chat().stream(x)
        return next(inner["stream"]).text

    RunnableLambda(step).invoke("x", config)
    (run,) = handler._runs.abandoned()
    assert handler._settling.look_after() is not None
    assert handler._runs.abandoned() == [run]
    list(inner["stream"])
    assert bench.audit().told == [("settled", 6, "provider")]
    assert handler._settling.look_after() is None


def test_a_batch_inside_a_batch(bench, fakes):
    """A model whose own work is a batch of calls does not hide its siblings from a failure."""
    handler, config = make(bench)
    inner = fakes.Chat()

    class Outer(fakes.Chat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            inner.generate([[HumanMessage("x")]] * 2, **config)
            return super()._generate(messages)

    outer = Outer(fail_at=0)
    with pytest.raises(fakes.ProviderError):
        outer.generate([[HumanMessage("x")]] * 2, **config)
    assert bench.audit().states == ["cancelled", "cancelled", "settled", "settled"]
    assert handler._runs.older_than(0.0) == []
