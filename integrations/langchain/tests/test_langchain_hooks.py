"""The hooks' own manners: what they are to LangChain, and that settling ones never raise."""

import asyncio
import contextlib
import gc
import inspect
import logging
import threading
import uuid
import weakref

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler, answers, claims, reaping, settling
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, GenerationChunk, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from countwerk_meter import ConfigurationError, InsufficientCreditsError


class Inline(BaseCallbackHandler):
    """Another handler that runs inline, as LangSmith's tracer does."""

    run_inline = True


def make(bench, **options):
    return CountwerkCallbackHandler(bench.meter, **({"account_id": "acct"} | options))


def test_every_hook_is_plain():
    """No hook is a coroutine, exceptions get out, and none runs on the event loop."""
    hooks = [value for name, value in vars(CountwerkCallbackHandler).items() if name.startswith("on_")]
    assert len(hooks) >= 14
    assert not any(inspect.iscoroutinefunction(hook) for hook in hooks)
    assert CountwerkCallbackHandler.raise_error
    assert not CountwerkCallbackHandler.run_inline


@pytest.mark.parametrize("path", ["sync", "async"])
@pytest.mark.parametrize("broken", ["reported", "consumed", "shares_usage"])
def test_settling_never_raises(bench, fakes, monkeypatch, path, broken):
    """Whatever goes wrong while a call is settled, the answer reaches the caller and the hold ends."""

    def fail(*args, **kwargs):
        raise ValueError("broken")

    monkeypatch.setattr(settling, broken, fail)
    model = fakes.Chat()
    config = {"callbacks": [make(bench, amount=5)]}
    answer = model.invoke("x", config) if path == "sync" else asyncio.run(model.ainvoke("x", config))
    assert answer.content == "one two three "
    if broken == "reported":
        assert bench.audit().told == [("settled", 5, "reserved")]
        assert ("langchain_hook_failed", {"hook": "on_llm_end", "error": "ValueError"}) in bench.events
    else:
        assert bench.audit().told == [("settled", 6, "provider")]


@pytest.mark.parametrize("where", ["consumed", "token"])
def test_a_broken_stream_shows_the_providers_error(bench, fakes, monkeypatch, where):
    """An error of ours never hides the provider's, and what was yielded is charged as held."""

    def fail(*args, **kwargs):
        raise ValueError("broken")

    if where == "consumed":
        monkeypatch.setattr(settling, "consumed", fail)
    else:
        monkeypatch.setattr(answers.Streamed, "token", fail)
    with pytest.raises(fakes.ProviderError):
        list(fakes.Chat(fail_at=2).stream("x", {"callbacks": [make(bench, amount=5)]}))
    ((state, amount, basis),) = bench.audit().told
    assert (state, basis) == ("settled", "reserved" if where == "consumed" else "counted")
    assert amount == (5 if where == "consumed" else 1)
    assert any(name == "langchain_hook_failed" for name, _ in bench.events)


def test_events_of_unknown_runs_are_ignored(bench):
    """Ends that never began here, of chat models and of everything else, raise nothing and charge nothing twice."""
    handler = make(bench)
    run_id = uuid.uuid4()
    handler.on_llm_new_token("x", run_id=run_id)
    handler.on_stream_event({"event": "message-finish"}, run_id=run_id)
    handler.on_llm_error(ValueError("x"), run_id=run_id)
    handler.on_chain_end({}, run_id=run_id)
    handler.on_tool_error(ValueError("x"), run_id=run_id)
    handler.on_retriever_error(ValueError("x"), run_id=run_id)
    assert bench.audit().charges == []


def test_an_end_that_is_told_twice(bench, fakes):
    """A second end of the same run changes nothing."""
    handler = make(bench)
    run_id = uuid.uuid4()
    response = LLMResult(generations=[[ChatGeneration(message=AIMessage("x", usage_metadata=fakes.Chat()._usage))]])
    metadata = {"ls_model_name": "fake-1"}
    handler.on_chat_model_start({}, [[HumanMessage("x")]], run_id=run_id, metadata=metadata)
    for _ in range(2):
        handler.on_llm_end(response, run_id=run_id)
    handler.on_llm_error(ValueError("x"), run_id=run_id, response=response)
    assert bench.audit().told == [("settled", 6, "provider")]


@pytest.mark.parametrize(
    ("entry", "fail_at", "spent"), [("ainvoke", None, 12), ("astream", None, 2), ("astream", 2, 2), ("astream", 0, 0)]
)
def test_text_model_beside_an_inline_handler(bench, fakes, caplog, entry, fail_at, spent):
    """LangChain skips the start of a text model then: it is charged after it ran, and said so once."""
    handler = make(bench)
    model = fakes.Text(fail_at=fail_at)

    async def run():
        config = {"callbacks": [handler, Inline()]}
        for _ in range(2):
            with contextlib.suppress(fakes.ProviderError):
                if entry == "ainvoke":
                    await model.ainvoke("x", config)
                else:
                    async for _ in model.astream("x", config):
                        pass

    with caplog.at_level(logging.WARNING, "countwerk_meter_langchain"):
        asyncio.run(run())
    assert len(model.calls) == 2
    assert bench.audit().spent == spent
    charged = 2 if spent else 0
    assert len([name for name, _ in bench.events if name == "langchain_unannounced"]) == charged
    warned = [record.message for record in caplog.records if record.name == "countwerk_meter_langchain"]
    assert len(warned) == bool(charged)
    assert all("take the inline handler off the run" in text for text in warned)


@pytest.mark.parametrize("how", ["callable", "metadata"])
def test_an_unannounced_call_takes_the_account_that_its_run_names(bench, fakes, how):
    """What the run's metadata says of the account counts for it as for any other call."""
    if how == "callable":
        handler, metadata = make(bench, account_id=lambda metadata: metadata["tenant"]), {"tenant": "acct"}
    else:
        handler, metadata = make(bench, account_id=None, account_from_metadata=True), {"countwerk_account_id": "acct"}
    chain = RunnableLambda(lambda x: x) | fakes.Text()
    asyncio.run(chain.ainvoke("x", {"callbacks": [handler, Inline()], "metadata": metadata}))
    assert bench.audit().told == [("settled", 6, "provider")]


def test_an_unannounced_run_id_that_is_used_again(bench, fakes):
    """Two calls are two charges, whatever they are called."""
    config = {"callbacks": [make(bench), Inline()], "run_id": uuid.UUID(int=7)}
    for _ in range(2):
        asyncio.run(fakes.Text().ainvoke("x", config))
    assert bench.audit().spent == 12


@pytest.mark.parametrize(("options", "spent"), [({}, 12), ({"price": 2}, 4)])
def test_an_unannounced_batch(bench, fakes, options, spent):
    """The first prompt reports the usage of all: the others are not counted on top. A flat price is for each."""
    asyncio.run(fakes.Text().agenerate(["x", "y"], callbacks=[make(bench, **options), Inline()]))
    assert bench.audit().spent == spent


def test_one_run_id_for_two_models_at_once(bench, fakes):
    """LangChain tells of their ends by the id alone: the second is refused, so that neither pays for the other."""
    config = {"callbacks": [make(bench)], "run_id": uuid.UUID(int=7)}
    other = fakes.Text(model="fake-2")

    class Outer(fakes.Chat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            with pytest.raises(ConfigurationError, match="run id"):
                other.invoke("x", config)
            return super()._generate(messages)

    Outer().invoke("x", config)
    assert other.calls == []
    assert bench.audit().told == [("settled", 6, "provider")]


def test_no_thread_to_be_had(bench, fakes, monkeypatch):
    """The chain's answer reaches the caller all the same, and the next call settles what was left behind."""

    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(reaping.REAPER, "_timer", None)
    monkeypatch.setattr(threading.Timer, "start", fail)
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.0)
    config, kept = {"callbacks": [make(bench)]}, []

    def step(x):
        kept.append(fakes.Chat().stream(x))
        return next(kept[0]).text

    assert RunnableLambda(step).invoke("x", config) == "one "
    fakes.Chat().invoke("x", config)
    assert bench.audit().told == [("settled", 1, "counted"), ("settled", 6, "provider")]


@pytest.mark.parametrize("end", ["chain", "tool"])
def test_an_ancestors_end_never_raises(bench, fakes, monkeypatch, end):
    """Whatever goes wrong below: the chain has its answer."""
    handler = make(bench)

    def fail(*args, **kwargs):
        raise ValueError("broken")

    monkeypatch.setattr(handler._runs, "chain_ended", fail)

    @tool
    def ask(question: str) -> str:
        """Ask."""
        return question

    app = RunnableLambda(lambda x: x) if end == "chain" else ask
    assert app.invoke("x", {"callbacks": [handler]}) == "x"
    assert ("langchain_hook_failed", {"hook": "sweep", "error": "ValueError"}) in bench.events


def test_a_handler_that_steps_aside_leaves_no_batch_behind(bench, fakes):
    """A batch that another handler meters is remembered nowhere."""
    handlers = [make(bench), make(bench)]
    for _ in range(3):
        fakes.Chat().generate([[HumanMessage("x")]] * 2, callbacks=handlers)
    assert settling._batches.get() == ()
    assert not any(handler._runs._batches for handler in handlers)
    assert bench.audit().spent == 36


@pytest.mark.parametrize("meters", [1, 2])
@pytest.mark.parametrize("path", ["sync", "async", "generate"])
def test_a_second_handlers_refusal_gives_the_first_ones_hold_back(bench, make_bench, fakes, path, meters):
    """LangChain tells the first nothing of it: the one that refuses says so, whichever meter it is of."""
    bench.sandbox.control.account("other", balance=1, ai_product_id="prod")
    second = CountwerkCallbackHandler((bench if meters == 1 else make_bench()).meter, account_id="other")
    model, config = fakes.Chat(), {"callbacks": [make(bench), second]}
    with pytest.raises(InsufficientCreditsError):
        if path == "sync":
            model.invoke("x", config)
        elif path == "async":
            asyncio.run(model.ainvoke("x", config))
        else:
            model.generate([[HumanMessage("x")]] * 2, **config)
    assert model.calls == []
    assert set(bench.audit().states) == {"cancelled"}


async def test_a_handler_for_each_request_is_let_go(bench, fakes, monkeypatch):
    """A call of whose end nobody is told does not keep its handler, nor what it claimed and held, for ever."""
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(reaping.REAPER, "_timer", None)
    seen = []

    async def request():
        handler, model = make(bench), fakes.Chat(hang_at=0)
        seen.extend((weakref.ref(handler), weakref.ref(handler._settling)))
        task = asyncio.create_task(model.ainvoke("x", {"callbacks": [handler]}))
        while not model.calls:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await request()
    async with asyncio.timeout(10):
        while any(each() is not None for each in seen):
            await asyncio.sleep(0.01)
            gc.collect()
    assert len(claims.CLAIMS) == 0
    assert (await asyncio.to_thread(bench.audit)).states == ["cancelled"]


@pytest.mark.parametrize("how", ["end", "error"])
def test_an_unannounced_call_that_nobody_can_pay(broke, fakes, how):
    """Then all that is left is an event: the model has answered, and the hook does not raise."""
    handler = make(broke, amount=5)
    response = LLMResult(generations=[[GenerationChunk(text="x")]])
    if how == "end":
        handler.on_llm_end(response, run_id=uuid.uuid4())
    else:
        handler.on_llm_error(ValueError("x"), run_id=uuid.uuid4(), response=response)
    hook = "on_llm_end" if how == "end" else "on_llm_error"
    assert ("langchain_hook_failed", {"hook": hook, "error": "InsufficientCreditsError"}) in broke.events
    assert broke.audit().spent == 0


def test_chat_model_beside_an_inline_handler(broke, fakes):
    """A chat model is announced to every handler: it is refused as ever."""
    model = fakes.Chat()
    with pytest.raises(InsufficientCreditsError):
        asyncio.run(model.ainvoke("x", {"callbacks": [Inline(), make(broke)]}))
    assert model.calls == []


def test_models_below_tools_and_retrievers(bench, fakes):
    """A model that a tool or a retriever calls is metered, as part of the same run."""
    model = fakes.Chat()

    @tool
    def ask(question: str) -> str:
        """Ask."""
        return model.invoke(question).content

    class Retriever(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            model.invoke(query)
            return []

    handler = make(bench)
    (RunnableLambda(lambda x: {"question": x}) | ask | Retriever()).invoke("x", {"callbacks": [handler]})
    assert len(model.calls) == 2
    assert bench.audit().spent == 12
    assert not handler._runs._chains


def test_a_tool_that_fails_gives_up_what_runs_below(bench, fakes):
    """The failure of a tool or retriever ends its calls."""

    @tool
    def ask(question: str) -> str:
        """Ask."""
        fakes.Chat(fail_at=0).invoke(question)
        return ""

    with pytest.raises(fakes.ProviderError):
        ask.invoke({"question": "x"}, {"callbacks": [make(bench)]})
    assert bench.audit().states == ["cancelled"]


def test_handler_on_the_model_alone(broke, fakes):
    """A handler in a model's constructor meters that model, wherever it is used."""
    model = fakes.Chat(callbacks=[make(broke)])
    chain = RunnableLambda(lambda x: x) | model
    with pytest.raises(InsufficientCreditsError):
        chain.invoke("x")
    with pytest.raises(InsufficientCreditsError):
        asyncio.run(chain.ainvoke("x"))
    assert model.calls == []


async def test_sync_call_inside_an_event_loop(bench, fakes):
    """A sync `invoke` in a coroutine blocks the loop, as any sync call does, and is metered."""
    fakes.Chat().invoke("x", {"callbacks": [make(bench)]})
    assert (await asyncio.to_thread(bench.audit)).spent == 6


@pytest.mark.parametrize("path", ["sync", "async", "stream"])
def test_two_handlers_of_one_meter(bench, fakes, path):
    """A call that two handlers of a meter see is counted once (one on the model, one on the run, say)."""
    model = fakes.Chat(callbacks=[make(bench)])
    config = {"callbacks": [make(bench)]}
    for _ in range(2):
        if path == "sync":
            model.invoke("x", config)
        elif path == "async":
            asyncio.run(model.ainvoke("x", config))
        else:
            list(model.stream("x", config))
    model.generate([[HumanMessage("x")]] * 2, **config)
    assert len(model.calls) == 4
    assert bench.audit().told == [("settled", 6, "provider")] * 4
    assert not [name for name, _ in bench.events if name == "langchain_unannounced"]


def test_two_handlers_for_two_accounts(bench, fakes):
    """Two accounts, or two operations, are two charges: that is what was asked for."""
    bench.sandbox.control.account("other", balance=100, ai_product_id="prod")
    config = {"callbacks": [make(bench), make(bench, account_id="other"), make(bench, operation="app.second")]}
    fakes.Chat().invoke("x", config)
    assert bench.audit().spent == 12
    assert bench.audit("other").spent == 6
