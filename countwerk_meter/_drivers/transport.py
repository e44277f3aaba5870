"""
The seam: a transport sends one request and answers with one of the three replies, within a deadline.

httpx is the default on both sides. No exception of an HTTP library crosses this line (money rule 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpcore
import httpx

from countwerk_meter._drivers.deadline import Deadline, DeadlineBackend
from countwerk_meter._drivers.endpoint import KeyAuth
from countwerk_meter._drivers.sockets import SocketBackend
from countwerk_meter._wire.replies import MAX_BODY_BYTES, InDoubt, NotSent, Reply, read_reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator
    from contextlib import AbstractContextManager

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


class _OneConnection:
    """In the place of httpcore's pool, which asks, locks and cleans up for many: one, made anew when it is over."""

    def __init__(self) -> None:
        self._connection: httpcore.AsyncHTTPConnection | None = None

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        kept = self._connection
        if kept is not None and (not kept.is_available() or kept.has_expired()):
            await self.aclose()
            kept = None
        if kept is None:
            kept = self._connection = httpcore.AsyncHTTPConnection(
                request.url.origin,
                ssl_context=tls(),
                keepalive_expiry=KEEPALIVE_SECONDS,
                network_backend=SocketBackend(),
            )
        return await kept.handle_async_request(request)

    async def aclose(self) -> None:
        kept, self._connection = self._connection, None
        if kept is not None:
            # Whatever a dead connection says at its end.
            with contextlib.suppress(Exception):
                await kept.aclose()


class _Lane(httpx.AsyncHTTPTransport):
    """httpx's own transport over one connection."""

    def __init__(self) -> None:
        super().__init__(verify=tls())
        self._pool: Any = _OneConnection()
        self.idle_since = 0.0


class _Lanes:
    """
    As many lanes as there are requests at once; the last one that was given back is taken first.

    httpcore's pool asks all its connections for every request: with 64 of them that was nine tenths of all time.
    """

    def __init__(self) -> None:
        self._free: deque[_Lane] = deque()
        self._made: set[_Lane] = set()

    def take(self) -> _Lane:
        if self._free:
            return self._free.pop()
        lane = _Lane()
        self._made.add(lane)
        return lane

    def give(self, lane: _Lane) -> None:
        lane.idle_since = time.monotonic()
        self._free.append(lane)

    async def tidy(self) -> None:
        """Close the lane that has been free for longest, if that is too long."""
        if self._free and time.monotonic() - self._free[0].idle_since > KEEPALIVE_SECONDS:
            lane = self._free.popleft()
            self._made.discard(lane)
            await lane.aclose()

    async def aclose(self) -> None:
        while self._made:
            await self._made.pop().aclose()


class _Urls:
    """The endpoints' addresses, each read once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._of: dict[str, httpx.URL] = {}

    def __call__(self, request: LedgerRequest) -> httpx.URL:
        url = self._of.get(request.path)
        if url is None:
            url = self._of[request.path] = httpx.URL(self._endpoint.base_url + request.path)
        return url

    def request(self, request: LedgerRequest, timeout: httpx.Timeout) -> httpx.Request:
        """Build a request for a transport of ours: a client would do it anew each time, with cookies and redirects."""
        return httpx.Request(
            "POST",
            self(request),
            headers=_HEADERS | {"User-Agent": "countwerk-meter", "X-API-Key": self._endpoint.key.get_secret_value()},
            content=request.content,
            extensions={"timeout": timeout.as_dict()},
        )


class HttpxTransport:
    """httpx, sync. With a client of the app's own, the deadline is kept between the pieces of an answer only."""

    def __init__(self, endpoint: Endpoint, http: httpx.Client | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._urls = _Urls(endpoint)
        self._deadline = Deadline()
        self._http = http
        self._pool = _SyncPool(self._deadline) if http is None else None
        self._process = os.getpid()
        self._closed = False
        # A parent's connections, kept open for it: two processes that read one connection read each other's answers.
        self._left: list[_SyncPool] = []

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        try:
            return self._send(request, deadline)
        except BaseException as error:
            self._leave_pool()
            _without_locals(error)
            raise

    def _leave_pool(self) -> None:
        """Begin anew after Ctrl-C: it may have left the pool's lock held, on which closing it would wait for ever."""
        if self._pool is not None and self._process == os.getpid():
            self._left.append(self._pool)
            self._pool = _SyncPool(self._deadline)

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.close()

    def _opened(self, request: LedgerRequest, left: float) -> AbstractContextManager[httpx.Response]:
        if self._http is None:
            assert self._pool is not None
            if self._process != os.getpid():
                self._left.append(self._pool)
                self._pool, self._process = _SyncPool(self._deadline), os.getpid()
            return contextlib.closing(self._pool.handle_request(self._urls.request(request, httpx.Timeout(left))))
        return self._http.stream(
            "POST",
            self._urls(request),
            content=request.content,
            headers=_HEADERS,
            auth=self._auth,
            timeout=left,
            follow_redirects=False,
        )

    def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._closed or (self._http is not None and self._http.is_closed):
            return NotSent("the client is closed")
        body = bytearray()
        try:
            with self._deadline.until(deadline), self._opened(request, left) as response:
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
    """httpx, async. At most 64 requests at once, one lane each: its pool slows down with what is in it."""

    def __init__(self, endpoint: Endpoint, http: httpx.AsyncClient | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._urls = _Urls(endpoint)
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._lanes = _Lanes()
        self._http = http
        self._closed = False

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
        self._closed = True
        await self._lanes.aclose()

    @contextlib.asynccontextmanager
    async def _opened(self, request: LedgerRequest, left: float) -> AsyncGenerator[httpx.Response]:
        # A connection that cannot be made gives up first, a little before the whole budget: then nothing was sent.
        timeout = httpx.Timeout(left, connect=left * 0.9, pool=left * 0.9)
        if self._http is None:
            lane = self._lanes.take()
            try:
                response = await lane.handle_async_request(self._urls.request(request, timeout))
                try:
                    yield response
                finally:
                    await response.aclose()
            finally:
                self._lanes.give(lane)
            return
        async with self._http.stream(
            "POST",
            self._urls(request),
            content=request.content,
            headers=_HEADERS,
            auth=self._auth,
            timeout=timeout,
            follow_redirects=False,
        ) as response:
            yield response

    async def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        if self._closed or (self._http is not None and self._http.is_closed):
            return NotSent("the client is closed")
        body = bytearray()
        try:
            async with asyncio.timeout(left), self._opened(request, left) as response:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        break
        except TimeoutError:
            return InDoubt("no answer in time")
        except Exception as error:  # noqa: BLE001 - no library's exception crosses this line
            return _missing(error)
        await self._lanes.tidy()
        return read_reply(request, response.status_code, response.headers, bytes(body), self._endpoint.redact)
