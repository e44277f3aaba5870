"""A charge's id names the logical step of a graph: what makes the step again does not charge it again."""

import asyncio
import itertools
import operator
import subprocess
import sys
import textwrap
from typing import Annotated, TypedDict

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags


class State(TypedDict):
    said: Annotated[list, operator.add]


def graph(*nodes, checkpointer=None, retry=None, edges=None):
    """Make a graph of nodes in a row."""
    made = StateGraph(State)
    for node in nodes:
        made.add_node(node.__name__, node, retry_policy=retry)
    names = [START, *(node.__name__ for node in nodes)]
    for before, after in edges or itertools.pairwise(names):
        made.add_edge(before, after)
    return made.compile(checkpointer=checkpointer or InMemorySaver())


def config(bench, thread="t", **options):
    handler = CountwerkCallbackHandler(bench.meter, **({"account_id": "acct"} | options))
    return {"callbacks": [handler], "configurable": {"thread_id": thread}}


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


both = pytest.mark.parametrize("path", ["sync", "async"])
QUICK = RetryPolicy(retry_on=ValueError, initial_interval=0.01, jitter=False)


def flaky(times):
    """Make a function that fails so often."""
    left = [times]

    def fail():
        if left[0]:
            left[0] -= 1
            raise ValueError("again")

    return fail


@both
@pytest.mark.parametrize("tracing", ["off", "api", "sdk"])
def test_a_retried_node_is_charged_once(bench, fakes, path, tracing):
    """LangGraph's retry makes the same calls again: two calls in the node are two charges, not four."""
    model, fail = fakes.Chat(), flaky(1)

    def node(state):
        if tracing == "sdk":
            # An instrumentation makes a span of its own around each call.
            with TracerProvider().get_tracer("instrumentation").start_as_current_span("model"):
                model.invoke("x")
        else:
            model.invoke("x")
        (RunnableLambda(lambda x: x) | model).invoke("y")
        fail()
        return {"said": ["done"]}

    app = graph(node, retry=QUICK)
    if tracing == "off":
        run(app, path, {"said": []}, config(bench))
    elif tracing == "api":
        span = NonRecordingSpan(SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(0)))
        with trace.use_span(span):
            run(app, path, {"said": []}, config(bench))
    else:
        with TracerProvider().get_tracer("app").start_as_current_span("request"):
            run(app, path, {"said": []}, config(bench))
    assert len(model.calls) == 4
    audit = bench.audit()
    assert audit.told == [("settled", 6, "provider")] * 2
    assert len({charge.usage_event_id for charge in audit.charges}) == 2
    assert all((charge.trace_id is not None) == (tracing != "off") for charge in audit.charges)


@both
def test_a_node_that_fails_in_the_model_is_charged_for_the_answer(bench, fakes, path):
    """What failed cost nothing; the retry is the same charge, begun anew."""
    models = [fakes.Chat(fail_at=0), fakes.Chat()]

    def node(state):
        try:
            models.pop(0).invoke("x")
        except fakes.ProviderError as error:
            raise ValueError from error
        return {"said": ["done"]}

    run(graph(node, retry=QUICK), path, {"said": []}, config(bench))
    assert bench.audit().told == [("settled", 6, "provider")]


@both
def test_resuming_after_an_interrupt_of_the_apps_own(bench, fakes, path):
    """The node runs again from its beginning, and what it had paid for is not charged again."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        answer = interrupt("sure?")
        model.invoke("y")
        return {"said": [answer]}

    app, given = graph(node), config(bench)
    assert "__interrupt__" in run(app, path, {"said": []}, given)
    assert run(app, path, Command(resume="yes"), given)["said"] == ["yes"]
    assert len(model.calls) == 3
    assert bench.audit().told == [("settled", 6, "provider")] * 2


@both
def test_resuming_after_a_crash_with_another_handler(bench, fakes, path):
    """Another handler, as another process has it, names the same steps alike."""
    model, fail = fakes.Chat(), flaky(1)

    def first(state):
        model.invoke("x")
        return {"said": ["first"]}

    def second(state):
        model.invoke("y")
        fail()
        return {"said": ["second"]}

    app = graph(first, second)
    with pytest.raises(ValueError, match="again"):
        run(app, path, {"said": []}, config(bench))
    assert run(app, path, None, config(bench))["said"] == ["first", "second"]
    assert len(model.calls) == 3
    assert bench.audit().told == [("settled", 6, "provider")] * 2


def test_time_travel_is_a_new_charge(bench, fakes):
    """Going on from an old checkpoint is asked for on purpose: it is charged, each time."""
    model = fakes.Chat()

    def first(state):
        return {"said": ["first"]}

    def second(state):
        model.invoke("x")
        return {"said": ["second"]}

    app, given = graph(first, second), config(bench)
    app.invoke({"said": []}, given)
    (old,) = [state for state in app.get_state_history(given) if state.next == ("second",)]
    for _ in range(2):
        app.invoke(None, {**given, "configurable": old.config["configurable"]})
    assert len(model.calls) == 3
    assert bench.audit().told == [("settled", 6, "provider")] * 3


@both
@pytest.mark.parametrize("tool_price", [None, 2])
def test_resuming_an_old_interrupt_again_is_a_new_charge(bench, fakes, path, tool_price):
    """The thread has gone on from there: each further run from that checkpoint is charged, a retry in it is not."""
    model, fail = fakes.Chat(), flaky(0)

    @tool
    def ask(question: str) -> str:
        """Ask."""
        return model.invoke(question).text

    def node(state):
        if tool_price:
            ask.invoke({"type": "tool_call", "name": "ask", "args": {"question": "x"}, "id": "1"})
        else:
            model.invoke("x")
        interrupt("sure?")
        model.invoke("y")
        fail()
        return {"said": ["done"]}

    app = graph(node, retry=QUICK)
    given = config(bench, tool_prices={"ask": tool_price} if tool_price else None)
    run(app, path, {"said": []}, given)
    old = app.get_state(given).config["configurable"]
    once = (tool_price or 6) + 6
    run(app, path, Command(resume="yes"), {**given, "configurable": old})
    assert bench.audit().spent == once
    fail = flaky(1)
    for again in (2, 3):
        # Whatever of the config is the client's: it cannot hide where the run goes on from.
        run(app, path, Command(resume="yes"), {**given, "configurable": old, "metadata": {"checkpoint_id": None}})
        assert bench.audit().spent == again * once


def test_an_old_checkpoint_named_by_a_map_is_a_new_charge(bench, fakes):
    """LangGraph takes a checkpoint's id from a `checkpoint_map` as well."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        interrupt("sure?")
        return {"said": ["done"]}

    app, given = graph(node), config(bench)
    app.invoke({"said": []}, given)
    old = app.get_state(given).config["configurable"]["checkpoint_id"]
    app.invoke(Command(resume="yes"), given)
    assert bench.audit().spent == 6
    for _ in range(2):
        forged = {"thread_id": "t", "checkpoint_ns": "", "checkpoint_map": {"": old}}
        app.invoke(Command(resume="yes"), {**given, "configurable": forged})
        # All but the resume where the thread stood; an older LangGraph finds nothing to do there.
        assert bench.audit().spent == 6 * (len(model.calls) - 1)


@both
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_the_newest_checkpoint_named_is_the_same_charge(bench, fakes, path, durability):
    """A resume that names the checkpoint where the thread stands is that resume, however late it is saved."""
    model, fail = fakes.Chat(), flaky(1)

    def first(state):
        return {"said": ["first"]}

    def node(state):
        model.invoke("x")
        fail()
        interrupt("sure?")
        return {"said": ["done"]}

    app, given = graph(first, node, retry=QUICK), config(bench)

    def go(what, where):
        if path == "sync":
            return app.invoke(what, where, durability=durability)
        return asyncio.run(app.ainvoke(what, where, durability=durability))

    go({"said": []}, given)
    named = {**given, "configurable": app.get_state(given).config["configurable"]}
    assert go(Command(resume="yes"), named)["said"] == ["first", "done"]
    assert len(model.calls) == 3
    assert bench.audit().told == [("settled", 6, "provider")]


@both
def test_the_same_thread_twice_is_two_charges(bench, fakes, path):
    """A second turn of a conversation has tasks of its own."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        return {"said": ["done"]}

    app, given = graph(node), config(bench)
    for _ in range(2):
        run(app, path, {"said": []}, given)
    assert bench.audit().told == [("settled", 6, "provider")] * 2


@both
def test_branches_are_charges_of_their_own(bench, fakes, path):
    """Two nodes of one superstep, and three tasks of one node, are five charges."""
    model = fakes.Chat()

    def start(state):
        return {"said": []}

    def one(state):
        model.invoke("x")
        return {"said": ["one"]}

    def two(state):
        model.invoke("x")
        return {"said": ["two"]}

    made = StateGraph(State)
    for node in (start, one, two):
        made.add_node(node.__name__, node)
    made.add_edge(START, "start")
    made.add_conditional_edges("start", lambda state: ["one", *(Send("two", {"said": []}) for _ in range(3))])
    made.add_edge("start", "two")
    run(made.compile(checkpointer=InMemorySaver()), path, {"said": []}, config(bench))
    assert len(model.calls) == 5
    assert bench.audit().told == [("settled", 6, "provider")] * 5


@both
def test_a_subgraph_and_parallel_chains_in_a_node(bench, fakes, path):
    """Calls below a subgraph, and in the branches of a chain, are named by where they stand, whatever their order."""
    model, fail = fakes.Chat(), flaky(1)

    def inner(state):
        RunnableParallel(one=model, two=model, three=RunnableLambda(lambda x: x) | model).invoke("x")
        return {"said": ["inner"]}

    def after(state):
        model.invoke("y")
        fail()
        return {"said": ["after"]}

    below = StateGraph(State)
    below.add_node("inner", inner)
    below.add_node("after", after)
    below.add_edge(START, "inner")
    below.add_edge("inner", "after")
    below.add_edge("after", END)
    made = StateGraph(State)
    made.add_node("below", below.compile())
    made.add_edge(START, "below")
    app = made.compile(checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="again"):
        run(app, path, {"said": []}, config(bench))
    run(app, path, None, config(bench))
    assert len(model.calls) == 5
    assert bench.audit().told == [("settled", 6, "provider")] * 4


def test_an_ordinal_that_is_not_the_last_is_given_back(bench, fakes):
    """What failed beside a call that went well is tried again in its own place: the node's retry adds nothing."""
    bad, good, fail = fakes.Chat(fail_at=0), fakes.Chat(), flaky(1)

    class Outer(fakes.Chat):
        """Fails after another call has begun and ended, so that its own ordinal is not the last."""

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self.calls.append("call")
            good.invoke("y", kept)
            if len(self.calls) == 1:
                raise fakes.ProviderError("provider")
            return super()._generate(messages)

    kept, outer = None, Outer()

    def node(state, config):
        nonlocal kept
        kept = config
        if not outer.calls:
            with pytest.raises(fakes.ProviderError):
                outer.invoke("x")
        else:
            good.invoke("y")
        bad.fail_at = None
        bad.invoke("z")
        fail()
        return {"said": ["done"]}

    node.__annotations__["config"] = RunnableConfig
    graph(node, retry=QUICK).invoke({"said": []}, config(bench))
    assert bench.audit().told == [("settled", 6, "provider")] * 2


def test_the_ordinals_of_a_run_that_is_over_are_forgotten(bench, fakes):
    """A handler that serves for long remembers no attempt that has ended."""
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        return {"said": ["done"]}

    app, given = graph(node), config(bench)
    for _ in range(3):
        app.invoke({"said": []}, given)
    assert not given["callbacks"][0]._gate.steps._counts._attempts
    assert bench.audit().spent == 18


def test_an_attempt_that_is_not_known_is_no_step(bench, fakes):
    """A handler on two chains within a node cannot tell a retry from a second call: it charges each."""
    model = fakes.Chat()

    def node(state):
        own = {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct")]}
        for _ in range(2):
            (RunnableLambda(lambda x: x) | model).invoke("x", own)
        return {"said": ["done"]}

    graph(node).invoke({"said": []}, {"configurable": {"thread_id": "t"}})
    assert bench.audit().told == [("settled", 6, "provider")] * 2


@both
def test_a_client_cannot_name_a_step(bench, fakes, path):
    """What only looks like a graph's config names nothing: two calls are two charges."""
    task = "11111111-2222-3333-4444-555555555555"
    forged = {
        **config(bench),
        "metadata": {"langgraph_checkpoint_ns": f"a:{task}", "langgraph_node": "a", "thread_id": "t"},
        "configurable": {
            "thread_id": "t",
            "checkpoint_ns": f"a:{task}",
            "__pregel_task_id": task,
            "__pregel_scratchpad": {"interrupt_counter": 1},
        },
    }
    chain = RunnableLambda(lambda x: x) | fakes.Chat()
    for _ in range(2):
        run(chain, path, "x", forged)
    assert bench.audit().told == [("settled", 6, "provider")] * 2


def test_a_stream_that_fell_silent_makes_way_for_its_retry(bench, fakes):
    """An attempt whose stream nobody ended is settled when its step begins again; the retry adds nothing."""
    model, fail, streams = fakes.Chat(), flaky(1), []

    def node(state):
        streams.append(model.stream("x"))
        next(streams[-1])
        fail()
        list(streams[-1])
        return {"said": ["done"]}

    graph(node, retry=QUICK).invoke({"said": []}, config(bench))
    assert len(model.calls) == 2
    assert bench.audit().told == [("settled", 1, "counted")]


@pytest.mark.parametrize("when", ["after", "in"])
def test_another_process_takes_a_step_over(bench, fakes, tmp_path, when):
    """
    A process that died in a node, after its model call or in it, leaves its charges to the one that resumes.

    Its checkpoint must have been written by then: LangGraph does that behind the node unless told otherwise.
    """
    source = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from conftest import PRICES, ChatFake
        from test_langgraph_identity import SqliteSaver, graph, config
        from types import SimpleNamespace
        from countwerk_meter import Meter
        url, key, journal, checkpoints, when = sys.argv[2:]
        meter = Meter("prod", api_key=key, base_url=url, journal=journal, prices=PRICES)
        class Deadly(ChatFake):
            def _generate(self, *args, **kwargs):
                if when == "in":
                    os._exit(9)
                return super()._generate(*args, **kwargs)
        def node(state):
            Deadly().invoke("x")
            if state["said"] == ["die"]:
                meter.flush()
                os._exit(9)
        with SqliteSaver.from_conn_string(checkpoints) as saver:
            app = graph(node, checkpointer=saver)
            app.invoke({"said": ["die"]}, config(SimpleNamespace(meter=meter)), durability="sync")
        """
    )
    from pathlib import Path

    journal, checkpoints = f"sqlite:///{tmp_path}/journal-0.db", str(tmp_path / "checkpoints.db")
    given = [bench.sandbox.url, bench.sandbox.api_key, journal, checkpoints, when]
    died = subprocess.run([sys.executable, "-c", source, str(Path(__file__).parent), *given], check=False, timeout=60)
    assert died.returncode == 9
    model = fakes.Chat()

    def node(state):
        model.invoke("x")
        model.invoke("y")
        return {"said": ["done"]}

    with SqliteSaver.from_conn_string(checkpoints) as saver:
        assert graph(node, checkpointer=saver).invoke(None, config(bench))["said"] == ["die", "done"]
    assert len(model.calls) == 2
    assert bench.audit().told == [("settled", 6, "provider")] * 2
