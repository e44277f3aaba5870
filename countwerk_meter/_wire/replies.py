"""
What became of a request: exactly one of three (money rule 1).

*Definite*: a success that echoes what was sent, or a known code that stands for a status under 500. *NotSent*: the
connection was never made. *InDoubt*: everything else. No HTTP library's exception crosses this line.
"""

from __future__ import annotations

import json
import re
from dataclasses import field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from countwerk_meter._frozen import frozen
from countwerk_meter._wire.codes import STATUS_OF, error_type
from countwerk_meter.errors import ApiError, LedgerUnavailableError, RateLimitError, without_links, without_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from countwerk_meter._wire.requests import LedgerRequest

MAX_BODY_BYTES: Final = 1 << 20
_MAX_RETRY_AFTER: Final = 3600.0
_MAX_MESSAGE: Final = 300
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@frozen
class Envelope:
    """A definite answer's content. `status` is the code's own where the HTTP status said something else."""

    status: int
    code: str | None
    data: dict[str, Any] = field(repr=False)
    message: str = field(default="", repr=False)
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the ledger did what was asked."""
        return self.code is None


@frozen
class Answer:
    """The ledger answered, definitely. `server_time`: its own clock, POSIX seconds, where it said so."""

    envelope: Envelope
    server_time: float | None = None


@frozen
class NotSent:
    """The connection was never made: nothing was carried out."""

    reason: str


@frozen
class InDoubt:
    """It may have been carried out. A bare 429 still says how long to wait."""

    reason: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None


Reply: TypeAlias = Answer | NotSent | InDoubt


def read_reply(
    request: LedgerRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    redact: Callable[[str], str] = str,
) -> Reply:
    """
    Classify one HTTP answer. Never raises, whatever came.

    Args:
        request: What was sent; its echo is looked for.
        status: HTTP status.
        headers: Answer headers, looked up in lower case.
        body: The whole body, or more than `MAX_BODY_BYTES` of it.
        redact: Takes the API key out of what a refusal says; a function, so that no frame holds the key.

    """
    wait = _retry_after(headers)
    if len(body) > MAX_BODY_BYTES:
        return InDoubt("the answer is too large", status, retry_after=wait)
    if 300 <= status < 400:
        return InDoubt("the ledger answered with a redirect, which is never followed", status)
    document = _json_object(body)
    if document is None:
        return InDoubt("the answer is no JSON object", status, retry_after=wait)
    success, said_code = document.get("success"), document.get("code")
    code = said_code if isinstance(said_code, str) and said_code in STATUS_OF else None
    raw_data = document.get("data")
    data = cast("dict[str, Any]", raw_data) if isinstance(raw_data, dict) else {}
    if status >= 500:
        return InDoubt("the ledger failed", status, code, wait)
    if success is True and 200 <= status < 300:
        if not isinstance(raw_data, dict):
            return InDoubt("a success without data", status)
        if request.echo is not None and data.get(request.echo[0]) != request.echo[1]:
            return InDoubt("a success that does not echo the request", status)
        return Answer(Envelope(status, None, data), _server_time(document, headers))
    if success is not False or code is None:
        return InDoubt("an answer without a known code", status, retry_after=wait)
    meant = STATUS_OF[code]
    if meant >= 500:
        return InDoubt("the ledger failed", status, code, wait)
    said = document.get("message")
    message = _clean(said, redact) if isinstance(said, str) else ""
    # A refusal is no way to buy, whatever it carries.
    refused: dict[str, Any] = without_urls(data, lambda text: without_links(redact(text)))
    return Answer(Envelope(meant, code, refused, message or code, wait), _server_time(document, headers))


def to_error(request: LedgerRequest, reply: Reply) -> ApiError | LedgerUnavailableError:
    """Return the error that a refusal or a missing answer becomes. A 402 is a plain `ApiError`: the gate adds links."""
    if isinstance(reply, NotSent):
        return LedgerUnavailableError(
            f"{request.name}: the ledger cannot be reached ({reply.reason}), and nothing was sent; "
            "check COUNTWERK_BASE_URL and the network"
        )
    if isinstance(reply, InDoubt):
        # A read, which nothing can have come of: the bare status says more than a doubt.
        if request.echo is None and reply.status is not None and 400 <= reply.status < 500 and reply.status != 429:
            kind = error_type(None, reply.status)
            return kind(f"{request.name}: {reply.reason}", status=reply.status, retry_after=reply.retry_after)
        kind = RateLimitError if reply.status == 429 else LedgerUnavailableError
        return kind(
            f"{request.name}: no definite answer: {reply.reason}" + (f" ({reply.status})" if reply.status else ""),
            in_doubt=True,
            status=reply.status,
            code=reply.code,
            retry_after=reply.retry_after,
        )
    said = reply.envelope
    text = f"{request.name}: {said.code}" + ("" if said.message == said.code else f": {said.message}")
    if said.status == 429:
        return RateLimitError(text, status=429, code=said.code, retry_after=said.retry_after)
    kind = error_type(said.code, said.status)
    error = kind(text, code=said.code, status=said.status, details=said.data, retry_after=said.retry_after)
    error.message = said.message
    return error


def parse_time(value: object) -> float | None:
    """Return an ISO 8601 time as POSIX seconds, or None. A time without a zone is read as UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None


def _server_time(document: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    stamped = parse_time(document.get("timestamp"))
    if stamped is not None:
        return stamped
    return _http_date(headers.get("date"))


def _http_date(value: str | None) -> float | None:
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if not value:
        return None
    if _SECONDS.fullmatch(value.strip()):
        seconds = float(value)
    else:
        until, now = _http_date(value), _http_date(headers.get("date"))
        if until is None or now is None:
            return None
        seconds = until - now
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _clean(message: str, redact: Callable[[str], str]) -> str:
    """Return one printable line, without the key and without URLs: it ends up in logs."""
    line = "".join(char if char.isprintable() else " " for char in redact(message)[: 4 * _MAX_MESSAGE])
    return without_links(line).strip()[:_MAX_MESSAGE]
