"""
httpx's own transports over one connection each, a lane: as many as there are requests at once.

httpcore's pool asks, locks and cleans up for many: with 64 connections that was nine tenths of all time, and with one a
fifth. It also uses a connection again on which more came than was asked for, and takes that for the next answer.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import httpcore
import httpx

from countwerk_meter._drivers.deadline import DeadlineBackend
from countwerk_meter._drivers.sockets import SocketBackend

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from countwerk_meter._drivers.deadline import Deadline

# Below the 5 s after which Node.js and uvicorn close idle connections: a reserve that meets a closing one is in doubt.
KEEPALIVE_SECONDS: Final = 4.0


def _usable(connection: httpcore.HTTPConnection | httpcore.AsyncHTTPConnection) -> bool:
    """Whether it may carry another request: open, idle, and no more came on it than the answers that were asked for."""
    if not connection.is_available() or connection.has_expired():
        return False
    parser = getattr(getattr(connection, "_connection", None), "_h11_state", None)
    # Where nobody can tell what came, it is not used again.
    return parser is not None and not parser.trailing_data[0]


class _Unlocked:
    """In the place of a lock that nobody else asks for."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass


_UNLOCKED: Final = _Unlocked()


def _unlock(connection: httpcore.AsyncHTTPConnection) -> None:
    """
    Take httpcore's locks from an idle connection: a lane has one request at a time.

    Each is anyio's, and goes through the event loop once more: a fifth of a POST. Where they have other names, they
    stay.
    """
    for holder, name in ((connection, "_request_lock"), (getattr(connection, "_connection", None), "_state_lock")):
        if hasattr(holder, name):
            setattr(holder, name, _UNLOCKED)


class _OneConnection:
    """In the place of httpcore's pool: one connection, made anew when it may not be used again."""

    def __init__(self, tls: ssl.SSLContext, deadline: Deadline) -> None:
        self._tls = tls
        self._deadline = deadline
        self._kept: httpcore.HTTPConnection | None = None

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        kept = self._kept
        if kept is not None and not _usable(kept):
            self.close()
            kept = None
        if kept is None:
            kept = self._kept = httpcore.HTTPConnection(
                request.url.origin,
                ssl_context=self._tls,
                keepalive_expiry=KEEPALIVE_SECONDS,
                network_backend=DeadlineBackend(self._deadline),
            )
        return kept.handle_request(request)

    def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            # Whatever a dead connection says at its end.
            with contextlib.suppress(Exception):
                kept.close()


class _OneAsyncConnection:
    """The same on an event loop."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._kept: httpcore.AsyncHTTPConnection | None = None
        self._network = SocketBackend()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        kept = self._kept
        if kept is not None and not _usable(kept):
            await self._drop()
            kept = None
        if kept is not None:
            _unlock(kept)
        else:
            kept = self._kept = httpcore.AsyncHTTPConnection(
                request.url.origin,
                ssl_context=self._tls,
                keepalive_expiry=KEEPALIVE_SECONDS,
                network_backend=self._network,
            )
        try:
            return await kept.handle_async_request(request)
        except httpcore.ConnectionNotAvailable:
            # Closed between the connect and the request, of which nothing has left.
            raise httpcore.ConnectError("the connection was closed") from None

    async def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with contextlib.suppress(Exception):
                await kept.aclose()

    async def aclose(self) -> None:
        # One that is being connected sends nothing any more.
        self._network.close()
        await self._drop()


class Lane(httpx.HTTPTransport):
    """A lane for sync code, one request at a time."""

    def __init__(self, tls: ssl.SSLContext, deadline: Deadline) -> None:
        super().__init__(verify=tls)
        self._pool: Any = _OneConnection(tls, deadline)
        self.idle_since = 0.0


class AsyncLane(httpx.AsyncHTTPTransport):
    """A lane of one event loop."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls)
        self._pool: Any = _OneAsyncConnection(tls)
        self.idle_since = 0.0


L = TypeVar("L", Lane, AsyncLane)


class Lanes(Generic[L]):
    """The lanes of one transport; the last one that was given back is taken first. Safe to use from any thread."""

    def __init__(self, make: Callable[[], L]) -> None:
        self._make = make
        self._free: deque[L] = deque()
        self._made: set[L] = set()

    def take(self) -> L:
        """Take one that is free, or a new one."""
        try:
            return self._free.pop()
        except IndexError:
            lane = self._make()
            self._made.add(lane)
            return lane

    def give(self, lane: L) -> None:
        """Give one back."""
        lane.idle_since = time.monotonic()
        self._free.append(lane)

    def stale(self) -> L | None:
        """Return the lane that has been free for longest, if that is too long: it is to be closed."""
        try:
            lane = self._free.popleft()
        except IndexError:
            return None
        if time.monotonic() - lane.idle_since <= KEEPALIVE_SECONDS:
            self._free.appendleft(lane)
            return None
        self._made.discard(lane)
        return lane

    def drain(self) -> list[L]:
        """Return every lane that was made: they are to be closed."""
        made, self._made = list(self._made), set()
        self._free.clear()
        return made
