"""
What a source reported, before it is taken apart into disjoint pools.

Sources differ in whether cached tokens are inside the input and reasoning inside the output. Each reader states its
source's convention; the provider's own total overrules it, because that is what the provider bills.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast


class Pools(NamedTuple):
    """The pools in the order of `Usage`'s fields."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    requests: int
    unexplained: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """One source's counts; `cached_inside` and `reasoning_inside` say whether input and output include those."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    total: int = 0
    requests: int = 0
    cached_inside: bool = True
    reasoning_inside: bool = True
    partial: bool = False
    """Something is missing: the source says so itself, or gives no count where one belongs."""
    adds: bool = False
    """Chunks of a stream report increments (LangChain), not running totals."""
    free: bool = False
    """Served from the app's own cache: nothing was used, and the counts are those of an earlier call."""

    def __add__(self, other: Report) -> Report:
        if self.free != other.free:
            # What came from a cache used nothing, whatever counts it repeats.
            return other if self.free else self
        return Report(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.total + other.total,
            self.requests + other.requests,
            self.cached_inside,
            self.reasoning_inside,
            self.partial or other.partial,
            adds=True,
            free=self.free,
        )

    def pools(self) -> Pools | None:
        """Return the disjoint pools, or None where the report is incomplete."""
        if self.free:
            return Pools(0, 0, 0, 0, 0, 0)
        cached = self.cache_read + self.cache_write
        # No call has an empty input: a zero there is a stream that broke off.
        if self.partial or not self.input + cached:
            return None
        cached_inside, reasoning_inside = self._convention(cached)
        pools = Pools(
            self.input - cached if cached_inside else self.input,
            self.output - self.reasoning if reasoning_inside else self.output,
            self.cache_read,
            self.cache_write,
            self.reasoning,
            self.requests,
        )
        unexplained = self.total - sum(pools[:5]) if self.total else 0
        # The larger truth is charged: a total beyond its parts is output, parts beyond their total stay what they are.
        return pools._replace(output=pools.output + max(unexplained, 0), unexplained=abs(unexplained))

    def _convention(self, cached: int) -> tuple[bool, bool]:
        """Return whether cached and reasoning are inside: as the total has it, else as the source is known to do."""
        # More than the whole cannot be a part of it.
        may_cached, may_reasoning = cached <= self.input, self.reasoning <= self.output
        stated = self.cached_inside and may_cached, self.reasoning_inside and may_reasoning
        if not self.total:
            return stated
        # xAI's and Gemini's OpenAI-compatible answers keep reasoning outside the completion; so their total says.
        for inside in (stated, (stated[0], False), (False, stated[1]), (False, False)):
            parts = self.input + self.output + (0 if inside[0] else cached) + (0 if inside[1] else self.reasoning)
            if parts == self.total:
                return inside
        return stated


@cache
def _is_model(kind: type) -> bool:
    return any("__pydantic_fields__" in vars(each) for each in kind.__mro__)


@cache
def _defines(kind: type, name: str) -> bool:
    return any(name in vars(each) for each in kind.__mro__)


def _lacks(source: object, name: str) -> bool:
    """Say whether a pydantic model surely has no such field: asking takes microseconds, and most have few of ours."""
    kind = type(source)
    if not _is_model(kind) or name in source.__dict__ or _defines(kind, name):
        return False
    return name not in (getattr(source, "__pydantic_extra__", None) or ())


def part(source: object, name: str) -> object:
    """Return a field of an object or a mapping, or None; an object that fails to answer has none."""
    try:
        if isinstance(source, Mapping):
            return cast("Mapping[str, object]", source).get(name)
        return None if _lacks(source, name) else cast("object", getattr(source, name, None))
    except Exception:  # noqa: BLE001 - the model has answered: bookkeeping must not take that away
        return None


def has(source: object, *names: str) -> bool:
    """Say whether the source has one of the fields, whatever it holds."""
    try:
        if isinstance(source, Mapping):
            return any(name in source for name in names)
        return any(not _lacks(source, name) and hasattr(source, name) for name in names)
    except Exception:  # noqa: BLE001 - as above
        return False


def count(source: object, *names: str) -> int:
    """Return the first of the fields that holds a count, else 0. Negative and fractional ones are none."""
    return next((found for name in names if (found := _count(part(source, name))) is not None), 0)


def unreadable(source: object, *names: str, null: bool = False) -> bool:
    """
    Say whether one of the fields holds something that is no count: what it stood for is not in the report.

    A field that is left out says nothing (embeddings have no output). `null`: null is not how the source leaves out.
    """
    for name in names:
        value = part(source, name)
        if _count(value) is None and (value is not None or (null and has(source, name))):
            return True
    return False


def counted(source: object, *names: str) -> bool:
    """Say whether one of the fields holds a count, be it 0."""
    return any(_count(part(source, name)) is not None for name in names)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None
