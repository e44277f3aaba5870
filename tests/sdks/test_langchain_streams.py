"""LangChain's own messages and chunks, as its OpenAI, Anthropic and Google integrations fill them."""

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, LLMResult

from countwerk_meter.usage import Usage

from .conftest import document

POOLS = {
    "openai": Usage(86, 108, 1920, 0, 192),
    "anthropic": Usage(21, 503, 1800, 556),
    "google": Usage(86, 108, 1920, 0, 192),
}


def message(provider, kind=AIMessage):
    return kind.model_validate(document("langchain_messages")[provider])


@pytest.mark.parametrize("provider", POOLS)
@pytest.mark.parametrize("kind", [AIMessage, AIMessageChunk])
def test_a_message_is_read_whoever_the_provider(provider, kind):
    """The same call gives the same pools as the provider's own object: totals include what was cached."""
    answer = message(provider, kind)
    expected = POOLS[provider]
    assert expected == Usage.of(answer) == Usage.of(answer.usage_metadata) == Usage.of(answer.model_dump())
    assert expected == Usage.of(LLMResult(generations=[[ChatGeneration(message=answer)]]))
    assert answer.usage_metadata["total_tokens"] == expected.total_tokens


STREAMED = {
    "openai": POOLS["openai"],
    "openai without stream_usage": None,
    "openai responses": Usage(22, 108, 1920, 64, 192),
    # Its input came with `message_start`, of which LangChain's chunks say nothing.
    "anthropic": None,
    "google": POOLS["google"],
}


def chunks(name):
    return [AIMessageChunk(**chunk) for chunk in document("langchain_streams")[name]]


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_is_read_as_the_integration_brings_it(name):
    """Traps: no usage without `stream_usage`, an input of 0 from Anthropic; Google's counts are increments."""
    streamed = chunks(name)
    assert STREAMED[name] == Usage.of(streamed) == Usage.of(sum(streamed[1:], start=streamed[0]))


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_broken_off_is_unknown_or_what_had_come(name):
    """Only Google counts as it goes; there the chunks so far are what was consumed."""
    streamed = chunks(name)
    for length in range(len(streamed)):
        usage = Usage.of(streamed[:length])
        if name == "google" and length in {2, 3}:
            assert Usage(86, {2: 40, 3: 108}[length], 1920, 0, 192) == usage
        elif length < len(streamed) - 1:
            assert usage is None


@pytest.mark.parametrize("provider", POOLS)
def test_the_cache_of_langchain_makes_a_call_free_the_second_time(provider):
    """Trap: a hit repeats every count, and its cost of 0 tells it from a call."""
    model = GenericFakeChatModel(messages=iter([message(provider)]), cache=InMemoryCache())
    assert POOLS[provider] == Usage.of(model.invoke("Hello"))
    hit = model.invoke("Hello")
    assert (
        document("langchain_messages")[provider]["usage_metadata"]["input_tokens"] == hit.usage_metadata["input_tokens"]
    )
    assert Usage() == Usage.of(hit)


@pytest.mark.parametrize("provider", POOLS)
def test_a_message_without_its_usage_is_unknown(provider):
    """The text proves that the model ran; no count says for how much."""
    told = document("langchain_messages")[provider]
    assert Usage.of(AIMessage.model_validate({**told, "usage_metadata": None})) is None
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert Usage.of(AIMessage.model_validate({**told, "usage_metadata": zeros})) is None
    unanswered = {**told["usage_metadata"], "output_tokens": 0, "output_token_details": {}, "total_tokens": 0}
    assert Usage.of(AIMessage.model_validate({**told, "usage_metadata": unanswered})) is None
