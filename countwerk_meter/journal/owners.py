"""
Which owners on this host still live: each holds a lock on a file beside the journal, and the kernel lets go with it.

A forked child is an owner of its own: it closes what it inherited, or the parent would seem alive after its death.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_INHERITED: weakref.WeakSet[OwnerLocks] = weakref.WeakSet()


class OwnerLocks:
    """The lock files of one journal, in a directory beside it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        _INHERITED.add(self)

    def take(self, owner: str) -> None:
        """Hold the owner's lock until `release` or the end of the process."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(self._path(owner), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held[owner] = handle

    def is_held(self, owner: str) -> bool:
        """Whether the owner lives: its lock cannot be taken."""
        if owner in self._held:
            return True
        try:
            handle = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # another user's, say: what cannot be told dead is alive
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Dead, and an owner's name is never used again: nobody else will tidy up after it.
            with contextlib.suppress(FileNotFoundError):
                self._path(owner).unlink()
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def release(self, owner: str) -> None:
        """Let go of one lock, and of its file."""
        handle = self._held.pop(owner, None)
        if handle is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path(owner).unlink()
            os.close(handle)

    def release_all(self) -> None:
        """Let go of every lock."""
        for owner in list(self._held):
            self.release(owner)

    def forget(self) -> None:
        """Close what a fork handed down; the parent's lock stays the parent's."""
        for handle in self._held.values():
            os.close(handle)
        self._held.clear()

    def _path(self, owner: str) -> Path:
        return self._directory / f"{owner}.lock"


def _after_fork() -> None:
    for locks in list(_INHERITED):
        locks.forget()


os.register_at_fork(after_in_child=_after_fork)
