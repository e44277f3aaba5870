"""One async transport per running event loop, closed with it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from countwerk_meter._drivers.transport import AsyncTransport


class LoopTransports:
    """
    Hands every event loop its own transport: connections of one loop are of no use to another.

    A loop closes its transport through `shutdown_asyncgens`, which `asyncio.run` and every ASGI server call.
    """

    def __init__(self, make: Callable[[], AsyncTransport]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncTransport] = weakref.WeakKeyDictionary()

    async def here(self) -> AsyncTransport:
        """Return the running loop's transport."""
        loop = asyncio.get_running_loop()
        transport = self._of.get(loop)
        if transport is None:
            transport = self._make()
            with self._lock:
                self._of[loop] = transport
            await anext(_until_shutdown(transport))
        return transport

    async def aclose(self) -> None:
        """Close the running loop's transport."""
        with self._lock:
            transport = self._of.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.aclose()


_KEPT: set[AsyncGenerator[None]] = set()


def _until_shutdown(transport: AsyncTransport) -> AsyncGenerator[None]:
    async def wait() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            _KEPT.discard(generator)
            await transport.aclose()

    generator = wait()
    _KEPT.add(generator)
    return generator
