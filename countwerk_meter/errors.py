"""
What can go wrong, as one tree.

    CountwerkError(RuntimeError)
    ├── ConfigurationError              the app asked for something that cannot be
    ├── ApiError                        the ledger said no: code, status, message, details, retry_after
    │   ├── AuthenticationError         401
    │   ├── PermissionDeniedError       403
    │   ├── InvalidRequestError         400, or refused here before any request
    │   ├── NotFoundError               404
    │   ├── OrderNotMappedError         409 ORDER_NOT_MAPPED_YET
    │   ├── Ds24KeyError                409 DS24_KEY_REQUIRED, DS24_KEY_INVALID
    │   └── InsufficientCreditsError    402, with the ways to buy more
    ├── LedgerUnavailableError          no definite answer in time: in_doubt says whether it may have been carried out
    │   └── RateLimitError              429, and waiting longer was not allowed
    ├── ChargeInProgressError           this usage_event_id is being charged right now
    ├── ChargeAlreadySettledError       this usage_event_id was charged before
    ├── PricingError                    the profile, or a usage that it cannot price
    └── JournalError                    the durable store cannot be opened, read or written

The root is a `RuntimeError` on purpose: LangGraph's default retry policy leaves those alone: no denial is hammered.
Every error pickles and deep-copies, and a copy carries no purchase URL: those are never stored.
"""

from __future__ import annotations

import re
from datetime import datetime  # noqa: TC003 - part of a public signature
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from countwerk_meter._wire.models import PurchaseLinks

__all__ = [
    "ApiError",
    "AuthenticationError",
    "ChargeAlreadySettledError",
    "ChargeInProgressError",
    "ConfigurationError",
    "CountwerkError",
    "Ds24KeyError",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "JournalError",
    "LedgerUnavailableError",
    "NotFoundError",
    "OrderNotMappedError",
    "PermissionDeniedError",
    "PricingError",
    "RateLimitError",
]

_E = TypeVar("_E", bound="CountwerkError")
_WORD: Final = re.compile(r"\S+")
# Written plainly, escaped as in JSON, percent-encoded, without a scheme.
_LINK_MARKS: Final = ("://", ":\\/\\/", "%3a%2f%2f", "www.", "digistore24.com")
_DEEPEST: Final = 32


def _rebuild(kind: type[_E], message: str, state: dict[str, Any]) -> _E:
    error = kind.__new__(kind)
    RuntimeError.__init__(error, message)
    error.__dict__.update(state)
    return error


def without_links(text: str) -> str:
    """Return `text` with every word that holds a URL replaced. Linear: a hostile answer may be long."""
    lowered = text.lower()
    if not any(mark in lowered for mark in _LINK_MARKS):
        return text
    return _WORD.sub(lambda word: "[link]" if any(mark in word[0].lower() for mark in _LINK_MARKS) else word[0], text)


def without_urls(value: Any, clean: Callable[[str], str] = without_links, depth: int = _DEEPEST) -> Any:
    """Return a deep copy of plain JSON data in which every URL is gone, and everything nested absurdly deep."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        if depth == 0:
            return {}
        return {without_urls(k, clean): without_urls(v, clean, depth - 1) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType] - JSON of any shape
    if isinstance(value, list | tuple):
        if depth == 0:
            return []
        return [without_urls(item, clean, depth - 1) for item in value]  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType] - JSON of any shape
    return value


class CountwerkError(RuntimeError):
    """Root of every error that this library raises on purpose."""

    def _portable(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self._portable())


class ConfigurationError(CountwerkError):
    """The app asked for something that cannot be: two prices, no API key, a base URL in the clear."""


class ApiError(CountwerkError):
    """
    The ledger refused.

    Args:
        message: The ledger's own words, without URLs.
        code: The contract's code, or None where the answer had none.
        status: HTTP status.
        details: The answer's `data`, where it had any, without URLs: a refusal is no way to buy.
        retry_after: Seconds that the ledger asked to wait, where it did.

    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(without_links(message))
        self.message = str(self)
        self.code = code
        self.status = status
        self.details: dict[str, Any] = without_urls(dict(details or {}))
        self.retry_after = retry_after


class AuthenticationError(ApiError):
    """401: the API key is missing or wrong. Stop and fix the credentials."""


class PermissionDeniedError(ApiError):
    """403: the API key may not do this. Stop and fix the permissions."""


class InvalidRequestError(ApiError):
    """400, or refused before any request was made, with the code that the ledger would have given."""


class NotFoundError(ApiError):
    """404: no such order or reservation."""


class OrderNotMappedError(ApiError):
    """409 `ORDER_NOT_MAPPED_YET`: Digistore24 has not linked the order yet. Retry later."""


class Ds24KeyError(ApiError):
    """409: the vendor's Digistore24 key is missing or invalid. Ask the vendor to configure it."""


class InsufficientCreditsError(ApiError):
    """
    402: the account cannot pay for the call, and the call was not made.

    Attributes:
        account_id: Whose credits ran out.
        operation: What was asked for.
        required: Credits needed, debt included (money rule 14).
        usage_event_id: The charge that was denied; trying again under the same id is a new attempt.
        held: Credits that our own open reservations hold for this account: in use, not spent.
        held_until: When the first of them ends, or None.
        purchase_links: Fresh purchase options, or None. Never cached; gone from copies and pickles.
        purchase_error: Why there are none: the code of the failed `purchase-links` call.

    """

    def __init__(
        self,
        *,
        account_id: str,
        operation: str,
        required: int,
        usage_event_id: str | None = None,
        held: int = 0,
        held_until: datetime | None = None,
        purchase_links: PurchaseLinks | None = None,
        purchase_error: str | None = None,
        ai_product_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        plural = "credit" if required == 1 else "credits"
        super().__init__(
            f"not enough credits: {operation} needs {required} {plural}",
            code="INSUFFICIENT_CREDITS",
            status=402,
            details=details,
        )
        self.account_id = account_id
        self.operation = operation
        self.required = required
        self.usage_event_id = usage_event_id
        self.held = held
        self.held_until = held_until
        self.purchase_links = purchase_links
        self.purchase_error = purchase_error
        self.ai_product_id = ai_product_id

    def _portable(self) -> dict[str, Any]:
        return {**super()._portable(), "purchase_links": None}

    def to_payload(self, *, urls: bool = True) -> dict[str, Any]:
        """
        Return the 402's JSON body, `application/problem+json`: the ledger's own envelope stands under `data`.

        Args:
            urls: False leaves every purchase URL out, for places that store what they are given.

        """
        links = self.purchase_links
        data: dict[str, Any] = {
            "ai_product_id": links.ai_product_id if links and links.ai_product_id else self.ai_product_id,
            "account_id": self.account_id,
            "current_order_id": links.current_order_id if links else None,
            "current_tier_product_id": links.current_tier_product_id if links else None,
            "options": links.wire_options() if links else [],
        }
        if not urls:
            kept = without_urls(data["options"])
            data["options"] = [{key: value for key, value in option.items() if key != "url"} for option in kept]
        return {
            "type": "about:blank",
            "title": "Not enough credits",
            "status": 402,
            "detail": f"{self.operation} needs {self.required} credit{'' if self.required == 1 else 's'}",
            "success": False,
            "code": "INSUFFICIENT_CREDITS",
            "usage_event_id": self.usage_event_id,
            "operation": self.operation,
            "required": self.required,
            "held": self.held,
            "held_until": self.held_until.isoformat() if self.held_until else None,
            "data": data,
            "purchase_error": self.purchase_error,
        }


class LedgerUnavailableError(CountwerkError):
    """
    No definite answer within the time allowed.

    Attributes:
        in_doubt: True: the request may have been carried out. False: it was not.
        status: HTTP status, where there was one.
        code: The answer's code, where it had one.
        retry_after: Seconds that the ledger asked to wait, where it did.

    """

    def __init__(
        self,
        message: str,
        *,
        in_doubt: bool = False,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(without_links(message))
        self.in_doubt = in_doubt
        self.status = status
        self.code = code
        self.retry_after = retry_after


class RateLimitError(LedgerUnavailableError):
    """
    429, and waiting any longer was not allowed.

    Nothing was carried out (assumption A1), unless `in_doubt`: then it was not in the ledger's own words.
    """


class _ChargeMetError(CountwerkError):
    def __init__(self, message: str, *, usage_event_id: str, state: str) -> None:
        super().__init__(message)
        self.usage_event_id = usage_event_id
        self.state = state


class ChargeInProgressError(_ChargeMetError):
    """The `usage_event_id` is open: its call has not ended yet."""


class ChargeAlreadySettledError(_ChargeMetError):
    """The `usage_event_id` was charged, or is waiting to be: running it again would be free."""


class PricingError(CountwerkError):
    """
    A price profile that is malformed, or a usage that it cannot price.

    Attributes:
        code: `INVALID_PROFILE`, `UNMATCHED_DIMENSION`, `RULESET_HASH_MISMATCH` or another of the vendor's.
        rule_id: The rule at fault, where there is one.
        field: The field at fault, where there is one.

    """

    def __init__(self, message: str, *, code: str, rule_id: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.rule_id = rule_id
        self.field = field


class JournalError(CountwerkError):
    """The durable store of charges cannot be opened, read or written. The text names it and says what to do."""
