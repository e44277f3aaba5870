"""Out of credits pauses the graph: it goes on once the user has bought, and under the same charge id."""

import asyncio
import contextlib
import json
import operator
from typing import Annotated, TypedDict

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from countwerk_meter import ConfigurationError, InsufficientCreditsError


class State(TypedDict):
    said: Annotated[list, operator.add]


def graph(node, checkpointer=True):
    made = StateGraph(State)
    made.add_node("node", node)
    made.add_edge(START, "node")
    return made.compile(checkpointer=InMemorySaver() if checkpointer else None)


def config(bench, **options):
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", on_insufficient="interrupt", **options)
    return {"callbacks": [handler], "configurable": {"thread_id": "t"}}


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


def buy(bench, balance):
    bench.sandbox.control.account("acct", balance=balance, ai_product_id="prod")


both = pytest.mark.parametrize("path", ["sync", "async"])


@both
@pytest.mark.parametrize("how", ["invoke", "stream", "chain"])
def test_pause_buy_resume(broke, fakes, path, how):
    """A denied call pauses the graph with the 402 payload; resumed, it is paid under the id that was denied."""
    model = fakes.Chat()

    def node(state):
        if how == "stream":
            list(model.stream("x"))
        else:
            (model if how == "invoke" else model.with_config(tags=["a"]) | (lambda x: x)).invoke("x")
        return {"said": ["done"]}

    app, given = graph(node), config(broke)
    (paused,) = run(app, path, {"said": []}, given)["__interrupt__"]
    assert model.calls == []
    assert (paused.value["status"], paused.value["code"]) == (402, "INSUFFICIENT_CREDITS")
    assert paused.value["data"]["options"]
    assert "://" not in json.dumps(paused.value)
    buy(broke, 100)
    assert run(app, path, Command(resume=True), given)["said"] == ["done"]
    ((charge),) = broke.audit().charges
    assert (charge.state, charge.amount) == ("settled", 6)
    assert charge.usage_event_id == paused.value["usage_event_id"]


@both
def test_resumed_without_credits_pauses_again(broke, fakes, path):
    """Resuming is no permission: without credits the graph pauses anew, as often as it takes."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        return {"said": ["done"]}

    app, given = graph(node), config(broke)
    run(app, path, {"said": []}, given)
    for _ in range(2):
        assert run(app, path, Command(resume=True), given)["__interrupt__"]
    assert model.calls == []
    buy(broke, 100)
    assert run(app, path, Command(resume=True), given)["said"] == ["done"]
    assert broke.audit().told == [("settled", 6, "provider")]


@both
def test_the_nodes_own_interrupt_gets_its_own_answer(broke, fakes, path):
    """The value that ended our pause is not handed to an interrupt of the node's, before or after it."""
    model = fakes.Chat()

    def node(state):
        first = interrupt("first?")
        model.invoke("x")
        second = interrupt("second?")
        model.invoke("y")
        return {"said": [first, second]}

    app, given = graph(node), config(broke)
    run(app, path, {"said": []}, given)
    assert run(app, path, Command(resume="one"), given)["__interrupt__"][0].value["status"] == 402
    buy(broke, 100)
    (asked,) = run(app, path, Command(resume="bought"), given)["__interrupt__"]
    assert asked.value == "second?"
    assert run(app, path, Command(resume="two"), given)["said"] == ["one", "two"]
    assert broke.audit().told == [("settled", 6, "provider")] * 2


@both
def test_what_ran_before_the_pause_is_not_charged_again(make_bench, fakes, path):
    """Only the call that was denied is paid after the resume."""
    bench = make_bench(balance=12)
    model = fakes.Chat()

    def node(state):
        for prompt in ("x", "y"):
            model.invoke(prompt)
        return {"said": ["done"]}

    app, given = graph(node), config(bench)
    assert run(app, path, {"said": []}, given)["__interrupt__"]
    buy(bench, 100)
    run(app, path, Command(resume=True), given)
    assert len(model.calls) == 3
    assert bench.audit().spent == 12


@both
def test_branches_pause_each(broke, fakes, path):
    """Every branch that was denied is an interrupt of its own, and each is resumed by its id."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        return {"said": ["done"]}

    made = StateGraph(State)
    made.add_node("node", node)
    made.add_conditional_edges(START, lambda state: [Send("node", {"said": []})] * 2, ["node"])
    app, given = made.compile(checkpointer=InMemorySaver()), config(broke)
    paused = run(app, path, {"said": []}, given)["__interrupt__"]
    assert len({one.id for one in paused}) == 2
    buy(broke, 100)
    assert run(app, path, Command(resume={one.id: True for one in paused}), given)["said"] == ["done"] * 2
    assert broke.audit().told == [("settled", 6, "provider")] * 2


@both
@pytest.mark.parametrize("attached", ["run", "model"])
def test_a_branch_that_is_refused_from_memory_pauses_as_itself(broke, fakes, path, attached):
    """One after the other, each has an interrupt of its own: a plain value must not answer a node's own question."""
    model = fakes.Chat()
    given = config(broke) | {"max_concurrency": 1}

    def node(state):
        model.invoke("x", {"callbacks": given["callbacks"]} if attached == "model" else None)
        return {"said": [interrupt("sure?")]}

    made = StateGraph(State)
    made.add_node("node", node)
    made.add_conditional_edges(START, lambda state: [Send("node", {"said": []})] * 2, ["node"])
    app = made.compile(checkpointer=InMemorySaver())
    with_config = given if attached == "run" else {key: given[key] for key in ("configurable", "max_concurrency")}
    paused = run(app, path, {"said": []}, with_config)["__interrupt__"]
    assert len({one.id for one in paused}) == 2
    buy(broke, 100)
    with pytest.raises(RuntimeError, match="multiple pending interrupts"):
        run(app, path, Command(resume="bought"), with_config)
    asked = run(app, path, Command(resume={one.id: "bought" for one in paused}), with_config)["__interrupt__"]
    assert [one.value for one in asked] == ["sure?"] * 2
    answers = {one.id: f"yes {number}" for number, one in enumerate(asked)}
    assert run(app, path, Command(resume=answers), with_config)["said"] == ["yes 0", "yes 1"]
    assert broke.audit().spent == (12 if attached == "run" else 24)


@both
def test_a_later_call_answers_its_own_pause(broke, fakes, path):
    """A node swallowed its denial; the next one is refused as well, and resumed without its question being answered."""
    model = fakes.Chat()

    def first(state):
        with contextlib.suppress(Exception):
            model.invoke("x")
        return {"said": ["first"]}

    def node(state):
        model.invoke("y")
        return {"said": [interrupt("sure?")]}

    made = StateGraph(State)
    made.add_node("first", first)
    made.add_node("node", node)
    made.add_edge(START, "first")
    made.add_edge("first", "node")
    app, given = made.compile(checkpointer=InMemorySaver()), config(broke)
    assert run(app, path, {"said": []}, given)["__interrupt__"][0].value["status"] == 402
    buy(broke, 100)
    (asked,) = run(app, path, Command(resume="bought"), given)["__interrupt__"]
    assert asked.value == "sure?"
    assert run(app, path, Command(resume="yes"), given)["said"] == ["first", "yes"]
    assert broke.audit().spent == 6


@both
def test_a_fallback_does_not_step_around_the_pause(broke, fakes, path):
    """A fallback is denied as well, and the graph pauses."""
    primary, fallback = fakes.Chat(), fakes.Chat()

    def node(state):
        primary.with_fallbacks([fallback]).invoke("x")
        return {"said": ["done"]}

    app, given = graph(node), config(broke)
    assert run(app, path, {"said": []}, given)["__interrupt__"]
    assert broke.reserves() == 1
    buy(broke, 100)
    assert run(app, path, Command(resume=True), given)["said"] == ["done"]
    assert primary.calls + fallback.calls == ["call"]
    assert broke.audit().told == [("settled", 6, "provider")]


@both
@pytest.mark.parametrize("where", ["model", "graph"])
def test_nothing_to_pause_raises(broke, fakes, path, where):
    """Outside of a graph, or in one without a checkpointer, there is nothing to resume: the denial is raised."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        return {"said": []}

    app = model if where == "model" else graph(node, checkpointer=False)
    with pytest.raises(InsufficientCreditsError):
        run(app, path, "x" if where == "model" else {"said": []}, config(broke))
    assert model.calls == []
    assert broke.audit().spent == 0


def test_on_insufficient_is_checked(bench):
    """Anything else is a mistake."""
    with pytest.raises(ConfigurationError, match="on_insufficient"):
        CountwerkCallbackHandler(bench.meter, on_insufficient="pause")
