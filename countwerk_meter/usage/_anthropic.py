"""
Anthropic's messages and their stream.

The only format whose `input_tokens` leave cached tokens out. A stream reports input in `message_start` and running
totals in `message_delta`: what the first says holds until a later event says more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from countwerk_meter.usage._report import Report, count, counted, has, part, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable

_OWN: Final = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
_COUNTED: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
_FIELDS: Final = ("input_tokens", *_OWN, "output_tokens", "output_tokens_details")


def read(usage: object) -> Report | None:
    """Read a usage object that has one of Anthropic's own fields; without those the plain pair is read elsewhere."""
    return _report(usage) if has(usage, *_OWN) and has(usage, "input_tokens", "output_tokens") else None


def opens_stream(event: object) -> bool:
    """Say whether this is the event that opens an Anthropic stream."""
    return part(event, "type") == "message_start"


def unfinished(source: object) -> bool:
    """
    Say whether this is a message that is still being made, as a stream that broke off leaves it.

    Its output count is then the placeholder of the first event. A whole message has a reason why it stopped.
    """
    return part(source, "type") == "message" and has(source, "stop_reason") and part(source, "stop_reason") is None


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
        for name in _FIELDS:
            value = part(usage, name)
            # Totals only grow: a later zero (trap: a stream may report an input of 0) takes nothing back.
            if value is not None and (unreadable(usage, name) or count(usage, name) >= count(merged, name)):
                merged[name] = value
    return _report(merged) if ended else None


def _report(usage: object) -> Report:
    by_lifetime = part(usage, "cache_creation")
    return Report(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(usage, "cache_read_input_tokens"),
        cache_write=max(
            count(usage, "cache_creation_input_tokens"),
            count(by_lifetime, "ephemeral_5m_input_tokens") + count(by_lifetime, "ephemeral_1h_input_tokens"),
        ),
        reasoning=count(part(usage, "output_tokens_details"), "thinking_tokens"),
        cached_inside=False,
        partial=unreadable(usage, *_COUNTED)
        or unreadable(usage, "input_tokens", "output_tokens", null=True)
        or not counted(usage, "output_tokens"),
    )
