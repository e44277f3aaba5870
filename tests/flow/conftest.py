"""
A third driver for the real flows: scripted or modelled ledger, fake clocks, no I/O.

`world.say(...)` scripts what becomes of the next requests; what is not scripted goes to a small model ledger that keeps
its own books. The ledger's clock is 100 s ahead of this machine's, so that a rule that mixes them up is found out.
"""

import json
from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from countwerk_meter._flow.charge import charge_at_once
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Moment, Now, Send, Sleep
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.ending import Commit, Measured, Release, Seal
from countwerk_meter._flow.overview import Due
from countwerk_meter._flow.recover import Adopt
from countwerk_meter._flow.reserve import draw, reserve
from countwerk_meter._flow.rows import DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.settle import settle
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._flow.terms import Terms
from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent, read_reply
from countwerk_meter.errors import JournalError
from countwerk_meter.journal.memory import MemoryJournal

LEDGER = "https://ledger.test"
AHEAD = 100.0


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
    from datetime import UTC, datetime

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


class Cut(BaseException):
    """The caller is cancelled right here."""


@dataclass
class Out:
    """How a flow ended."""

    value: object = None
    error: BaseException | None = None


class World:
    """Clocks, journal, ledger, and everything that flows did to them."""

    say = Say

    def __init__(self):
        self.ledger = ModelLedger()
        self.ledger.available["acct"] = 100
        self.journal = MemoryJournal()
        self.terms = Terms(ledger=LEDGER, principal="p", owner="me", ai_product_id="prod")
        self.wall, self.monotonic = 1_700_000_000.0, 5000.0
        self.heard = None
        self.script = deque()
        self.sent, self.events, self.sleeps, self.operations = [], [], [], []
        self.cut_at = None
        self.numbers = 0
        self.rounding = "ceil"
        self.refilled = 0

    @property
    def ledger_now(self):
        return self.wall + AHEAD

    def pass_time(self, seconds):
        self.wall += seconds
        self.monotonic += seconds

    def now(self):
        ledger = None
        if self.heard is not None and self.monotonic - self.heard[1] <= 60:
            ledger = self.heard[0] + self.monotonic - self.heard[1]
        return Moment(self.monotonic, self.wall, ledger)

    def knows_time(self):
        self.heard = (self.ledger_now, self.monotonic)

    def modelled(self, request):
        return answer(request, self.ledger.handle(request, self.ledger_now), self.ledger_now)

    def then(self, *replies):
        self.script.extend(replies)

    def names(self):
        return [request.name for request in self.sent]

    def told(self, event):
        return [fields for name, fields in self.events if name == event]

    def run(self, flow):
        """Run a flow to its end, as the drivers do."""
        reply, failure = None, None
        while True:
            try:
                command = flow.send(reply) if failure is None else flow.throw(failure)
            except StopIteration as stop:
                return stop.value
            reply = failure = None
            try:
                reply = self.do(command)
            except JournalError as error:
                failure = error
            except Cut:
                self._interrupt(flow)
                raise

    def do(self, command):
        if isinstance(command, Send):
            assert command.deadline - self.monotonic <= 60
            self.sent.append(command.request)
            sent = self.monotonic
            reply = self.script.popleft()(self, command.request) if self.script else self.modelled(command.request)
            time = getattr(reply, "server_time", None)
            if time is not None:
                self.heard = (time, sent)
            return reply
        if isinstance(command, Journal):
            self.operations.append(command.operation)
            if self.cut_at is not None and isinstance(command.operation, self.cut_at):
                self.cut_at = None
                self.journal.submit(command.operation)
                raise Cut
            return self.journal.run(command.operation)
        if isinstance(command, Sleep):
            self.sleeps.append((command.seconds, command.jitter))
            if self.cut_at is Sleep:
                self.cut_at = None
                raise Cut
            self.pass_time(command.seconds)
            return None
        if isinstance(command, Now):
            return self.now()
        assert isinstance(command, Emit)
        self.events.append((command.event, dict(command.fields)))
        return None

    def _interrupt(self, flow):
        failure, reply = Interrupted(), None
        try:
            while True:
                command = flow.throw(failure) if failure is not None else flow.send(reply)
                failure = None
                assert not isinstance(command, Send | Sleep), "nothing is sent after an interruption"
                reply = self.do(command)
        except (Interrupted, StopIteration):
            return

    # What an app does.

    def charge_row(self, id="e1", estimate=5, account="acct", operation="app.chat", **more):
        self.numbers += 1
        return ChargeRow(
            id=id, ledger=LEDGER, principal="p", owner=self.terms.owner, account_id=account, operation=operation,
            created_at=self.wall + self.numbers / 1000, estimate=estimate, **more,
        )  # fmt: skip

    def hold_row(self, amount=5, account="acct", operation="app.chat", **more):
        self.numbers += 1
        row = ReservationRow(
            key=f"k{self.numbers}", ledger=LEDGER, principal="p", owner=self.terms.owner, account_id=account,
            operation=operation, amount=amount, validity=15, created_at=self.wall, settle_with=self.terms.settle_with,
        )  # fmt: skip
        return replace(row, **more)

    def reserve(self, id="e1", amount=5, *, shared=False, **more):
        return self.run(
            reserve(self.terms, self.charge_row(id, amount, **more), self.hold_row(amount, **more), shared=shared)
        )

    def draw(self, id, estimate, gate, **more):
        key = gate if isinstance(gate, str) else gate.hold.key
        return self.run(draw(self.terms, self.charge_row(id, estimate, **more), key))

    def commit(self, gate, exact, *, basis="set", seal=True):
        charge = gate.charge
        return self.journal.run(
            Commit(
                LEDGER, charge.id, charge.epoch, Measured(Decimal(str(exact)), basis), self.wall, self.rounding, seal
            )
        )

    def release(self, gate, *, seal=True):
        return self.journal.run(Release(LEDGER, gate.charge.id, gate.charge.epoch, "nothing used", self.wall, seal))

    def seal(self, key):
        return self.journal.run(Seal(key, self.wall))

    def call(self, id="e1", hold=5, used=3, **more):
        """Reserve and commit: what is left is settlement."""
        gate = self.reserve(id, hold, **more)
        self.commit(gate, used)
        return gate

    def deduct_now(self, id="d1", amount=5, **more):
        row = self.charge_row(id, amount, amount=amount, share=amount, via=DEDUCT, basis="price", **more)
        return self.run(charge_at_once(self.terms, row))

    def settle(self, gate_or_key):
        key = gate_or_key if isinstance(gate_or_key, str) else gate_or_key.hold.key
        return self.run(settle(self.terms, key))

    def deduct(self, id):
        return self.run(deduct(self.terms, id))

    def adopt(self, dead="me", owner="heir", on_crash="checkpoint"):
        terms = replace(self.terms, owner=owner, on_crash=on_crash, rounding=self.rounding)
        done = self.journal.run(Adopt(terms, dead, self.wall)).counts
        self.terms = replace(self.terms, owner=owner)
        return done

    def due(self):
        return self.journal.run(Due(LEDGER, self.terms.owner, self.wall, 1000))

    def pass_over_due(self):
        """Make one pass over every row that is due; return how many there were."""
        rows = self.due().rows
        for row in rows:
            self.run(settle(self.terms, row.key) if row.kind == "reservation" else deduct(self.terms, row.key))
        return len(rows)

    def settle_until_quiet(self, limit=200):
        """Heal: no more faults, and time passes until nothing settles by itself any more."""
        self.script.clear()
        for _ in range(limit):
            if self.pass_over_due():
                continue
            agenda = self.due()
            if agenda.next_due is None or not self.moving():
                return
            self.pass_time(max(agenda.next_due - self.wall, 0) + 0.001)
        raise AssertionError("something never ends")

    def moving(self):
        """Whether anything but what no credits can pay is still on its way."""
        books = self.journal._books
        states = {
            ReservationState.CLOSING,
            ReservationState.HELD,
            ReservationState.REQUESTED,
            ReservationState.ORPHAN_POSSIBLE,
        }
        return any(row.state in states for row in books._reservations.values()) or any(
            row.state is ChargeState.COMMITTED and row.due_at is not None for row in books._charges.values()
        )

    def charge(self, id="e1"):
        return self.journal._books.charge(LEDGER, id)

    def state(self, id="e1"):
        return str(self.charge(id).state)

    def hold(self, gate_or_key):
        key = gate_or_key if isinstance(gate_or_key, str) else gate_or_key.hold.key
        return self.journal._books.reservation(key)

    def all_holds(self):
        return list(self.journal._books._reservations.values())

    def all_charges(self):
        return list(self.journal._books._charges.values())

    def save(self, row):
        books = self.journal._books
        (books._reservations if isinstance(row, ReservationRow) else books._charges)[
            row.key if isinstance(row, ReservationRow) else (row.ledger, row.id)
        ] = row

    def cut(self, run, *args, **kwargs):
        """Run something whose caller is cancelled in the middle."""
        with pytest.raises(Cut):
            run(*args, **kwargs)

    def spent(self):
        """What the ledger's own books say was charged, in all."""
        return sum(hold["charged"] for hold in self.ledger.holds.values()) + sum(self.ledger.deducts.values())

    def held(self):
        self.ledger.expire(self.ledger_now)
        return sum(hold["amount"] for hold in self.ledger.holds.values() if hold["state"] == "active")


@pytest.fixture
def world():
    """A fresh world: one account with 100 credits."""
    return World()


@pytest.fixture
def make_world():
    """Make worlds where one test needs several."""
    return World


@pytest.fixture
def say():
    """What can be scripted."""
    return Say


__all__ = ["Answer", "World"]
