"""
Finding the report inside whatever a model call returned, by its shape alone: no SDK is imported.

An answer carries its usage under a few well-known names, some of them nested; a stream, in some of its chunks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from countwerk_meter.usage import _anthropic, _google, _langchain, _openai, _pydantic_ai
from countwerk_meter.usage._content import says_something, unfinished
from countwerk_meter.usage._report import has, part

if TYPE_CHECKING:
    from typing import Final

    from countwerk_meter.usage._report import Pools, Report

    Reader = Callable[[object], Report | None]

# The order matters: each reader refuses what is not its own, and the more telling field names come first.
_READERS: Final[tuple[Reader, ...]] = (
    _google.read,
    _openai.read_chat,
    _anthropic.read,
    _langchain.read,
    _pydantic_ai.read,
    _openai.read_responses,
)
# Where an answer keeps its usage, or what holds it: `context_wrapper` in openai-agents' results, `response` in the last
# event of OpenAI's responses stream, `message` in LangChain's generations and Anthropic's last event.
_HOLDERS: Final = ("usage_metadata", "usageMetadata", "usage", "context_wrapper", "message", "response")
_DEEPEST: Final = 4


def read(source: object) -> Pools | None:
    """Return the disjoint pools of an answer, a usage object or a stream's chunks, or None where they are unknown."""
    if isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray):
        report = _of_stream(cast("Sequence[object]", source))
        return None if report is None else report.pools()
    report = _of_answer(source)
    pools = None if report is None else report.pools()
    if report is None or pools is None or report.free or pools.output or pools.reasoning:
        return pools
    return None if says_something(source) else pools


def _of_answer(source: object, depth: int = 0) -> Report | None:
    if source is None or isinstance(source, str | bytes | int | float | type) or depth > _DEEPEST:
        return None
    if _anthropic.opens_stream(source) or unfinished(source):
        # Its output count is a placeholder: alone it says nothing about what was generated.
        return None
    for reader in _READERS:
        if (report := reader(source)) is not None:
            return report
    if (report := _langchain.read_result(source, lambda inner: _of_answer(inner, depth + 1))) is not None:
        return report
    for name in _HOLDERS:
        held = part(source, name)
        if name == "usage":
            held = _called(held)
        if (report := _of_answer(held, depth + 1)) is not None:
            # Google's objects use the same name for running totals.
            return replace(report, adds=True) if name == "usage_metadata" and has(held, "input_tokens") else report
    return _langchain.read_leftovers(source, lambda inner: _of_answer(inner, depth + 1))


def _of_stream(chunks: Sequence[object]) -> Report | None:
    if any(_anthropic.opens_stream(chunk) for chunk in chunks):
        return _anthropic.read_stream(chunks)
    latest: Report | None = None
    for chunk in chunks:
        report = _of_answer(chunk)
        if report is None:
            continue
        latest = latest + report if latest is not None and latest.adds and report.adds else report
    if latest is None or latest.free:
        return latest
    # Something was streamed, so something was generated: a report without output is not the last one.
    return latest if latest.output or latest.reasoning else None


def _called(held: object) -> object:
    """Return what a `usage()` method gives (older pydantic-ai); other values as they are."""
    if not inspect.ismethod(held):
        return held
    try:
        return cast("object", held())
    except Exception:  # noqa: BLE001 - a run that has not ended refuses to answer: unknown
        return None
