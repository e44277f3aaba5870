"""
What a process that forks must not hand down: an open connection to a SQLite file.

SQLite's locks are the process': a child that inherited a connection would believe that it holds them, and the next
process to close the file would delete the write-ahead log under it, with every charge in it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_forking = threading.local()
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
# Held while a connection is made, until there is a thread that can be told to close it again: a fork waits for that.
_opening = threading.RLock()


class Pause:
    """Closes a writer's connection for the length of a fork."""

    def __init__(self) -> None:
        self.paused = threading.Event()
        self.over = threading.Event()


class Writer(ABC):
    """Something with a thread that has a file open. To be announced before the file is opened for the first time."""

    def announce(self) -> None:
        """Be told of every fork from here on."""
        _writers.add(self)

    @abstractmethod
    def writes(self) -> bool:
        """Whether a thread of this process, and not the calling one, has the file open, or is about to."""

    @abstractmethod
    def pause(self) -> Pause | None:
        """Let go of the file; None: there is nothing to let go of, and what was just being closed is."""

    @abstractmethod
    def forked(self) -> None:
        """Begin a child: another thread of the parent may have held a lock, and here nobody would let go of it."""


def opening() -> contextlib.AbstractContextManager[object]:
    """Return what is held while a file is opened and given to a thread."""
    return _opening


def _others(paused: Iterable[Writer]) -> set[Writer]:
    return set(_writers) - set(paused)


def _before_fork() -> None:
    """Let every writer go of its file, and none open one until the fork is over."""
    paused: dict[Writer, Pause] = {}
    _forking.pauses = paused.values()
    while True:
        for writer in _others(paused):
            if (pause := writer.pause()) is not None:
                paused[writer] = pause
        _opening.acquire()
        if not any(writer.writes() for writer in _others(paused)):
            return
        # One was on its way when the others let go.
        _opening.release()


def _after_fork_in_parent() -> None:
    for pause in _forking.pauses:
        pause.over.set()
    _forking.pauses = ()
    with contextlib.suppress(RuntimeError):  # Ctrl-C struck before it was taken
        _opening.release()


def _after_fork_in_child() -> None:
    global _opening  # noqa: PLW0603 - one for the whole process
    _opening = threading.RLock()
    _forking.pauses = ()
    for writer in list(_writers):
        writer.forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
