"""
Google GenAI's usage metadata, as the SDK's objects or as the REST API's JSON.

Cached tokens are inside the prompt; thoughts are outside the candidates; what tools sent back is input of its own.
"""

from __future__ import annotations

from typing import Final

from countwerk_meter.usage._report import Report, broken, count, has

_COUNTS: Final = (
    "prompt_token_count",
    "promptTokenCount",
    "candidates_token_count",
    "candidatesTokenCount",
    "response_token_count",
    "responseTokenCount",
    "thoughts_token_count",
    "thoughtsTokenCount",
)


def read(usage: object) -> Report | None:
    """Read `prompt_token_count` and its siblings; chunks of a stream carry running totals."""
    if not has(usage, "prompt_token_count", "promptTokenCount", "total_token_count", "totalTokenCount"):
        return None
    return Report(
        input=count(usage, "prompt_token_count", "promptTokenCount")
        + count(usage, "tool_use_prompt_token_count", "toolUsePromptTokenCount"),
        output=count(
            usage, "candidates_token_count", "candidatesTokenCount", "response_token_count", "responseTokenCount"
        ),
        cache_read=count(usage, "cached_content_token_count", "cachedContentTokenCount"),
        reasoning=count(usage, "thoughts_token_count", "thoughtsTokenCount"),
        total=count(usage, "total_token_count", "totalTokenCount"),
        reasoning_inside=False,
        partial=broken(usage, *_COUNTS, unless_null=True),
    )
