"""
The control API: how a test opens accounts, breaks the network, moves the clock and reads the books.

The rule: it asks for no key, so it is reachable from this machine alone (guard.py); and it refuses whatever it does
not understand with a 400 that says what it does.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from sqlite3 import IntegrityError
from typing import cast

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from countwerk_meter.sandbox import contract
from countwerk_meter.sandbox.audit import overview, statement
from countwerk_meter.sandbox.clock import iso
from countwerk_meter.sandbox.contract import JsonObject
from countwerk_meter.sandbox.guard import LoopbackOnly
from countwerk_meter.sandbox.ledger import Ledger
from countwerk_meter.sandbox.page import page_response
from countwerk_meter.sandbox.pauses import Pauses
from countwerk_meter.sandbox.settings import SettingError, number, only, whole

_KNOWN_ABOUT_ACCOUNTS = ("ai_product_id", "order_id", "current_tier_product_id")
_LISTED = 200
# What one screen and a glance can take.
_SHOWN = 50

_Endpoint = Callable[[Request], Awaitable[Response]]


def control_routes(ledger: Ledger, pauses: Pauses, *, enabled: bool) -> list[Route]:
    """Return the routes of the control API and the page, each behind the guard."""
    control = _Control(ledger, pauses)
    guard = [Middleware(LoopbackOnly, enabled=enabled)]
    calls = [
        _route("/health", "GET", control.health),
        _route("/reset", "POST", control.reset),
        _route("/accounts/{account_id:path}", "PUT", control.put_account),
        _route("/settings", "PUT", control.put_settings),
        _route("/settings", "GET", control.get_settings),
        _route("/faults", "PUT", control.put_faults),
        _route("/faults", "GET", control.get_faults),
        _route("/clock", "POST", control.move_clock),
        _route("/books", "GET", control.all_books),
        _route("/books/{account_id:path}", "GET", control.books),
        _route("/requests", "GET", control.requests),
        _route("/requests", "DELETE", control.forget_requests),
    ]
    return [
        Route("/", control.page, methods=["GET"], middleware=guard),
        *(Route(f"/_sandbox{path}", endpoint, methods=[method], middleware=guard) for path, method, endpoint in calls),
    ]


def _route(path: str, method: str, answer: Callable[[Request, object], JsonObject]) -> tuple[str, str, _Endpoint]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _body(request)
            return JSONResponse(answer(request, body))
        except SettingError as error:
            return JSONResponse({"error": str(error)}, 400)

    return path, method, endpoint


async def _body(request: Request) -> object:
    raw = await request.body()
    if request.method not in ("PUT", "POST") or not raw:
        return None
    # A form of another origin's page cannot send this type without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise SettingError("send application/json")
    try:
        return contract.read_json(raw)
    except ValueError as error:
        raise SettingError(f"the body is not JSON: {error}") from None


def _object(body: object) -> JsonObject:
    if not isinstance(body, dict):
        raise SettingError("the body must be a JSON object")
    return cast("JsonObject", body)


class _Control:
    """The calls. Each takes the lock: a control call and a request never overlap."""

    def __init__(self, ledger: Ledger, pauses: Pauses) -> None:
        self._ledger = ledger
        self._pauses = pauses

    async def page(self, _request: Request) -> Response:
        ledger = self._ledger
        with ledger.lock:
            now = self._settle()
            return page_response(overview(ledger.books, now, _SHOWN), ledger.faults.faults)

    def health(self, _request: Request, _body: object) -> JsonObject:
        return {"ok": True, "sandbox": True, "now": iso(self._ledger.clock.now_ms())}

    def reset(self, request: Request, body: object) -> JsonObject:
        self._pauses.end_all()
        with self._ledger.lock:
            self._ledger.reset()
        return self.health(request, body)

    def put_account(self, request: Request, body: object) -> JsonObject:
        account_id: str = request.path_params["account_id"]
        given = _object(body)
        only(given, frozenset({"balance", *_KNOWN_ABOUT_ACCOUNTS}), "an account")
        if not 0 < len(account_id) <= contract.MAX_IDENTIFIER or not account_id.isprintable():
            raise SettingError(f"an account id is 1 to {contract.MAX_IDENTIFIER} printable characters")
        balance = given.get("balance")
        if balance is not None and (type(balance) is not int or not 0 <= balance <= contract.MAX_AMOUNT):
            raise SettingError("balance must be an integer of at least 0")
        known = {name: _text_or_none(name, given[name]) for name in _KNOWN_ABOUT_ACCOUNTS if name in given}
        ledger = self._ledger
        with ledger.lock:
            now = self._settle()
            try:
                ledger.books.open_account(replace(ledger.books.account(account_id), **known), now)
            except IntegrityError:
                raise SettingError(f"order {known.get('order_id')!r} belongs to another account") from None
            if balance is not None:
                ledger.books.set_available(account_id, balance, now)
            return asdict(ledger.books.account(account_id))

    def put_settings(self, _request: Request, body: object) -> JsonObject:
        with self._ledger.lock:
            self._ledger.settings.update(_object(body))
        return self._ledger.settings.as_json()

    def get_settings(self, _request: Request, _body: object) -> JsonObject:
        return self._ledger.settings.as_json()

    def put_faults(self, request: Request, body: object) -> JsonObject:
        with self._ledger.lock:
            self._ledger.faults.replace(body)
        return self.get_faults(request, body)

    def get_faults(self, _request: Request, _body: object) -> JsonObject:
        with self._ledger.lock:
            return {"faults": [fault.as_json() for fault in self._ledger.faults.faults]}

    def move_clock(self, _request: Request, body: object) -> JsonObject:
        given = _object(body)
        only(given, frozenset({"advance_seconds"}), "the clock")
        seconds = number(given.get("advance_seconds"), "advance_seconds")
        ledger = self._ledger
        with ledger.lock:
            ledger.clock.advance(seconds)
            ledger.books.clock_offset = ledger.clock.offset_ms
            return {"now": iso(self._settle())}

    def books(self, request: Request, _body: object) -> JsonObject:
        with self._ledger.lock:
            return statement(self._ledger.books, request.path_params["account_id"], self._settle())

    def all_books(self, request: Request, _body: object) -> JsonObject:
        with self._ledger.lock:
            return overview(self._ledger.books, self._settle(), _limit(request))

    def requests(self, request: Request, _body: object) -> JsonObject:
        with self._ledger.lock:
            return self._ledger.traffic.as_json(_limit(request))

    def forget_requests(self, _request: Request, _body: object) -> JsonObject:
        with self._ledger.lock:
            self._ledger.traffic.clear()
            return self._ledger.traffic.as_json(0)

    def _settle(self) -> int:
        """Expire what is due, so that what is read or shown is true now. Return now."""
        now = self._ledger.clock.now_ms()
        self._ledger.books.expire(now)
        return now


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(_LISTED))
    return whole(int(given) if re.fullmatch("[0-9]{1,9}", given) else given, "limit")


def _text_or_none(name: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise SettingError(f"{name} must be a string or null")
