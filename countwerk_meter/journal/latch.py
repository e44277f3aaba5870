"""
A condition that Ctrl-C cannot leave held.

`threading.Condition` takes its lock in Python code: an interrupt just behind it leaves the lock taken for ever, by a
`with` that was never entered, and hangs the thread that has to tell the result. This one is the lock, taken in C.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Lock = threading.Condition
else:
    _Lock = type(threading.RLock())


class Latch(_Lock):
    """Hold it, wait, wake everybody who waits."""

    def __init__(self) -> None:
        self._waiting: deque[threading.Lock] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, without holding it, to be woken; False: `timeout` seconds were over first."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        try:
            self.release()
            return waiter.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        finally:
            # Interrupted before it was let go of, it is held already; held twice, it would stay so.
            while not self._is_owned():  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
                self.acquire()
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def notify_all(self) -> None:
        """Wake everybody who waits."""
        while self._waiting:
            self._waiting.popleft().release()
