"""
pydantic-ai's `RunUsage` and `RequestUsage`.

Normalised: input includes cached tokens, output includes reasoning, whoever the provider. `details` repeats raw counts
and is read only for reasoning, where there is no field for it.
"""

from __future__ import annotations

from countwerk_meter.usage._report import Report, count, has, part, unreadable


def read(usage: object) -> Report | None:
    """Read a usage object that has pydantic-ai's own cache fields."""
    if not has(usage, "cache_read_tokens", "cache_write_tokens"):
        return None
    details = part(usage, "details")
    return Report(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(usage, "cache_read_tokens"),
        cache_write=count(usage, "cache_write_tokens"),
        reasoning=count(usage, "output_reasoning_tokens") or count(details, "reasoning_tokens", "thoughts_tokens"),
        requests=count(usage, "requests"),
        # Its totals are then a lower bound, not a measure.
        partial=count(usage, "unmeasured_requests") > 0
        or unreadable(usage, "input_tokens", "output_tokens", null=True),
    )


def unfinished(source: object) -> bool:
    """Say whether this is a streamed response that was stopped: its usage is what had been reported by then."""
    return (
        part(source, "kind") == "response"
        and part(source, "state") in ("incomplete", "interrupted")
        and part(source, "finish_reason") is None
    )
