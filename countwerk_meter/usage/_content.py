"""
What an answer shows of itself, to be held against what it reports.

An answer that is not finished, or that says something and reports no output, carries figures that nobody stands behind:
its usage is unknown (money rule 13).
"""

from __future__ import annotations

from typing import Final, cast

from countwerk_meter.usage._report import has, part

_UNFINISHED: Final = ("queued", "in_progress")
_DEEPEST: Final = 3


def unfinished(source: object) -> bool:
    """Say whether this is a snapshot of an answer in the making: its output count is a placeholder."""
    if part(source, "type") == "message" and has(source, "stop_reason"):
        # Anthropic's stream helper gives snapshots of the message whenever asked.
        return part(source, "stop_reason") is None
    return part(source, "object") == "response" and part(source, "status") in _UNFINISHED


def says_something(source: object, depth: int = 0) -> bool:
    """Say whether an answer holds text, blocks or tool calls; False also where its shape is not known."""
    if depth > _DEEPEST:
        return False
    if any(_filled(part(source, name)) for name in ("content", "tool_calls", "output")):
        return True
    generation = _first(_first(part(source, "generations")))
    if _filled(part(generation, "text")) or says_something(part(generation, "message"), depth + 1):
        return True
    choice = _first(part(source, "choices"))
    if _filled(part(choice, "text")) or _filled(part(part(_first(part(source, "candidates")), "content"), "parts")):
        return True
    held = (part(choice, "message"), part(source, "message"), part(source, "response"))
    return any(says_something(each, depth + 1) for each in held if each is not None)


def _filled(value: object) -> bool:
    return isinstance(value, str | list) and bool(cast("object", value))


def _first(value: object) -> object:
    """Return the first of a list; anything else as it is, an empty list as None."""
    if not isinstance(value, list):
        return value
    items = cast("list[object]", value)
    return items[0] if items else None
