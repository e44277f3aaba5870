"""
Finding the report inside whatever a model call returned, by its shape alone: no SDK is imported.

An answer carries its usage under a few well-known names, some of them nested; a stream, in some of its chunks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, cast

from countwerk_meter.usage import _anthropic, _google, _langchain, _openai, _pydantic_ai
from countwerk_meter.usage._generated import generated
from countwerk_meter.usage._report import Report, has, part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from countwerk_meter.usage._report import Pools

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
_UNFINISHED: Final = (
    _anthropic.opens_stream,
    _anthropic.unfinished,
    _openai.unfinished,
    _pydantic_ai.unfinished,
)
# Where an answer keeps its usage, or what holds it: `context_wrapper` in openai-agents' results, `response` in the last
# event of OpenAI's responses stream, `message` in LangChain's generations and Anthropic's last event.
_HOLDERS: Final = ("usage_metadata", "usageMetadata", "usage", "context_wrapper", "message", "response")
_DEEPEST: Final = 4


def read(source: object) -> Pools | None:
    """Return the disjoint pools of an answer, a usage object or a stream's chunks, or None where they are unknown."""
    if isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray):
        report = _of_stream(cast("Sequence[object]", source))
    else:
        report = _of_answer(source)
    return None if report is None else report.pools()


def _of_answer(source: object, depth: int = 0, *, whole: bool = True) -> Report | None:
    """Find the report in an answer; `whole`: it is all that was generated, not a chunk of a stream."""
    if source is None or isinstance(source, str | bytes | int | float | type) or depth > _DEEPEST:
        return None
    if not _only_holds(type(source)):
        # The output count of one that is still being made is a placeholder: it says nothing of what was generated.
        if any(unfinished(source) for unfinished in _UNFINISHED):
            return None
        if _openai.from_cache(source):
            return Report(free=True)
        for reader in _READERS:
            if (report := reader(source)) is not None:
                return report
    report = _held(source, depth, whole=whole)
    if report is not None and whole and _leaves_out(report, lambda aloud: generated(source, aloud=aloud)):
        return replace(report, partial=True)
    return report


@cache
def _only_holds(kind: type) -> bool:
    """Say whether this is a class of LangChain's that reports nothing itself: none of the readers need be asked."""
    return kind.__module__.startswith(("langchain_core.outputs.", "langchain_core.messages."))


def _held(source: object, depth: int, *, whole: bool) -> Report | None:
    def find(inner: object) -> Report | None:
        return _of_answer(inner, depth + 1, whole=whole)

    if (report := _langchain.read_result(source, find)) is not None:
        return report
    for name in _holders(source):
        held = part(source, name)
        if name == "usage":
            if _langchain.from_cache(held):
                # A provider that asks nothing for a call says nothing about what the app asks for it.
                held = {key: value for key, value in cast("Mapping[str, object]", held).items() if key != "total_cost"}
            held = _called(held)
        elif name == "usage_metadata" and _langchain.from_cache(held):
            return _langchain.read_hit(held, find)
        if (report := find(held)) is not None:
            # Google's objects use the same name for running totals.
            return replace(report, adds=True) if name == "usage_metadata" and has(held, "input_tokens") else report
    return _langchain.read_leftovers(source, find)


def _holders(source: object) -> Iterable[str]:
    """Return the names under which an answer may keep its usage: of LangChain's own, what it has."""
    if not _only_holds(type(source)) or getattr(source, "__pydantic_extra__", None):
        return _HOLDERS
    return [name for name in _HOLDERS if name in source.__dict__]


def _leaves_out(report: Report, seen: Callable[[bool], bool]) -> bool:
    """Say whether the report counts no output beside what can be `seen`, thinking left out where that is counted."""
    pools = report.pools()
    if report.free or pools is None or pools.output:
        return False
    return seen(bool(pools.reasoning))


def _of_stream(chunks: Sequence[object]) -> Report | None:
    if any(_anthropic.opens_stream(chunk) for chunk in chunks):
        return _anthropic.read_stream(chunks)
    latest: Report | None = None
    uncounted = False
    for chunk in chunks:
        report = _of_answer(chunk, whole=False)
        if report is None:
            uncounted = uncounted or generated(chunk)
            continue
        uncounted = False
        latest = latest + report if latest is not None and latest.adds and report.adds else report
    if latest is None or latest.free:
        return latest
    # Something was streamed, so something was generated: a report without output, or before the last of the text, is
    # not the last one.
    if uncounted or not (latest.output or latest.reasoning):
        return None
    spoken = _leaves_out(latest, lambda aloud: any(generated(chunk, aloud=aloud) for chunk in chunks))
    return None if spoken else latest


def _called(held: object) -> object:
    """Return what a `usage()` method gives (older pydantic-ai); other values as they are."""
    if not inspect.ismethod(held):
        return held
    try:
        return cast("object", held())
    except Exception:  # noqa: BLE001 - a run that has not ended refuses to answer: unknown
        return None
