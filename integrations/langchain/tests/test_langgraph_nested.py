"""A graph or an agent that runs inside of a node: a step of it is known by its place, however often the node is tried."""

import asyncio
import itertools

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from .retrying import SETTLED, State, asked, both, config, flaky, outer, run


def inner(*nodes, checkpointer=None, edges=None, name=None):
    made = StateGraph(State)
    for node in nodes:
        made.add_node(node.__name__, node)
    names = [START, *(node.__name__ for node in nodes), END]
    for before, after in edges or itertools.pairwise(names):
        made.add_edge(before, after)
    return made.compile(checkpointer=checkpointer, name=name)


def asking(model, name="ask", text="x"):
    def ask(state):
        model.invoke(text)
        return {"said": [name]}

    ask.__name__ = name
    return ask


def around(app, fail, times=1):
    """Make a node that runs a graph, and then fails."""

    def node(state):
        for _ in range(times):
            app.invoke({"said": []})
        fail()
        return {"said": ["done"]}

    async def anode(state):
        for _ in range(times):
            await app.ainvoke({"said": []})
        fail()
        return {"said": ["done"]}

    anode.__name__ = "node"
    return {"sync": node, "async": anode}


@both
@pytest.mark.parametrize("own", [None, "own"])
def test_a_graph_in_a_retried_node_is_charged_once(bench, fakes, path, own):
    """Its tasks have other ids in each attempt, and yet are the same steps."""
    model = fakes.Chat()
    app = inner(asking(model, "one"), asking(model, "two"), checkpointer=InMemorySaver() if own else None)
    node = around(app, flaky(2))[path]
    run(outer(node), path, {"said": []}, config(bench))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 2


@both
def test_graphs_in_a_loop_of_a_retried_node(bench, fakes, path):
    """Each turn of the loop is a charge, and the retry adds none."""
    model = fakes.Chat()
    node = around(inner(asking(model)), flaky(1), times=3)[path]
    run(outer(node), path, {"said": []}, config(bench))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 3


def test_branches_of_a_graph_in_a_retried_node(bench, fakes):
    """Nodes beside each other, and a node that several are sent to, are told apart."""
    model = fakes.Chat()

    def fan(state):
        return [Send("ask", {"said": [name]}) for name in "abc"]

    made = StateGraph(State)
    made.add_node("ask", asking(model))
    made.add_node("left", asking(model, "left"))
    made.add_node("right", asking(model, "right"))
    made.add_conditional_edges(START, fan, ["ask"])
    made.add_edge(START, "left")
    made.add_edge(START, "right")
    node = around(made.compile(), flaky(1))["sync"]
    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 10
    assert bench.audit().told == [SETTLED] * 5


def test_what_the_first_attempt_did_not_reach_is_charged_by_the_second(bench, fakes):
    """The nested graph itself breaks off half-way."""
    model, fail = fakes.Chat(), flaky(1)

    def between(state):
        fail()
        return {"said": []}

    app = inner(asking(model, "one"), between, asking(model, "two"))
    node = around(app, lambda: None)["sync"]
    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 3
    assert bench.audit().told == [SETTLED] * 2


def test_two_graphs_in_one_node_are_two_charges(bench, fakes):
    """They have nodes of the same names, in the same steps."""
    model, fail = fakes.Chat(), flaky(1)
    first, second = inner(asking(model)), inner(asking(model))

    def node(state):
        first.invoke({"said": []})
        second.invoke({"said": []})
        fail()
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 4
    assert bench.audit().told == [SETTLED] * 2


def test_a_graph_in_a_graph_in_a_retried_node(bench, fakes):
    """However deep."""
    model = fakes.Chat()
    deepest = inner(asking(model))

    def middle(state):
        deepest.invoke({"said": []})
        deepest.invoke({"said": []})
        return {"said": []}

    node = around(inner(middle), flaky(1))["sync"]
    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 4
    assert bench.audit().told == [SETTLED] * 2


def test_a_graph_that_is_resumed_within_a_retried_node(bench, fakes):
    """An interrupt in the nested graph, a resume, and a retry of the node around: each step once."""
    model, fail = fakes.Chat(), flaky(1)

    def pause(state):
        return {"said": [interrupt("go on?")]}

    app = inner(asking(model, "one"), pause, asking(model, "two"))

    def node(state):
        app.invoke({"said": []})
        fail()
        return {"said": ["done"]}

    whole, given = outer(node), config(bench)
    whole.invoke({"said": []}, given)
    assert bench.audit().told == [SETTLED]
    whole.invoke(Command(resume="yes"), given)
    assert bench.audit().told == [SETTLED] * 2


@both
def test_an_agent_in_a_retried_node_is_charged_once(bench, fakes, path):
    """Its model is asked twice, around a tool."""
    agents = pytest.importorskip("langchain.agents")

    @tool
    def look(what: str) -> str:
        """Look something up."""
        return "found"

    fail = flaky(1)
    calls = []

    class Asks(fakes.Chat):
        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, *args, **kwargs):
            calls.append(1)
            done = any(message.type == "tool" for message in messages)
            result = super()._generate(messages, *args, **kwargs)
            message = result.generations[0].message
            asked = [] if done else [{"name": "look", "args": {"what": "x"}, "id": "call_1"}]
            result.generations[0].message = AIMessage(
                "done",
                tool_calls=asked,
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
            )
            return result

        async def _agenerate(self, messages, *args, **kwargs):
            return self._generate(messages)

    agent = agents.create_agent(Asks(), [look])

    run(outer(asked(agent, fail, path)), path, {"said": []}, config(bench))
    assert len(calls) == 4
    assert bench.audit().told == [SETTLED] * 2


def test_a_nested_graph_is_charged_again_when_its_node_runs_again(bench, fakes):
    """A loop of the outer graph is another visit, not a retry."""
    model = fakes.Chat()
    app = inner(asking(model))
    visits = []

    def node(state):
        app.invoke({"said": []})
        visits.append(1)
        return {"said": []}

    made = StateGraph(State)
    made.add_node("node", node)
    made.add_edge(START, "node")
    made.add_conditional_edges("node", lambda state: END if len(visits) == 3 else "node")
    made.compile(checkpointer=InMemorySaver()).invoke({"said": []}, config(bench))
    assert bench.audit().told == [SETTLED] * 3


def test_a_client_that_names_a_place_is_charged_all_the_same(bench, fakes):
    """What names a step is LangGraph's own, whatever the config's metadata say."""
    model = fakes.Chat()
    app = inner(asking(model))
    whole = outer(around(app, lambda: None)["sync"], retry=None)
    for thread in ("a", "b"):
        given = config(bench, thread=thread)
        given["metadata"] = {"langgraph_step": 1, "langgraph_path": ("x",), "langgraph_checkpoint_ns": "node:1"}
        whole.invoke({"said": []}, given)
        whole.invoke({"said": []}, given)
    assert bench.audit().told == [SETTLED] * 4


def test_graphs_that_run_at_once_in_a_node(bench, fakes):
    """Their names tell them apart."""
    model, fail = fakes.Chat(), flaky(1)
    first, second = inner(asking(model), name="first"), inner(asking(model), name="second")

    async def node(state):
        await asyncio.gather(first.ainvoke({"said": []}), second.ainvoke({"said": []}))
        fail()
        return {"said": []}

    asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
    assert len(model.calls) == 4
    assert bench.audit().told == [SETTLED] * 2
