"""
OpenAI's two formats, and those who speak them: LiteLLM, openai-agents, OpenAI-compatible servers.

Cached tokens are inside the input, reasoning inside the output.
"""

from __future__ import annotations

from countwerk_meter.usage._report import Report, broken, count, has, part


def read_chat(usage: object) -> Report | None:
    """Read `prompt_tokens` and `completion_tokens`: chat completions, LiteLLM, LangChain's `token_usage`."""
    if not has(usage, "prompt_tokens", "completion_tokens"):
        return None
    sent = part(usage, "prompt_tokens_details")
    made = part(usage, "completion_tokens_details")
    return Report(
        input=count(usage, "prompt_tokens"),
        output=count(usage, "completion_tokens"),
        # LiteLLM keeps Anthropic's names beside the details; DeepSeek has a name of its own.
        cache_read=count(sent, "cached_tokens")
        or count(usage, "cache_read_input_tokens")
        or count(usage, "prompt_cache_hit_tokens"),
        cache_write=count(sent, "cache_write_tokens")
        or count(sent, "cache_creation_tokens")
        or count(usage, "cache_creation_input_tokens"),
        reasoning=count(made, "reasoning_tokens"),
        total=count(usage, "total_tokens"),
        partial=broken(usage, "prompt_tokens", "completion_tokens"),
    )


def read_responses(usage: object) -> Report | None:
    """Read `input_tokens` and `output_tokens` with their details: responses, openai-agents; also any bare such pair."""
    if not has(usage, "input_tokens", "output_tokens"):
        return None
    sent = part(usage, "input_tokens_details")
    made = part(usage, "output_tokens_details")
    return Report(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(sent, "cached_tokens"),
        cache_write=count(sent, "cache_write_tokens"),
        reasoning=count(made, "reasoning_tokens"),
        total=count(usage, "total_tokens"),
        requests=count(usage, "requests"),
        partial=broken(usage, "input_tokens", "output_tokens"),
    )
