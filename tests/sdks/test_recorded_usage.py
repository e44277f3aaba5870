"""Frameworks too heavy to install for this: their objects, dumped after real calls to a provider on loopback."""

from types import SimpleNamespace

import pytest

from countwerk_meter.usage import Usage

from .conftest import document


def test_litellm_keeps_the_providers_own_names_beside_openais():
    """LiteLLM 1.110: cached tokens are inside the prompt, though Anthropic's own fields stand beside it."""
    answer = document("litellm_from_anthropic")
    assert Usage(21, 503, 1800, 556) == Usage.of(answer) == Usage.of(answer["usage"])
    assert answer["usage"]["total_tokens"] == Usage.of(answer).total_tokens


@pytest.mark.parametrize(("hit", "expected"), [(True, Usage()), (None, Usage(21, 503, 1800, 556))])
def test_an_answer_from_litellms_cache_used_nothing(hit, expected):
    """Trap: a hit repeats every count; its hidden parameters tell it from a call."""
    answer = SimpleNamespace(**document("litellm_from_anthropic"), _hidden_params={"cache_hit": hit})
    assert expected == Usage.of(answer)


def test_openai_agents_counts_its_requests():
    """openai-agents 0.24: the usage of a run, as its context keeps it."""
    usage = document("openai_agents_usage")
    expected = Usage(22, 108, 1920, 64, 192, requests=1)
    assert expected == Usage.of(usage) == Usage.of({"context_wrapper": {"usage": usage}})
    assert usage["total_tokens"] == expected.total_tokens


def test_openai_agents_without_a_report_is_unknown():
    """A run over chat completions that streamed without `include_usage` has counted its requests, and nothing else."""
    usage = {**document("openai_agents_usage"), "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    assert Usage.of({"context_wrapper": {"usage": {**usage, **details}}}) is None
