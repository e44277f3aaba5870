"""Whose credits a call takes: one source at least, and no two that disagree."""

import asyncio

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler

import countwerk_meter
from countwerk_meter import ConfigurationError


def call(bench, fakes, metadata=None, path="sync", **options):
    model = fakes.Chat()
    config = {"callbacks": [CountwerkCallbackHandler(bench.meter, **options)], "metadata": metadata or {}}
    if path == "sync":
        model.invoke("x", config)
    else:
        asyncio.run(model.ainvoke("x", config))
    return model


def refused(bench, fakes, metadata=None, path="sync", **options):
    with pytest.raises(ConfigurationError) as caught:
        call(bench, fakes, metadata, path, **options)
    assert bench.reserves() == 0
    return str(caught.value)


@pytest.mark.parametrize("path", ["sync", "async"])
@pytest.mark.parametrize("account_id", ["acct", lambda metadata: metadata["tenant"]])
def test_handler(bench, fakes, account_id, path):
    """The handler's argument: a text, or a callable of the run's metadata."""
    call(bench, fakes, {"tenant": "acct"}, path, account_id=account_id)
    assert bench.audit().spent == 6


@pytest.mark.parametrize("path", ["sync", "async"])
def test_context_variable(bench, fakes, path):
    """`with account(...)` reaches the handler on both paths."""
    with countwerk_meter.account("acct"):
        call(bench, fakes, path=path)
    assert bench.audit().spent == 6


def test_enclosing_reservation(bench, fakes):
    """Inside a block the call is the block's account's."""
    with bench.meter.reserve("acct", "app.chat", amount=50):
        call(bench, fakes)
    assert bench.audit().spent == 6


def test_metadata_only_when_allowed(bench, fakes):
    """Metadata may come from a client, so it counts only where the app says so."""
    metadata = {"countwerk_account_id": "acct"}
    assert "no account" in refused(bench, fakes, metadata)
    call(bench, fakes, metadata, account_from_metadata=True)
    assert bench.audit().spent == 6


def test_metadata_that_is_not_allowed_cannot_disagree(bench, fakes):
    """A client's word is not even heard."""
    call(bench, fakes, {"countwerk_account_id": "victim"}, account_id="acct")
    assert bench.audit().spent == 6


@pytest.mark.parametrize("path", ["sync", "async"])
def test_none_is_refused(bench, fakes, path):
    """A call that nobody pays for is not made."""
    assert "no account" in refused(bench, fakes, path=path)


def test_disagreements_are_refused(bench, fakes):
    """Whichever two sources disagree, the call is refused, and the text names no account."""
    text = refused(bench, fakes, {"countwerk_account_id": "other"}, account_id="acct", account_from_metadata=True)
    assert "other" not in text
    with countwerk_meter.account("other"):
        refused(bench, fakes, account_id="acct")
    with bench.meter.reserve("acct", "app.chat", amount=50):
        bench.sandbox.control.clear_requests()
        refused(bench, fakes, account_id="other")


@pytest.mark.parametrize("wrong", ["", 7, b"acct"])
def test_what_is_no_account_is_refused(bench, fakes, wrong):
    """A callable that returns something else than a text is a mistake."""
    refused(bench, fakes, account_id=lambda metadata: wrong)


def test_a_callable_without_an_opinion(bench, fakes):
    """None from the callable leaves it to the other sources."""
    with countwerk_meter.account("acct"):
        call(bench, fakes, account_id=lambda metadata: None)
    assert bench.audit().spent == 6


@pytest.mark.parametrize("path", ["sync", "async"])
def test_not_implemented_blocks(bench, fakes, path):
    """LangChain swallows `NotImplementedError` from a start hook: here it blocks all the same."""

    def later(metadata):
        raise NotImplementedError

    refused(bench, fakes, path=path, account_id=later)


def test_what_the_handler_needs(make_bench):
    """Both sizes, or none without a profile, are refused when the handler is made."""
    with pytest.raises(ConfigurationError):
        CountwerkCallbackHandler(make_bench().meter, amount=1, price=1)
    plain = make_bench(prices=None).meter
    with pytest.raises(ConfigurationError, match="price profile"):
        CountwerkCallbackHandler(plain)
    CountwerkCallbackHandler(plain, amount=1)
    CountwerkCallbackHandler(plain, price=1)
