"""
Waiting that can be ended: how delays and drips spend their seconds.

The rule: when the sandbox is reset or stopped, nobody goes on waiting. A request of a test that is over must not be
carried out in the next test's ledger.
"""

import asyncio
from contextlib import suppress


class _Wait:
    __slots__ = ("ended", "loop", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wake = asyncio.Event()
        self.ended = False


class Pauses:
    """The waits in progress, of any number of event loops."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[_Wait] = set()

    @property
    def waiting(self) -> int:
        """How many are waiting."""
        return len(self._waiting)

    async def wait(self, seconds: float) -> bool:
        """Wait so many real seconds. False: the wait was ended, and with it the request."""
        wait = _Wait(asyncio.get_running_loop())
        self._waiting.add(wait)
        try:
            await asyncio.wait_for(wait.wake.wait(), seconds)
        except TimeoutError:
            # It may have been ended just as its time was over.
            return not wait.ended
        else:
            return False
        finally:
            self._waiting.discard(wait)

    def end_all(self) -> None:
        """End every wait; may be called from any thread."""
        for wait in tuple(self._waiting):
            wait.ended = True
            with suppress(RuntimeError):  # its loop was closed under it: nobody waits there
                wait.loop.call_soon_threadsafe(wait.wake.set)
