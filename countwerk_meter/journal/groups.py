"""What every writer thread does at both ends of a group: take what is queued, and give whoever waits the result."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable
    from concurrent.futures import Future

T = TypeVar("T")

_here = threading.local()

Result: TypeAlias = "tuple[Future[Any], Any, Exception | None]"


def writes() -> None:
    """Say that the calling thread is a journal's writer."""
    _here.writes = True


def is_a_writer() -> bool:
    """Whether the calling thread is a journal's writer, which must not wait for what it is to write itself."""
    return getattr(_here, "writes", False)


def gathered(waiting: queue.SimpleQueue[T], limit: int) -> list[T]:
    """Wait for one job, and return it with those that are queued behind it, so many at most."""
    group = [waiting.get()]
    # Nobody else takes from it.
    while len(group) < limit and not waiting.empty():
        group.append(waiting.get())
    return group


def deliver(results: Iterable[Result]) -> None:
    """Give each future its result, or the error that it has instead."""
    for future, result, error in results:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
