"""
The sync transport of `countwerk-meter[fast]`: plain sockets, kept open, with one wall-clock budget on all they do.

It makes the connection itself, so that it knows whether one was made (money rule 1). The last connection that was
given back is taken first, and not if the ledger closed it or sent anything meanwhile. It follows no redirect, and
reads no proxy from the environment.
"""

from __future__ import annotations

import os
import queue
import socket
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from countwerk_meter._drivers import lanes
from countwerk_meter._drivers import transport as _httpx
from countwerk_meter._drivers.http_exchange import Address, Exchange, GarbledError
from countwerk_meter._drivers.sockets import readable
from countwerk_meter._wire.replies import InDoubt, NotSent, read_reply

if TYPE_CHECKING:
    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest

_PIECE: Final = 64 << 10


class _Idle(NamedTuple):
    sock: socket.socket
    since: float


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Pool:
    """The connections of one process: another one would read this one's answers."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # Not a semaphore: Ctrl-C could leave its lock held.
        self.places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_httpx.CONNECTIONS):
            self.places.put(None)
        self._idle: deque[_Idle] = deque()
        # Also those of a transport that is dropped without being closed.
        weakref.finalize(self, _close_all, self._idle).atexit = False

    def take(self) -> socket.socket | None:
        """Return an idle connection that is still good, or None."""
        while self._idle:
            try:
                idle = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if time.monotonic() - idle.since < lanes.KEEPALIVE_SECONDS and not readable(idle.sock.fileno()):
                return idle.sock
            idle.sock.close()
        return None

    def give(self, sock: socket.socket) -> None:
        """Keep a connection, and let go of the one that was idle for longest, if that was too long."""
        now = time.monotonic()
        self._idle.append(_Idle(sock, now))
        try:
            oldest = self._idle.popleft()
        except IndexError:  # another thread took it
            return
        if now - oldest.since < lanes.KEEPALIVE_SECONDS:
            self._idle.appendleft(oldest)
        else:
            oldest.sock.close()

    def close(self) -> None:
        _close_all(self._idle)


def _close_all(idle: deque[_Idle]) -> None:
    while idle:
        idle.pop().sock.close()


class FastTransport:
    """See the module's docstring. May be used from any thread, and after a fork."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._address = Address(endpoint)
        self._pool = _Pool()
        self._closed = False

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        """Send once; answer by `deadline` (monotonic seconds)."""
        try:
            return self._send(request, deadline)
        except BaseException as error:
            _httpx._without_locals(error)
            raise

    def close(self) -> None:
        """Give the connections back."""
        self._closed = True
        self._pool.close()

    def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._closed:
            return NotSent("the client is closed")
        if self._pool.process != os.getpid():
            # The parent's are closed here alone: it still has them.
            self._pool.close()
            self._pool = _Pool()
        pool = self._pool
        try:
            pool.places.get(timeout=left)
        except queue.Empty:
            return NotSent("PoolTimeout")
        try:
            sock = pool.take()
            if sock is None:
                try:
                    sock = self._connect(deadline)
                except TimeoutError:
                    return NotSent("ConnectTimeout")
                except OSError:
                    return NotSent("ConnectError")
            return self._over(pool, sock, request, deadline)
        finally:
            pool.places.put(None)

    def _over(self, pool: _Pool, sock: socket.socket, request: LedgerRequest, deadline: float) -> Reply:
        exchange = Exchange()
        kept = False
        try:
            self._write(sock, self._address.written(request), deadline)
            self._await(sock, exchange, deadline)
            kept = exchange.reusable and not self._closed
        except TimeoutError:
            return InDoubt("no answer in time")
        except OSError:
            return InDoubt("ReadError")
        except GarbledError:
            return InDoubt("RemoteProtocolError")
        except Exception as error:  # noqa: BLE001 - nothing but a reply crosses this line
            return InDoubt(type(error).__name__)
        finally:
            if kept:
                pool.give(sock)
            else:
                sock.close()
        return read_reply(request, exchange.status, exchange.headers, exchange.body(), self._endpoint.redact)

    def _await(self, sock: socket.socket, exchange: Exchange, deadline: float) -> None:
        while True:
            data = self._read(sock, deadline)
            if not data:
                if exchange.ended():
                    return
                raise GarbledError
            if exchange.feed(data):
                return

    @staticmethod
    def _write(sock: socket.socket, data: bytes, deadline: float) -> None:
        # Not sendall: over TLS its timeout begins anew with every piece that a slow reader takes.
        unsent = memoryview(data)
        while unsent:
            sock.settimeout(_left(deadline))
            unsent = unsent[sock.send(unsent) :]

    @staticmethod
    def _read(sock: socket.socket, deadline: float) -> bytes:
        sock.settimeout(_left(deadline))
        return sock.recv(_PIECE)

    def _connect(self, deadline: float) -> socket.socket:
        """Try a name's addresses one by one, each with an equal part of the time that is left."""
        found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        while True:
            part = _left(deadline) / len(addresses)
            address = addresses.pop(0)
            try:
                sock = socket.create_connection((address, self._address.port), part)
            except OSError:
                if not addresses:
                    raise
            else:
                break
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._address.tls:
                sock.settimeout(_left(deadline))
                sock = _httpx.tls().wrap_socket(sock, server_hostname=self._address.host)
        except BaseException:
            sock.close()
            raise
        return sock
