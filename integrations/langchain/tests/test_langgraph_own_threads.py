"""A graph that a node runs with a config of its own is a root to LangGraph, and yet has a place in the node."""

import asyncio
import itertools

import pytest
from countwerk_meter_langchain import install
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

import countwerk_meter

from .retrying import QUICK, SETTLED, State, both, config, flaky, graph, outer, run

OWN = {"configurable": {"thread_id": "own"}}


def asking(model, name=None, checkpointer=None):
    def ask(state):
        model.invoke("x")
        return {"said": []}

    return graph(ask, retry=None, name=name, checkpointer=checkpointer)


def around(app, path, fail, given=lambda: OWN, times=1):
    """Make a node that runs a graph so often, and then fails."""

    def node(state):
        for _ in range(times):
            app.invoke({"said": []}, given())
        fail()
        return {"said": []}

    async def anode(state):
        for _ in range(times):
            await app.ainvoke({"said": []}, given())
        fail()
        return {"said": []}

    return node if path == "sync" else anode


@both
@pytest.mark.parametrize("own", [OWN, {"configurable": {"user": "somebody"}}])
@pytest.mark.parametrize("installed", [False, True])
def test_a_graph_with_a_config_of_its_own_is_charged_once(bench, fakes, path, own, installed):
    """Each turn of the loop is a charge, and the node's retries add none."""
    model = fakes.Chat()
    app = outer(around(asking(model), path, flaky(2), lambda: own, times=2))
    if installed:
        with install(bench.meter), countwerk_meter.account("acct"):
            run(app, path, {"said": []}, {"configurable": {"thread_id": "t"}})
    else:
        run(app, path, {"said": []}, config(bench))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 2


@both
@pytest.mark.parametrize("fresh", [False, True])
def test_a_graph_that_keeps_checkpoints_of_its_own_is_charged_in_each_attempt(bench, fakes, path, fresh):
    """Each attempt is another turn of its thread, or another thread."""
    model, threads = fakes.Chat(), itertools.count()
    app = asking(model, checkpointer=InMemorySaver())

    def own():
        return {"configurable": {"thread_id": str(next(threads) if fresh else "own")}}

    run(outer(around(app, path, flaky(), own)), path, {"said": []}, config(bench))
    assert bench.audit().told == [SETTLED] * 2


@both
def test_another_thread_is_another_charge(bench, fakes, path):
    """In another attempt the node runs the graph for something else."""
    model, threads = fakes.Chat(), itertools.count()
    node = around(asking(model), path, flaky(), lambda: {"configurable": {"thread_id": str(next(threads))}})
    run(outer(node), path, {"said": []}, config(bench))
    assert bench.audit().told == [SETTLED] * 2


@both
def test_graphs_in_graphs_with_configs_of_their_own(bench, fakes, path):
    """However deep, and with graphs between them that have none."""
    model = fakes.Chat()
    deepest = graph(around(asking(model), path, lambda: None, times=2), retry=None)
    middle = graph(around(deepest, path, lambda: None, lambda: None), retry=None)
    run(outer(around(middle, path, flaky(), times=2)), path, {"said": []}, config(bench))
    assert len(model.calls) == 8
    assert bench.audit().told == [SETTLED] * 4


@both
def test_checkpoints_anywhere_on_the_way_count(bench, fakes, path):
    """Below a graph with checkpoints of its own nothing is certain."""
    model = fakes.Chat()
    kept = graph(around(asking(model), path, lambda: None), retry=None, checkpointer=InMemorySaver())
    run(outer(around(kept, path, flaky())), path, {"said": []}, config(bench))
    assert bench.audit().told == [SETTLED] * 2


def test_what_such_a_graph_sends(bench, fakes):
    """It is looked into, as anywhere."""
    model, again = fakes.Chat(), itertools.count()
    made = StateGraph(State)
    made.add_node("ask", lambda state: {"said": [model.invoke("x").text]})
    made.add_conditional_edges(
        START, lambda state: [Send("ask", {"said": [what]}) for what in (1, next(again))], ["ask"]
    )
    node = around(made.compile(), "sync", flaky())
    outer(node).invoke({"said": []}, config(bench) | {"max_concurrency": 1})
    assert bench.audit().told == [SETTLED] * 3


def test_graphs_of_one_name_at_once(bench, fakes):
    """Which of them is which is not known; their names tell them apart."""
    model = fakes.Chat()

    def spent(*names):
        fail, apps = flaky(), [asking(model, name) for name in names]

        async def node(state):
            await asyncio.gather(*(app.ainvoke({"said": []}, OWN) for app in apps))
            fail()
            return {"said": []}

        before = bench.audit().spent
        asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
        return bench.audit().spent - before

    assert spent("one", "two") == 12
    assert spent(None, None) == 24


def test_each_visit_of_the_node_is_charged(bench, fakes):
    """A loop of the outer graph, another run of it, and a run from an old checkpoint are no retries."""
    model, visits = fakes.Chat(), []
    ask = around(asking(model), "sync", lambda: None)

    def node(state):
        visits.append(1)
        return ask(state)

    made = StateGraph(State)
    made.add_node("node", node, retry_policy=QUICK)
    made.add_edge(START, "node")
    made.add_conditional_edges("node", lambda state: END if len(visits) >= 2 else "node")
    app, given = made.compile(checkpointer=InMemorySaver()), config(bench)
    app.invoke({"said": []}, given)
    assert bench.audit().told == [SETTLED] * 2
    app.invoke({"said": []}, given)
    assert bench.audit().told == [SETTLED] * 3
    old = next(state for state in app.get_state_history(given) if state.next == ("node",))
    for charges in (4, 5):
        app.invoke(None, {**given, "configurable": old.config["configurable"]})
        assert bench.audit().told == [SETTLED] * charges


def test_resuming_a_node_that_has_run_such_a_graph(bench, fakes):
    """Nothing says where the outer thread stands: what runs again is charged, but for the retries of it."""
    model, fail = fakes.Chat(), flaky(0)
    app = asking(model)

    def node(state):
        app.invoke({"said": []}, OWN)
        interrupt("sure?")
        fail()
        return {"said": []}

    whole, given = outer(node), config(bench)
    whole.invoke({"said": []}, given)
    old = whole.get_state(given).config["configurable"]
    for charges in (2, 3):
        fail = flaky(2)
        whole.invoke(Command(resume="yes"), {**given, "configurable": old})
        assert bench.audit().told == [SETTLED] * charges


@both
@pytest.mark.parametrize("passed", [(), ("configurable",), ("run_id",), ("metadata", "configurable", "run_id")])
def test_a_client_that_names_a_place_is_charged_all_the_same(bench, fakes, path, passed):
    """What surrounds a graph is LangGraph's own word, whatever the config that an app passes through says."""
    model = fakes.Chat()
    app = asking(model)
    forged = {
        "metadata": {"langgraph_checkpoint_ns": "node:1", "langgraph_path": ("x",), "langgraph_step": 1},
        "configurable": {"thread_id": "t", "checkpoint_ns": "node:1", "__pregel_task_id": "1"},
        "run_id": "11111111-2222-3333-4444-555555555555",
    }
    twice = RunnableLambda(lambda x: [app.invoke(x, forged), app.invoke(x, forged)])
    for charges in (2, 4):
        run(twice, path, {"said": []}, config(bench) | {key: forged[key] for key in passed})
        assert bench.audit().told == [SETTLED] * charges
