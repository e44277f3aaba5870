"""
Whole credits, fairly (rule 11): any sequence of charges, late truths and crashes, by any number of workers.

Under `carry` an account's total is less than one credit below its exact total, and never above it; under `ceil` it is
less than one credit a charge above, and never below.
"""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from countwerk_meter._flow.ending import Checkpoint, Commit, Measured
from countwerk_meter._flow.recover import recover

AMOUNTS = st.decimals(0, 40, places=6) | st.decimals(0, 1, places=12) | st.sampled_from([Decimal(0), Decimal(1)])


class Rounding(RuleBasedStateMachine):
    """Three accounts, workers that die, and what each call really used."""

    make = rounding = None  # set by the test
    worst = Decimal(0)
    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.world = self.make()
        self.world.rounding = self.rounding
        self.workers, self.number = 1, 0
        self.truths = {}
        self.closed = set()
        for account in "abc":
            self.world.ledger.available[f"acct_{account}"] = 10**6

    @rule(target=calls, account=st.sampled_from("abc"), hold=st.integers(1, 50))
    def begin(self, account, hold):
        self.number += 1
        gate = self.world.reserve(f"e{self.number}", hold, account=f"acct_{account}")
        self.truths[gate.charge.id] = Decimal(0)
        return gate

    @rule(gate=calls, exact=AMOUNTS)
    def commit(self, gate, exact):
        """The first commit of a call counts, or after a crash the larger truth of a worker that woke up."""
        world, charge = self.world, gate.charge
        if charge.id in self.closed:
            return
        world.journal.run(
            Commit(charge.ledger, charge.id, charge.epoch, Measured(exact, "set"), world.wall, self.rounding)
        )
        self.closed.add(charge.id)
        self.truths[charge.id] = max(self.truths[charge.id], exact)

    @rule(gate=calls, exact=AMOUNTS)
    def checkpoint(self, gate, exact):
        charge = gate.charge
        if self.world.charge(charge.id).state == "open":
            self.world.journal.run(Checkpoint(charge.ledger, charge.id, charge.epoch, Measured(exact, "set")))

    @rule()
    def crash(self):
        """Its worker dies, or seems to: what was checkpointed is charged now."""
        for charge in self.world.all_charges():
            if charge.state == "open" and charge.exact is not None:
                self.truths[charge.id] = Decimal(charge.exact)
        self.workers += 1
        self.world.terms = replace(self.world.terms, owner=f"worker {self.workers}")
        self.world.run(recover(replace(self.world.terms, rounding=self.rounding)))

    @rule()
    def settle(self):
        self.world.pass_over_due()

    def teardown(self):
        self.crash()
        self.world.settle_until_quiet()
        for account in "abc":
            charges = [c for c in self.world.all_charges() if c.account_id == f"acct_{account}"]
            made = [c for c in charges if c.id in self.truths and self.truths[c.id] > 0]
            exact = sum((self.truths[c.id] for c in made), Decimal(0))
            charged = sum(c.share for c in charges if c.state == "settled")
            if self.rounding == "carry":
                assert 0 <= exact - charged < 1
                assert self.world.carry(f"acct_{account}") == exact - charged
            else:
                assert 0 <= charged - exact < max(len(made), 1)
            type(self).worst = max(type(self).worst, abs(exact - charged))
        assert self.world.spent() == sum(c.share for c in self.world.all_charges() if c.state == "settled")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("rounding", ["carry", "ceil"])
def test_the_total_is_fair_whatever_happens(make_world, rounding, tell):
    """Charged on the ledger, against what was really used."""

    class Bound(Rounding):
        make = staticmethod(make_world)

    Bound.rounding = rounding
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    tell(f"{rounding}: at worst {Bound.worst} credits from the exact total of an account")
