"""Models repeat the ids of their tool calls: each turn's call is a charge of its own, and the same call made again is not."""

import asyncio

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

agents = pytest.importorskip("langchain.agents")
middlewares = pytest.importorskip("langchain.agents.middleware")
metered = pytest.importorskip("countwerk_meter_langchain.middleware")

PRICES = {"look": 2}
both = pytest.mark.parametrize("path", ["sync", "async"])
by = pytest.mark.parametrize("priced_by", ["handler", "middleware", "both"])


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


def asking(fakes, turns, at_once=1):
    """Make a model that calls a tool in so many turns, each time as `call_1`."""

    class Model(fakes.Chat):
        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, *args, **kwargs):
            result = super()._generate(messages)
            said = [message.type for message in messages]
            done = said[::-1][: said[::-1].index("human")].count("tool") // at_once
            look = {"name": "look", "args": {"what": str(done)}, "id": "call_1"}
            result.generations[0].message = AIMessage(
                "done",
                tool_calls=[look] * at_once if done < turns else [],
                usage_metadata=result.generations[0].message.usage_metadata,
            )
            return result

        async def _agenerate(self, messages, *args, **kwargs):
            return self._generate(messages)

    return Model()


class Priced:
    """An agent whose tool is priced by the middleware, by a handler on the run, or by both."""

    def __init__(self, bench, model, does, priced_by, more=()):
        self.bench, self.calls = bench, []
        mine = []
        if priced_by != "handler":
            mine = [metered.CountwerkAgentMiddleware(bench.meter, account_id="acct", tool_prices=PRICES)]

        @tool
        def look(what: str) -> str:
            """Look something up."""
            self.calls.append(what)
            return does(what) or "found"

        self.agent = agents.create_agent(model, [look], middleware=[*more, *mine], checkpointer=InMemorySaver())
        handler = CountwerkCallbackHandler(
            bench.meter, account_id="acct", tool_prices=PRICES if priced_by == "handler" else None
        )
        self.config = {"configurable": {"thread_id": "t"}}
        if priced_by != "middleware":
            self.config["callbacks"] = [handler]

    def tools(self):
        """What the tools were charged."""
        charges = self.bench.audit().charges
        return [charge.amount for charge in charges if charge.operation == "tool.call" and charge.state == "settled"]


@both
@by
def test_the_same_id_in_each_turn(bench, fakes, path, priced_by):
    """Three turns are three charges."""
    made = Priced(bench, asking(fakes, 3), lambda what: None, priced_by)
    run(made.agent, path, {"messages": [("user", "x")]}, made.config)
    assert made.calls == ["0", "1", "2"]
    assert made.tools() == [2, 2, 2]
    assert bench.audit().spent == 3 * 2 + 4 * 6


@both
@by
def test_the_same_id_in_two_runs_of_a_thread(bench, fakes, path, priced_by):
    """The second question of a conversation calls its tool anew."""
    made = Priced(bench, asking(fakes, 2), lambda what: None, priced_by)
    for question in "xy":
        run(made.agent, path, {"messages": [("user", question)]}, made.config)
    assert made.calls == ["0", "1"] * 2
    assert made.tools() == [2] * 4


@both
@by
def test_the_same_id_twice_in_one_turn(bench, fakes, path, priced_by):
    """Two calls in one answer are two charges, whatever they are called."""
    made = Priced(bench, asking(fakes, 1, at_once=2), lambda what: None, priced_by)
    run(made.agent, path, {"messages": [("user", "x")]}, made.config)
    assert made.calls == ["0", "0"]
    assert made.tools() == [2, 2]


@both
@by
def test_a_call_of_a_repeated_id_that_is_resumed(bench, fakes, path, priced_by):
    """The second turn's call pauses, and is charged once when it is made again."""
    made = Priced(bench, asking(fakes, 3), lambda what: interrupt("sure?") if what == "1" else None, priced_by)
    run(made.agent, path, {"messages": [("user", "x")]}, made.config)
    assert made.tools() == [2]
    run(made.agent, path, Command(resume="yes"), made.config)
    assert made.calls == ["0", "1", "1", "2"]
    assert made.tools() == [2, 2, 2]


@both
@by
@pytest.mark.parametrize("crashes", ["in", "after"])
def test_a_call_of_a_repeated_id_that_is_made_again_after_a_crash(bench, fakes, path, priced_by, crashes):
    """Whether the tool broke off or what came after it, its step is charged once."""
    left = [1]

    def crash(what="1"):
        if what == "1" and left:
            left.pop()
            raise RuntimeError("crash")

    class After(middlewares.AgentMiddleware):
        """Breaks off around the tool, once it has ended and was charged."""

        def wrap_tool_call(self, request, handler):
            answer = handler(request)
            if crashes == "after":
                crash(request.tool_call["args"]["what"])
            return answer

        async def awrap_tool_call(self, request, handler):
            answer = await handler(request)
            if crashes == "after":
                crash(request.tool_call["args"]["what"])
            return answer

    does = crash if crashes == "in" else lambda what: None
    made = Priced(bench, asking(fakes, 3), does, priced_by, [After()])
    with pytest.raises(RuntimeError, match="crash"):
        run(made.agent, path, {"messages": [("user", "x")]}, made.config)
    run(made.agent, path, None, made.config)
    assert made.calls == ["0", "1", "1", "2"]
    assert made.tools() == [2, 2, 2]
