"""Wire answers as recorded from each provider, read as dicts and as objects with attributes."""

import json
from decimal import Decimal
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.usage import Usage

OPENAI_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-5-2025-08-07",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0},
    },
}
OPENAI_RESPONSES = {
    "id": "resp_1",
    "object": "response",
    "output": [],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 150,
    },
}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 70,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 20},
        "server_tool_use": None,
        "service_tier": "standard",
    },
}
GOOGLE = {
    "candidates": [],
    "usage_metadata": {
        "prompt_token_count": 100,
        "cached_content_token_count": 30,
        "candidates_token_count": 30,
        "thoughts_token_count": 20,
        "tool_use_prompt_token_count": 5,
        "total_token_count": 155,
        "prompt_tokens_details": [{"modality": "TEXT", "token_count": 100}],
    },
}
GOOGLE_REST = {
    "candidates": [],
    "usageMetadata": {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 30,
        "candidatesTokenCount": 30,
        "thoughtsTokenCount": 20,
        "toolUsePromptTokenCount": 5,
        "totalTokenCount": 155,
    },
}
LITELLM_FROM_ANTHROPIC = {
    "object": "chat.completion",
    "choices": [],
    "usage": {
        "prompt_tokens": 110,
        "completion_tokens": 50,
        "total_tokens": 160,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_creation_tokens": 10, "text_tokens": 70},
        "completion_tokens_details": {"reasoning_tokens": 20},
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 10,
    },
}
PYDANTIC_AI = {
    "parts": [],
    "usage": {
        "input_tokens": 110,
        "cache_write_tokens": 10,
        "cache_read_tokens": 30,
        "output_tokens": 50,
        "output_reasoning_tokens": 20,
        "details": {"reasoning_tokens": 20, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10},
        "requests": 2,
    },
}
AGENTS = {
    "context_wrapper": {
        "usage": {
            "requests": 3,
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 30},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 150,
        }
    }
}
ANSWERS = {
    "openai chat": (OPENAI_CHAT, Usage(70, 30, 30, 0, 20)),
    "openai responses": (OPENAI_RESPONSES, Usage(65, 30, 30, 5, 20)),
    "openai responses, last event": (
        {"type": "response.completed", "response": OPENAI_RESPONSES},
        Usage(65, 30, 30, 5, 20),
    ),
    "anthropic": (ANTHROPIC, Usage(70, 30, 30, 10, 20)),
    "google": (GOOGLE, Usage(75, 30, 30, 0, 20)),
    "google rest": (GOOGLE_REST, Usage(75, 30, 30, 0, 20)),
    "litellm from anthropic": (LITELLM_FROM_ANTHROPIC, Usage(70, 30, 30, 10, 20)),
    "pydantic-ai": (PYDANTIC_AI, Usage(70, 30, 30, 10, 20, 2)),
    "openai-agents": (AGENTS, Usage(70, 30, 30, 0, 20, 3)),
}
BARE = ["openai chat", "openai responses", "anthropic", "litellm from anthropic", "pydantic-ai"]


def as_object(data):
    return json.loads(json.dumps(data), object_hook=lambda fields: SimpleNamespace(**fields))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_as_a_dict_and_as_an_object(name):
    """The provider's convention is undone: what comes out is disjoint."""
    answer, expected = ANSWERS[name]
    assert expected == Usage.of(answer)
    assert expected == Usage.of(as_object(answer))


@pytest.mark.parametrize("name", BARE)
def test_a_bare_usage_object_is_read_as_its_answer_is(name):
    """Handing over `answer.usage` instead of `answer` makes no difference."""
    answer, expected = ANSWERS[name]
    assert expected == Usage.of(answer["usage"]) == Usage.of(as_object(answer["usage"]))


def test_anthropic_without_caching_is_a_plain_pair():
    """An older answer has neither cache fields nor details."""
    assert Usage(7, 5) == Usage.of({"usage": {"input_tokens": 7, "output_tokens": 5}})


def test_anthropic_cache_writes_by_lifetime_alone():
    """Where only the lifetimes are given, they add up to what was written."""
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_creation": ANTHROPIC["usage"]["cache_creation"]}
    assert Usage(7, 5, cache_write_tokens=10) == Usage.of(usage)


def test_anthropic_input_is_not_reduced_by_what_was_cached():
    """Trap: Anthropic's input leaves cached tokens out, so a large cache read must not eat it."""
    usage = {
        "input_tokens": 3,
        "output_tokens": 5,
        "cache_read_input_tokens": 9000,
        "cache_creation_input_tokens": None,
    }
    assert Usage(3, 5, 9000) == Usage.of(usage)


def test_deepseek_names_its_cache_hits_otherwise():
    """`prompt_cache_hit_tokens` are cached tokens inside the prompt."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
    }
    assert Usage(36, 5, 64) == Usage.of(usage)


@pytest.mark.parametrize("details", [{"reasoning_tokens": 20}, {"thoughts_tokens": 20}])
def test_older_pydantic_ai_keeps_reasoning_in_details(details):
    """Before it had a field of its own, reasoning was a detail, inside the output all the same."""
    usage = SimpleNamespace(
        input_tokens=10, output_tokens=50, cache_read_tokens=0, cache_write_tokens=0, details=details
    )
    assert Usage(10, 30, reasoning_tokens=20) == Usage.of(usage)


def test_usage_as_a_method_is_called():
    """Older pydantic-ai results have `usage()`."""

    class Result:
        def usage(self):
            return as_object(PYDANTIC_AI["usage"])

    assert Usage(70, 30, 30, 10, 20, 2) == Usage.of(Result())


def test_reasoning_outside_the_completion_shows_in_the_total():
    """xAI and Gemini's OpenAI-compatible endpoint keep reasoning outside; only the total says so."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    assert Usage(32, 9, reasoning_tokens=94) == Usage.of(usage)
    within = {**usage, "completion_tokens": 100, "total_tokens": 226}
    assert Usage(32, 100, reasoning_tokens=94) == Usage.of(within)


def test_cached_tokens_outside_the_input_show_in_the_total():
    """A proxy that passes Anthropic's input on under OpenAI's names is found out by its total."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 150, "cache_read_input_tokens": 30}
    assert Usage(100, 20, 30) == Usage.of(usage)


def test_a_total_beyond_its_parts_is_output():
    """What the provider counts without saying where is charged as output, so that the pools add up to its bill."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 170}
    assert Usage(100, 70) == Usage.of(usage)


def test_a_total_below_its_parts_is_ignored():
    """Parts are evidence; a total that leaves some of them out is not."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 20}
    assert Usage(100, 20) == Usage.of(usage)


@pytest.mark.parametrize(("total", "difference"), [(170, 50), (120, 0), (100, 20), (None, 0), (0, 0)])
def test_a_total_that_does_not_fit_is_not_silent(total, difference):
    """By how much total and parts differ stays visible, and adds up."""
    usage = Usage.of({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": total})
    assert difference == usage.unexplained_tokens
    assert 2 * difference == (usage + usage).unexplained_tokens


def test_more_cached_than_input_is_not_inside_it():
    """No pool is ever negative: more than the whole cannot be a part of it."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 40}}
    assert Usage(10, 5, 40) == Usage.of(usage)


def test_details_that_are_null_are_nothing():
    """Servers that know no caching send null."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None, "total_tokens": None}
    assert Usage(10, 5) == Usage.of(usage)


@pytest.mark.parametrize("odd", [-5, 1.5, "5", True, None, float("nan"), float("inf"), Decimal(5)])
def test_a_count_that_is_none_is_passed_over(odd):
    """A cached count that makes no sense leaves the tokens in the input."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": odd}}
    assert Usage(10, 5) == Usage.of(usage)


@pytest.mark.parametrize("odd", [-5, 1.5, "5", True, None, float("nan"), float("inf"), Decimal(5)])
@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, "completion_tokens"),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, "output_tokens"),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3}, "output_tokens"),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3}, "input_tokens"),
        ({"input_tokens": 10, "output_tokens": 5, "input_token_details": {}}, "output_tokens"),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 0}, "output_tokens"),
    ],
)
def test_an_input_or_output_that_is_no_count_is_unknown(template, field, odd):
    """What should have been counted and was not is not 0: the whole call is unknown."""
    assert Usage.of(template) is not None
    assert Usage.of({**template, field: odd}) is None


def test_whole_floats_are_counts():
    """JSON from some proxies writes 10.0."""
    assert Usage(10, 5) == Usage.of({"prompt_tokens": 10.0, "completion_tokens": 5.0})


@pytest.mark.parametrize(
    "source",
    [
        None,
        "an answer",
        b"bytes",
        3,
        dict,
        object(),
        {},
        [],
        (),
        {"usage": None},
        {"usage": {}},
        {"usage": "12 tokens"},
        {"choices": []},
        SimpleNamespace(usage=None),
        {"usage": {"total_tokens": 12}},
        {"usage": {"type": "duration", "seconds": 3}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 9, "total_tokens": 9}},
        {"usage_metadata": {"prompt_token_count": None, "total_token_count": None}},
        {"usage": {"input_tokens": 0, "output_tokens": 0, "requests": 1}},
    ],
)
def test_unknown_usage_is_none(source):
    """Usage that is missing, all zero or without any input is unknown, never free."""
    assert Usage.of(source) is None
    if isinstance(source, dict):
        assert Usage.of(as_object(source)) is None


def test_a_mock_is_unknown():
    """An object that has every attribute has no count."""
    assert Usage.of(MagicMock()) is None


def test_pydantic_ai_that_says_it_missed_something_is_unknown():
    """With `unmeasured_requests` the totals are a lower bound, not a measure."""
    assert Usage.of({**PYDANTIC_AI["usage"], "unmeasured_requests": 1}) is None
    assert Usage.of({**PYDANTIC_AI["usage"], "unmeasured_requests": 0}) is not None


def test_an_answer_that_fails_to_answer_is_unknown():
    """Whatever an object raises when it is asked, the model's answer is not lost over it."""

    class Hostile(dict):
        def get(self, key, default=None):
            raise RuntimeError("no")

        def __contains__(self, key):
            raise RuntimeError("no")

    class Unfinished:
        @property
        def usage_metadata(self):
            raise RuntimeError("not yet")

        def usage(self):
            raise RuntimeError("not yet")

    assert Usage.of(Hostile()) is None
    assert Usage.of(Unfinished()) is None


def test_an_object_that_holds_itself_is_unknown():
    """Looking for usage ends."""
    knot = SimpleNamespace()
    knot.usage = knot.message = knot.response = knot
    assert Usage.of(knot) is None


def test_embeddings_have_no_output():
    """A call without output is whole: only its input is charged."""
    assert Usage(8) == Usage.of({"object": "list", "usage": {"prompt_tokens": 8, "total_tokens": 8}})


tokens = st.integers(min_value=0, max_value=10**6)


@given(tokens, tokens, st.none() | tokens, st.none() | tokens, st.none() | tokens)
def test_pools_of_openai_add_up(prompt, completion, cached, reasoning, total):
    """Whatever is reported, the pools hold at least what the provider totals, and none is negative."""
    usage = Usage.of(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    if usage is None:
        assert 0 == prompt + (cached or 0)
    else:
        assert usage.total_tokens >= max(total or 0, prompt + completion)
        inside = (cached or 0) <= prompt and (reasoning or 0) <= completion
        if inside and total in {None, 0, prompt + completion}:
            assert prompt + completion == usage.total_tokens


@given(tokens, tokens, tokens, tokens)
def test_pools_of_anthropic_add_up(plain, read, written, made):
    """Anthropic's parts are disjoint as they come."""
    usage = Usage.of(
        {
            "input_tokens": plain,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": made,
        }
    )
    expected = Usage(plain, made, read, written) if plain + read + written else None
    assert expected == usage
