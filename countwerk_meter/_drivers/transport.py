"""
The seam: a transport sends one request and answers with one of the three replies, within a deadline.

httpx is the default on both sides. No exception of an HTTP library crosses this line (money rule 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from countwerk_meter._drivers.deadline import Deadline
from countwerk_meter._drivers.endpoint import KeyAuth
from countwerk_meter._drivers.lanes import AsyncLane, Lane, Lanes
from countwerk_meter._wire.replies import MAX_BODY_BYTES, InDoubt, NotSent, Reply, read_reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Generator

    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.requests import LedgerRequest

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


class _Requests:
    """What requests to one ledger have in common, each read once: addresses and headers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._urls: dict[str, httpx.URL] = {}
        self._headers: httpx.Headers | None = None

    def url(self, request: LedgerRequest) -> httpx.URL:
        """Return where a request goes."""
        url = self._urls.get(request.path)
        if url is None:
            url = self._urls[request.path] = httpx.URL(self._endpoint.base_url + request.path)
        return url

    def made(self, request: LedgerRequest, timeout: httpx.Timeout) -> httpx.Request:
        """Build a request for a transport of ours: a client would do it anew each time, with cookies and redirects."""
        url = self.url(request)
        if self._headers is None:
            self._headers = httpx.Headers({"Host": url.netloc.decode()} | _HEADERS | {"User-Agent": "countwerk-meter"})
        made = httpx.Request(
            "POST",
            url,
            headers=self._headers,
            stream=httpx.ByteStream(request.content),
            extensions={"timeout": timeout.as_dict()},
        )
        # Not among those that are kept: httpx shows every header but a few of its own choice.
        made.headers["X-API-Key"] = self._endpoint.key.get_secret_value()
        made.headers["Content-Length"] = str(len(request.content))
        return made


class HttpxTransport:
    """
    httpx, sync. At most 64 requests at once, one lane each.

    With a client of the app's own, the deadline is kept between the pieces of an answer only.
    """

    def __init__(self, endpoint: Endpoint, http: httpx.Client | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._requests = _Requests(endpoint)
        self._deadline = Deadline()
        self._http = http
        self._closed = False
        # A parent's lanes, kept open for it: two processes that read one connection read each other's answers.
        self._left: list[Lanes[Lane]] = []
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lanes = Lanes(lambda: Lane(tls(), self._deadline))
        self._slots = threading.BoundedSemaphore(CONNECTIONS)

    def _begin_anew(self) -> None:
        self._left.append(self._lanes)
        self._begin()

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        try:
            return self._send(request, deadline)
        except BaseException as error:
            # Ctrl-C may have left a lane half read, and a slot taken.
            self._begin_anew()
            _without_locals(error)
            raise

    def close(self) -> None:
        self._closed = True
        for lane in self._lanes.drain():
            lane.close()

    @contextlib.contextmanager
    def _opened(self, request: LedgerRequest, left: float) -> Generator[httpx.Response]:
        if self._http is not None:
            with self._http.stream(
                "POST",
                self._requests.url(request),
                content=request.content,
                headers=_HEADERS,
                auth=self._auth,
                timeout=left,
                follow_redirects=False,
            ) as response:
                yield response
            return
        if self._process != os.getpid():
            self._begin_anew()
        slots, lanes = self._slots, self._lanes
        if not slots.acquire(timeout=left):
            raise httpx.PoolTimeout("no lane in time")
        try:
            lane = lanes.take()
            try:
                with contextlib.closing(
                    lane.handle_request(self._requests.made(request, httpx.Timeout(left)))
                ) as found:
                    yield found
            finally:
                lanes.give(lane)
        finally:
            slots.release()
        stale = lanes.stale()
        if stale is not None:
            stale.close()

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
        self._requests = _Requests(endpoint)
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._lanes = Lanes(lambda: AsyncLane(tls()))
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
        for lane in self._lanes.drain():
            await lane.aclose()

    @contextlib.asynccontextmanager
    async def _opened(self, request: LedgerRequest, left: float) -> AsyncGenerator[httpx.Response]:
        # A connection that cannot be made gives up first, a little before the whole budget: then nothing was sent.
        timeout = httpx.Timeout(left, connect=left * 0.9, pool=left * 0.9)
        if self._http is None:
            lane = self._lanes.take()
            try:
                response = await lane.handle_async_request(self._requests.made(request, timeout))
                try:
                    yield response
                finally:
                    await response.aclose()
            finally:
                self._lanes.give(lane)
            return
        async with self._http.stream(
            "POST",
            self._requests.url(request),
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
                    if len(body) > MAX_BODY_BYTES or time.monotonic() > deadline:
                        break
        except TimeoutError:
            return InDoubt("no answer in time")
        except Exception as error:  # noqa: BLE001 - no library's exception crosses this line
            return _missing(error)
        if time.monotonic() > deadline:
            return InDoubt("no answer in time")
        stale = self._lanes.stale()
        if stale is not None:
            await stale.aclose()
        return read_reply(request, response.status_code, response.headers, bytes(body), self._endpoint.redact)
