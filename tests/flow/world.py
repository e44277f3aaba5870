"""
Clocks, a journal, a ledger, and what an app does with them: the flows' world, without I/O.

`world.say(...)` scripts what becomes of the next requests; what is not scripted goes to a small model ledger that keeps
its own books. The ledger's clock is 100 s ahead of this machine's, so that a rule that mixes them up is found out.
"""

from collections import deque
from dataclasses import replace
from decimal import Decimal

from countwerk_meter._flow.charge import charge_at_once
from countwerk_meter._flow.commands import Emit, Journal, Moment, Now, Send, Sleep
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.ending import Commit, Measured, Release, Seal
from countwerk_meter._flow.events import EVENTS, INTERNAL
from countwerk_meter._flow.overview import Due
from countwerk_meter._flow.recover import Adopt
from countwerk_meter._flow.reserve import draw, reserve
from countwerk_meter._flow.rows import DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.settle import settle
from countwerk_meter._flow.states import HOLDING, ChargeState, ReservationState
from countwerk_meter._flow.terms import Terms
from countwerk_meter.errors import JournalError
from countwerk_meter.journal.memory import MemoryJournal
from countwerk_meter.journal.outcome import Outcome
from countwerk_meter.testing.journal_steps import Do, Look

from .drivers import DRIVERS, Cut, cut
from .model_ledger import ModelLedger, Say, answer

LEDGER = "https://ledger.test"
AHEAD = 100.0
_ALL = 100_000


class World:
    """Clocks, journal, ledger, and everything that flows did to them."""

    say = Say

    def __init__(self, journal=None, driver="simulated", ledger=LEDGER):
        self.ledger = ModelLedger()
        self.ledger.available["acct"] = 100
        self.journal = journal or MemoryJournal()
        self.driver = DRIVERS[driver](self)
        self.terms = Terms(ledger=ledger, principal="p", owner="me", ai_product_id="prod")
        self.wall, self.monotonic = 1_700_000_000.0, 5000.0
        self.heard = None
        self.script = deque()
        self.sent, self.events, self.sleeps, self.operations = [], [], [], []
        self.cut_at = None
        self.full = 0
        self.dies = False
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
        """Run a flow to its end, on this world's driver."""
        return self.driver.run(flow)

    # What drivers ask for.

    def do(self, command):
        """Carry out one command, for the simulator."""
        if isinstance(command, Send):
            sent = self.now()
            reply = self.send(command.request, command.deadline)
            self.hears(getattr(reply, "server_time", None), sent)
            return reply
        if isinstance(command, Journal):
            return self.submit(command.operation).result()
        if isinstance(command, Sleep):
            self.sleeps.append((command.seconds, command.jitter))
            return self.sleep(command.seconds)
        if isinstance(command, Now):
            return self.now()
        assert isinstance(command, Emit)
        return self.event(command.event, command.fields)

    def send(self, request, deadline):
        assert deadline - self.monotonic <= 60
        self.sent.append(request)
        return self.script.popleft()(self, request) if self.script else self.modelled(request)

    def hears(self, server_time, sent):
        if server_time is not None:
            self.heard = (server_time, sent.monotonic)

    def submit(self, operation):
        self.operations.append(operation)
        if self.full and not operation.reads:
            self.full -= 1
            failed = Outcome()
            failed.set_exception(JournalError("disk full"))
            return failed
        done = self.journal.submit(operation)
        if self.cut_at is not None and isinstance(operation, self.cut_at):
            self.cut_at = None
            raise Cut
        return done

    def sleep(self, seconds):
        if self.cut_at is Sleep:
            self.cut_at = None
            raise Cut
        self.pass_time(seconds)

    def event(self, name, fields):
        assert name in INTERNAL or set(fields) <= set(EVENTS[name].fields)
        self.events.append((name, dict(fields)))

    def use(self, journal):
        """Keep the rows in another store."""
        self.journal.close()
        self.journal = journal

    def look(self, see):
        """Read the journal's books."""
        return self.journal.run(Look(see))

    # What an app does.

    def charge_row(self, id="e1", estimate=5, account="acct", operation="app.chat", **more):
        self.numbers += 1
        return ChargeRow(
            id=id, ledger=self.terms.ledger, principal=self.terms.principal, owner=self.terms.owner, account_id=account, operation=operation,
            created_at=self.wall + self.numbers / 1000, estimate=estimate, **more,
        )  # fmt: skip

    def hold_row(self, amount=5, account="acct", operation="app.chat", **more):
        self.numbers += 1
        row = ReservationRow(
            key=f"{self.terms.ledger} k{self.numbers}", ledger=self.terms.ledger, principal=self.terms.principal, owner=self.terms.owner, account_id=account,
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
                charge.ledger,
                charge.id,
                charge.epoch,
                Measured(Decimal(str(exact)), basis),
                self.wall,
                self.rounding,
                seal,
            )
        )

    def release(self, gate, *, seal=True):
        return self.journal.run(
            Release(gate.charge.ledger, gate.charge.id, gate.charge.epoch, "nothing used", self.wall, seal)
        )

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
        return self.journal.run(Due(self.terms.ledger, self.terms.owner, self.wall, 1000))

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
        return any(row.state in HOLDING for row in self.all_holds()) or any(
            row.state is ChargeState.COMMITTED and row.due_at is not None for row in self.all_charges()
        )

    def charge(self, id="e1"):
        return self.look(lambda books: books.charge(self.terms.ledger, id))

    def state(self, id="e1"):
        return str(self.charge(id).state)

    def hold(self, gate_or_key):
        key = gate_or_key if isinstance(gate_or_key, str) else gate_or_key.hold.key
        return self.look(lambda books: books.reservation(key))

    def all_holds(self):
        return self.look(lambda books: books.reservations(self.terms.ledger, list(ReservationState), _ALL))

    def all_charges(self):
        return self.look(lambda books: books.charges(self.terms.ledger, None, _ALL))

    def carry(self, account="acct"):
        return self.look(lambda books: books.carry(self.terms.ledger, account))

    def save(self, row):
        """Put a row as it is; in memory even one that no step leads to."""
        held = isinstance(row, ReservationRow)
        if isinstance(self.journal, MemoryJournal):
            books = self.journal._books
            (books._keep_reservation if held else books._keep_charge)(row)
            return
        self.journal.run(Do(lambda books: (books.save_reservation if held else books.save_charge)(row)))

    def cut(self, run, *args, **kwargs):
        """Run something whose caller is cancelled in the middle."""
        cut(run, *args, **kwargs)

    def spent(self):
        """What the ledger's own books say was charged, in all."""
        return sum(hold["charged"] for hold in self.ledger.holds.values()) + sum(self.ledger.deducts.values())

    def held(self):
        self.ledger.expire(self.ledger_now)
        return sum(hold["amount"] for hold in self.ledger.holds.values() if hold["state"] == "active")
