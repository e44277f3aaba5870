"""
What a client is told when a call is not made: `application/problem+json`, never stored by anybody on the way.

The rule: nothing about the inside of the app. What the client cannot help (a wrong API key, a price that is none) has
no problem here: it is raised, and is the server's 500.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from countwerk_meter.asgi.page import HEADERS
from countwerk_meter.errors import (
    ChargeAlreadySettledError,
    ChargeInProgressError,
    InsufficientCreditsError,
    LedgerUnavailableError,
)

if TYPE_CHECKING:
    from countwerk_meter.asgi.owner import Owner
    from countwerk_meter.asgi.protocol import Message
    from countwerk_meter.asgi.request import RequestRefusedError


@dataclass(frozen=True, slots=True)
class Problem:
    """One answer, as a response (JSON, or a page), as the last event of a stream, or as a websocket's denial."""

    status: int
    code: str
    payload: dict[str, Any]
    retry_after: int | None = None
    page: bytes | None = None

    def messages(self, prefix: str = "http.response") -> tuple[Message, Message]:
        """Return the whole response."""
        body = self._json() if self.page is None else self.page
        headers = [
            *(((b"content-type", b"application/problem+json"),) if self.page is None else HEADERS),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if self.status == 402:
            headers.append((b"vary", b"accept"))
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode()))
        return (
            {"type": f"{prefix}.start", "status": self.status, "headers": headers},
            {"type": f"{prefix}.body", "body": body, "more_body": False},
        )

    def event(self) -> bytes:
        """Return the last event of an event stream."""
        name = b"payment_required" if self.status == 402 else b"charge_conflict"
        return b"event: %s\ndata: %s\n\n" % (name, self._json())

    def _json(self) -> bytes:
        return json.dumps(self.payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class NotLetThroughError(Exception):
    """Carries the answer to a request that was not let through, from wherever its gate stood."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def problem_of(error: BaseException | None, account_id: str | None = None) -> Problem | None:
    """
    Return what to answer for an error from anywhere below, or None: it is not ours to answer.

    A client is told of its own account alone, which is `account_id`: nothing of another one, such as the app's.
    """
    if isinstance(error, BaseExceptionGroup):
        # A task group wraps what its tasks raised: all of it must be ours.
        failed = cast("BaseExceptionGroup[BaseException]", error).exceptions
        problems = [problem_of(each, account_id) for each in failed]
        return problems[0] if None not in problems else None
    if isinstance(error, NotLetThroughError):
        return error.problem
    if isinstance(error, InsufficientCreditsError):
        payload = error.to_payload()
        if account_id is None or account_id != error.account_id:
            payload |= {"held": 0, "held_until": None, "purchase_error": "OTHER_ACCOUNT"}
            payload["data"] = dict.fromkeys(payload["data"]) | {"options": []}
        return Problem(402, "INSUFFICIENT_CREDITS", payload)
    if isinstance(error, ChargeAlreadySettledError):
        return _conflict(error, "CHARGE_ALREADY_SETTLED", "Already charged", "This request was charged before.")
    if isinstance(error, ChargeInProgressError):
        return _conflict(error, "CHARGE_IN_PROGRESS", "In progress", "This very request is being carried out.")
    # Litestar wraps what is raised in a stream, others what is raised anywhere.
    return None if error is None else problem_of(error.__cause__, account_id)


async def answer_to(error: BaseException, owner: Owner) -> Problem | None:
    """Return what to tell a request's client of an error; whose it is, is asked only where that matters."""
    problem = problem_of(error)
    if problem is None or problem.status != 402:
        return problem
    return problem_of(error, await owner.to_be_told())


def unavailable(error: LedgerUnavailableError) -> Problem:
    """Return what to answer where the gate got no definite answer: nothing runs unpaid."""
    payload = _problem(503, "Credits cannot be checked", "Try again later.", "LEDGER_UNAVAILABLE")
    later = None if error.retry_after is None else max(math.ceil(error.retry_after), 1)
    return Problem(503, "LEDGER_UNAVAILABLE", payload, later)


def refused(error: RequestRefusedError) -> Problem:
    """Return what to answer where a request cannot be priced."""
    known = {each.value: each.phrase for each in HTTPStatus}
    payload = _problem(error.status, known.get(error.status, "Refused"), error.detail, error.code)
    return Problem(error.status, error.code, payload)


def _conflict(error: ChargeAlreadySettledError | ChargeInProgressError, code: str, title: str, detail: str) -> Problem:
    return Problem(409, code, _problem(409, title, detail, code) | {"usage_event_id": error.usage_event_id})


def _problem(status: int, title: str, detail: str, code: str) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "success": False,
        "code": code,
    }
