"""
The ledger of a shadow meter: answers as the real one would, holds and charges nothing, and is asked for nothing.

Every flow runs against it as it does against the real ledger, so that the journal fills as it would. Whether a call
would have been refused is judged by the account's real balance, asked for behind the app at most once a minute, less
what this journal would have charged; until it is known nothing is refused.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from countwerk_meter._flow.books import Operation
from countwerk_meter._frozen import frozen
from countwerk_meter._wire import requests
from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import Answer, Envelope
from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._drivers.transport import Transport
    from countwerk_meter._flow.books import Books
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest
    from countwerk_meter.journal import Journal

_KNOWN_FOR: Final = 60.0
_ASK_SECONDS: Final = 5.0
_LAST_ASK_SECONDS: Final = 1.0
_REFUSED: Final = Envelope(STATUS_OF["INSUFFICIENT_CREDITS"], "INSUFFICIENT_CREDITS", {}, "INSUFFICIENT_CREDITS")


def shadow_of(ledger: str) -> str:
    """Return the name under which the journal keeps what would have happened on a ledger, apart from what did."""
    return f"shadow:{ledger}"


@frozen
class Standing(Operation[int]):
    """Read how many credits of an account are charged or held, as this journal has it."""

    reads: ClassVar[bool] = True
    ledger: str
    principal: str
    account_id: str

    def apply(self, books: Books) -> int:
        holds = books.open_reservations(self.ledger, self.principal, self.account_id)
        # What was committed on an open hold is counted with its charge.
        return books.charged(self.ledger, self.account_id) + sum(hold.amount - hold.committed for hold in holds)


@dataclass(slots=True)
class _Account:
    """What is left of an account's credits, None: not known; and when it may be asked for again (monotonic)."""

    left: int | None = None
    ask_at: float = 0.0


@dataclass(slots=True)
class ShadowLedger:
    """
    One per meter, shared by its threads and loops, and a transport of its own; makes no call wait.

    Attributes:
        ledger: What the journal calls it.
        principal: Whose key it is.
        journal: Where what would have been charged stands.
        real: Tells balances; nothing else is asked of it.

    """

    ledger: str
    principal: str
    journal: Journal
    real: Transport
    _accounts: dict[str, _Account] = field(default_factory=dict[str, _Account])
    _holds: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asked: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue["str | None"])
    _thread: threading.Thread | None = None
    _closed: bool = False

    def send(self, request: LedgerRequest, deadline: float) -> Reply:  # noqa: ARG002 - it answers at once
        """Answer a request."""
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "reserve": self._reserve,
            "confirm-reservation": self._confirm,
            "cancel-reservation": self._cancel,
            "deduct": self._deduct,
            "balance": lambda _: {},
            "purchase-links": lambda body: body | {"options": []},
        }
        with self._lock:
            data = answers[request.name](request.body)
        return Answer(_REFUSED if data is None else Envelope(200, None, data), time.time())

    def close(self) -> None:
        """Ask for no more balances; one that is being asked for gets a moment."""
        self._closed = True
        self._asked.put(None)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_LAST_ASK_SECONDS)

    def _pays(self, account_id: str, amount: int) -> bool:
        account = self._accounts.setdefault(account_id, _Account())
        if time.monotonic() >= account.ask_at:
            account.ask_at = time.monotonic() + _KNOWN_FOR
            self._asked.put(account_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="countwerk-shadow", daemon=True)
                with contextlib.suppress(RuntimeError):  # too late: the interpreter ends
                    self._thread.start()
        if account.left is None:
            return True
        if account.left < amount:
            return False
        account.left -= amount
        return True

    def _give_back(self, account_id: str, amount: int) -> None:
        account = self._accounts.get(account_id)
        if account is not None and account.left is not None:
            account.left += amount

    def _reserve(self, body: dict[str, Any]) -> dict[str, Any] | None:
        account_id, amount = body["account_id"], body["amount"]
        if not self._pays(account_id, amount):
            return None
        name = f"shadow-{uuid.uuid4().hex}"
        self._holds[name] = account_id, amount
        ends = datetime.fromtimestamp(time.time() + body["validityMinutes"] * 60, UTC)
        return {
            "reservationId": name,
            "operation": body["operation"],
            "amount": amount,
            "expiresAt": ends.isoformat(),
        }

    def _confirm(self, body: dict[str, Any]) -> dict[str, Any]:
        actual = body["actualAmount"]
        account_id, amount = self._holds.pop(body["reservationId"], (None, actual))
        if account_id is not None:
            self._give_back(account_id, amount - actual)
        return {"reservationId": body["reservationId"], "confirmed": True, "actualAmount": actual}

    def _cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        held = self._holds.pop(body["reservationId"], None)
        if held is not None:
            self._give_back(*held)
        return {"reservationId": body["reservationId"], "cancelled": True}

    def _deduct(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if not self._pays(body["account_id"], body["amount"]):
            return None
        return {"operation": body["operation"], "deductedAmount": body["amount"]}

    def _look(self) -> None:
        while (account_id := self._asked.get()) is not None and not self._closed:
            reply = self.real.send(requests.balance(account_id), time.monotonic() + _ASK_SECONDS)
            available = reply.envelope.data.get("availableBalance") if isinstance(reply, Answer) else None
            if not isinstance(available, int):
                continue
            try:
                taken = self.journal.run(Standing(self.ledger, self.principal, account_id))
            except CountwerkError:
                continue
            with self._lock:
                self._accounts[account_id].left = available - taken


class AsyncShadowTransport:
    """A shadow ledger as async code asks it."""

    def __init__(self, shadow: ShadowLedger) -> None:
        self._shadow = shadow

    async def send(self, request: LedgerRequest, deadline: float) -> Reply:
        """Answer a request, at once."""
        return self._shadow.send(request, deadline)

    async def aclose(self) -> None:
        """Nothing is open."""
