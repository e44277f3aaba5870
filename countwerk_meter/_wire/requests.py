"""
The seven requests, checked before they can leave.

A required identifier that is missing, an operation outside the contract's alphabet, an amount that is not an integer
above 0: refused here, with the code that the ledger would have given, and never guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import field
from typing import Any, Final

from countwerk_meter._frozen import frozen
from countwerk_meter.errors import InvalidRequestError

_OPERATION: Final = re.compile(r"[a-z0-9._-]{3,64}\Z")
VALIDITY_LIMIT_MINUTES: Final = 7 * 24 * 60
# The largest integer that every JSON reader counts with exactly.
AMOUNT_LIMIT: Final = 2**53 - 1


@frozen
class LedgerRequest:
    """
    One POST to the ledger.

    Attributes:
        path: Endpoint path.
        body: JSON object to send.
        echo: The field and value that a success must repeat to count as definite (money rule 1), or None.
        repeatable: True where sending it twice does no harm: reads, and `deduct` with its idempotency key.
        content: `body` as it will be sent, every time.

    """

    path: str
    body: dict[str, Any] = field(repr=False)
    echo: tuple[str, str] | None = None
    repeatable: bool = False
    content: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", _encoded(self.body))

    @property
    def name(self) -> str:
        """The endpoint's last path segment, for spans and messages."""
        return self.path.rsplit("/", 1)[-1]


_encoder: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(body).encode()
    except (TypeError, ValueError, RecursionError):
        pass
    raise _refuse("INVALID_INPUT", "the request holds what JSON cannot carry: plain data and whole Unicode text only")


def _refuse(code: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{message} (nothing was sent)", code=code, status=400)


def checked_text(value: object, name: str, code: str) -> str:
    """Return `value` if it is a string with something in it, else raise `InvalidRequestError` with `code`."""
    if not isinstance(value, str) or not value.strip():
        what = "an empty one" if isinstance(value, str) else type(value).__name__
        raise _refuse(code, f"{name} must be a non-empty string, not {what}")
    return value


def checked_account(value: object) -> str:
    """Return a usable account id."""
    return checked_text(value, "account_id", "MISSING_ACCOUNT_ID")


def checked_operation(value: object) -> str:
    """Return an operation of 3 to 64 characters of `[a-z0-9._-]`."""
    text = checked_text(value, "operation", "MISSING_OPERATION")
    if not _OPERATION.match(text):
        raise _refuse("INVALID_OPERATION", "operation must be 3 to 64 characters of a-z 0-9 . _ -")
    return text


def checked_amount(value: object, name: str = "amount") -> int:
    """Return a whole number of credits above 0, 2^53 - 1 at most."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= AMOUNT_LIMIT:
        raise _refuse("INVALID_AMOUNT", f"{name} must be an integer above 0 and below 2^53")
    return value


def checked_validity(value: object) -> int:
    """Return a validity in whole minutes, one week at most."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= VALIDITY_LIMIT_MINUTES:
        raise _refuse("INVALID_INPUT", f"validity must be 1 to {VALIDITY_LIMIT_MINUTES} whole minutes")
    return value


def checked_optional(value: object, name: str) -> str | None:
    """Return `value` if it is a string or None."""
    if value is not None and not isinstance(value, str):
        raise _refuse("INVALID_INPUT", f"{name} must be a string, not {type(value).__name__}")
    return value


def _with(body: dict[str, Any], **texts: object) -> dict[str, Any]:
    """Add the optional texts that were given."""
    return body | {name: text for name, value in texts.items() if (text := checked_optional(value, name)) is not None}


def resolve_order(order_id: str) -> LedgerRequest:
    """Which account is behind this Digistore24 order."""
    order = checked_text(order_id, "order_id", "MISSING_ORDER_ID")
    return LedgerRequest("/api/credits/resolve-order", {"order_id": order}, repeatable=True)


def purchase_links(
    ai_product_id: str,
    account_id: str,
    *,
    current_tier_product_id: str | None = None,
    current_order_id: str | None = None,
    buyer_email: str | None = None,
) -> LedgerRequest:
    """Which ways to buy this account has."""
    body = {
        "ai_product_id": checked_text(ai_product_id, "ai_product_id", "MISSING_PRODUCT_ID"),
        "account_id": checked_account(account_id),
    }
    optional = {
        "current_tier_product_id": current_tier_product_id,
        "current_order_id": current_order_id,
        "buyer_email": buyer_email,
    }
    return LedgerRequest("/api/purchase-links", _with(body, **optional), repeatable=True)


def balance(account_id: str) -> LedgerRequest:
    """What the account has."""
    return LedgerRequest("/api/credits/balance", {"account_id": checked_account(account_id)}, repeatable=True)


def deduct(
    account_id: str,
    operation: str,
    amount: int,
    usage_event_id: str,
    *,
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> LedgerRequest:
    """Charge at once, under an idempotency key."""
    if metadata is not None and not isinstance(metadata, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise _refuse("INVALID_INPUT", "metadata must be a dict")
    body: dict[str, Any] = {
        "account_id": checked_account(account_id),
        "operation": checked_operation(operation),
        "amount": checked_amount(amount),
        "usage_event_id": checked_text(usage_event_id, "usage_event_id", "MISSING_USAGE_EVENT_ID"),
    }
    if metadata is not None:
        body["metadata"] = metadata
    return LedgerRequest(
        "/api/credits/deduct",
        _with(body, description=description),
        echo=("operation", operation),
        repeatable=True,
    )


def reserve(
    account_id: str,
    operation: str,
    amount: int,
    *,
    validity_minutes: int | None = None,
    description: str | None = None,
) -> LedgerRequest:
    """Hold credits. It has no key, so one in doubt is never sent again (money rule 3)."""
    body: dict[str, Any] = {
        "account_id": checked_account(account_id),
        "operation": checked_operation(operation),
        "amount": checked_amount(amount),
    }
    if validity_minutes is not None:
        body["validityMinutes"] = checked_validity(validity_minutes)
    return LedgerRequest(
        "/api/credits/reserve",
        _with(body, description=description),
        echo=("operation", operation),
    )


def confirm(reservation_id: str, actual_amount: int | None = None, *, description: str | None = None) -> LedgerRequest:
    """Turn a hold into a charge."""
    reservation = checked_text(reservation_id, "reservation_id", "MISSING_RESERVATION_ID")
    body: dict[str, Any] = {"reservationId": reservation}
    if actual_amount is not None:
        body["actualAmount"] = checked_amount(actual_amount, "actual_amount")
    return LedgerRequest(
        "/api/credits/confirm-reservation",
        _with(body, description=description),
        echo=("reservationId", reservation),
    )


def cancel(reservation_id: str, *, reason: str | None = None) -> LedgerRequest:
    """Give a hold back."""
    reservation = checked_text(reservation_id, "reservation_id", "MISSING_RESERVATION_ID")
    return LedgerRequest(
        "/api/credits/cancel-reservation",
        _with({"reservationId": reservation}, reason=reason),
        echo=("reservationId", reservation),
    )
