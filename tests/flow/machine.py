"""
A Hypothesis state machine over the real flows, a journal and a model ledger, with faults as data.

First safety: after each step I1 and I2 hold. Then healing and liveness: no more faults, settle until quiet, and hold the
ledger's own books against the journal: I1 to I5, I8. The same for every store, and for both drivers of the package.
"""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from countwerk_meter._flow.recover import recover
from countwerk_meter._flow.states import LISTED, OVER, ChargeState, ReservationState
from countwerk_meter.errors import CountwerkError, JournalError

from .drivers import Cut

GIVEN = 60

FAULTS = st.lists(
    st.sampled_from(
        ["carried"] * 4
        + [
            "not_sent",
            "lost",
            "unheard",
            "failed",
            "untimed",
            "slow",
            "cut",
            "INSUFFICIENT_CREDITS",
            "RATE_LIMIT_EXCEEDED",
        ]
        + ["INVALID_API_KEY", "FORBIDDEN", "INVALID_INPUT", "short", "later"]
    ),
    max_size=4,
)


class Machine(RuleBasedStateMachine):
    """What an app, its settlement, its crashes and its ledger do to each other."""

    gates = Bundle("gates")
    make = None  # set by the test: makes a world
    examples = 0

    def __init__(self):
        super().__init__()
        self.world = self.make()
        self.world.ledger.available["acct"] = GIVEN
        self.say = self.world.say
        self.number = 0
        self.generation = 0
        self.delayed = []
        self.kept = []
        type(self).examples += 1

    @initialize(
        mode=st.sampled_from(["confirm", "deduct"]), defer=st.booleans(), rounding=st.sampled_from(["ceil", "carry"])
    )
    def begin(self, mode, defer, rounding):
        more = {"on_unavailable": "defer", "debt_limit": 15} if defer else {}
        self.world.terms = replace(self.world.terms, settle_with=mode, **more)
        self.world.rounding = rounding

    def fault(self, name):
        if hasattr(self.say, name):
            return getattr(self.say, name)
        if name == "slow":
            return self.say.after(7, self.say.carried)
        if name == "later":
            return self.overtaken
        if name == "short":
            return self.shortened
        return self.say.code(name)

    def overtaken(self, world, request):
        """The request is delayed on the way: it arrives after later ones."""
        self.delayed.append(request)
        return self.say.lost(world, request)

    def shortened(self, world, request):
        """The ledger charges less than asked."""
        key = {"confirm-reservation": "actualAmount", "deduct": "amount"}.get(request.name)
        if key is None or request.body[key] < 2 or request.body.get("usage_event_id", "").count(".late") > 1:
            return world.modelled(request)
        if (
            request.name == "deduct"
            and (request.body["account_id"], request.body["usage_event_id"]) in world.ledger.deducts
        ):
            return world.modelled(request)
        return world.modelled(replace(request, body={**request.body, key: request.body[key] - 1}))

    def do(self, run, *args, faults=(), **kwargs):
        """Run something under faults; the app sees our own errors, or its own cancellation."""
        self.world.script.clear()
        self.world.then(*[self.fault(name) for name in faults])
        try:
            return run(*args, **kwargs)
        except JournalError as error:
            self.only_full(error)
        except (CountwerkError, Cut):
            return None
        finally:
            self.world.script.clear()

    @staticmethod
    def only_full(error):
        """A full disk is a fault; any other error of the journal is a bug, a forbidden step for one."""
        assert "disk full" in str(error), error

    def begun(self, gate):
        if gate is None or gate.replayed:
            return multiple()
        return gate, self.generation

    @rule(target=gates, amount=st.integers(1, 12), faults=FAULTS, shared=st.booleans())
    def reserve(self, amount, faults, shared):
        self.number += 1
        gate = self.do(self.world.reserve, f"e{self.number}", amount, shared=shared, faults=faults)
        return self.begun(gate)

    @rule(target=gates, amount=st.integers(1, 12), faults=FAULTS, again=st.integers(1, 5))
    def meet_again(self, amount, faults, again):
        gate = self.do(self.world.reserve, f"e{again}", amount, faults=faults)
        return self.begun(gate)

    @rule(target=gates, block=gates, estimate=st.integers(1, 6))
    def draw(self, block, estimate):
        gate, _ = block
        if gate.hold is None:
            return multiple()
        self.number += 1
        return self.begun(self.do(self.world.draw, f"e{self.number}", estimate, gate))

    @rule(
        block=gates, exact=st.sampled_from(["0", "0.4", "1", "2.6", "5", "14"]), known=st.booleans(), seal=st.booleans()
    )
    def commit(self, block, exact, known, seal):
        gate, _ = block
        basis = "set" if known else "reserved"
        self.keep(lambda: self.world.commit(gate, exact, basis=basis, seal=seal or gate.hold is not None))
        self.world.pass_time(0.01)

    @rule(block=gates)
    def release(self, block):
        self.keep(lambda: self.world.release(block[0], seal=block[0].hold is not None))

    def keep(self, write):
        """Rule 7: what cannot be written waits in memory, and goes first when the journal writes again."""
        self.kept.append(write)
        while self.kept:
            try:
                self.kept[0]()
            except JournalError as error:
                self.only_full(error)
                return
            self.kept.pop(0)

    @rule(times=st.integers(1, 4))
    def the_disk_is_full(self, times):
        self.world.full = times

    @rule(faults=FAULTS, price=st.integers(1, 9), again=st.integers(1, 5))
    def deduct_at_once(self, faults, price, again):
        self.do(self.world.deduct_now, f"d{again}", price, faults=faults)

    @rule(faults=FAULTS, price=st.integers(1, 9), again=st.integers(1, 8))
    def deduct_at_once_under_a_reserved_id(self, faults, price, again):
        self.do(self.world.deduct_now, f"e{again}", price, faults=faults)

    @rule(faults=FAULTS)
    def settle(self, faults):
        rows = self.world.due().rows
        for row in rows:
            run = self.world.settle if row.kind == "reservation" else self.world.deduct
            self.do(run, row.key, faults=faults)

    @rule(faults=FAULTS, other=FAULTS)
    def two_workers_settle_one_row(self, faults, other):
        """The second one works while the first one's request is out."""
        rows = self.world.due().rows
        if not rows:
            return
        row = rows[0]
        run = self.world.settle if row.kind == "reservation" else self.world.deduct

        def second():
            self.world.script.clear()
            self.world.then(*[self.fault(name) for name in other if name != "cut"])
            run(row.key)
            self.world.script.clear()
            self.world.then(*[self.fault(name) for name in faults[1:]])

        first = self.fault(faults[0] if faults else "carried")
        self.world.script.clear()
        self.world.then(self.say.meanwhile(second, first))
        try:
            run(row.key)
        except Cut:
            pass
        except JournalError as error:
            self.only_full(error)
        self.world.script.clear()

    @rule(seconds=st.sampled_from([0.6, 20, 100, 890, 897, 1000]))
    def time_passes(self, seconds):
        self.world.pass_time(seconds)

    @rule()
    def a_delayed_request_arrives(self):
        if self.delayed:
            self.world.modelled(self.delayed.pop(0))

    @rule(on_crash=st.sampled_from(["checkpoint", "cancel", "reserved"]), faults=FAULTS)
    def crash(self, on_crash, faults):
        """Its process dies, or seems to: another takes over, and the old gates may still commit (rule 15)."""
        self.generation += 1
        self.world.terms = replace(self.world.terms, owner=f"owner{self.generation}", on_crash=on_crash)
        self.do(self.recover, faults=faults)

    def recover(self):
        terms = replace(self.world.terms, rounding=self.world.rounding)
        self.world.run(recover(terms))

    @rule()
    def clock_is_lost(self):
        self.world.heard = None

    @rule(amount=st.integers(5, 30))
    def refill(self, amount):
        self.world.ledger.available["acct"] += amount
        self.world.refilled += amount

    @invariant()
    def conserved(self):
        """I1: earned = available + reserved + spent."""
        world = self.world
        held = world.held()
        assert GIVEN + world.refilled == world.ledger.available["acct"] + held + world.spent()

    @invariant()
    def at_most_once(self):
        """I2: per reservation no more is charged than its row committed; nothing is charged both ways."""
        world = self.world
        for row in world.all_holds():
            hold = world.ledger.holds.get(row.reservation_id)
            assert hold is None or hold["charged"] <= row.committed
        for charge in world.all_charges():
            paid = world.ledger.deducts.get(("acct", charge.id), 0)
            assert paid <= charge.share
            hold = self.hold_of(charge)
            if paid and hold is not None and charge.share and world.terms.settle_with == "confirm":
                assert hold["state"] != "confirmed" or charge.via == "deduct"

    def hold_of(self, charge):
        rows = [row for row in self.world.all_holds() if row.key == charge.reservation_key]
        return self.world.ledger.holds.get(rows[0].reservation_id) if rows else None

    def teardown(self):
        """Heal, settle until nothing moves, and audit."""
        world = self.world
        world.full = 0
        self.keep(lambda: None)
        for request in self.delayed:
            world.modelled(request)
        world.terms = replace(world.terms, owner="last", on_crash="checkpoint")
        self.recover()
        world.ledger.available["acct"] += 1000
        world.refilled += 1000
        world.settle_until_quiet()
        world.pass_time(2000)
        world.settle_until_quiet()
        self.conserved()
        self.at_most_once()
        self.audit()
        world.driver.close()

    def audit(self):
        world = self.world
        assert 0 == world.held(), "I4: no hold beyond its validity"
        assert {row.state for row in world.all_holds()} <= OVER | {ReservationState.UNRESOLVED}, "I8: every row ends"
        assert all(row.due_at is None for row in world.all_holds()), "an ended row is not due"
        told = {
            fields.get("usage_event_id")
            for name, fields in world.events
            if name in {"unresolved", "uncollected", "crashed"}
        }
        settled_of = {}
        for charge in world.all_charges():
            assert charge.state is not ChargeState.OPEN, "I8: every charge ends"
            assert charge.state is not ChargeState.COMMITTED, "I8: every charge ends"
            if charge.state is ChargeState.LOST or (charge.state in LISTED and charge.share):
                assert charge.id in told, "I3: listed with an event"
            if charge.state is not ChargeState.SETTLED or not charge.share:
                continue
            if charge.via == "deduct":
                short = self.short_of(charge)
                paid = world.ledger.deducts.get(("acct", charge.id), 0)
                assert charge.share == paid + short, "I5: settled implies charged"
            else:
                settled_of[charge.reservation_key] = settled_of.get(charge.reservation_key, 0) + charge.share
        for key, amount in settled_of.items():
            hold = world.ledger.holds[world.hold(key).reservation_id]
            short = amount - hold["charged"]
            assert hold["state"] == "confirmed", "I5: settled implies charged"
            assert short in {0, 1}, "I5: what fell short goes late"
            if short:
                carried = [c.id for c in world.all_charges() if c.reservation_key == key]
                assert any(c.parent in carried and ".late" in c.id for c in world.all_charges()), "I3"

    def short_of(self, charge):
        root = charge.parent or charge.id
        late = [c for c in self.world.all_charges() if c.parent == root and ".late" in c.id]
        paid = self.world.ledger.deducts.get(("acct", charge.id), 0)
        short = charge.share - paid
        assert short in {0, 1}
        assert not short or late, "I3: what fell short goes late"
        return short
