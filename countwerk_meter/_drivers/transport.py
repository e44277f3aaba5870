"""
The seam: a transport sends one request and answers with one of the three replies, within a deadline.

httpx is the default on both sides. No exception of an HTTP library crosses this line (money rule 1).
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
import traceback
from typing import TYPE_CHECKING, Final, Protocol

import httpcore
import httpx

from countwerk_meter._drivers.deadline import Deadline, DeadlineBackend
from countwerk_meter._drivers.endpoint import KeyAuth
from countwerk_meter._drivers.sockets import SocketBackend
from countwerk_meter._wire.replies import MAX_BODY_BYTES, InDoubt, NotSent, Reply, read_reply

if TYPE_CHECKING:
    import ssl

    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.requests import LedgerRequest

# Below the 5 s after which Node.js and uvicorn close idle connections: a reserve that meets a closing one is in doubt.
KEEPALIVE_SECONDS: Final = 4.0
CONNECTIONS: Final = 64
# Uncompressed: answers are small, and a limit on their size then means what it says.
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
# Never made: no byte of the request left.
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)


class Transport(Protocol):
    """A sync transport."""

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        """Send once; answer by `deadline` (monotonic seconds)."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


class AsyncTransport(Protocol):
    """An async transport, bound to one event loop."""

    async def send(self, request: LedgerRequest, deadline: float) -> Reply:
        """Send once; answer by `deadline` (monotonic seconds)."""
        ...

    async def aclose(self) -> None:
        """Give the connections back."""
        ...


@functools.cache
def tls() -> ssl.SSLContext:
    """One verifying context for all connections: making it reads every trusted certificate."""
    return httpx.create_ssl_context()


def _without_locals(error: BaseException) -> None:
    """
    Forget the local variables of the frames that an error came through: an HTTP library's hold the key.

    Reports of a crash show them. File names and lines stay.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            links += [link.__cause__, link.__context__]


def _missing(error: Exception) -> Reply:
    """Say what an error means. Whatever it is, it ends here, by name alone: its text may quote the request."""
    reason = type(error).__name__
    return NotSent(reason) if isinstance(error, _NEVER_SENT) else InDoubt(reason)


class _SyncPool(httpx.HTTPTransport):
    """httpx's own transport over a pool whose sockets keep the deadline."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(verify=tls())
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls(),
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=DeadlineBackend(deadline),
        )


class _AsyncPool(httpx.AsyncHTTPTransport):
    """httpx's own transport over a pool whose sockets are cheap to ask."""

    def __init__(self) -> None:
        super().__init__(verify=tls())
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls(),
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=SocketBackend(),
        )


class HttpxTransport:
    """httpx, sync. With a client of the app's own, the deadline is kept between the pieces of an answer only."""

    def __init__(self, endpoint: Endpoint, http: httpx.Client | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._deadline = Deadline()
        self._own = http is None
        self._http = http or self._client()
        self._process = os.getpid()
        # A parent's connections, kept open for it: two processes that read one connection read each other's answers.
        self._of_parents: list[httpx.Client] = []

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        try:
            return self._send(request, deadline)
        except BaseException as error:
            _without_locals(error)
            raise

    def close(self) -> None:
        if self._own:
            self._http.close()

    def _client(self) -> httpx.Client:
        return httpx.Client(transport=_SyncPool(self._deadline), trust_env=False)

    def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        if self._own and self._process != os.getpid():
            self._of_parents.append(self._http)
            self._http, self._process = self._client(), os.getpid()
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._http.is_closed:
            return NotSent("the client is closed")
        body = bytearray()
        try:
            with (
                self._deadline.until(deadline),
                self._http.stream(
                    "POST",
                    self._endpoint.base_url + request.path,
                    content=request.content,
                    headers=_HEADERS,
                    auth=self._auth,
                    timeout=left,
                    follow_redirects=False,
                ) as response,
            ):
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_BODY_BYTES or time.monotonic() > deadline:
                        break
        except Exception as error:  # noqa: BLE001 - no library's exception crosses this line
            return _missing(error)
        if time.monotonic() > deadline:
            return InDoubt("no answer in time")
        return read_reply(request, response.status_code, response.headers, bytes(body), self._endpoint.redact)


class AsyncHttpxTransport:
    """httpx, async. At most 64 requests at once: its pool slows down with what waits in it, so the waiting is ours."""

    def __init__(self, endpoint: Endpoint, http: httpx.AsyncClient | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._own = http is None
        self._http = http or httpx.AsyncClient(transport=_AsyncPool(), trust_env=False)

    async def send(self, request: LedgerRequest, deadline: float) -> Reply:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._slots.acquire()
        except TimeoutError:
            return NotSent("no time left")
        try:
            return await self._send(request, deadline)
        except BaseException as error:
            _without_locals(error)
            raise
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        if self._own:
            await self._http.aclose()

    async def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._http.is_closed:
            return NotSent("the client is closed")
        body = bytearray()
        try:
            # A connection that cannot be made gives up first, a little before the whole budget: then nothing was sent.
            async with asyncio.timeout(left):
                async with self._http.stream(
                    "POST",
                    self._endpoint.base_url + request.path,
                    content=request.content,
                    headers=_HEADERS,
                    auth=self._auth,
                    timeout=httpx.Timeout(left, connect=left * 0.9, pool=left * 0.9),
                    follow_redirects=False,
                ) as response:
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MAX_BODY_BYTES:
                            break
        except TimeoutError:
            return InDoubt("no answer in time")
        except Exception as error:  # noqa: BLE001 - no library's exception crosses this line
            return _missing(error)
        return read_reply(request, response.status_code, response.headers, bytes(body), self._endpoint.redact)
