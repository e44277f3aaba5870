"""
Flat prices for tools: a tool's call costs its price if it ended, and nothing if it failed.

A tool that pauses its graph has not failed: it is called again when the graph is resumed, under the same id, and is
charged then.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from langchain_core.messages import ToolMessage

from countwerk_meter import ConfigurationError
from countwerk_meter.events import Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

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
