"""
What a process is doing when it dies.

A scenario tells the side log what is true before it reaches the next boundary: what was consumed, and what the app got
back. The auditor believes that log, not the meter.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from countwerk_meter import Usage
from countwerk_meter.errors import JournalError

from . import acts

OPERATION = "app.chat.reply"
# What a lease is held for; any other hold is for half of it.
HELD_MINUTES = 30


class Scenario:
    """
    A body to run, with its meter's options and the account's credits.

    `since`: the first boundary that is of interest. `varies`: one that is passed once or several times. `costs`: what
    the account pays if the same step is tried again after a crash, whatever had become of the first try; `told`: what
    the app hears if that was charged already.
    """

    def __init__(self, body, *, balance=100, faults=(), since=None, varies=None, costs=None, told=(), **options):
        self.body, self.balance, self.faults, self.since = body, balance, faults, since
        self.varies = varies
        self.costs, self.told, self.options = costs, list(told), options
        self.on_crash = options.get("on_crash", "checkpoint")


@dataclass
class Run:
    """What a scenario holds in its hand: the meter, the account, the side log, the boundaries."""

    meter: object
    account: str
    note: object
    point: object
    journal: str = ""
    prefix: str = ""
    used: dict = field(default_factory=dict)

    def reserve(self, charge_id, amount, **options):
        return self.meter.reserve(
            self.account, OPERATION, amount=amount, usage_event_id=self.named(charge_id), **options
        )

    def named(self, charge_id):
        return f"{self.account}.{self.prefix}{charge_id}"

    def consumed(self, charge_id, credits):
        """Say that so many more credits were consumed: by now it is true, whether the meter knows it or not."""
        total = self.used[charge_id] = self.used.get(charge_id, 0) + credits
        self.note({"used": self.named(charge_id), "credits": total})

    def derived(self, amount, credits):
        """Make a call whose id is new and the meter's own, so that a draw does not wait for the journal's word on it."""
        with self.meter.reserve(self.account, OPERATION, amount=amount) as call:
            charge_id = call.usage_event_id
            self.note({"used": charge_id, "credits": credits})
            self.point("answered")
            call.settle(credits)
        self.note({"returned": charge_id})
        self.point("returned")
        return call

    def returned(self, charge_id):
        """Say that the app got its result: from here on the charge must not be lost."""
        self.note({"returned": self.named(charge_id)})
        self.point("returned")


def plain(run):
    """One call whose usage is reported at its end."""
    with run.reserve("plain", 5) as reservation:
        run.point("model before")
        run.consumed("plain", 3)
        run.point("model after")
        reservation.record(Usage(output_tokens=1000))
    run.returned("plain")


async def _plain(run):
    async with run.reserve("plain", 5) as reservation:
        run.point("model before")
        run.consumed("plain", 3)
        run.point("model after")
        reservation.record(Usage(output_tokens=1000))
    run.returned("plain")


def plain_async(run):
    """The same in async code: the gate, too, goes through the async transport."""
    asyncio.run(_plain(run))


def streamed(run):
    """A stream whose usage so far is kept every other chunk."""
    with run.reserve("stream", 12) as reservation:
        for number in range(1, 5):
            run.consumed("stream", 3)
            reservation.record(Usage(output_tokens=1000))
            reservation.yielded()
            run.point(f"mid-stream chunk {number}")
            if number % 2 == 0:
                reservation.checkpoint()
                # What is read comes after what was queued: the checkpoint is written before the next chunk.
                run.meter.charges(limit=1)
    run.returned("stream")


def nested(run):
    """Two calls that draw on one hold; the second one costs more than is left."""
    with run.reserve("block", 6):
        for name, credits in (("first", 3), ("second", 5)):
            with run.reserve(name, 3) as draw:
                run.consumed(name, credits)
                run.point(f"{name} answered")
                draw.settle(credits)
            run.returned(name)


def drawn_ahead(run):
    """Two calls that draw on one hold without waiting for the journal, the second one more than is left."""
    with run.reserve("block", 6):
        run.derived(3, 3)
        run.derived(3, 5)


def leased(run):
    """A busy account: its calls take holds of their own until there is a lease, and then draw on that."""
    for _ in range(3):
        run.derived(3, 3)
    while not run.meter._engine.leases._live:
        time.sleep(0.002)
    for credits in (3, 1, 5):
        assert run.derived(3, credits).lease
    # An id that may be met again: the journal's word is waited for.
    with run.reserve("named", 3) as call:
        run.consumed("named", 2)
        run.point("answered")
        call.settle(2)
    assert call.lease
    run.returned("named")


def over(run):
    """One call that costs more than was held, and more than the account has."""
    with run.reserve("dear", 5) as reservation:
        run.consumed("dear", 9)
        reservation.record(Usage(output_tokens=3000))
    run.returned("dear")


def flat(run):
    """A flat price, charged at once."""
    run.consumed("flat", 4)
    run.meter.deduct(run.account, OPERATION, 4, usage_event_id=run.named("flat"))
    run.returned("flat")


def failing(run):
    """A call that fails before anything reached anybody: nothing is charged."""
    with contextlib.suppress(ZeroDivisionError), run.reserve("failing", 5):
        run.point("model before")
        raise ZeroDivisionError


def full_disk(run):
    """The disk fills up while a model is answering, and is freed later."""
    with run.reserve("first", 5) as reservation:
        run.consumed("first", 3)
        reservation.record(Usage(output_tokens=1000))
        acts.no_room(run.journal)
    run.returned("first")
    try:
        with run.reserve("refused", 5):
            run.consumed("refused", 5)
    except JournalError as error:
        run.note({"refused": str(error)})
    run.note({"state": reservation.settlement.state})
    acts.room()
    with run.reserve("second", 5) as reservation:
        run.consumed("second", 3)
        reservation.record(Usage(output_tokens=1000))
    run.returned("second")


_RESERVE = "/api/credits/reserve"
_CONFIRM = "/api/credits/confirm-reservation"

_SETTLED = ("ChargeAlreadySettledError",)

SCENARIOS = {
    "plain": Scenario(plain, costs=3, told=_SETTLED),
    "plain, async": Scenario(plain_async, costs=3, told=_SETTLED),
    "plain, settled inline": Scenario(plain, costs=3, told=_SETTLED, settlement="inline"),
    "plain, settled with deducts": Scenario(plain, costs=3, told=_SETTLED, settle_with="deduct"),
    "plain, a crash costs the hold": Scenario(plain, on_crash="reserved"),
    "plain, the confirm's answer is lost": Scenario(
        plain, faults=({"path": _CONFIRM, "kind": "drop_after"},), since="send confirm-reservation body #1"
    ),
    "streamed, with checkpoints": Scenario(streamed),
    "nested draws, over the hold": Scenario(nested),
    "nested draws, ahead of the journal": Scenario(drawn_ahead),
    "on a lease": Scenario(
        leased, balance=1000, since="commit BeginLease before #1", varies="commit Recall", leases=True
    ),
    "over the hold, and no credits left": Scenario(over, balance=6),
    "deferred, its reserve in doubt": Scenario(
        plain, faults=({"path": _RESERVE, "kind": "drop_after"},), on_unavailable="defer", debt_limit=50
    ),
    # A flat price that stands is answered with what stands.
    "flat": Scenario(flat, costs=4),
    "failing": Scenario(failing),
    "full disk": Scenario(full_disk),
    "plain, in a hurry": Scenario(plain, reserve_timeout=0.5),
}
# Those that are killed wherever they can be. A charge that waits in memory for a disk does not survive a kill.
KILLED = tuple(name for name in SCENARIOS if name not in {"full disk", "plain, in a hurry"})
