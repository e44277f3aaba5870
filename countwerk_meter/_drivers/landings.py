"""
Awaiting what another thread does: all that it has done by then wakes the event loop once.

asyncio's `wrap_future` wakes the loop for each future alone, through a socket. Each such write lets go of the
interpreter's lock, and the writer, with a group of results to give, waits for it again as many times.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

# Seconds after which a loop that was called and has not come is called again: Ctrl-C may have struck it on its way.
_AGAIN: Final = 0.05


class _Landings:
    """What has landed for one event loop and was not picked up yet. Without a lock: a deque's steps are whole."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._landed: deque[asyncio.Future[None]] = deque()
        # When the loop was called and has not come yet, by the monotonic clock.
        self._called = 0.0

    def bring(self, waiter: asyncio.Future[None]) -> None:
        """Wake who awaits this, from any thread."""
        self._landed.append(waiter)
        # Between the two nothing is lost: it is taken back before what has landed is looked at.
        now = time.monotonic()
        if now - self._called > _AGAIN:
            self._called = now
            self._call()

    def _call(self) -> None:
        loop = self.loop()
        with contextlib.suppress(RuntimeError):  # closed: nobody awaits anything there any more
            if loop is not None:
                loop.call_soon_threadsafe(self.pick_up)

    def pick_up(self) -> None:
        """Wake all who await what has landed. On the loop's own thread."""
        self._called = 0.0
        try:
            while self._landed:
                waiter = self._landed.popleft()
                if not waiter.done():
                    waiter.set_result(None)
        finally:
            if self._landed:
                # Ctrl-C in the middle of it.
                self._call()


_here = threading.local()


def _landings(loop: asyncio.AbstractEventLoop) -> _Landings:
    """Return the running loop's, which is the thread's: a thread runs one loop at a time."""
    found: _Landings | None = getattr(_here, "landings", None)
    if found is None or found.loop() is not loop:
        found = _here.landings = _Landings(loop)
    return found


async def landed(future: Future[T]) -> T:
    """Await a future of another thread's, on the running event loop. Who is cancelled meanwhile leaves it as it is."""
    if not future.done():
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        landings = _landings(loop)
        # What was left behind by a call that never came.
        landings.pick_up()
        future.add_done_callback(lambda _: landings.bring(waiter))
        await waiter
    return future.result()
