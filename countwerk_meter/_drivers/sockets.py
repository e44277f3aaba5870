"""
Async sockets that say cheaply whether a connection was closed behind our back.

httpcore's pool asks every idle connection for every request, and anyio's answer looks up both addresses on the way: of
a replay with 32 calls at once that was a third of all time. Here the socket is looked up once.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, cast

import httpcore

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._socket: socket.socket | None = inner.get_extra_info("socket")
        # The bound methods: a request goes through them several times.
        self.read = inner.read
        self.write = inner.write
        self.aclose = inner.aclose

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._socket is not None:
            return _is_readable(self._socket)
        return self._inner.get_extra_info(info)


def _is_readable(sock: socket.socket) -> bool:
    """Whether there is something to read, which on an idle connection is its end; a closed socket counts as such."""
    number = sock.fileno()
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


class SocketBackend(httpcore.AsyncNetworkBackend):
    """httpcore's sockets over anyio, each remembering what it is made of."""

    def __init__(self) -> None:
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect."""
        return _Stream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
