"""The contract's codes with the HTTP status that each stands for, and the error that each becomes."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from countwerk_meter.errors import (
    ApiError,
    AuthenticationError,
    Ds24KeyError,
    InvalidRequestError,
    NotFoundError,
    OrderNotMappedError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_STATUS: dict[int, str] = {
    400: "INVALID_INPUT MISSING_REQUIRED_FIELDS MISSING_ACCOUNT_ID MISSING_OPERATION INVALID_OPERATION INVALID_AMOUNT "
    "MISSING_USAGE_EVENT_ID INVALID_USAGE_EVENT_ID MISSING_RESERVATION_ID MISSING_SOURCE INVALID_SOURCE "
    "MISSING_PRODUCT_ID MISSING_ORDER_ID MISSING_TRANSACTION_ID DS24_BAD_REQUEST",
    401: "API_KEY_MISSING INVALID_API_KEY",
    402: "INSUFFICIENT_CREDITS",
    403: "FORBIDDEN DS24_KEY_FORBIDDEN",
    404: "ORDER_NOT_FOUND RESERVATION_NOT_FOUND",
    409: "DS24_KEY_REQUIRED DS24_KEY_INVALID ORDER_NOT_MAPPED_YET",
    429: "RATE_LIMIT_EXCEEDED DS24_RATE_LIMITED",
    500: "BALANCE_ERROR DEDUCTION_ERROR TRANSACTIONS_ERROR RESERVATION_ERROR CONFIRMATION_ERROR CANCELLATION_ERROR "
    "ADD_CREDITS_ERROR INTERNAL_ERROR",
    503: "DS24_TEMPORARY_ERROR",
}

STATUS_OF: Mapping[str, int] = MappingProxyType(
    {code: status for status, codes in _BY_STATUS.items() for code in codes.split()}
)

_ERROR_OF_CODE: dict[str, type[ApiError]] = {
    "ORDER_NOT_MAPPED_YET": OrderNotMappedError,
    "DS24_KEY_REQUIRED": Ds24KeyError,
    "DS24_KEY_INVALID": Ds24KeyError,
}
_ERROR_OF_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
}


def error_type(code: str | None, status: int | None) -> type[ApiError]:
    """Return the class of the error tree for a code, or for a bare status."""
    if code in _ERROR_OF_CODE:
        return _ERROR_OF_CODE[code]
    return _ERROR_OF_STATUS.get(status or 0, ApiError)
