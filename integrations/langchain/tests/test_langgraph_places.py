"""What a retried node runs is the same step only where it is known for certain: nothing rides on another call's charge."""

import asyncio
import itertools

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from .retrying import SETTLED, State, both, config, flaky, graph, outer, run


def asking(model, name=None, **options):
    def ask(state):
        model.invoke("x")
        return {"said": []}

    return graph(ask, name=name, retry=None, **options)


@pytest.mark.parametrize("names", [(None, None), ("one", "two")])
def test_graphs_at_once_that_start_in_another_order(bench, fakes, names):
    """The one that was not paid yet does not ride on the other's charge, whichever starts first."""
    model, attempts = fakes.Chat(), itertools.count()
    calls = []

    async def node(state):
        again, both_run, paid = next(attempts), asyncio.Event(), asyncio.Event()

        async def ask(name, *, starts_first):
            await model.ainvoke(name)
            calls.append(name)
            paid.set()
            if not starts_first:
                both_run.set()
            await both_run.wait()
            return {"said": []}

        async def one(state):
            return await ask("one", starts_first=not again)

        async def two(state):
            if not again:
                both_run.set()
                raise ValueError("again")
            return await ask("two", starts_first=True)

        apps = [graph(one, name=names[0], retry=None), graph(two, name=names[1], retry=None)]
        first, second = reversed(apps) if again else apps
        running = asyncio.ensure_future(first.ainvoke({"said": []}))
        await paid.wait()
        await asyncio.gather(running, second.ainvoke({"said": []}))
        return {"said": []}

    asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
    assert calls == ["one", "two", "one"]
    audit = bench.audit()
    # Names tell them apart; without any, nothing does, and each call is charged.
    assert audit.told == [SETTLED] * (2 if names[0] else 3)


def test_a_graph_that_runs_beside_another_in_the_second_attempt_alone(bench, fakes):
    """Then it is not known which of the two the first attempt ran."""
    model, attempts = fakes.Chat(), itertools.count()

    async def node(state):
        again, both_run = next(attempts), asyncio.Barrier(2)

        async def ask(state):
            if again:
                await both_run.wait()
            await model.ainvoke("x")
            return {"said": []}

        apps = [graph(ask, retry=None) for _ in range(2 if again else 1)]
        await asyncio.gather(*(app.ainvoke({"said": []}) for app in apps))
        if not again:
            raise ValueError("again")
        return {"said": []}

    asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
    assert len(model.calls) == 3
    assert bench.audit().told == [SETTLED] * 3


def test_a_batch_of_a_graph_is_charged_in_each_attempt(bench, fakes):
    """Its graphs run at once, in any order: which of them a call belongs to is not known."""
    model, fail = fakes.Chat(), flaky()
    app = asking(model)

    async def node(state):
        await app.abatch([{"said": []}, {"said": []}])
        fail()
        return {"said": []}

    asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
    assert len(model.calls) == 4
    assert bench.audit().told == [SETTLED] * 4


@both
def test_graphs_in_the_branches_of_a_chain(bench, fakes, path):
    """Their keys tell them apart, whatever the order in which they start."""
    model, fail = fakes.Chat(), flaky()
    branches = RunnableParallel(one=asking(model), two=asking(model), three=asking(model))

    def node(state):
        branches.invoke({"said": []})
        fail()
        return {"said": []}

    async def anode(state):
        await branches.ainvoke({"said": []})
        fail()
        return {"said": []}

    run(outer(node if path == "sync" else anode), path, {"said": []}, config(bench))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 3


def test_what_runs_at_once_before_a_graph_does_not_hide_it(bench, fakes):
    """Only what ran beside a graph of the same name makes its place unknown."""
    model, fail = fakes.Chat(), flaky()
    beside, app = asking(model, "beside"), asking(model)

    async def node(state):
        await beside.abatch([{"said": []}, {"said": []}])
        await app.ainvoke({"said": []})
        fail()
        return {"said": []}

    asyncio.run(outer(node).ainvoke({"said": []}, config(bench)))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 5


def test_another_node_that_a_nested_graph_goes_on_with(bench, fakes):
    """In another attempt it decides otherwise: that is another call."""
    model, fail, nodes = fakes.Chat(), flaky(), iter("ab")
    made = StateGraph(State)
    for name in "ab":
        made.add_node(name, lambda state: {"said": [model.invoke("x").text]})
    made.add_conditional_edges(START, lambda state: [Send(next(nodes), {"said": []})], ["a", "b"])
    app = made.compile()

    def node(state):
        app.invoke({"said": []})
        fail()
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 2
    assert bench.audit().told == [SETTLED] * 2


def test_another_graph_that_a_node_runs(bench, fakes):
    """In another attempt the node runs another one first: its name tells."""
    model, fail = fakes.Chat(), flaky()
    apps = iter([asking(model, "one"), asking(model, "two")])

    def node(state):
        next(apps).invoke({"said": []})
        fail()
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 2
    assert bench.audit().told == [SETTLED] * 2


def test_the_tasks_of_a_workflow_in_a_retried_node(bench, fakes):
    """What was given to each is looked into as well."""
    model, fail, runs = fakes.Chat(), flaky(), itertools.count()

    @task
    def ask(what):
        return model.invoke(what).text

    @entrypoint()
    def flow(state):
        again = next(runs)
        for each in [ask(what) for what in ("a", "b", f"c{again}")]:
            each.result()
        return {"said": []}

    def node(state):
        flow.invoke({"said": []})
        fail()
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 6
    assert bench.audit().told == [SETTLED] * 4


@pytest.mark.parametrize("swapped", [False, True])
def test_what_a_nested_graph_sends_in_another_order(bench, fakes, swapped):
    """A task that was sent other input is another call, and does not ride on the charge of the one before it."""
    model, fail, fans = fakes.Chat(), flaky(), itertools.count()

    def ask(state):
        if state["said"] == ["b"]:
            fail()
        model.invoke(state["said"][0])
        return {"said": []}

    def fan(state):
        return [Send("ask", {"said": [name]}) for name in ("ba" if swapped and next(fans) else "ab")]

    made = StateGraph(State)
    made.add_node("ask", ask)
    made.add_conditional_edges(START, fan, ["ask"])
    app = made.compile()

    def node(state):
        # One at a time, so that the first is paid before the second fails.
        app.invoke({"said": []}, {"max_concurrency": 1})
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert len(model.calls) == 3
    assert bench.audit().told == [SETTLED] * (3 if swapped else 2)


def test_what_a_nested_graph_sends_is_looked_into_as_far_as_possible(bench, fakes):
    """Messages get other ids with each attempt; what has no text of its own is not known again."""
    model = fakes.Chat()

    def spent(make):
        fail = flaky()
        made = StateGraph(State)
        made.add_node("ask", lambda state: {"said": [model.invoke("x").text]})
        made.add_conditional_edges(START, lambda state: [Send("ask", {"said": [make()]})], ["ask"])
        app = made.compile()

        def node(state):
            app.invoke({"said": []})
            fail()
            return {"said": []}

        before = bench.audit().spent
        outer(node).invoke({"said": []}, config(bench))
        return bench.audit().spent - before

    ids = itertools.count()
    assert spent(lambda: AIMessage("x", id=str(next(ids)))) == 6
    assert spent(lambda: {"x"}) == 12


@pytest.mark.parametrize("own", [None, False, "own"])
@pytest.mark.parametrize("retried", [False, True])
def test_time_travel_to_a_node_that_runs_a_graph(bench, fakes, own, retried):
    """Each visit is charged, and its retry is not; wherever the nested graph keeps its checkpoints."""
    model, fail = fakes.Chat(), flaky(int(retried))
    nested = asking(model, checkpointer=InMemorySaver() if own == "own" else own)

    def node(state):
        nested.invoke({"said": []})
        fail()
        return {"said": []}

    app, given = outer(node), config(bench)
    app.invoke({"said": []}, given)
    assert bench.audit().told == [SETTLED]
    (old,) = [state for state in app.get_state_history(given) if state.next == ("node",)]
    charges = 1
    for _ in range(2):
        before, fail = len(model.calls), flaky(int(retried))
        app.invoke(None, {**given, "configurable": old.config["configurable"]})
        # An older LangGraph goes on with what the nested graph has saved, without running it.
        charges += len(model.calls) > before
        assert bench.audit().told == [SETTLED] * charges
    if own is False:
        assert charges == 3


@pytest.mark.parametrize("own", [None, False, "own"])
def test_resuming_a_node_that_has_run_a_graph(bench, fakes, own):
    """A resume where the thread stands adds nothing; one from a checkpoint left behind does, and its retry does not."""
    model, fail = fakes.Chat(), flaky(0)
    nested = asking(model, checkpointer=InMemorySaver() if own == "own" else own)

    def node(state):
        nested.invoke({"said": []})
        interrupt("sure?")
        fail()
        return {"said": []}

    app, given = outer(node), config(bench)
    app.invoke({"said": []}, given)
    old = app.get_state(given).config["configurable"]
    app.invoke(Command(resume="yes"), {**given, "configurable": old})
    assert bench.audit().told == [SETTLED]
    charges = 1
    for times in (0, 1, 2):
        before, fail = len(model.calls), flaky(times)
        app.invoke(Command(resume="yes"), {**given, "configurable": old})
        # LangGraph may go on with what the nested graph has saved, without running it.
        charges += len(model.calls) > before
        assert bench.audit().told == [SETTLED] * charges
    assert len(model.calls) >= 3


def test_a_graph_that_keeps_its_state_from_visit_to_visit(bench, fakes):
    """Its namespace has no task to it: each attempt is charged."""
    model, fail = fakes.Chat(), flaky()
    app = asking(model, checkpointer=True)

    def node(state):
        app.invoke({"said": []})
        fail()
        return {"said": []}

    outer(node).invoke({"said": []}, config(bench))
    assert bench.audit().told == [SETTLED] * len(model.calls)


@both
def test_a_graph_that_is_itself_the_retried_node(bench, fakes, path):
    """What it had paid for before it failed is not charged again."""
    model, fail = fakes.Chat(), flaky()

    def first(state):
        model.invoke("x")
        return {"said": []}

    def second(state):
        model.invoke("y")
        fail()
        return {"said": []}

    below = StateGraph(State)
    below.add_sequence([first, second])
    below.add_edge(START, "first")
    run(outer(below.compile()), path, {"said": []}, config(bench))
    assert len(model.calls) >= 3
    assert bench.audit().told == [SETTLED] * 2


@both
def test_a_graph_below_a_chain_of_a_retried_node(bench, fakes, path):
    """A chain around it is part of its place."""
    model, fail = fakes.Chat(), flaky()
    chain = RunnableLambda(lambda x: x) | asking(model) | RunnableLambda(lambda x: {"said": []}) | asking(model)

    def node(state):
        chain.invoke({"said": []})
        chain.invoke({"said": []})
        fail()
        return {"said": []}

    async def anode(state):
        await chain.ainvoke({"said": []})
        await chain.ainvoke({"said": []})
        fail()
        return {"said": []}

    run(outer(node if path == "sync" else anode), path, {"said": []}, config(bench))
    assert len(model.calls) == 8
    assert bench.audit().told == [SETTLED] * 4


def test_what_led_to_a_place_is_forgotten_when_it_is_over(bench, fakes):
    """A handler that serves for long keeps no chains, nor those of a run of which it was told only a part."""
    model = fakes.Chat()
    app = asking(model)
    given = config(bench)
    own = {"callbacks": given.pop("callbacks")}

    def node(state):
        app.invoke({"said": []}, own)
        return {"said": []}

    for each in (given, given | own):
        outer(node).invoke({"said": []}, each)
    runs = own["callbacks"][0]._runs
    assert not runs._siblings
    assert not runs._chains
    bench.audit()
