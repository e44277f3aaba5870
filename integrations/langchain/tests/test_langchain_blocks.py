"""A model call inside a metered block draws on it, across threads, tasks and frameworks."""

import asyncio

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel

from countwerk_meter import ConfigurationError, InsufficientCreditsError


def make(bench, **options):
    return {"callbacks": [CountwerkCallbackHandler(bench.meter, **options)]}


def test_draws_on_the_block(bench, fakes):
    """One hold for the block, one charge for each call in it, none for the block itself."""
    with bench.meter.reserve("acct", "app.chat", amount=50):
        fakes.Chat().invoke("x", make(bench))
        fakes.Chat().batch(["x", "y"], make(bench))
        list(fakes.Chat().stream("x", make(bench)))
    audit = bench.audit()
    assert bench.reserves() == 1
    assert audit.spent == 24
    assert audit.told.count(("settled", 6, "provider")) == 4


async def test_draws_on_an_async_block(bench, fakes):
    """The same on the async path, where the hooks run on other threads."""
    async with bench.meter.reserve("acct", "app.chat", amount=50):
        await (RunnableLambda(lambda x: x) | fakes.Chat()).ainvoke("x", make(bench))
        await fakes.Chat().abatch(["x", "y"], make(bench))
        async for _ in fakes.Chat().astream("x", make(bench)):
            pass
    audit = await asyncio.to_thread(bench.audit)
    assert bench.reserves() == 1
    assert audit.spent == 24


def test_flat_price_covers(bench, fakes):
    """Inside a flat price what the model used is noted, not added."""
    with bench.meter.reserve("acct", "app.chat", price=3):
        fakes.Chat().invoke("x", make(bench))
        fakes.Chat().generate([[HumanMessage("x")]] * 2, **make(bench))
    audit = bench.audit()
    assert audit.told == [("settled", 3, "price")]
    assert len(audit.charges[0].lines) == 3


def test_top_up_denies_the_call_that_does_not_fit(make_bench, fakes):
    """A block with top_up takes more when a call's estimate no longer fits, and 402 comes before that call."""
    bench = make_bench(balance=17)
    models = [fakes.Chat(), fakes.Chat()]
    with (
        pytest.raises(InsufficientCreditsError),
        bench.meter.reserve("acct", "app.chat", amount=12, top_up=True),
    ):
        for model in models:
            model.invoke("x", make(bench))
    assert [len(model.calls) for model in models] == [1, 0]
    assert bench.audit().spent == 6


def test_another_meters_block(bench, make_bench, fakes):
    """A block of another meter has no credits of this one: the call reserves for itself."""
    other = make_bench()
    with other.meter.reserve("acct", "app.chat", amount=20):
        fakes.Chat().invoke("x", make(bench))
    assert bench.meter.flush()
    assert other.meter.flush()
    assert [c.amount for c in bench.meter.charges() if c.parent is None] == [6]


def test_parallel_draws(bench, fakes):
    """Branches that run on threads draw on the same block."""
    both = RunnableParallel(one=fakes.Chat(), two=fakes.Chat())
    with bench.meter.reserve("acct", "app.chat", amount=50):
        both.invoke("x", make(bench))
    assert bench.reserves() == 1
    assert bench.audit().spent == 12


def test_after_the_block(bench, fakes):
    """A block that is over pays for nothing, nor does it say whose credits to take."""
    with bench.meter.reserve("acct", "app.chat", amount=5) as block:
        pass
    with block.entered(), pytest.raises(ConfigurationError, match="no account"):
        fakes.Chat().invoke("x", make(bench))
    bench.audit()


def test_one_span_two_calls(bench, fakes):
    """Two calls in one span are two charges, and both ids begin with the trace."""
    from opentelemetry.sdk.trace import TracerProvider

    with TracerProvider().get_tracer("app").start_as_current_span("request") as span:
        fakes.Chat().invoke("x", make(bench, account_id="acct"))
        asyncio.run(fakes.Chat().ainvoke("x", make(bench, account_id="acct")))
        trace_id = f"{span.get_span_context().trace_id:032x}"
    ids = {charge.usage_event_id for charge in bench.audit().charges}
    assert len(ids) == 2
    assert all(name.startswith(f"cw.{trace_id}.") for name in ids)


@pytest.mark.parametrize("path", ["sync", "async"])
def test_the_same_run_id_twice(bench, fakes, path):
    """A run id that is used again is no free ride: two calls, two charges."""
    import uuid

    config = make(bench, account_id="acct") | {"run_id": uuid.UUID(int=7)}
    for _ in range(2):
        fakes.Chat().invoke("x", config) if path == "sync" else asyncio.run(fakes.Chat().ainvoke("x", config))
    again = make(bench, account_id="acct") | {"run_id": uuid.UUID(int=7)}
    fakes.Chat().invoke("x", again)
    assert bench.audit().spent == 18


async def test_the_same_run_id_at_once(bench, fakes):
    """Nor is it while the first call still runs."""
    import uuid

    config = make(bench, account_id="acct") | {"run_id": uuid.UUID(int=7)}
    await asyncio.gather(*(fakes.Chat().ainvoke("x", config) for _ in range(3)))
    assert (await asyncio.to_thread(bench.audit)).spent == 18
