"""Counting input: the approximation errs high, and tiktoken counts where it can."""

import json
import sys
import threading
import types
from pathlib import Path

import pytest

from countwerk_meter.estimating import approximate_tokens, count_tokens, tokenizers
from countwerk_meter.estimating.counting import TOKENS_PER_ATTACHMENT, TOKENS_PER_MESSAGE

# Texts, and how many tokens tiktoken's own encodings count in them.
SAMPLES = json.loads((Path(__file__).parent / "samples.json").read_text())
EXCEPTIONS = {"finnish": 0.85, "rare chinese": 0.6}


@pytest.mark.parametrize("kind", sorted(set(SAMPLES) - set(EXCEPTIONS)))
def test_the_approximation_errs_high(kind):
    """At least what cl100k_base and o200k_base count, at most twice what the former does."""
    sample = SAMPLES[kind]
    counted = approximate_tokens(sample["text"])
    assert max(sample["cl100k_base"], sample["o200k_base"]) <= counted <= 2 * sample["cl100k_base"]


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_the_stated_exceptions_exceed_it_by_so_much(kind):
    """No more than its docstring says."""
    sample = SAMPLES[kind]
    assert EXCEPTIONS[kind] * sample["cl100k_base"] <= approximate_tokens(sample["text"]) < sample["cl100k_base"]


def test_messages_attachments_and_objects_count():
    """A few tokens of framing each, a flat number for what is no text."""
    word = approximate_tokens("hello")
    assert count_tokens("hello") == word
    messages = [{"role": "user", "content": "hello"}, {"role": "user", "content": "hello"}]
    assert 2 * (word + TOKENS_PER_MESSAGE) < count_tokens(messages) <= 2 * (word + TOKENS_PER_MESSAGE + 1)
    assert count_tokens(messages[0]) * 2 == count_tokens(messages)
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "A" * 9_000}}]}
    assert TOKENS_PER_ATTACHMENT < count_tokens([image]) < TOKENS_PER_ATTACHMENT + 20
    assert count_tokens([b"\x00"]) == TOKENS_PER_ATTACHMENT + TOKENS_PER_MESSAGE
    message = types.SimpleNamespace(content=[{"type": "text", "text": "hello"}], tool_calls=[{"args": {"n": 1}}])
    assert count_tokens([message]) == word + 1 + TOKENS_PER_MESSAGE
    assert count_tokens([None]) == TOKENS_PER_MESSAGE


@pytest.fixture
def tiktoken(monkeypatch):
    """A module of that name whose encodings take until `there` is set to load, as a download does."""
    module = types.ModuleType("tiktoken")
    there = threading.Event()

    class Encoding:
        def encode(self, text, *, disallowed_special):
            assert disallowed_special == ()
            return text.split()

    def name_for(model):
        return {"gpt-known": "enc", "gpt-offline": "offline"}[model]

    def get_encoding(name):
        there.wait(10)
        if name == "offline":
            raise OSError("no network")
        return Encoding()

    module.encoding_name_for_model, module.get_encoding, module.there = name_for, get_encoding, there
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    monkeypatch.setattr(tokenizers, "_loaded", {})
    tokenizers._encoding_of.cache_clear()
    yield module
    there.set()
    tokenizers._encoding_of.cache_clear()


def loaded():
    for thread in threading.enumerate():
        if thread.name == "countwerk-tokenizer":
            thread.join(10)


def test_a_tokenizer_is_loaded_behind_the_app(tiktoken):
    """The approximation counts until it is there: no gate waits for a download."""
    text = "unbelievably long words"
    assert approximate_tokens(text) == count_tokens(text, "gpt-known")
    tiktoken.there.set()
    loaded()
    assert count_tokens(text, "openai/gpt-known") == 3
    assert approximate_tokens(text) == count_tokens(text, "somebody-elses")


def test_a_tokenizer_that_cannot_be_loaded_is_not_missed(tiktoken):
    """No network, no tokenizer, and no second try."""
    tiktoken.there.set()
    for _ in range(2):
        assert approximate_tokens("some words") == count_tokens("some words", "gpt-offline")
        loaded()


def test_without_tiktoken_the_approximation_counts(monkeypatch):
    """It is not required."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    tokenizers._encoding_of.cache_clear()
    assert approximate_tokens("some words") == count_tokens("some words", "gpt-4")
    tokenizers._encoding_of.cache_clear()
