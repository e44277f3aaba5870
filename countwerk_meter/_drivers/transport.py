"""
The seam: a transport sends one request and answers with one of the three replies, within a deadline.

httpx is the default on both sides. No exception of an HTTP library crosses this line (money rule 1).
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final, Protocol

import httpcore
import httpx

from countwerk_meter._drivers.deadline import Deadline, DeadlineBackend
from countwerk_meter._drivers.endpoint import KeyAuth
from countwerk_meter._wire.replies import MAX_BODY_BYTES, InDoubt, NotSent, Reply, read_reply

if TYPE_CHECKING:
    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.requests import LedgerRequest

# Below the 5 s after which Node.js and uvicorn close an idle connection: a reserve that meets a closing one is in doubt.
_KEEPALIVE_SECONDS: Final = 4.0
_CONNECTIONS: Final = 64
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
# Never made: no byte of the request left.
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
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


def _body(request: LedgerRequest) -> bytes:
    return json.dumps(request.body, separators=(",", ":"), ensure_ascii=False).encode()


def _reason(error: Exception) -> str:
    return type(error).__name__


class _SyncPool(httpx.HTTPTransport):
    """httpx's own transport over a pool whose sockets keep the deadline."""

    def __init__(self, deadline: Deadline, *, secure: bool) -> None:
        super().__init__(verify=secure)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context() if secure else None,
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=DeadlineBackend(deadline),
        )


class HttpxTransport:
    """httpx, sync. With a client of the app's own, the deadline is kept between the pieces of an answer only."""

    def __init__(self, endpoint: Endpoint, http: httpx.Client | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._deadline = Deadline()
        self._own = http is None
        self._http = http or httpx.Client(
            transport=_SyncPool(self._deadline, secure=endpoint.base_url.startswith("https")), trust_env=False
        )

    def send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        body = bytearray()
        try:
            with (
                self._deadline.until(deadline),
                self._http.stream(
                    "POST",
                    self._endpoint.base_url + request.path,
                    content=_body(request),
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
        except _NEVER_SENT as error:
            return NotSent(_reason(error))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            return InDoubt(_reason(error))
        if time.monotonic() > deadline:
            return InDoubt("no answer in time")
        secret = self._endpoint.key.get_secret_value()
        return read_reply(request, response.status_code, response.headers, bytes(body), secret)

    def close(self) -> None:
        if self._own:
            self._http.close()


class AsyncHttpxTransport:
    """httpx, async. At most 64 requests at once: its pool slows down with what waits in it, so the waiting is ours."""

    def __init__(self, endpoint: Endpoint, http: httpx.AsyncClient | None = None) -> None:
        self._endpoint = endpoint
        self._auth = KeyAuth(endpoint)
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._own = http is None
        self._http = http or httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=endpoint.base_url.startswith("https"),
                limits=httpx.Limits(
                    max_connections=_CONNECTIONS,
                    max_keepalive_connections=_CONNECTIONS,
                    keepalive_expiry=_KEEPALIVE_SECONDS,
                ),
            ),
            trust_env=False,
        )

    async def send(self, request: LedgerRequest, deadline: float) -> Reply:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._slots.acquire()
        except TimeoutError:
            return NotSent("no time left")
        try:
            return await self._send(request, deadline)
        finally:
            self._slots.release()

    async def _send(self, request: LedgerRequest, deadline: float) -> Reply:
        left = deadline - time.monotonic()
        if left <= 0:
            return NotSent("no time left")
        body = bytearray()
        try:
            # A connection that cannot be made gives up first, a little before the whole budget: then nothing was sent.
            async with asyncio.timeout(left):
                async with self._http.stream(
                    "POST",
                    self._endpoint.base_url + request.path,
                    content=_body(request),
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
        except _NEVER_SENT as error:
            return NotSent(_reason(error))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            return InDoubt(_reason(error))
        secret = self._endpoint.key.get_secret_value()
        return read_reply(request, response.status_code, response.headers, bytes(body), secret)

    async def aclose(self) -> None:
        if self._own:
            await self._http.aclose()
