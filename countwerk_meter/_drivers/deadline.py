"""
A wall-clock deadline under a sync HTTP client.

httpx's timeouts are per operation: headers that drip one byte at a time never run into them. Here every read and write
of a connection gets what is left of the one budget (money rule 2). DNS is the exception: it blocks in the resolver.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpcore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Iterable


class Deadline(threading.local):
    """The deadline of the request that this thread is sending, in monotonic seconds."""

    at: float | None = None

    @contextlib.contextmanager
    def until(self, at: float) -> Generator[None]:
        """Bound every read and write of this thread."""
        self.at = at
        try:
            yield
        finally:
            self.at = None

    def left(self, timeout: float | None, spent: type[httpcore.TimeoutException]) -> float | None:
        """Return what an operation may take, in seconds; raise `spent` where nothing is left."""
        if self.at is None:
            return timeout
        left = self.at - time.monotonic()
        if left <= 0:
            raise spent("the wall-clock budget is spent")
        return left if timeout is None else min(left, timeout)


class _Stream(httpcore.NetworkStream):
    """One connection. What is written leaves when an answer is to be read: head and body in one piece."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        self._unsent = b""
        self._used = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            data, self._unsent = self._unsent, b""
            if self._used and self.get_extra_info("is_readable"):
                # What came since it was taken is no answer to this; and nothing of it has left.
                raise httpcore.ConnectError("the connection was closed, or talked on")
            self._used = True
            # As httpcore does: whoever takes no more may have answered all the same.
            with contextlib.suppress(httpcore.WriteError):
                self._send(data, timeout)
        return self._inner.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - httpcore's signature
        self._unsent += buffer

    def _send(self, data: bytes, timeout: float | None) -> None:
        # Not through the stream's own write: its timeout begins anew with every piece that a slow reader takes.
        sock: socket.socket = self._inner.get_extra_info("socket")
        unsent = memoryview(data)
        try:
            while unsent:
                sock.settimeout(self._deadline.left(timeout, httpcore.WriteTimeout))
                unsent = unsent[sock.send(unsent) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class DeadlineBackend(httpcore.NetworkBackend):
    """httpcore's sync sockets, with the thread's deadline on every operation."""

    def __init__(self, deadline: Deadline, inner: httpcore.NetworkBackend | None = None) -> None:
        self._inner = inner or httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Try a name's addresses one by one, each with an equal part of the time that is left."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        while True:
            left = self._deadline.left(timeout, httpcore.ConnectTimeout)
            part = None if left is None else left / len(addresses)
            address = addresses.pop(0)
            try:
                stream = self._inner.connect_tcp(address, port, part, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise
            else:
                return _Stream(stream, self._deadline)
