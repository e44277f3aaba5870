"""Models that other middlewares of an agent call, in hooks that ours does not surround, are metered as well."""

import asyncio
import gc
import inspect

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler
from langchain.agents import create_agent, middleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from countwerk_meter import ConfigurationError, InsufficientCreditsError

ASK = {"messages": [("human", "x")]}
both = pytest.mark.parametrize("path", ["sync", "async"])


def run(app, path, given=ASK, config=None):
    return app.invoke(given, config) if path == "sync" else asyncio.run(app.ainvoke(given, config))


def metered(bench, **options):
    return CountwerkAgentMiddleware(bench.meter, **({"account_id": "acct"} | options))


def calls_in(hook, model):
    """Make a middleware that calls a model in one of its hooks."""

    def call(self, state, runtime):
        model.invoke("y")

    async def acall(self, state, runtime):
        await model.ainvoke("y")

    def wrap(self, request, handler):
        model.invoke("y")
        return handler(request)

    async def awrap(self, request, handler):
        await model.ainvoke("y")
        return await handler(request)

    wraps = hook.startswith("wrap")
    hooks = {hook: wrap if wraps else call, f"a{hook}": awrap if wraps else acall}
    return type("Calls", (middleware.AgentMiddleware,), hooks)()


@both
@pytest.mark.parametrize("handler", ["without", "with"])
@pytest.mark.parametrize("hook", ["before_agent", "before_model", "after_model", "after_agent", "wrap_model_call"])
@pytest.mark.parametrize("chained", [False, True])
def test_every_hook_is_metered(bench, fakes, path, handler, hook, chained):
    """Each hook's call is charged once, with a handler on the run or without, and no hold is left."""
    helper = fakes.Chat()
    other = calls_in(hook, helper.with_retry() if chained else helper)
    app = create_agent(fakes.Chat(), [], middleware=[metered(bench), other])
    own = [CountwerkCallbackHandler(bench.meter, account_id="acct")] if handler == "with" else []
    run(app, path, config={"callbacks": own})
    assert len(helper.calls) == 1
    assert bench.audit().spent == 12


@both
def test_an_outer_middleware_is_metered_too(bench, fakes, path):
    """One that stands before ours surrounds our bracket; its models are metered all the same."""
    app = create_agent(fakes.Chat(), [], middleware=[calls_in("wrap_model_call", fakes.Chat()), metered(bench)])
    run(app, path)
    assert bench.audit().spent == 12


@both
def test_summarization_is_metered(bench, fakes, path):
    """LangChain's own SummarizationMiddleware calls its model before the agent's."""
    kind = getattr(middleware, "SummarizationMiddleware", None)
    if kind is None or "trigger" not in inspect.signature(kind).parameters:
        pytest.skip("another SummarizationMiddleware")
    helper = fakes.Chat()
    summing = kind(helper, trigger=("messages", 2), keep=("messages", 1))
    app = create_agent(fakes.Chat(), [], middleware=[metered(bench), summing])
    run(app, path, {"messages": [HumanMessage("a"), AIMessage("b"), HumanMessage("c")]})
    assert len(helper.calls) == 1
    assert bench.audit().spent == 12


@both
def test_a_hook_without_credits_is_refused(broke, fakes, path):
    """No credits: the hook's model is not called, nor the agent's."""
    helper, model = fakes.Chat(), fakes.Chat()
    app = create_agent(model, [], middleware=[metered(broke), calls_in("before_model", helper)])
    with pytest.raises(InsufficientCreditsError):
        run(app, path)
    assert helper.calls == model.calls == []
    assert broke.audit().spent == 0


@both
def test_a_hook_pauses_and_is_resumed(broke, fakes, path):
    """A hook's call pauses the agent as its own do, and is made under the id that was denied."""
    app = create_agent(
        fakes.Chat(),
        [],
        middleware=[metered(broke, on_insufficient="interrupt"), calls_in("before_model", fakes.Chat())],
        checkpointer=InMemorySaver(),
    )
    given = {"configurable": {"thread_id": "t"}}
    (paused,) = run(app, path, config=given)["__interrupt__"]
    broke.sandbox.control.account("acct", balance=100, ai_product_id="prod")
    run(app, path, Command(resume=True), given)
    audit = broke.audit()
    assert audit.spent == 12
    assert paused.value["usage_event_id"] in {charge.usage_event_id for charge in audit.charges}


@both
def test_another_process_that_resumes_meters_the_hooks(bench, fakes, path):
    """The run's state says who meters it: an agent that is built anew, as after a restart, goes on with it."""
    saver, given, helper = InMemorySaver(), {"configurable": {"thread_id": "t"}}, fakes.Chat()

    class Asks(middleware.AgentMiddleware):
        def before_model(self, state, runtime):
            interrupt("sure?")
            helper.invoke("y")

    def build():
        return create_agent(fakes.Chat(), [], middleware=[metered(bench), Asks()], checkpointer=saver)

    assert run(build(), path, config=given)["__interrupt__"]
    run(build(), path, Command(resume=True), given)
    assert bench.audit().spent == 12


@both
def test_agents_without_a_meter_stay_without(bench, fakes, path):
    """Only the agent that has the middleware is metered."""
    kept = metered(bench)
    run(create_agent(fakes.Chat(), [], middleware=[calls_in("before_model", fakes.Chat())]), path)
    assert kept
    assert bench.audit().charges == []


def test_whose_agent_it_was_must_be_known(bench, fakes):
    """Where only functions say whose credits an agent takes, and two are alike, none is charged on a guess."""
    saver, given, helper = InMemorySaver(), {"configurable": {"thread_id": "t"}}, fakes.Chat()

    class Asks(middleware.AgentMiddleware):
        def before_model(self, state, runtime):
            interrupt("sure?")
            helper.invoke("y")

    def build(account):
        ours = metered(bench, account_id=lambda metadata: account)
        return create_agent(fakes.Chat(), [], middleware=[ours, Asks()], checkpointer=saver)

    build("acct").invoke(ASK, given)
    gc.collect()
    kept, other = build("acct"), build("other")
    with pytest.raises(ConfigurationError, match="several agents"):
        kept.invoke(Command(resume=True), given)
    assert other
    assert helper.calls == []
