"""
OpenAI's two formats, and those who speak them: LiteLLM, openai-agents, OpenAI-compatible servers.

Cached tokens are inside the input, reasoning inside the output.
"""

from __future__ import annotations

from countwerk_meter.usage._report import Report, count, counted, has, part, unreadable


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
        # Embeddings have no output, and a total.
        partial=unreadable(usage, "prompt_tokens", "completion_tokens", null=True)
        or not counted(usage, "completion_tokens", "total_tokens"),
    )


def unfinished(source: object) -> bool:
    """Say whether this is a response that is still being made: what it reports by then is not what it used."""
    return part(source, "object") == "response" and part(source, "status") in ("in_progress", "queued")


def from_cache(source: object) -> bool:
    """Say whether LiteLLM's own cache gave this answer: a hit repeats every count, and no provider was called."""
    return part(part(source, "_hidden_params"), "cache_hit") is True


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
        # Anthropic's name, where none of its other fields are there.
        reasoning=count(made, "reasoning_tokens", "thinking_tokens"),
        total=count(usage, "total_tokens"),
        requests=count(usage, "requests"),
        partial=unreadable(usage, "input_tokens", "output_tokens", null=True)
        or not counted(usage, "output_tokens", "total_tokens"),
    )
