"""A ledger for the flows' tests that keeps its own books, and what can be scripted to become of a request."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import InDoubt, NotSent, read_reply

from .drivers import Cut


class ModelLedger:
    """The contract in forty lines: holds, confirms, cancels, idempotent deducts, and books to audit."""

    def __init__(self):
        self.available = {}
        self.holds = {}
        self.deducts = {}
        self.named = 0

    def handle(self, request, now):
        self.expire(now)
        return getattr(self, request.name.replace("-", "_"))(request.body, now)

    def expire(self, now):
        for hold in self.holds.values():
            if hold["state"] == "active" and hold["expires"] <= now:
                self._end(hold, "expired", 0)

    def _end(self, hold, state, charged):
        hold.update(state=state, charged=charged)
        self.available[hold["account"]] += hold["amount"] - charged

    def reserve(self, body, now):
        account, amount = body["account_id"], body["amount"]
        if self.available.get(account, 0) < amount:
            return "INSUFFICIENT_CREDITS"
        self.available[account] -= amount
        self.named += 1
        name = f"res_{self.named}"
        expires = now + body.get("validityMinutes", 60) * 60
        self.holds[name] = {
            "account": account, "amount": amount, "expires": expires, "state": "active", "charged": 0,
            "description": body.get("description"),
        }  # fmt: skip
        return {
            "reservationId": name, "operation": body["operation"], "amount": amount, "expiresAt": _iso(expires)
        }  # fmt: skip

    def confirm_reservation(self, body, now):
        hold = self.holds.get(body["reservationId"])
        if hold is None or hold["state"] != "active":
            return "RESERVATION_NOT_FOUND"
        amount = body.get("actualAmount", hold["amount"])
        if not 0 < amount <= hold["amount"]:
            return "INVALID_AMOUNT"
        self._end(hold, "confirmed", amount)
        return {"reservationId": body["reservationId"], "confirmed": True, "actualAmount": amount}

    def cancel_reservation(self, body, now):
        hold = self.holds.get(body["reservationId"])
        if hold is None or hold["state"] != "active":
            return "RESERVATION_NOT_FOUND"
        self._end(hold, "cancelled", 0)
        return {"reservationId": body["reservationId"], "cancelled": True}

    def deduct(self, body, now):
        key = body["account_id"], body["usage_event_id"]
        if key not in self.deducts:
            if self.available.get(key[0], 0) < body["amount"]:
                return "INSUFFICIENT_CREDITS"
            self.available[key[0]] -= body["amount"]
            self.deducts[key] = body["amount"]
        return {
            "transactionId": "t", "newBalance": 0, "deductedAmount": self.deducts[key], "operation": body["operation"]
        }  # fmt: skip

    def balance(self, body, now):
        return {"balance": 0, "availableBalance": self.available.get(body["account_id"], 0)}

    def purchase_links(self, body, now):
        option = {"type": "topup", "enabled": True, "url": "https://buy.test/x"}
        return {"ai_product_id": body["ai_product_id"], "account_id": body["account_id"], "options": [option]}


def _iso(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def answer(request, said, now):
    """Read an answer as the wire would: `said` is a code or the data of a success; `now` None: without a time."""
    if isinstance(said, str):
        status, document = STATUS_OF[said], {"success": False, "code": said}
    else:
        status, document = 200, {"success": True, "data": said}
    if now is not None:
        document["timestamp"] = _iso(now)
    return read_reply(request, status, {}, json.dumps(document).encode())


class Say:
    """What can be scripted."""

    @staticmethod
    def code(code, retry_after=None):
        def reply(world, request):
            headers = {} if retry_after is None else {"retry-after": str(retry_after)}
            document = {"success": False, "code": code, "timestamp": _iso(world.ledger_now)}
            return read_reply(request, STATUS_OF[code], headers, json.dumps(document).encode())

        return reply

    @staticmethod
    def data(said, *, timed=True):
        return lambda world, request: answer(request, said, world.ledger_now if timed else None)

    @staticmethod
    def raw(status, body=b"", headers=None):
        return lambda world, request: read_reply(request, status, headers or {}, body)

    @staticmethod
    def not_sent(world, request):
        return NotSent("ConnectError")

    @staticmethod
    def lost(world, request):
        """The request is lost: nothing is carried out."""
        return InDoubt("ReadTimeout")

    @staticmethod
    def unheard(world, request):
        """Carried out, and the answer is lost."""
        world.modelled(request)
        return InDoubt("ReadTimeout")

    @staticmethod
    def carried(world, request):
        return world.modelled(request)

    @staticmethod
    def untimed(world, request):
        """Carried out, by a ledger that never says what time it is."""
        return replace(world.modelled(request), server_time=None)

    @staticmethod
    def failed(world, request):
        document = {"success": False, "code": "INTERNAL_ERROR"}
        return read_reply(request, 500, {}, json.dumps(document).encode())

    @staticmethod
    def cut(world, request):
        raise Cut

    @staticmethod
    def after(seconds, what):
        """Time passes while the request is out."""

        def reply(world, request):
            world.pass_time(seconds)
            return what(world, request)

        return reply

    @staticmethod
    def meanwhile(act, what):
        """Somebody else does something while the request is out."""

        def reply(world, request):
            act()
            return what(world, request)

        return reply
