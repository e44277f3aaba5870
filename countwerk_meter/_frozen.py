"""
Classes of a few fields that nobody changes.

`@dataclass(frozen=True, slots=True)` writes and compiles six methods for each class, a millisecond of every process'
start, and sets each field of each object by a call. There are over a hundred such classes in here, and a metered call
makes dozens of their objects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(kind: type[T]) -> type[T]:
    """
    Make a class a dataclass with slots, of which the type checker says that nothing is assigned.

    Objects are equal, and hash alike, where their class and all fields that are compared are.
    """
    for name, method in (("__eq__", _equal), ("__hash__", _hashed), ("__repr__", _shown)):
        if name not in kind.__dict__:
            setattr(kind, name, method)
    return dataclass(slots=True, eq=False, repr=False)(kind)


@cache
def _compared(kind: type[Any]) -> Callable[[Any], Any]:
    names = [field.name for field in fields(kind) if field.compare]
    return attrgetter(*names) if names else lambda _: ()


def _equal(self: Any, other: object) -> bool:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = _compared(self.__class__)
    return bool(compared(self) == compared(other))


def _hashed(self: Any) -> int:
    return hash(_compared(self.__class__)(self))


def _shown(self: Any) -> str:
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({shown})"
