"""Leases of processes that are killed, fork, end or share a journal, and of many calls at once."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from countwerk_meter._flow.states import ReservationState
from countwerk_meter._metering import settlement

from .leasing import OPERATION, call, leased, rows_of
from .waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")

# Processes.

_VICTIM = """
import os, signal, sys, time
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
taken = []
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
def call(cost):
    with meter.reserve("acct_1", "app.call", amount=5) as reservation: reservation.settle(cost)
for _ in range(3): call(1)
while not taken or not meter._engine.leases._live: time.sleep(0.01)
for _ in range(6): call(2)
known = meter.reserve("acct_1", "app.call", amount=5).begin()
known.settle(3)
known.checkpoint()
unknown = meter.reserve("acct_1", "app.call", amount=5).begin()
assert known.lease and unknown.lease
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_lease_is_recovered(rich, monkeypatch):
    """What was drawn is charged, a running call by the policy, and the rest is given back."""
    monkeypatch.setattr(settlement, "RECOVER_SECONDS", 0.1)
    arguments = [sys.executable, "-c", _VICTIM, rich.sandbox.url, rich.sandbox.api_key, str(rich.path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        try:
            assert "ready\n" == victim.stdout.readline()
            assert rich.books()["reserved"] > 20
            victim.send_signal(signal.SIGKILL)
            victim.wait(30)
        finally:
            victim.kill()
    meter = rich.meter()
    until(lambda: rich.named("recovered"))
    assert 3 + 12 + 3 == rich.settled(meter)
    assert ["lost"] == [charge.state for charge in meter.charges() if charge.amount is None]


_DIES = """
import asyncio, os, signal, sys, threading, time
from countwerk_meter import Meter
url, key, path, where = sys.argv[1:]
taken, ran = [], threading.Event()
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
class Between:
    def send(self, transport, request, deadline): return transport.send(request, deadline)
    async def asend(self, transport, request, deadline):
        if request.name == "balance": await asyncio.to_thread(ran.wait)
        ahead = request.name == "balance" or "taken ahead" in str(request.body) or request.body.get("actualAmount") == 12
        for when in ("before", "after"):
            if ahead and where == f"{request.name} {when}": os.kill(os.getpid(), signal.SIGKILL)
            if when == "before": answer = await transport.send(request, deadline)
        return answer
meter._engine.interpose(Between())
def call(cost):
    with meter.reserve("acct_1", "app.call", amount=5) as reservation: reservation.settle(cost)
for _ in range(3): call(1)
ran.set()
while not taken or not meter._engine.leases._live: time.sleep(0.01)
for _ in range(6): call(2)
meter.close(20)
"""


@pytest.mark.parametrize(
    ("where", "drawn"),
    [
        ("balance before", 0),
        ("balance after", 0),
        ("reserve before", 0),
        ("reserve after", 0),
        ("confirm-reservation before", 12),
        ("confirm-reservation after", 12),
    ],
)
def test_wherever_a_process_dies_with_its_lease_the_books_are_exact(rich, where, drawn):
    """Taken and not answered, or confirmed and not answered: nothing is charged twice, and no hold outlives its time."""
    arguments = [sys.executable, "-c", _DIES, rich.sandbox.url, rich.sandbox.api_key, str(rich.path), where]
    assert -signal.SIGKILL == subprocess.run(arguments, check=False, timeout=60).returncode
    meter = rich.meter()
    assert meter.flush(20)
    assert 3 + drawn == rich.books()["spent"]
    assert (rich.books()["reserved"] > 0) == (where == "reserve after")
    assert bool(rich.rows(meter, ReservationState.ORPHAN_POSSIBLE)) == where.startswith("reserve")
    rich.control.advance(31 * 60)
    assert {"spent": 3 + drawn, "reserved": 0, "available": 99_997 - drawn} == rich.books()


_EXITS = """
import sys, time
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
taken = []
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
def call():
    with meter.reserve("acct_1", "app.call", amount=5) as reservation: reservation.settle(2)
for _ in range(3): call()
while not taken or not meter._engine.leases._live: time.sleep(0.01)
for _ in range(5): call()
"""


def test_a_process_that_ends_without_closing_gives_its_lease_back(rich):
    """At exit what was drawn is confirmed, within the usual two seconds."""
    arguments = [sys.executable, "-c", _EXITS, rich.sandbox.url, rich.sandbox.api_key, str(rich.path)]
    subprocess.run(arguments, check=True, timeout=60)
    assert {"spent": 16, "reserved": 0, "available": 99_984} == rich.books()


_FORKS = """
import os, sys, time
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
taken = []
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
def call():
    with meter.reserve("acct_1", "app.call", amount=5) as reservation:
        reservation.settle(1)
        return reservation.lease
for _ in range(3): call()
while not taken or not meter._engine.leases._live: time.sleep(0.01)
assert call()
child = os.fork()
if child == 0:
    assert call() is None, "the child drew on its parent's lease"
    os._exit(0 if meter.close(10) else 1)
assert os.waitpid(child, 0)[1] == 0
assert call(), "the child took its parent's lease away"
assert meter.close(10)
"""


def test_a_forked_child_has_none_of_its_parents_leases(rich):
    """It reserves for itself, and its end leaves the parent's lease alone."""
    arguments = [sys.executable, "-c", _FORKS, rich.sandbox.url, rich.sandbox.api_key, str(rich.path)]
    subprocess.run(arguments, check=True, timeout=60)
    assert {"spent": 6, "reserved": 0, "available": 99_994} == rich.books()


# Many at once.


def test_sixty_four_threads_and_tasks_on_leases_have_exact_books(leasing, rich):
    """Each call is charged once, whatever it drew on."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]

    def calls():
        for _ in range(5):
            call(rich, leasing, cost=2)

    threads = [threading.Thread(target=calls) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def tasks():
        async def one():
            for _ in range(5):
                async with leasing.reserve(rich.account, OPERATION, amount=5) as reservation:
                    await asyncio.sleep(0)
                    reservation.settle(3)

        await asyncio.gather(*(one() for _ in range(64)))

    asyncio.run(tasks())
    assert 3 + 640 + 960 == rich.settled(leasing)
    assert rich.counts()["reserve"] - before < 640
    assert [] == rich.named("uncollected")


def test_two_processes_on_one_postgres_journal_keep_to_one_tenth(rich, postgres_url):
    """What another one took ahead counts; each draws on its own, and what both drew is charged."""
    rich.control.account(rich.account, balance=1_000, ai_product_id="product_1")
    meters = [rich.meter(leases=True, journal=postgres_url) for _ in range(2)]
    for meter in meters:
        for _ in range(3):
            call(rich, meter, amount=20)
    until(lambda: rich.named("leased"))
    for _ in range(3):
        for meter in meters:
            call(rich, meter, amount=20)
        held = sum(row.amount - row.committed for row in rows_of(rich, meters[0]))
        assert held <= 100
    assert [True, True] == [meter.close(20) for meter in meters]
    assert {"spent": 12, "reserved": 0, "available": 988} == rich.books()


def test_a_lease_that_is_ended_while_calls_draw_on_it_carries_each_of_them(leasing, rich):
    """Whoever was let in is queued before its end: no call runs on a lease that is over, and is deducted then."""
    over = threading.Event()
    drawn = []

    def calls():
        while not over.is_set():
            with leasing.reserve(rich.account, OPERATION, amount=5) as reservation:
                reservation.settle(1)
            drawn.append(reservation.lease)

    threads = [threading.Thread(target=calls) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        until(lambda: leasing._engine.leases._live)
        leasing._engine.leases.end_all("flushed")
    over.set()
    for thread in threads:
        thread.join()
    assert len(drawn) == rich.settled(leasing)
    assert len({lease for lease in drawn if lease}) > 5
    assert "deduct" not in rich.counts()
