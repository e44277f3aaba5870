"""An agent's run that its consumer leaves between two calls: nobody tells of it, and its reservation is ended yet."""

import asyncio
import gc
import time

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler, blocks, reaping
from langchain.agents import create_agent, middleware
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from .retrying import QUICK, SETTLED, both, outer

ASK = {"messages": [("human", "x")]}
THREAD = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def asking(fakes):
    """Make a model that calls the tool `look` so often at once, and then answers; each call costs 6."""

    class Asking(fakes.Chat):
        times: int = 1

        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self._pass(0)
            done = any(message.type == "tool" for message in messages)
            wanted = [] if done else [{"name": "look", "args": {}, "id": f"look_{at}"} for at in range(self.times)]
            message = AIMessage("done" if done else "", tool_calls=wanted, usage_metadata=self._usage)
            return ChatResult(generations=[ChatGeneration(message=message)])

    return Asking


@pytest.fixture
def ours(bench):
    """A middleware whose runs hold 100 credits."""
    return CountwerkAgentMiddleware(bench.meter, account_id="acct", hold=100)


@tool
def look() -> str:
    """Look something up."""
    return "found"


def held(bench):
    return bench.sandbox.control.books("acct")["reserved"]


def settled(bench):
    return [charge for charge in bench.audit().told if charge[0] == "settled" and charge[1]]


def start(app, path, how, config=None, check=lambda: None):
    """Run an agent up to its model's answer, look, and leave it."""

    def leave():
        stream = app.stream(ASK, config)
        while "model" not in next(stream):
            pass
        check()
        if how == "close":
            stream.close()

    async def aleave():
        stream = app.astream(ASK, config)
        while "model" not in await anext(stream):
            pass
        check()
        if how == "close":
            await stream.aclose()

    leave() if path == "sync" else asyncio.run(aleave())


@both
@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("handler", [False, True])
def test_a_run_that_is_left_between_two_calls(bench, asking, ours, monkeypatch, path, how, handler):
    """Its reservation goes soon after it, and what it used is charged."""
    monkeypatch.setattr(blocks, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reaping.REAPER, "_timer", None)
    app = create_agent(asking(), [look], middleware=[ours])
    given = {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct")] if handler else []}

    def check():
        ours._blocks.tidy()
        assert held(bench) == 100

    start(app, path, how, given, check)
    gc.collect()
    deadline = time.monotonic() + 10
    while ours._blocks._open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert settled(bench) == [SETTLED]
    assert bench.reserves() == 1


@both
def test_a_run_that_goes_on_keeps_its_reservation(bench, asking, ours, path):
    """However long its consumer takes, and although the collector runs meanwhile."""
    model = asking(times=3)
    app = create_agent(model, [look], middleware=[ours])

    def pause():
        gc.collect()
        ours._blocks.tidy()
        assert len(ours._blocks._open) == 1

    async def consume():
        async for chunk in app.astream(ASK):
            if "model" in chunk:
                pause()

    if path == "sync":
        for chunk in app.stream(ASK):
            if "model" in chunk:
                pause()
    else:
        asyncio.run(consume())
    assert len(model.calls) == 2
    assert bench.reserves() == 1
    assert settled(bench) == [SETTLED] * 2


@both
@pytest.mark.parametrize("soon", [False, True])
def test_a_run_that_was_left_and_goes_on(bench, asking, ours, path, soon):
    """With its reservation, or with another one: nothing is charged twice and nothing is lost."""
    model, seen = asking(), []

    @tool("look")
    def look_on() -> str:
        """Look something up."""
        gc.collect()
        ours._blocks.tidy()
        seen.append(len(ours._blocks._open))
        return "found"

    app = create_agent(model, [look_on], middleware=[ours], checkpointer=InMemorySaver())
    start(app, path, "close", THREAD)
    if not soon:
        ours._blocks.tidy()
        assert not ours._blocks._open
    app.invoke(None, THREAD) if path == "sync" else asyncio.run(app.ainvoke(None, THREAD))
    # What looks for runs that are over sees the one that goes on.
    assert seen == [1 if soon else 0]
    assert len(model.calls) == 2
    assert bench.reserves() == (1 if soon else 2)
    assert settled(bench) == [SETTLED] * 2


@both
@pytest.mark.parametrize("denied", ["raise", "interrupt"])
def test_a_run_that_pauses_in_another_middlewares_hook(bench, asking, path, denied):
    """It is over until it is resumed, here or elsewhere: then it is another reservation."""
    ours = CountwerkAgentMiddleware(bench.meter, account_id="acct", hold=100, on_insufficient=denied)

    class Asks(middleware.AgentMiddleware):
        def after_model(self, state, runtime):
            interrupt("sure?")

    def run(given):
        return app.invoke(given, THREAD) if path == "sync" else asyncio.run(app.ainvoke(given, THREAD))

    model = asking()
    app = create_agent(model, [look], middleware=[ours, Asks()], checkpointer=InMemorySaver())
    for given in (ASK, Command(resume="yes"), Command(resume="yes")):
        run(given)
        gc.collect()
        ours._blocks.tidy()
        assert not ours._blocks._open
    assert len(model.calls) == 2
    assert settled(bench) == [SETTLED] * 2


@both
def test_a_run_that_fails_in_another_middlewares_hook(bench, asking, ours, path):
    """What it used is charged, and the rest is given back, once its error is let go."""

    class Fails(middleware.AgentMiddleware):
        def after_model(self, state, runtime):
            raise KeyError

    app = create_agent(asking(), [look], middleware=[ours, Fails()])
    with pytest.raises(KeyError):
        app.invoke(ASK) if path == "sync" else asyncio.run(app.ainvoke(ASK))
    gc.collect()
    ours._blocks.tidy()
    assert not ours._blocks._open
    assert settled(bench) == [SETTLED]


@both
def test_a_reservation_that_ends_too_early(bench, asking, ours, path):
    """Whatever ends it while calls run: they are charged once, and the next one has another reservation."""

    @tool("look")
    def look_late() -> str:
        """Look something up."""
        ours._blocks.tidy(everything=True)
        model.invoke("x")
        return "found"

    model = asking()
    app = create_agent(model, [look_late], middleware=[ours])
    app.invoke(ASK) if path == "sync" else asyncio.run(app.ainvoke(ASK))
    assert len(model.calls) == 3
    assert settled(bench) == [SETTLED] * 3


def test_an_agent_within_a_graph(bench, asking, ours):
    """Its own run counts, not that of the graph around it."""
    agent, seen = create_agent(asking(), [look], middleware=[ours]), []

    def node(state):
        start(agent, "sync", "close")
        ours._blocks.tidy()
        seen.append(len(ours._blocks._open))
        return {"said": []}

    outer(node, retry=QUICK).invoke({"said": []}, THREAD)
    assert seen == [0]
    assert settled(bench) == [SETTLED]


def test_a_run_of_which_nothing_is_known(bench, asking, ours, monkeypatch):
    """Where LangGraph hands out nothing that lives as long as the run, the validity ends its reservation."""
    monkeypatch.setattr(blocks, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reaping.REAPER, "_timer", None)
    monkeypatch.setattr("countwerk_meter_langchain.visits.run_of", lambda conf: None)
    app = create_agent(asking(), [look], middleware=[ours])
    start(app, "sync", "close")
    ours._blocks.tidy()
    assert ours._blocks.idle()
    assert len(ours._blocks._open) == 1
    ours._blocks._validity = 0.0
    ours._blocks.tidy()
    assert settled(bench) == [SETTLED]


def test_a_call_that_is_collected_while_runs_are_looked_at(bench, asking, ours):
    """The collector may close what was left in a call, and so end its reservation, in the middle of anything."""
    app, known = create_agent(asking(), [look], middleware=[ours]), []

    def collected(phase, info):
        known.append(1)
        ours._blocks.end("another")

    def check():
        thresholds = gc.get_threshold()
        gc.callbacks.append(collected)
        gc.set_threshold(1, 1_000_000, 1_000_000)
        try:
            ours._blocks.tidy()
            ours._blocks.find("another", ours)
        finally:
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(collected)

    start(app, "sync", "close", None, check)
    assert known
    ours._blocks.tidy()
    assert settled(bench) == [SETTLED]
