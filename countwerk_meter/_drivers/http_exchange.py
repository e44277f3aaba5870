"""
One HTTP/1.1 POST and its answer, without I/O: what leaves, and what the bytes that come back mean.

Parsed by llhttp (`httptools`), with limits on what is kept. A connection is used again only after an answer that ended
by itself, with nothing behind it; whatever is left open is in doubt (money rule 1).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
import httpx

from countwerk_meter._wire.replies import MAX_BODY_BYTES

if TYPE_CHECKING:
    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._wire.requests import LedgerRequest

MAX_HEAD_BYTES: Final = 64 << 10
_GZIP_OR_ZLIB: Final = 47


class GarbledError(Exception):
    """What came back is no HTTP, or more of it than any answer has."""


class Address:
    """
    Where an endpoint is on the network, and how a request to it begins.

    Nothing here holds the key: it is put in as a request leaves.
    """

    __slots__ = ("_begin", "_endpoint", "_host_line", "host", "port", "tls")

    def __init__(self, endpoint: Endpoint) -> None:
        url = httpx.URL(endpoint.base_url)
        self._endpoint = endpoint
        self.tls = url.scheme == "https"
        self.host = url.raw_host.decode("ascii")
        self.port = url.port or (443 if self.tls else 80)
        self._host_line = url.netloc
        self._begin: dict[str, bytes] = {}

    def written(self, request: LedgerRequest) -> bytes:
        """Return a request as it goes over the wire; it holds the key."""
        begin = self._begin.get(request.path)
        if begin is None:
            path = httpx.URL(self._endpoint.base_url + request.path).raw_path
            # Uncompressed: answers are small, and a limit on their size then means what it says.
            begin = self._begin[request.path] = (
                b"POST %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: countwerk-meter\r\nContent-Type: application/json\r\n"
                b"Accept: application/json\r\nAccept-Encoding: identity\r\nX-API-Key: " % (path, self._host_line)
            )
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (
            begin,
            self._endpoint.key.get_secret_value().encode("ascii"),
            len(request.content),
            request.content,
        )


class Exchange:
    """
    An answer as it comes in.

    Attributes:
        status: HTTP status, once it is known.
        headers: By name in lower case.
        done: Whether the answer is whole, or longer than anybody reads on.
        reusable: Whether the connection may carry another request.

    """

    __slots__ = ("_body", "_by_close", "_head_bytes", "_in_body", "_parser", "done", "headers", "reusable", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self.reusable = False
        self._body = bytearray()
        self._head_bytes = 0
        self._in_body = False
        self._by_close = False
        # Untyped, and a cycle until the answer is read.
        self._parser: Any = cast("Any", httptools).HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """
        Take what was received; return whether the answer is whole.

        Raises:
            GarbledError: It is none.

        """
        if self.done:
            # Behind a whole answer nothing may come: what it belongs to nobody knows.
            self.reusable = False
            return True
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.done:
                raise GarbledError from None
            self.reusable = False
        if not self._in_body and self._head_bytes > MAX_HEAD_BYTES:
            raise GarbledError
        return self.done

    def ended(self) -> bool:
        """Return whether the end of the connection makes the answer whole: it named no length."""
        if self._in_body and self._by_close:
            self.done = True
        return self.done

    def body(self) -> bytes:
        """Return what the body says, or more than `MAX_BODY_BYTES` of it, and let go of the parser."""
        self._parser = None
        if self.headers.get("content-encoding") not in {"gzip", "deflate"}:
            return bytes(self._body)
        # Asked for or not: something in between compressed it.
        try:
            return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(self._body, MAX_BODY_BYTES + 1)
        except zlib.error:
            return b""

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.done or self._in_body:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.done:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        self._in_body = True
        self._by_close = not self.headers.keys() & {"content-length", "transfer-encoding"}

    def on_body(self, data: bytes) -> None:
        if self.done:
            return
        self._body += data
        self.done = len(self._body) > MAX_BODY_BYTES

    def on_message_complete(self) -> None:
        if self.done:
            return
        if self.status < 200:
            # An interim answer: the answer itself follows.
            self.headers.clear()
            return
        self.done = True
        self.reusable = self._parser.should_keep_alive()
