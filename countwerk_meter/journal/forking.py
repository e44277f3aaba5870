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
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# Ctrl-C strikes a few times at most; what fails as often fails for another reason, and must not hang the process.
_STRIKES: Final = 100
_here = threading.local()
# A dict, of which a list is made in one step, whoever comes and goes meanwhile.
_writers: dict[int, weakref.ref[Writer]] = {}
# One fork after the other: two that let go of the same writers in another order would wait for each other.
_fork = threading.RLock()
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
        name = id(self)
        _writers[name] = weakref.ref(self, lambda _: _writers.pop(name, None))

    @abstractmethod
    def writes(self) -> bool:
        """Whether a thread of this process, and not the calling one, has the file open; not one that is opening it."""

    @abstractmethod
    def let_go(self, pause: Pause) -> None:
        """Have the thread close the file, say so in `pause.paused`, and wait for `pause.over`. Waits for nothing."""

    @abstractmethod
    def resume(self) -> None:
        """Be told that the fork is over."""

    @abstractmethod
    def forked(self) -> None:
        """Begin a child: another thread of the parent may have held a lock, and here nobody would let go of it."""


@contextlib.contextmanager
def opening() -> Generator[None]:
    """Hold forks up while a file is opened and given to a thread; what the opening thread forks itself goes on."""
    with _opening:
        _here.opens = True
        try:
            yield
        finally:
            _here.opens = False


def _announced() -> list[Writer]:
    return [writer for known in list(_writers.values()) if (writer := known()) is not None]


def _has_open(writer: Writer, paused: dict[Writer, Pause]) -> bool:
    return writer.writes() and not (writer in paused and paused[writer].paused.is_set())


def _let_go(paused: dict[Writer, Pause]) -> None:
    """Let every writer go of its file, and none open one until the fork is over. Once more, it goes on where it was."""
    while True:
        for writer in _announced():
            if writer not in paused and writer.writes():
                # Noted first: whatever strikes now, it is told when the fork is over.
                paused[writer] = Pause()
        for writer, pause in paused.items():
            if _has_open(writer, paused):
                writer.let_go(pause)
                while writer.writes() and not pause.paused.wait(0.1):
                    pass
        if not getattr(_here, "opens", False):
            _opening.acquire()
        if not any(_has_open(writer, paused) for writer in _announced()):
            return
        # One was on its way when the others let go.
        _released(_opening)


def _released(lock: threading.RLock) -> None:
    """Release a lock as often as this thread has taken it: Ctrl-C may have struck just behind taking it."""
    with contextlib.suppress(RuntimeError):
        while True:
            lock.release()


def _whatever_strikes(step: Callable[[], None]) -> None:
    """Carry a step out anew for all that strikes it, which is raised afterwards: the process forks all the same."""
    struck: BaseException | None = None
    for _ in range(_STRIKES):
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - see above
            struck = error
        else:
            break
    if struck is not None:
        raise struck


def _before_fork() -> None:
    paused: dict[Writer, Pause] = {}

    def let_go() -> None:
        _fork.acquire()
        _here.paused = paused
        _let_go(paused)

    _whatever_strikes(let_go)


def _resume() -> None:
    for writer, pause in getattr(_here, "paused", {}).items():
        pause.over.set()
        writer.resume()
    if not getattr(_here, "opens", False):
        _released(_opening)
    _released(_fork)


def _after_fork_in_parent() -> None:
    _whatever_strikes(_resume)


def _after_fork_in_child() -> None:
    global _opening, _fork
    _opening, _fork = threading.RLock(), threading.RLock()
    _here.paused = {}
    for writer in _announced():
        writer.forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
