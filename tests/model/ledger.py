"""
The ledger of the model: the contract's words on holds and deducts, written without the meter's code.

It never lacks credits: a refusal is a fault like another. A hold ends by itself when the ledger's time reaches its
expiry, and every request is judged at the moment when it arrives.
"""

from datetime import UTC, datetime
from typing import NamedTuple

# What an account is said to have; a gate that was refused asks.
BALANCE = 60


class Message(NamedTuple):
    """One request on the wire."""

    kind: str
    target: str
    amount: int = 0
    minutes: int = 0

    def __str__(self):
        return f"{self.kind} {self.target}" + (f" {self.amount}" if self.amount else "")


class Said(NamedTuple):
    """One answer on the wire: a refusal's code, or the data of a success; `at` None: without a time."""

    code: str | None
    data: tuple = ()
    at: float | None = None


class Hold(NamedTuple):
    """One reservation on the ledger. `active` says nothing of its time, which may be over."""

    name: str
    amount: int
    expires: float
    state: str = "active"
    charged: int = 0


class Ledger(NamedTuple):
    """Everything that the ledger keeps."""

    holds: tuple[Hold, ...] = ()
    deducts: tuple[tuple[str, int], ...] = ()

    def hold(self, name):
        """Return the hold of this name."""
        return next((hold for hold in self.holds if hold.name == name), None)

    def is_active(self, name, now):
        """Whether credits are held under this name."""
        hold = self.hold(name)
        return hold is not None and hold.state == "active" and now < hold.expires

    def deducted(self, charge_id):
        """Return what was deducted under this id."""
        return dict(self.deducts).get(charge_id, 0)

    @property
    def spent(self):
        """Everything that was ever charged."""
        return sum(hold.charged for hold in self.holds) + sum(amount for _, amount in self.deducts)

    def ended(self, name, state, charged=0):
        """Return the ledger with this hold ended."""
        holds = tuple(hold._replace(state=state, charged=charged) if hold.name == name else hold for hold in self.holds)
        return self._replace(holds=holds)

    def handle(self, message, now):
        """Carry a request out; return the ledger after it, and the answer."""
        match message.kind:
            case "reserve":
                made = Hold(f"res_{len(self.holds) + 1}", message.amount, now + message.minutes * 60)
                data = {"reservationId": made.name, "amount": made.amount, "expiresAt": iso(made.expires)}
                return self._replace(holds=(*self.holds, made)), _success(now, data | {"operation": "app.chat"})
            case "confirm-reservation":
                hold = self.hold(message.target)
                if hold is None or not self.is_active(message.target, now):
                    return self, Said("RESERVATION_NOT_FOUND", at=now)
                if not 0 < message.amount <= hold.amount:
                    return self, Said("INVALID_AMOUNT", at=now)
                data = {"reservationId": message.target, "confirmed": True, "actualAmount": message.amount}
                return self.ended(message.target, "confirmed", message.amount), _success(now, data)
            case "cancel-reservation":
                if not self.is_active(message.target, now):
                    return self, Said("RESERVATION_NOT_FOUND", at=now)
                data = {"reservationId": message.target, "cancelled": True}
                return self.ended(message.target, "cancelled"), _success(now, data)
            case "deduct":
                deducts = dict(self.deducts)
                deducts.setdefault(message.target, message.amount)
                data = {"transactionId": "t", "newBalance": 0, "deductedAmount": deducts[message.target]}
                after = self._replace(deducts=tuple(sorted(deducts.items())))
                return after, _success(now, data | {"operation": "app.chat"})
            case "balance":
                return self, _success(now, {"balance": BALANCE, "availableBalance": BALANCE})
            case _:
                return self, _success(now, {})


def _success(now, data):
    return Said(None, tuple(data.items()), now)


def iso(seconds):
    """Write POSIX seconds as the contract's times are written."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def message_of(request):
    """Return what matters of a request."""
    body = request.body
    for target, amount in (
        ("reservationId", "actualAmount"),
        ("usage_event_id", "amount"),
        ("account_id", "amount"),
    ):
        if target in body:
            return Message(request.name, body[target], body.get(amount, 0), body.get("validityMinutes", 0))
    return Message(request.name, "")
