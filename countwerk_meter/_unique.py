"""
Random names that nobody can guess, made from bytes of the operating system that are fetched ahead.

Fetching them gives up the interpreter's lock, and the call that wanted sixteen waits until it has it back.
"""

from __future__ import annotations

import os
import threading
from typing import Final

_FETCHED: Final = 4096


class _Pool:
    """Bytes of `os.urandom`, each given out once."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: a forked child must not give out what its parent does, and nobody lets go of its lock there."""
        self._lock = threading.Lock()
        self._bytes, self._at = b"", 0

    def take(self, size: int) -> bytes:
        with self._lock:
            if self._at + size > len(self._bytes):
                self._bytes, self._at = os.urandom(_FETCHED), 0
            self._at += size
            return self._bytes[self._at - size : self._at]


_pool = _Pool()
os.register_at_fork(after_in_child=_pool.renew)


def random_bytes(size: int) -> bytes:
    """Return so many random bytes, from any thread; at most 4,096."""
    return _pool.take(size)


def random_name() -> str:
    """Return 128 random bits as 32 hex digits."""
    return _pool.take(16).hex()
