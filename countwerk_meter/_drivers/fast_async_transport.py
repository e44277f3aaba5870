"""
The async transport of `countwerk-meter[fast]`: asyncio's own connections, kept open, one request on each at a time.

At most 64 at once; the others wait in line, which costs nothing. What is waited for is one future and one timer. A
connection that the ledger closed, or on which it said anything unasked, is not used again (money rule 1).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from countwerk_meter._drivers import lanes
from countwerk_meter._drivers import transport as _httpx
from countwerk_meter._drivers.http_exchange import Address, Exchange, GarbledError
from countwerk_meter._drivers.sockets import dialed, readable
from countwerk_meter._wire.replies import InDoubt, NotSent, read_reply

if TYPE_CHECKING:
    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest

# A connection that cannot be made gives up a little before the whole budget is spent: then nothing was sent.
_CONNECT_PART = 0.9


class Connection(asyncio.Protocol):
    """One connection of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._exchange: Exchange | None = None
        self._over: asyncio.Future[str | None] | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._number = transport.get_extra_info("socket").fileno()

    async def ask(self, data: bytes, exchange: Exchange, deadline: float) -> str | None:
        """Send a request, and fill `exchange`; return why that failed, if it did."""
        over = self._over = self._loop.create_future()
        self._exchange = exchange
        timer = self._loop.call_at(self._loop.time() + deadline - time.monotonic(), self._end, "no answer in time")
        try:
            self._write(data)
            return await over
        finally:
            timer.cancel()
            self._exchange = self._over = None
            if not exchange.reusable:
                self.drop()

    def good(self) -> bool:
        """Whether it may carry another request."""
        fresh = time.monotonic() - self.idle_since < lanes.KEEPALIVE_SECONDS
        return fresh and not self._transport.is_closing() and not readable(self._number)

    def drop(self) -> None:
        """Close it at once, whatever is still on its way."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.drop()
            return
        try:
            if self._exchange.feed(data):
                self._end(None)
        except GarbledError:
            self._end("RemoteProtocolError")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._exchange is not None:
            whole = exc is None and self._exchange.ended()
            self._end(None if whole else "RemoteProtocolError" if exc is None else "ReadError")

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _end(self, why: str | None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(why)


class AsyncFastTransport:
    """See the module's docstring. Bound to the event loop that it is made on."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._address = Address(endpoint)
        self._slots = asyncio.Semaphore(_httpx.CONNECTIONS)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._closed = False

    async def send(self, request: LedgerRequest, deadline: float) -> Reply:
        """Send once; answer by `deadline` (monotonic seconds)."""
        if self._slots.locked():
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._slots.acquire()
            except TimeoutError:
                return NotSent("no time left")
        else:
            await self._slots.acquire()
        try:
            return await self._send(request, deadline)
        except BaseException as error:
            _httpx._without_locals(error)
            raise
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Give the connections back."""
        self._closed = True
        self._idle.clear()
        gone = tuple(self._open)
        for connection in gone:
            connection.drop()
        for connection in gone:
            await connection.lost

    async def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._closed:
            return NotSent("the client is closed")
        connection = self._take()
        if connection is None:
            try:
                async with asyncio.timeout(left * _CONNECT_PART):
                    connection = await self._connect(deadline - left * (1 - _CONNECT_PART))
            except TimeoutError:
                return NotSent("ConnectTimeout")
            except OSError:
                return NotSent("ConnectError")
            if self._closed:
                connection.drop()
                return NotSent("the client is closed")
        exchange = Exchange()
        try:
            why = await connection.ask(self._address.written(request), exchange, deadline)
        except Exception as error:  # noqa: BLE001 - nothing but a reply crosses this line
            return InDoubt(type(error).__name__)
        if why is not None:
            return InDoubt(why)
        if exchange.reusable:
            self._give(connection)
        return read_reply(request, exchange.status, exchange.headers, exchange.body(), self._endpoint.redact)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.good():
                return connection
            connection.drop()
        return None

    def _give(self, connection: Connection) -> None:
        now = connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if now - self._idle[0].idle_since > lanes.KEEPALIVE_SECONDS:
            self._idle.popleft().drop()

    async def _connect(self, until: float) -> Connection:
        loop, address = asyncio.get_running_loop(), self._address
        connection = await dialed(
            lambda: Connection(loop),
            address.host,
            address.port,
            loop.time() + until - time.monotonic(),
            _httpx.tls() if address.tls else None,
        )
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        return connection
