"""A denial reaches the caller through whatever stands between, and what retries it does not hammer the ledger."""

import asyncio
import gc
import pickle
import weakref

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler, denials, runs
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel

from countwerk_meter import InsufficientCreditsError, LedgerUnavailableError, PricingError


def config(bench, **options):
    return {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct", **options)]}


@pytest.mark.parametrize("path", ["sync", "async"])
def test_with_retry_asks_the_ledger_once(broke, fakes, path):
    """A denial is remembered for its root run: three attempts, one request."""
    model = fakes.Chat()
    retried = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with pytest.raises(InsufficientCreditsError):
        retried.invoke("x", config(broke)) if path == "sync" else asyncio.run(retried.ainvoke("x", config(broke)))
    assert model.calls == []
    assert broke.reserves() == 1
    assert broke.audit().spent == 0


def test_a_later_run_asks_again(broke, fakes):
    """The next run is not refused from memory: the account may have bought credits."""
    handler_config = config(broke)
    retried = fakes.Chat().with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    with pytest.raises(InsufficientCreditsError):
        retried.invoke("x", handler_config)
    broke.sandbox.control.account("acct", balance=100)
    retried.invoke("x", handler_config)
    assert broke.audit().spent == 6


def test_with_retry_on_a_provider_error(bench, fakes):
    """Each attempt is a run of its own: the failed one costs nothing, the good one its usage."""
    model = fakes.Chat(fail_at=0)

    def heal(_):
        model.fail_at = None if len(model.calls) else 0
        return "x"

    chain = (RunnableLambda(heal) | model).with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    chain.invoke("x", config(bench))
    assert len(model.calls) == 2
    assert bench.audit().told == [("cancelled", None, None), ("settled", 6, "provider")]


@pytest.mark.parametrize("path", ["sync", "async"])
def test_with_fallbacks_blocks_the_fallback_too(broke, fakes, path):
    """With the handler on the run, a denial of the primary is no reason to run the fallback."""
    primary, fallback = fakes.Chat(), fakes.Chat()
    both = primary.with_fallbacks([fallback])
    with pytest.raises(InsufficientCreditsError):
        both.invoke("x", config(broke)) if path == "sync" else asyncio.run(both.ainvoke("x", config(broke)))
    assert primary.calls == fallback.calls == []
    assert broke.reserves() == 1


def test_fallback_after_a_provider_error_is_charged_once(bench, fakes):
    """The fallback's call is charged, the primary's failed one is not."""
    both = fakes.Chat(fail_at=0).with_fallbacks([fakes.Chat()])
    both.invoke("x", config(bench))
    assert bench.audit().told == [("cancelled", None, None), ("settled", 6, "provider")]


@pytest.mark.parametrize("prompts", [2, 3])
@pytest.mark.parametrize("path", ["generate", "agenerate"])
def test_batch_with_one_prompt_denied(make_bench, fakes, path, prompts):
    """Credits for one prompt of several: none runs, and what was held for the first is given back."""
    bench = make_bench(balance=7)
    model = fakes.Chat()
    messages = [[HumanMessage("x")]] * prompts
    options = config(bench, amount=5)
    with pytest.raises(InsufficientCreditsError):
        model.generate(messages, **options) if path == "generate" else asyncio.run(model.agenerate(messages, **options))
    assert model.calls == []
    audit = bench.audit()
    assert audit.spent == 0
    assert set(audit.states) <= {"denied", "cancelled"}


@pytest.mark.parametrize("path", ["generate", "agenerate"])
def test_text_batch_with_one_prompt_denied(make_bench, fakes, path):
    """The same with a text model, whose prompts share one call."""
    bench = make_bench(balance=7)
    model = fakes.Text()
    options = config(bench, amount=5)
    with pytest.raises(InsufficientCreditsError):
        model.generate(["x", "y"], **options) if path == "generate" else asyncio.run(
            model.agenerate(["x", "y"], **options)
        )
    assert model.calls == []
    assert bench.audit().spent == 0


def test_one_branch_of_a_parallel_denied(make_bench, fakes):
    """Branches are calls of their own: one may run while the other is denied, and only the one is charged."""
    bench = make_bench(balance=7)
    one, two = fakes.Chat(), fakes.Chat()
    with pytest.raises(InsufficientCreditsError):
        RunnableParallel(one=one, two=two).invoke("x", config(bench, amount=6))
    assert len(one.calls) + len(two.calls) <= 1
    assert bench.audit().spent in {0, 6}


@pytest.mark.parametrize("where", ["retry", "agent", "generate"])
def test_a_denial_keeps_no_conversation(broke, fakes, monkeypatch, where):
    """What is remembered of a denial is not what it passed through, and that only for a minute."""
    model, message = fakes.Chat(), HumanMessage("a long conversation")
    seen = weakref.ref(message)
    handler = config(broke)["callbacks"][0]
    with pytest.raises(InsufficientCreditsError):
        if where == "retry":
            inner = fakes.Chat(callbacks=[handler]).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
            (RunnableLambda(lambda x: x) | inner).invoke([message])
        elif where == "agent":
            ours = CountwerkAgentMiddleware(broke.meter, account_id="acct")
            handler = ours._handler
            create_agent(model, [], middleware=[ours]).invoke({"messages": [message]})
        else:
            model.generate([[message]] * 2, callbacks=[handler])
    if where == "generate":
        assert len(handler._runs._batches) == 1
        monkeypatch.setattr(runs, "SECONDS", -1.0)
        handler._settling.tidy()
        assert not handler._runs._batches
    else:
        assert len(handler._runs.denials) >= 1
    del message
    gc.collect()
    assert seen() is None
    monkeypatch.setattr(denials, "SECONDS", -1.0)
    handler._settling.tidy()
    assert len(handler._runs.denials) == 0


def test_denial_says_nothing_of_the_prompt(broke, fakes, caplog):
    """Neither the error nor a log line holds the prompt or a purchase URL."""
    with pytest.raises(InsufficientCreditsError) as caught:
        fakes.Chat().invoke("a very secret prompt", config(broke))
    assert "secret" not in str(caught.value) + caplog.text + repr(pickle.dumps(caught.value))
    assert "http" not in caplog.text


def test_ledger_down_blocks(bench, fakes):
    """No answer from the ledger is no permission: the model does not run."""
    bench.sandbox.control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 401, "times": 1}])
    model = fakes.Chat()
    with pytest.raises(Exception) as caught:
        model.invoke("x", config(bench))
    assert not isinstance(caught.value, InsufficientCreditsError)
    assert model.calls == []


def test_ledger_in_doubt_blocks(bench, fakes):
    """A reserve in doubt stops the call as well."""
    bench.sandbox.control.faults([{"path": "/api/credits/reserve", "kind": "drop_before", "times": 1}])
    model = fakes.Chat()
    with pytest.raises(LedgerUnavailableError):
        asyncio.run(model.ainvoke("x", config(bench)))
    assert model.calls == []


@pytest.mark.parametrize("path", ["sync", "async"])
def test_model_without_a_price_is_refused(bench, fakes, path):
    """What the profile cannot price is refused before the call."""
    model = fakes.Chat(model="unknown")
    with pytest.raises(PricingError):
        model.invoke("x", config(bench)) if path == "sync" else asyncio.run(model.ainvoke("x", config(bench)))
    assert model.calls == []
    assert bench.reserves() == 0
