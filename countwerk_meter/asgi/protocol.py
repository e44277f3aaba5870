"""The words of ASGI as types, and values that may depend on the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, TypeVar, cast

T = TypeVar("T")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Asked: TypeAlias = Callable[[Scope], T | Awaitable[T]]


async def given(value: T | Asked[T], scope: Scope) -> T:
    """Return a value, or what a callable of the scope, sync or async, answers."""
    answer: Any = value(scope) if callable(value) else value
    if inspect.isawaitable(answer):
        answer = await answer
    return cast("T", answer)


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header that was sent exactly once, or None: of two that disagree neither is believed."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None
