"""
The ledger: one request in, one answer out.

The rule: the order of questions is the vendor's own (who are you, how often do you ask, what do you ask, may you,
can it be done), and everything from the first question to the answer happens under one lock, synchronously, so no
request sees another half done.
"""

import hmac
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from countwerk_meter.sandbox import contract
from countwerk_meter.sandbox.books import Books, Charge, Hold, InsufficientError, OverageError
from countwerk_meter.sandbox.clock import SandboxClock, iso
from countwerk_meter.sandbox.contract import JsonObject, RefusalError
from countwerk_meter.sandbox.faults import FaultPlan
from countwerk_meter.sandbox.settings import Settings
from countwerk_meter.sandbox.storefront import purchase_options
from countwerk_meter.sandbox.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not yet on its way: HTTP status, JSON body, the envelope's code, Retry-After."""

    status: int
    body: bytes
    code: str | None = None
    retry_after: str | None = None


class Ledger:
    """Everything the sandbox knows. `lock` guards all of it."""

    def __init__(self, *, db: str | Path | None, api_key: str, now: Callable[[], float]) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable():
            raise ValueError("the sandbox's API key must be printable ASCII")
        self.lock = threading.RLock()
        self.books = Books(db)
        self.clock = SandboxClock(now, self.books.clock_offset)
        self.settings = Settings()
        self.faults = FaultPlan()
        self.traffic = Traffic()
        self._api_key = api_key.encode("ascii")
        self._endpoints: dict[str, Callable[[JsonObject, int], JsonObject]] = {
            contract.RESOLVE_ORDER: self._resolve_order,
            contract.PURCHASE_LINKS: self._purchase_links,
            contract.BALANCE: self._balance,
            contract.DEDUCT: self._deduct,
            contract.RESERVE: self._reserve,
            contract.CONFIRM: self._confirm,
            contract.CANCEL: self._cancel,
        }

    def reset(self) -> None:
        """Begin anew: no accounts, no faults, no settings, real time."""
        self.books.reset()
        self.clock.offset_ms = 0
        self.settings = Settings()
        self.faults.faults = []
        self.traffic.clear()

    def answer(self, path: str, api_key: bytes | None, body: JsonObject | None) -> Answer:
        """Carry out one request. `body` is None when what came was not a JSON object."""
        now = self.clock.now_ms()
        try:
            self._admit(api_key, now)
            self.books.expire(now)
            data = self._endpoints[path](contract.require_object(body), now)
        except RefusalError as refusal:
            return refuse(refusal)
        except InsufficientError as error:
            data: JsonObject = {"required": error.required, "available": error.available}
            return refuse(RefusalError(402, "INSUFFICIENT_CREDITS", str(error), data=data))
        if self.settings.extra_fields:
            data = {**data, "fieldFromTheFuture": {"kept": False}}
        return Answer(200, _encode({"success": True, "data": data, "timestamp": iso(now)}))

    def account_of(self, body: JsonObject | None) -> str | None:
        """Say whose request it is, for faults that strike one account alone."""
        if body is None:
            return None
        account_id, reservation_id = body.get("account_id"), body.get("reservationId")
        if isinstance(account_id, str):
            return account_id
        return self.books.account_of_reservation(reservation_id) if isinstance(reservation_id, str) else None

    def _admit(self, api_key: bytes | None, now: int) -> None:
        if not api_key:
            raise RefusalError(401, "API_KEY_MISSING", "the header X-API-Key is missing")
        if not hmac.compare_digest(api_key, self._api_key):
            raise RefusalError(401, "INVALID_API_KEY", "the API key is not this sandbox's")
        limit = self.settings.rate_limit
        if limit is not None:
            passes, wait = limit.pass_or_wait(now)
            if not passes:
                raise RefusalError(429, "RATE_LIMIT_EXCEEDED", "too many requests", retry_after=wait)

    def _account_id(self, body: JsonObject) -> str:
        account_id = contract.identifier(body, "account_id", "MISSING_ACCOUNT_ID")
        self._permit(account_id)
        return account_id

    def _permit(self, account_id: str) -> None:
        if account_id in self.settings.forbidden_accounts:
            raise RefusalError(403, "FORBIDDEN", "this key may not use this account")

    def _live_hold(self, body: JsonObject) -> Hold:
        reservation_id = contract.identifier(body, "reservationId", "MISSING_RESERVATION_ID")
        hold = self.books.hold(reservation_id)
        if hold is None:
            # Confirmed, cancelled, expired and unknown look the same: the contract tells no more.
            raise RefusalError(404, "RESERVATION_NOT_FOUND", "there is no such live reservation")
        self._permit(hold.account_id)
        return hold

    def _resolve_order(self, body: JsonObject, _now: int) -> JsonObject:
        order_id = contract.identifier(body, "order_id", "MISSING_ORDER_ID")
        if self.settings.still_unmapped(order_id):
            raise RefusalError(409, "ORDER_NOT_MAPPED_YET", "the order is not linked to an account yet")
        account = self.books.account_of_order(order_id)
        if account is None:
            raise RefusalError(404, "ORDER_NOT_FOUND", "there is no such order")
        self._permit(account.account_id)
        return {"order_id": order_id, "account_id": account.account_id, "ai_product_id": account.ai_product_id}

    def _purchase_links(self, body: JsonObject, _now: int) -> JsonObject:
        ai_product_id = contract.identifier(body, "ai_product_id", "MISSING_PRODUCT_ID")
        account_id = self._account_id(body)
        given_tier = contract.optional_text(body, "current_tier_product_id")
        given_order = contract.optional_text(body, "current_order_id")
        contract.optional_text(body, "buyer_email")
        account = self.books.account(account_id)
        order = account.order_id or given_order
        tier = account.current_tier_product_id or given_tier
        ds24 = self.settings.ds24
        if ds24 == "invalid":
            # The contract allows a hard failure or disabled options: the two states show one each.
            raise RefusalError(409, "DS24_KEY_INVALID", "the vendor's Digistore24 key was refused")
        no_key = "DS24_KEY_REQUIRED" if ds24 == "missing" else None
        data: JsonObject = {
            "ai_product_id": ai_product_id,
            "account_id": account_id,
            "current_order_id": order,
            "current_tier_product_id": tier,
            "options": purchase_options(account_id, order, tier, no_key=no_key, unheard_of=self.settings.extra_fields),
        }
        if no_key is not None:
            raise RefusalError(409, no_key, "the vendor has not configured a Digistore24 key", data=data)
        return data

    def _balance(self, body: JsonObject, _now: int) -> JsonObject:
        account = self.books.account(self._account_id(body))
        expiration = self.books.next_expiration(account.account_id)
        return {
            "balance": account.available + account.reserved,
            "reservedBalance": account.reserved,
            "availableBalance": account.available,
            "totalEarned": account.earned,
            "totalSpent": account.spent,
            "nextExpiration": None if expiration is None else iso(expiration),
        }

    def _deduct(self, body: JsonObject, now: int) -> JsonObject:
        account_id = self._account_id(body)
        operation = contract.operation(body)
        amount = contract.amount(body)
        usage_event_id = contract.usage_event_id(body)
        description = contract.optional_text(body, "description")
        metadata = contract.metadata(body)
        charge = self.books.charged(account_id, usage_event_id)
        if charge is None:
            charge = self.books.deduct(
                account_id,
                operation,
                amount,
                usage_event_id=usage_event_id,
                description=description,
                metadata=metadata,
                now=now,
            )
        return _deduction(charge)

    def _reserve(self, body: JsonObject, now: int) -> JsonObject:
        account_id = self._account_id(body)
        operation = contract.operation(body)
        amount = contract.amount(body)
        expires_at = now + contract.validity_ms(body)
        description = contract.optional_text(body, "description")
        hold = self.books.reserve(
            account_id, operation, amount, description=description, expires_at=expires_at, now=now
        )
        return {
            "reservationId": hold.reservation_id,
            "operation": operation,
            "amount": amount,
            "expiresAt": iso(expires_at),
            "description": description,
        }

    def _confirm(self, body: JsonObject, now: int) -> JsonObject:
        actual = contract.optional_amount(body, "actualAmount")
        description = contract.optional_text(body, "description")
        hold = self._live_hold(body)
        amount = hold.amount if actual is None else actual
        try:
            self.books.confirm(
                hold, amount, now, description=description, allow_overage=self.settings.overage == "allow"
            )
        except OverageError:
            raise RefusalError(
                400, "INVALID_AMOUNT", f"actualAmount must be at most the reserved {hold.amount}"
            ) from None
        return {
            "reservationId": hold.reservation_id,
            "confirmed": True,
            "actualAmount": amount,
            "description": hold.description if description is None else description,
        }

    def _cancel(self, body: JsonObject, now: int) -> JsonObject:
        reason = contract.optional_text(body, "reason")
        hold = self._live_hold(body)
        self.books.cancel(hold, reason, now)
        return {"reservationId": hold.reservation_id, "cancelled": True, "reason": reason}


def refuse(refusal: RefusalError) -> Answer:
    """Put a refusal into the contract's error envelope."""
    envelope: JsonObject = {"success": False, "code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        envelope["data"] = refusal.data
    return Answer(refusal.status, _encode(envelope), refusal.code, refusal.retry_after)


def _deduction(charge: Charge) -> JsonObject:
    return {
        "transactionId": charge.transaction_id,
        "newBalance": charge.balance,
        "deductedAmount": charge.amount,
        "operation": charge.operation,
        "description": charge.description,
    }


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _encode(envelope: JsonObject) -> bytes:
    return _encoder.encode(envelope).encode("utf-8")
