"""
Async connections on asyncio alone: for httpcore, and for whoever speaks HTTP itself.

httpcore's own are anyio's, which serve any event loop: of a POST, a third of all time was theirs. These know one loop,
and say cheaply whether a connection was closed, or talked to, behind our back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import httpcore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

P = TypeVar("P", bound=asyncio.BaseProtocol)

# An answer is read in pieces: what came and was not asked for yet is no more than this, in bytes.
_UNREAD: Final = 64 * 1024
# And is handed over in such pieces: ten thousand chunks of a byte each take a third of a second to be understood.
_PIECE: Final = 16 * 1024
# Seconds, where nobody says how long.
_PATIENCE: Final = 60.0


def readable(number: int) -> bool:
    """Whether there is something to read, which on an idle connection is its end; a closed socket counts as such."""
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


async def dialed(make: Callable[[], P], host: str, port: int, until: float, tls: ssl.SSLContext | None = None) -> P:
    """
    Connect to a name's addresses one by one, each with an equal part of the time until `until`, in the loop's seconds.

    Not by asyncio's own race between them: one that is cancelled leaves sockets open.

    Raises:
        OSError: None of them answers, or there is none; `TimeoutError` is one.

    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(until - loop.time()):
        addresses = await _resolved(loop, host, port)
    while True:
        address = addresses.pop(0)
        try:
            async with asyncio.timeout((until - loop.time()) / (len(addresses) + 1)):
                _, protocol = await loop.create_connection(
                    make, address, port, ssl=tls, server_hostname=None if tls is None else host
                )
        except OSError:
            if not addresses:
                raise
        else:
            return protocol


async def _resolved(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[str]:
    try:
        # No thread for what needs no resolving.
        ipaddress.ip_address(host)
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return [host]


class _Pipe(asyncio.Protocol):
    """What came over one connection and was not read yet."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._over = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if len(self._got) > _UNREAD:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over, self._error = True, exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def touched(self) -> bool:
        """Whether something came, or the connection was closed."""
        return bool(self._got) or self._over or self.transport.is_closing()

    async def read(self, most: int) -> bytes:
        """Return what came, so many bytes at most, as soon as there is any; nothing: it was closed."""
        if self._got:
            # Whoever talks without end must not have the loop for himself, nor the timers wait for him.
            await asyncio.sleep(0)
        while not self._got and not self._over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._got and self._error is not None:
            raise httpcore.ReadError(str(self._error)) from self._error
        data = bytes(self._got[: min(most, _PIECE)])
        del self._got[: len(data)]
        if self._paused and not self._over:
            self._paused = False
            self.transport.resume_reading()
        return data


class _Stream(httpcore.AsyncNetworkStream):
    """One connection. What is written leaves when an answer is to be read: head and body in one piece."""

    def __init__(self, pipe: _Pipe, network: SocketBackend, connected_by: float) -> None:
        self._pipe = pipe
        self._network = network
        self._connected_by = connected_by
        self._number = pipe.transport.get_extra_info("socket").fileno()
        self._unsent = b""
        self._used = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        if self._unsent:
            self._send()
        try:
            async with asyncio.timeout(timeout):
                return await self._pipe.read(max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout("no answer in time") from None

    def _send(self) -> None:
        data, self._unsent = self._unsent, b""
        if self._network.closed or (self._used and self.get_extra_info("is_readable")):
            # What came since it was taken is no answer to this; and nothing of it has left.
            raise httpcore.ConnectError("the connection was closed, or talked on")
        self._used = True
        self._pipe.transport.write(data)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - as above
        self._unsent += buffer

    async def aclose(self) -> None:
        self._pipe.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - what is left of the connection's own
    ) -> httpcore.AsyncNetworkStream:
        """Speak TLS from here on."""
        loop, pipe = asyncio.get_running_loop(), self._pipe
        try:
            async with asyncio.timeout(self._connected_by - loop.time()):
                over = await loop.start_tls(pipe.transport, pipe, ssl_context, server_hostname=server_hostname)
        except TimeoutError:
            raise httpcore.ConnectTimeout("no TLS in time") from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        assert over is not None
        pipe.transport = over
        return _Stream(pipe, self._network, self._connected_by)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._pipe.touched or readable(self._number)
        return self._pipe.transport.get_extra_info(info)


class SocketBackend(httpcore.AsyncNetworkBackend):
    """httpcore's connections, on the running asyncio loop."""

    closed = False

    def close(self) -> None:
        """Send nothing any more, on a connection that is being made either."""
        self.closed = True

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.AsyncNetworkStream:
        """Connect."""
        until = asyncio.get_running_loop().time() + (_PATIENCE if timeout is None else timeout)
        try:
            return _Stream(await dialed(_Pipe, host, port, until), self, until)
        except TimeoutError:
            raise httpcore.ConnectTimeout("no connection in time") from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
