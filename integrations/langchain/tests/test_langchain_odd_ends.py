"""Ends at odd moments: on another thread, in the middle of another end, under another's id, after the last one."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TypedDict

import httpx
import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler, reaping, settling
from countwerk_meter_langchain.claims import CLAIMS
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route as Place

from countwerk_meter import Usage
from countwerk_meter.asgi import CreditsMiddleware, Route
from countwerk_meter.testing.journal_steps import Do

USED = Usage(input_tokens=100, output_tokens=50)


def make(bench, **options):
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", **options)
    return handler, {"callbacks": [handler]}


def flat(meter, **options):
    return meter.reserve("acct", "app.tool", price=3, **options).begin()


def covered(meter, block):
    with block.entered():
        return meter.reserve("acct", "app.call", amount=50).begin()


# The garbage collector closes abandoned streams, and generators around `with meter.reserve(...)`, on any thread.


def test_an_abandoned_generator_that_is_collected_on_the_journals_thread_stops_nothing(bench):
    """Its end is queued there, and not waited for by the very thread that is to write it."""

    def answer():
        with bench.meter.reserve("acct", "app.answer", amount=5):
            yield "one"

    gc.collect()
    gc.disable()
    try:
        abandoned = [answer()]
        next(abandoned[0])
        abandoned.append(abandoned)
        del abandoned
        began = time.monotonic()
        bench.meter.journal.run(Do(lambda books: gc.collect() and None))
        took = time.monotonic() - began
    finally:
        gc.enable()
    assert took < 5


class Collecting:
    """A lock behind whose first taking the garbage collector runs, as it may behind any allocation."""

    def __init__(self, lock):
        self.lock, self.collected = lock, False

    def __enter__(self):
        self.lock.acquire()
        if not self.collected:
            self.collected = True
            gc.collect()

    def __exit__(self, *_):
        self.lock.release()


@pytest.mark.parametrize("where", ["runs", "reaper", "claims", "journal"])
@pytest.mark.filterwarnings("ignore")
def test_an_abandoned_stream_that_is_collected_while_a_lock_is_held(bench, fakes, where):
    """Its end comes back to each of these locks, in the same thread."""
    handler, config = make(bench)
    owner = {"runs": handler._runs, "reaper": reaping.REAPER, "claims": CLAIMS, "journal": bench.meter.journal}[where]
    lock, done = owner._lock, threading.Event()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        abandoned = [fakes.Chat().stream("x", config)]
        next(abandoned[0])
        abandoned.append(abandoned)
        del abandoned
        owner._lock = Collecting(lock)
        thread = threading.Thread(target=lambda: (fakes.Chat().invoke("y", config), done.set()), daemon=True)
        thread.start()
        passed = done.wait(20)
    finally:
        gc.enable()
        gc.unfreeze()
        owner._lock = lock
    assert passed, "it hangs"


@pytest.mark.parametrize("end", ["answers", "fails"])
def test_a_call_that_ends_on_a_thread_that_its_giving_up_waits_for(bench, fakes, end):
    """The collector may end it there; neither waits for the other for ever, and what it streamed is charged."""
    handler, config = make(bench)
    stream = fakes.Chat(fail_at=2 if end == "fails" else None).stream("x", config)
    next(stream)
    (run,) = handler._runs.opened()
    inside, go = threading.Event(), threading.Event()

    def give_up():
        with run.alone():
            inside.set()
            go.wait(20)

    thread = threading.Thread(target=give_up)
    thread.start()
    assert inside.wait(5)
    with contextlib.suppress(fakes.ProviderError):
        list(stream)
    go.set()
    thread.join()
    assert bench.audit().spent == (1 if end == "fails" else 6)


# A call is given up while it runs.


async def test_two_calls_under_one_run_id_are_told_apart_by_its_object(bench, fakes, monkeypatch):
    """Equal ids, read from two requests: the end of the fast call is not taken for the slow one's."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.05)
    _, config = make(bench)
    name, go = uuid.uuid4().hex, asyncio.Event()

    class Slow(fakes.Chat):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            if messages[0].content == "slow":
                await go.wait()
            return self._generate(messages)

    task = asyncio.create_task(Slow().ainvoke("slow", {**config, "run_id": uuid.UUID(name)}))
    while not await asyncio.to_thread(bench.meter.charges, "open"):
        await asyncio.sleep(0.01)
    await Slow().ainvoke("fast", {**config, "run_id": uuid.UUID(name)})
    await asyncio.sleep(0.5)
    still = await asyncio.to_thread(bench.meter.charges, "open")
    go.set()
    await task
    assert len(still) == 1


def test_a_run_id_that_is_a_text(bench, fakes):
    """LangChain takes one, and so does the handler."""
    _, config = make(bench)
    fakes.Chat().invoke("x", {**config, "run_id": str(uuid.uuid4())})
    assert bench.audit().told == [("settled", 6, "provider")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_its_parents_stream_alone(bench, fakes, monkeypatch):
    """A child that meters a call of its own hears nothing of its parent's chunks."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.3)
    handler, config = make(bench)
    inner = {}

    def step(x):
        inner["stream"] = fakes.Chat().stream(x)
        return next(inner["stream"]).text

    RunnableLambda(step).invoke("x", config)
    (run,) = handler._runs.opened()
    child = os.fork()
    if not child:
        try:
            fakes.Chat().invoke("y", make(bench)[1])
            time.sleep(1.0)
        finally:
            os._exit(0)
    while not os.waitpid(child, os.WNOHANG)[0]:
        run.touched = time.monotonic()  # In the parent it goes on.
        time.sleep(0.02)
    states = [charge.state for charge in bench.meter.charges()]
    list(inner["stream"])
    assert "open" in states


# What is charged.


async def test_a_late_failure_gives_its_ordinal_back_once(bench, fakes):
    """Given up with its branch, it fails later: another call has taken its place since, and keeps it."""

    class State(TypedDict):
        x: str

    _, config = make(bench)
    go, failed, calls, tries = asyncio.Event(), asyncio.Event(), [], []

    class Slow(fakes.Chat):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            calls.append(messages)
            if len(calls) == 1:
                await go.wait()
                failed.set()
                raise fakes.ProviderError("timed out")
            return self._generate(messages)

    async def quick(x):
        tries.append(x)
        while not calls:
            await asyncio.sleep(0.01)
        if len(tries) == 1:
            raise fakes.ProviderError("at first")
        return x

    both = RunnableParallel(a=RunnableLambda(quick), b=Slow())

    async def node(state):
        with pytest.raises(fakes.ProviderError):
            await both.ainvoke("one")
        await both.ainvoke("one")
        go.set()
        await failed.wait()
        await asyncio.sleep(0.3)
        await both.ainvoke("two")
        return {"x": "done"}

    await StateGraph(State).add_node("n", node).set_entry_point("n").compile().ainvoke({"x": ""}, config)
    assert len(calls) == 3
    assert (await asyncio.to_thread(bench.audit)).spent == 12


async def test_a_model_that_a_tool_asks_after_it_was_given_up_is_covered(bench, fakes):
    """The tool goes on in its thread when its run has failed. What runs in it is covered, whenever it begins."""
    _, config = make(bench, tool_prices={"ask": 3})
    asked, go, ended = threading.Event(), threading.Event(), threading.Event()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        try:
            asked.set()
            assert go.wait(20)
            return fakes.Chat().invoke(question).text
        finally:
            ended.set()

    async def fail(x):
        await asyncio.to_thread(asked.wait, 20)
        raise LookupError

    with pytest.raises(LookupError):
        await RunnableParallel(a=ask, b=RunnableLambda(fail)).ainvoke("x", config)
    go.set()
    await asyncio.to_thread(ended.wait, 20)
    await asyncio.sleep(0.3)
    assert (await asyncio.to_thread(bench.audit)).spent == 3


def test_a_covered_call_that_was_cancelled_makes_nothing_due(bench):
    """`cancel`: charge nothing, whatever was recorded."""
    block = flat(bench.meter)
    call = covered(bench.meter, block)
    block.finish(KeyError())
    call.record(USED, model="fake-1")
    call.cancel("answered from a cache")
    call.finish()
    assert bench.audit().spent == 0


@pytest.mark.parametrize("where", ["_covering", "_ran_in", "_due_after_all", "resume", "_ending", "leaves_at_once"])
def test_ctrl_c_at_the_end_of_a_covered_call_keeps_the_price_due(bench, where):
    """`finish` says that what a call used is committed all the same, wherever Ctrl-C strikes."""
    block = flat(bench.meter)
    call = covered(bench.meter, block)
    block.finish(KeyError())
    call.record(USED, model="fake-1")

    def strike(frame, event, arg):
        if event == "call" and frame.f_code.co_name == where and "_metering" in frame.f_code.co_filename:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(strike)
    try:
        with pytest.raises(KeyboardInterrupt):
            call.finish()
    finally:
        sys.settrace(before)
    assert bench.audit().spent == 3


async def test_a_call_that_answers_while_it_is_given_up_is_charged(bench, fakes, monkeypatch):
    """However long the commit of its giving up takes."""
    _, config = make(bench)
    given_up, answered, asked, tasks = threading.Event(), threading.Event(), asyncio.Event(), []
    commits = bench.meter._engine.commits
    outcome = commits.outcome

    def on_a_slow_disk(future, **options):
        if not given_up.is_set():
            given_up.set()
            answered.wait(5)
        return outcome(future, **options)

    monkeypatch.setattr(commits, "outcome", on_a_slow_disk)

    class Slow(fakes.Chat):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            asked.set()
            await asyncio.to_thread(given_up.wait, 5)
            return self._generate(messages)

    async def ask(x):
        await Slow().ainvoke(x)
        answered.set()

    async def left_running(x):
        tasks.append(asyncio.create_task(ask(x)))
        await asked.wait()

    await RunnableLambda(left_running).ainvoke("x", config)
    await tasks[0]
    assert (await asyncio.to_thread(bench.audit)).spent == 6


async def test_a_run_id_that_a_client_uses_again_is_charged_by_one_handler(bench, fakes):
    """The one that steps aside had given up another call under this id: the answer is not that one's."""
    one, two = make(bench)[0], make(bench)[0]
    name = uuid.uuid4()
    chain = RunnableLambda(lambda x: x) | fakes.Chat(hang_at=0).with_config(run_id=name)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(chain.ainvoke("x", {"callbacks": [one]}), 0.5)
    await asyncio.to_thread(fakes.Chat().invoke, "x", {"callbacks": [two, one], "run_id": name})
    assert (await asyncio.to_thread(bench.audit)).spent == 6


def test_each_call_of_a_tool_that_fails_after_its_model_ran_is_charged(bench, fakes):
    """It was charged: what is called next in the node is another call."""

    class State(TypedDict):
        x: str

    _, config = make(bench, tool_prices={"ask": 3})
    model = fakes.Chat()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        model.invoke(question)
        raise LookupError

    def node(state):
        for question in "abc":
            with pytest.raises(LookupError):
                ask.invoke(question)
        return {"x": "done"}

    StateGraph(State).add_node("n", node).set_entry_point("n").compile().invoke({"x": ""}, config)
    assert len(model.calls) == 3
    assert bench.audit().spent == 9


async def test_a_flat_route_that_failed_is_charged_when_a_call_in_it_answers_later(bench):
    """As it is for one that answers a moment earlier."""
    tasks = []

    async def ask():
        async with bench.meter.reserve("acct", "app.call", amount=50) as call:
            await asyncio.sleep(0.3)
            call.record(USED, model="fake-1")

    async def endpoint(request):
        tasks.append(asyncio.create_task(ask()))
        await asyncio.sleep(0.1)
        return JSONResponse({}, status_code=504)

    app = Starlette(routes=[Place("/x", endpoint)])
    routes = [Route("GET", "/x", "app.route", price=3)]
    metered = CreditsMiddleware(app, meter=bench.meter, account_id=lambda scope: "acct", routes=routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(metered), base_url="http://test") as client:
        await client.get("/x")
    await asyncio.gather(*tasks)
    assert (await asyncio.to_thread(bench.audit)).spent == 3


# Holds and memory that nobody lets go of.


async def test_a_priced_tool_that_is_cancelled_at_its_gate_gives_its_hold_back(bench, monkeypatch):
    """The handler notes it as a chain as well, and holds on to nothing that tells of its end."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.05)
    at_gate, go = threading.Event(), threading.Event()

    def slow(metadata):
        at_gate.set()
        assert go.wait(20)
        return "acct"

    @tool
    async def ask(question: str) -> str:
        """Answer."""
        return question

    handler = CountwerkCallbackHandler(bench.meter, account_id=slow, tool_prices={"ask": 3})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask.ainvoke("x", {"callbacks": [handler]}), 0.3)
    go.set()
    deadline = time.monotonic() + 5
    while not bench.reserves():
        await asyncio.sleep(0.01)
    while await asyncio.to_thread(bench.meter.charges, "open") and time.monotonic() < deadline:
        gc.collect()
        await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


def test_a_replayed_call_that_answers_late_is_not_open(bench):
    """Nothing of it needs the journal any more."""
    again = {"usage_event_id": "job-1", "on_replay": "run", "amount": 3}
    bench.meter.reserve("acct", "app.x", **again).begin().finish()
    for _ in range(5):
        call = bench.meter.reserve("acct", "app.x", **again).begin()
        assert call.replayed
        call.finish()
        call.resume()
        call.finish()
    bench.audit()
    assert not bench.meter._engine._ongoing._calls


@pytest.mark.parametrize("where", ["anew", "add"])
def test_ctrl_c_behind_the_gate_leaves_no_hold(bench, fakes, where):
    """Before the call is noted, nobody else would give it back."""
    handler, config = make(bench)

    def strike(frame, event, arg):
        named = frame.f_code.co_name == where and "countwerk_meter_langchain" in frame.f_code.co_filename
        if event == "call" and named:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(strike)
    try:
        with pytest.raises(KeyboardInterrupt):
            fakes.Chat().invoke("x", config)
    finally:
        sys.settrace(before)
    gc.collect()
    handler.flush()
    bench.audit()


@pytest.mark.parametrize("where", ["learner", "records"])
def test_a_generator_that_records_when_it_is_collected_while_a_lock_is_held(bench, where):
    """As above, in the core: what an abandoned generator records as it closes comes back to both locks."""
    done = threading.Event()
    meter = bench.meter

    def answer():
        with meter.reserve("acct", "app.answer", amount=5) as call:
            try:
                yield "one"
            finally:
                call.record(USED, model="fake-1")

    def work():
        with meter.reserve("acct", "app.page", price=3) as page:
            abandoned = [answer()]
            next(abandoned[0])
            abandoned.append(abandoned)
            del abandoned
            if where == "records":
                page._records.lock = Collecting(page._records.lock)
            else:
                meter._engine.learner._lock = Collecting(meter._engine.learner._lock)
            page.record(USED, model="fake-1")
        done.set()

    lock = meter._engine.learner._lock
    gc.collect()
    gc.disable()
    try:
        threading.Thread(target=work, daemon=True).start()
        passed = done.wait(20)
    finally:
        gc.enable()
        meter._engine.learner._lock = lock
    assert passed, "it hangs"


# The interpreter's exit.

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from conftest import PRICES, ChatFake
from countwerk_meter import Meter
from countwerk_meter_langchain import CountwerkCallbackHandler

meter = Meter("prod", api_key={key!r}, base_url={url!r}, journal={journal!r}, prices=PRICES)

def answer():
    with meter.reserve("acct", "app.answer", amount=5):
        yield "one"

if {what!r} == "stream":
    parts = ChatFake().stream("x", {{"callbacks": [CountwerkCallbackHandler(meter, account_id="acct")]}})
else:
    parts = answer()
next(parts)
print("ends", flush=True)
"""


@pytest.mark.parametrize("what", ["stream", "block"])
def test_a_script_that_ends_with_an_open_stream(countwerk_sandbox, tmp_path, what):
    """Python closes it after `atexit`, when no thread runs any more: nothing is waited for that cannot come."""
    countwerk_sandbox.control.account("acct", balance=100, ai_product_id="prod")
    url, key, journal = countwerk_sandbox.url, countwerk_sandbox.api_key, f"sqlite:///{tmp_path}/journal.db"
    script = SCRIPT.format(here=str(Path(__file__).parent), key=key, url=url, journal=journal, what=what)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ends\n"
        began = time.monotonic()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("module", ["settling", "blocks"])
def test_what_is_open_at_the_exit_ends_before_the_meters_drain(module):
    """Whatever is imported first: what is registered last at the exit runs first."""
    code = f"""
import atexit
exits, register = [], atexit.register
atexit.register = lambda each, *args: exits.append(each.__module__) or register(each, *args)
import countwerk_meter_langchain.{module}
print(exits.index("countwerk_meter._metering.engine") < exits.index("countwerk_meter_langchain.reaping"))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
