"""One async transport per running event loop, closed with it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from countwerk_meter._drivers.transport import AsyncTransport


class _Open(NamedTuple):
    transport: AsyncTransport
    # Suspended until the loop shuts down, or until it is closed by hand: closing it closes the transport.
    guard: AsyncGenerator[None]


# A loop reads and writes its own entry only, each time in one atomic step: no lock.
_Opened: TypeAlias = dict[asyncio.AbstractEventLoop, _Open]


class LoopTransports:
    """
    Hands every event loop its own transport: connections of one loop are of no use to another.

    A loop closes its transport through `shutdown_asyncgens`, which `asyncio.run` and every ASGI server call. What a
    `LoopTransports` that was dropped left open is closed by its loop too.
    """

    def __init__(self, make: Callable[[], AsyncTransport]) -> None:
        self._make = make
        self._of: _Opened = {}
        # It keeps the entries alive: collected together, sockets would go before the guard that closes them.
        weakref.finalize(self, _close_all, self._of).atexit = False

    async def here(self) -> AsyncTransport:
        """Return the running loop's transport."""
        loop = asyncio.get_running_loop()
        found = self._of.get(loop)
        if found is None:
            for other in tuple(self._of):
                if other.is_closed():
                    # Closed without its shutdown: it left a transport that nobody can use.
                    self._of.pop(other, None)
            transport = self._make()
            found = _Open(transport, _until_shutdown(transport, loop, self._of))
            # Starts it, so that the loop knows of it. It does not give way to another task.
            await anext(found.guard)
            self._of[loop] = found
        return found.transport

    async def aclose(self) -> None:
        """Close the running loop's transport."""
        found = self._of.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.guard.aclose()


async def _until_shutdown(
    transport: AsyncTransport, loop: asyncio.AbstractEventLoop, opened: _Opened
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        opened.pop(loop, None)
        await transport.aclose()


async def _close(guard: AsyncGenerator[None]) -> None:
    await guard.aclose()


def _close_all(opened: _Opened) -> None:
    for loop, found in tuple(opened.items()):
        # RuntimeError: the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda loop=loop, guard=found.guard: loop.create_task(_close(guard)))
