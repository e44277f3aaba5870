"""
A request as it is shown to a callable that prices it: the scope, the path's parameters, and the body.

The rule: reading does not eat. What was read goes to the app afterwards as it came, and no more than a route's
`max_body` is ever read ahead of it. An account is known before: a stranger makes nobody read anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter.asgi.protocol import header

if TYPE_CHECKING:
    from countwerk_meter.asgi.exchange import Exchange
    from countwerk_meter.asgi.protocol import Scope

MAX_BODY: Final = 1_048_576


class RequestRefusedError(Exception):
    """
    A request that is not let through for what it says; raise it where one cannot be priced.

    The client gets the status as `application/problem+json`, the app is not called, and nothing is held.

    Args:
        detail: What is wrong, for the client.
        status: 400 to 499.
        code: A word for programs.

    """

    def __init__(self, detail: str, *, status: int = 422, code: str = "REQUEST_REFUSED") -> None:
        super().__init__(detail)
        if not 400 <= status <= 499:
            raise ValueError(f"a refused request is answered with a status from 400 to 499, not {status}")
        self.detail = detail
        self.status = status
        self.code = code


def too_long(limit: int) -> RequestRefusedError:
    """Refuse a body that is longer than is read ahead."""
    return RequestRefusedError(f"The body is longer than {limit} bytes.", status=413, code="BODY_TOO_LONG")


def no_json() -> RequestRefusedError:
    """Refuse a body that is no JSON."""
    return RequestRefusedError("The body is no JSON.", status=400, code="MALFORMED_JSON")


class ClientLeftError(Exception):
    """The client left while its body was read: nobody waits for an answer, and nothing is held."""


class Request(MutableMapping[str, Any]):
    """
    What a size's callable gets: the ASGI scope itself, and what else the request says.

    Attributes:
        path_params: What stands in the path for each `{parameter}` of the route's template, as text.
        max_body: Bytes that `body` and `json` read at most.

    """

    __slots__ = ("_body", "_exchange", "_parsed", "_scope", "max_body", "path_params")

    def __init__(self, scope: Scope, exchange: Exchange, path_params: dict[str, str], max_body: int = MAX_BODY) -> None:
        self._scope = scope
        self._exchange = exchange
        self.path_params = path_params
        self._body: bytes | None = None
        self._parsed: tuple[Any] | None = None
        self.max_body = max_body

    def __getitem__(self, key: str) -> Any:
        return self._scope[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._scope[key] = value

    def __delitem__(self, key: str) -> None:
        del self._scope[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scope)

    def __len__(self) -> int:
        return len(self._scope)

    def __repr__(self) -> str:
        return f"<Request {self._scope.get('method')} {self._scope.get('path')}>"

    def header(self, name: str) -> str | None:
        """Return a header that was sent exactly once, or None."""
        return header(self._scope, name.lower().encode("latin-1", "replace"))

    async def body(self) -> bytes:
        """
        Return the body; the app gets it too.

        Raises:
            RequestRefusedError: 413, it is longer than `max_body`.

        """
        if self._body is None:
            announced = self.header("content-length")
            if announced is not None and announced.isdecimal() and int(announced[:20]) > self.max_body:
                raise too_long(self.max_body)
            read = await self._exchange.read_ahead(self.max_body)
            if read is None:
                raise too_long(self.max_body)
            self._body = read
        return self._body

    async def json(self) -> Any:
        """
        Return the body's JSON, the same object each time; the app gets its bytes too.

        Raises:
            RequestRefusedError: 413, it is longer than `max_body`; 400, it is no JSON.

        """
        if self._parsed is None:
            body = await self.body()
            try:
                self._parsed = (json.loads(body),)
            except (ValueError, RecursionError):
                raise no_json() from None
        return self._parsed[0]
