"""
What a request must look like, and the code that refuses it when it does not.

The rule: a request is checked in full before the books are opened, so a refusal for its form never moves a credit.
Where the vendor's contract is silent the sandbox is strict about what a careful client controls (types, integers,
lengths) and tolerant about what it has no reason to refuse (unknown fields, texts).
"""

import json
import math
import re
from typing import Final, NoReturn, cast

JsonObject = dict[str, object]

RESOLVE_ORDER: Final = "/api/credits/resolve-order"
PURCHASE_LINKS: Final = "/api/purchase-links"
BALANCE: Final = "/api/credits/balance"
DEDUCT: Final = "/api/credits/deduct"
RESERVE: Final = "/api/credits/reserve"
CONFIRM: Final = "/api/credits/confirm-reservation"
CANCEL: Final = "/api/credits/cancel-reservation"
PATHS: Final = frozenset({RESOLVE_ORDER, PURCHASE_LINKS, BALANCE, DEDUCT, RESERVE, CONFIRM, CANCEL})

MAX_BODY: Final = 1_000_000
MAX_IDENTIFIER: Final = 255
# The largest integer that a JavaScript server can count with.
MAX_AMOUNT: Final = 2**53 - 1
DEFAULT_VALIDITY_MINUTES: Final = 60
MAX_VALIDITY_MINUTES: Final = 366 * 24 * 60

_OPERATION = re.compile(r"[a-z0-9._-]{3,64}")


class RefusalError(Exception):
    """A request that the ledger refuses, with its HTTP status, its code and what the envelope's data says."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        data: JsonObject | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.data = data
        self.retry_after = retry_after


def read_json(raw: bytes) -> object:
    """Return what a JSON body says. Raises `ValueError`, also for NaN and for text that is not Unicode."""
    text = raw.decode("utf-8")
    try:
        body: object = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            # A lone surrogate is legal in JSON's grammar and cannot be stored as text.
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return body


def read_object(raw: bytes) -> JsonObject | None:
    """Return the JSON object in a body, or None if there is none."""
    try:
        body = read_json(raw)
    except ValueError:
        return None
    return cast("JsonObject", body) if isinstance(body, dict) else None


def require_object(body: JsonObject | None) -> JsonObject:
    if body is None:
        raise RefusalError(400, "INVALID_INPUT", "the body must be a JSON object, sent as application/json")
    return body


def identifier(body: JsonObject, name: str, missing: str) -> str:
    """Read a required identifier that has a code for being missing and none for being malformed."""
    value = body.get(name)
    if value is None or value == "":
        raise RefusalError(400, missing, f"{name} is required")
    if not isinstance(value, str):
        raise RefusalError(400, "INVALID_INPUT", f"{name} must be a string")
    if len(value) > MAX_IDENTIFIER or not value.isprintable():
        raise RefusalError(400, "INVALID_INPUT", f"{name} must be at most {MAX_IDENTIFIER} printable characters")
    return value


def optional_text(body: JsonObject, name: str) -> str | None:
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise RefusalError(400, "INVALID_INPUT", f"{name} must be a string")


def operation(body: JsonObject) -> str:
    value = body.get("operation")
    if value is None or value == "":
        raise RefusalError(400, "MISSING_OPERATION", "operation is required")
    if not isinstance(value, str) or not _OPERATION.fullmatch(value):
        raise RefusalError(400, "INVALID_OPERATION", "operation must be 3 to 64 characters of [a-z0-9._-]")
    return value


def amount(body: JsonObject, name: str = "amount") -> int:
    value = body.get(name)
    # A bool is an int to Python, 5.0 is not an integer to a strict reader: both are refused.
    if type(value) is not int or not 0 < value <= MAX_AMOUNT:
        raise RefusalError(400, "INVALID_AMOUNT", f"{name} must be an integer above 0")
    return value


def optional_amount(body: JsonObject, name: str) -> int | None:
    return None if body.get(name) is None else amount(body, name)


def usage_event_id(body: JsonObject) -> str:
    value = body.get("usage_event_id")
    if value is None or value == "":
        raise RefusalError(400, "MISSING_USAGE_EVENT_ID", "usage_event_id is required")
    if not isinstance(value, str) or len(value) > MAX_IDENTIFIER or not value.isprintable():
        raise RefusalError(
            400, "INVALID_USAGE_EVENT_ID", f"usage_event_id must be 1 to {MAX_IDENTIFIER} printable characters"
        )
    return value


def metadata(body: JsonObject) -> JsonObject | None:
    value = body.get("metadata")
    if value is None or isinstance(value, dict):
        return cast("JsonObject | None", value)
    raise RefusalError(400, "INVALID_INPUT", "metadata must be an object")


def validity_ms(body: JsonObject) -> int:
    """Read validityMinutes as milliseconds. A fraction of a minute is accepted: the contract does not forbid it."""
    value = body.get("validityMinutes")
    if value is None:
        return DEFAULT_VALIDITY_MINUTES * 60_000
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_VALIDITY_MINUTES:
        raise RefusalError(400, "INVALID_INPUT", "validityMinutes must be a number above 0, at most one year")
    return max(1, math.floor(value * 60_000))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
