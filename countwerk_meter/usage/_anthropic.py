"""
Anthropic's messages and their stream.

The only format whose `input_tokens` leave cached tokens out. A stream reports input in `message_start` and running
totals in `message_delta`: what the first says holds until a later event says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from countwerk_meter.usage._report import Report, broken, count, has, part

if TYPE_CHECKING:
    from collections.abc import Iterable

_OWN: Final = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
_FIELDS: Final = ("input_tokens", *_OWN, "output_tokens", "output_tokens_details")


def read(usage: object) -> Report | None:
    """Read a usage object that has one of Anthropic's own fields; without those the plain pair is read elsewhere."""
    return _report(usage) if has(usage, *_OWN) and has(usage, "input_tokens", "output_tokens") else None


def opens_stream(event: object) -> bool:
    """Say whether this is the event that opens an Anthropic stream."""
    return part(event, "type") == "message_start"


def read_stream(events: Iterable[object]) -> Report | None:
    """Merge a stream's events; None where the last count of the output never came."""
    merged: dict[str, object] = {}
    ended = False
    for event in events:
        if opens_stream(event):
            usage = part(part(event, "message"), "usage")
        elif part(event, "type") == "message_delta":
            usage = part(event, "usage")
            ended = ended or usage is not None
        else:
            continue
        merged.update({name: value for name in _FIELDS if (value := part(usage, name)) is not None})
    return _report(merged) if ended else None


def _report(usage: object) -> Report:
    by_lifetime = part(usage, "cache_creation")
    return Report(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(usage, "cache_read_input_tokens"),
        cache_write=count(usage, "cache_creation_input_tokens")
        or count(by_lifetime, "ephemeral_5m_input_tokens") + count(by_lifetime, "ephemeral_1h_input_tokens"),
        reasoning=count(part(usage, "output_tokens_details"), "thinking_tokens"),
        cached_inside=False,
        partial=broken(usage, "input_tokens", "output_tokens"),
    )
