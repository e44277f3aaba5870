"""
Google GenAI's usage metadata, as the SDK's objects or as the REST API's JSON.

Cached tokens are inside the prompt; thoughts are outside the candidates; what tools sent back is input of its own.
"""

from __future__ import annotations

from typing import Final

from countwerk_meter.usage._report import Report, count, counted, has, unreadable

_MADE: Final = ("candidates_token_count", "candidatesTokenCount", "response_token_count", "responseTokenCount")
_TOTAL: Final = ("total_token_count", "totalTokenCount")
# Those that are in no other: one that cannot be read is missing from the sum.
_COUNTED: Final = (
    "prompt_token_count",
    "promptTokenCount",
    *_MADE,
    "thoughts_token_count",
    "thoughtsTokenCount",
    "tool_use_prompt_token_count",
    "toolUsePromptTokenCount",
)


def read(usage: object) -> Report | None:
    """Read `prompt_token_count` and its siblings; chunks of a stream carry running totals."""
    if not has(usage, "prompt_token_count", "promptTokenCount", *_TOTAL):
        return None
    return Report(
        input=count(usage, "prompt_token_count", "promptTokenCount")
        + count(usage, "tool_use_prompt_token_count", "toolUsePromptTokenCount"),
        output=count(usage, *_MADE),
        cache_read=count(usage, "cached_content_token_count", "cachedContentTokenCount"),
        reasoning=count(usage, "thoughts_token_count", "thoughtsTokenCount"),
        total=count(usage, *_TOTAL),
        reasoning_inside=False,
        partial=unreadable(usage, *_COUNTED) or not counted(usage, *_MADE, *_TOTAL),
    )
