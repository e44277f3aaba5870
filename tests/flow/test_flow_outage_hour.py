"""
A ledger that is gone for an hour, and what is waiting for it when it is back: how many requests, and how long.

The app makes a call every second (deferred ones: every fourth), each of them half a minute long; the ledger then takes ten requests a second, of which
the app's new calls need two (a reserve, a confirm), and answers in 50 ms; settlement sends 16 at once. All scales: ten
times the calls under ten times the limit take as long.
"""

from dataclasses import replace

import pytest

from countwerk_meter._flow.backoff import SETTLE_CAP
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.settle import settle

from .world import World

pytestmark = pytest.mark.usefixtures("unmeasured")

HOUR = 3600
CALLS_A_SECOND, CALL_SECONDS = 1, 30
LIMIT, NEW_CALLS_NEED = 10, 2
LATENCY, AT_ONCE = 0.05, 16
COST = 3


class Back(World):
    """Gone at first; then it refuses what is above its limit, and says when to come again."""

    def __init__(self):
        super().__init__()
        self.ledger.available["acct"] = 10**6
        self.gone, self.requests, self.second, self.taken = True, 0, 0, 0

    def modelled(self, request):
        if self.gone:
            return self.say.not_sent(self, request)
        self.pass_time(LATENCY / AT_ONCE)
        self.requests += 1
        if int(self.wall) != self.second:
            self.second, self.taken = int(self.wall), 0
        self.taken += 1
        if self.taken > LIMIT - NEW_CALLS_NEED:
            return self.say.code("RATE_LIMIT_EXCEEDED", retry_after=1)(self, request)
        return super().modelled(request)

    def drain(self):
        """Settle until nothing is left, as the ledger asks to wait; return the seconds of 99 %, and of all, and requests."""
        self.gone, started, most = False, self.wall, None
        calls = len(self.all_charges())
        while rows := self.due().rows[:AT_ONCE]:
            for row in rows:
                kind = settle if row.kind == "reservation" else deduct
                done = self.run(kind(self.terms, row.key))
                if done.wait:
                    self.pass_time(done.wait)
            if most is None and self.spent() >= 0.99 * COST * calls:
                most = self.wall - started
            if not self.due().rows and (next_due := self.due().next_due) is not None and self.moving():
                self.pass_time(max(next_due - self.wall, 0))
        assert not self.moving()
        return most, self.wall - started, self.requests


@pytest.fixture
def back():
    world = Back()
    world.gone = False
    return world


def test_where_calls_are_denied_what_was_running_is_charged_within_seconds(back, tell):
    """Their holds are over: each is deducted under its own id, once."""
    running = [back.reserve(f"e{number}", 5) for number in range(CALLS_A_SECOND * CALL_SECONDS)]
    back.gone = True
    for gate in running:
        back.commit(gate, COST)
    back.pass_time(HOUR)
    back.requests = 0
    _, seconds, requests = back.drain()
    assert ["settled"] * len(running) == [charge.state for charge in back.all_charges()]
    assert COST * len(running) == back.spent()
    assert seconds < 15
    tell(f"an hour without a ledger, calls denied: {len(running)} charges waited, {requests} requests, {seconds:.0f} s")


def test_where_calls_are_deferred_an_hour_of_them_drains_at_the_limit(back, tell):
    """
    A deduct each, and little more: whoever is told to wait, waits.

    The last one is what gates tried to collect all the time: it backs off for five minutes at most.
    """
    back.gone = True
    back.terms = replace(back.terms, on_unavailable="defer", debt_limit=10**6, reserve_timeout=0.01)
    waiting = HOUR // 4
    for number in range(waiting):
        back.commit(back.reserve(f"e{number}", 5), COST)
        back.pass_time(HOUR / waiting)
    back.requests = 0
    most, seconds, requests = back.drain()
    assert COST * waiting == back.spent()
    best = waiting / (LIMIT - NEW_CALLS_NEED)
    assert 0.9 * best <= most < 1.2 * best
    assert seconds < 1.2 * best + SETTLE_CAP
    assert requests < 1.2 * waiting
    tell(
        f"an hour without a ledger, calls deferred: {waiting} charges waited, {requests} requests, 99 % in {most:.0f} s"
        f" ({best:.0f} s is what the limit allows), all in {seconds:.0f} s"
    )
