"""
The sandbox as an ASGI application.

The rule: the seven endpoints take the short way (plain ASGI, no router, no middleware), because a replay sends tens
of thousands of requests through them; the control API and the page go through Starlette and its guard.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from countwerk_meter.sandbox.contract import MAX_BODY, PATHS, read_object
from countwerk_meter.sandbox.control import control_routes
from countwerk_meter.sandbox.delivery import Mishap, deliver
from countwerk_meter.sandbox.ledger import Answer, Ledger
from countwerk_meter.sandbox.pauses import Pauses
from countwerk_meter.sandbox.traffic import Seen

DEFAULT_API_KEY = "cs_sandbox"


def create_app(
    *,
    db: str | Path | None = None,
    api_key: str = DEFAULT_API_KEY,
    control: bool = True,
    now: Callable[[], float] | None = None,
) -> "SandboxApp":
    """
    Make a ledger and the application that serves it.

    `db`: a SQLite file, kept between runs; None: in memory. `control`: whether the control API and the page may answer
    at all (they answer loopback peers only). `now`: real time in seconds since 1970, for tests that want their own.
    Raises `NotABooksFileError` if `db` is a database of something else.
    """
    return SandboxApp(Ledger(db=db, api_key=api_key, now=now or time.time), control=control)


class SandboxApp(Starlette):
    """Starlette, with the seven endpoints answered before routing begins."""

    def __init__(self, ledger: Ledger, *, control: bool) -> None:
        self.ledger = ledger
        self.pauses = Pauses()
        super().__init__(
            routes=control_routes(ledger, self.pauses, enabled=control),
            lifespan=_lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Where the application is mounted below another, the path begins with where.
        if scope["type"] == "http" and (path := scope["path"].removeprefix(scope.get("root_path", ""))) in PATHS:
            await self._serve_ledger(path, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def close(self) -> None:
        """End what is still waiting and close the books."""
        self.pauses.end_all()
        with self.ledger.lock:
            self.ledger.books.close()

    async def _serve_ledger(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await PlainTextResponse("Method Not Allowed", 405, {"Allow": "POST"})(scope, receive, send)
            return
        api_key: bytes | None = None
        media_type = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                api_key = value
            elif name == b"content-type":
                media_type = value
        raw = await _read(receive)
        if raw is None:
            return
        is_json = media_type.partition(b";")[0].strip().lower() == b"application/json"
        body = read_object(raw) if is_json and len(raw) <= MAX_BODY else None
        ledger = self.ledger

        def carry_out() -> Answer:
            with ledger.lock:
                return ledger.answer(path, api_key, body)

        fault = None
        if ledger.faults.faults:
            with ledger.lock:
                fault = ledger.faults.take(path, ledger.account_of(body), ledger.settings.random)
        seen = Seen(path, ledger.clock.now_ms(), body, None if fault is None else fault.kind)
        ledger.traffic.note(seen)
        if fault is None:
            answer = carry_out()
            seen.status, seen.code = answer.status, answer.code
            await deliver(send, answer, ledger.clock.http_date())
            return
        mishap = Mishap(
            scope,
            receive,
            send,
            fault=fault,
            pauses=self.pauses,
            carry_out=carry_out,
            date=ledger.clock.http_date,
        )
        sent = await mishap.happen()
        if sent is not None:
            seen.status, seen.code = sent.status, sent.code


@asynccontextmanager
async def _lifespan(app: SandboxApp) -> AsyncGenerator[None]:
    yield
    app.close()


async def _read(receive: Receive) -> bytes | None:
    """Read a request's body, but no more than is needed to see that it is too large. None: the client has gone."""
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= MAX_BODY:
            body += message.get("body", b"")
    return body
