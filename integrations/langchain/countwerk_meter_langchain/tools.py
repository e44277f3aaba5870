"""
Flat prices for tools: a tool's call costs its price if it ended, and nothing if it failed.

A tool that pauses its graph has not failed: it is called again when the graph is resumed, under the same id, and is
charged then.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from langchain_core.messages import ToolMessage

from countwerk_meter import ConfigurationError
from countwerk_meter.events import Step

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from uuid import UUID

    from langchain_core.messages import ToolCall

    from countwerk_meter_langchain.steps import Steps


class ToolFailed(Exception):  # noqa: N818 - the reason of a release, never raised
    """A tool's failure came back as a message."""


def failure_of(answer: object) -> ToolFailed | None:
    """Return the failure that a tool's answer tells of, or None."""
    return ToolFailed() if isinstance(answer, ToolMessage) and answer.status == "error" else None


def checked_tool_prices(prices: Mapping[str, int] | None) -> Mapping[str, int]:
    """
    Return the prices of tools, in credits by name.

    Raises:
        ConfigurationError: One of them is no whole number above 0.

    """
    for name, price in (prices or {}).items():
        if isinstance(price, bool) or not isinstance(price, int) or price < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise ConfigurationError(f"the price of tool {name!r} must be a whole number of credits above 0")
    return MappingProxyType(dict(prices or {}))


def step_of_tool(steps: Steps, path: tuple[UUID, ...], call_id: str | None, otherwise: str) -> Step:
    """Return what names a tool's call: its id within the graph's task, else a run of this process."""
    parts = None if call_id is None else steps.within(path)
    return Step(("tool", otherwise), durable=False) if parts is None else Step((*parts, "tool", str(call_id)))


@dataclass(slots=True)
class Called:
    """A tool's call that runs in a bracket, how it failed, and whether it was charged all the same."""

    step: Step
    failure: ToolFailed | None = None
    charged: bool = False


@contextlib.contextmanager
def called(steps: Steps, path: tuple[UUID, ...], call: ToolCall, whose: tuple[str, str]) -> Generator[Called]:
    """
    Name a tool's call, below this path, while it runs.

    A node may make the call of one id several times: each is one of its own. But a call that failed, and was not
    charged, gives its place back, for what is called again then is the same call.
    """
    named = steps.name(path, (f"map:key:called {call['name']} {call['id']}",), whose)
    step = step_of_tool(steps, path, str(call["id"]), uuid.uuid4().hex) if named is None else named.step
    one, ended = Called(step), False
    try:
        yield one
        ended = one.failure is None
    finally:
        if named is not None and not ended and not one.charged:
            steps.back(named)
