"""A meter on a PostgreSQL journal: machines that share it, processes that die, a server that throws them out."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from countwerk_meter import CountwerkError
from countwerk_meter._metering import settlement
from countwerk_meter.journal.postgres import PostgresJournal

from .waiting import until

LEASE = 1.5

_VICTIM = """
import os, signal, sys
from countwerk_meter import Meter
from countwerk_meter.journal.postgres import PostgresJournal
url, key, journal, recorded, lease = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=PostgresJournal(journal, lease=float(lease)))
block = meter.reserve("acct_1", "app.chat.reply", amount=5, usage_event_id="theirs").begin()
if recorded == "checkpoint":
    block.settle(3)
    block.checkpoint()
print("ready", flush=True)
sys.stdin.readline()
block.finish()
print("closed", meter.close(20), flush=True)
"""


@pytest.fixture
def shared(postgres_url):
    """The journal, first set up: whoever uses it is closed before its tables are dropped."""
    return postgres_url


@pytest.fixture
def journals(shared):
    """Open the journal as another machine would; closed at the end, after the meters."""
    opened = []

    def make(lease=LEASE):
        opened.append(PostgresJournal(shared, lease=lease))
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


@pytest.fixture
def victim(shared, bench):
    """A process on another machine, in the middle of a call."""
    processes = []

    def start(recorded="checkpoint"):
        arguments = [bench.sandbox.url, bench.sandbox.api_key, shared, recorded, str(LEASE)]
        process = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert "ready\n" == process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def soon(monkeypatch):
    """Look for dead owners every tenth of a second."""
    monkeypatch.setattr(settlement, "RECOVER_SECONDS", 0.1)


def test_calls_are_settled(journals, bench, style):
    """Sync and async, from the URL's own journal."""
    meter = bench.meter(journal=journals())
    style.block(meter.reserve(bench.account, "app.chat", amount=5), lambda reservation: reservation.settle(2))
    assert 2 == bench.settled(meter)
    assert ["settled"] == [charge.state for charge in meter.charges()]


def test_a_killed_process_is_recovered_by_another_machine(journals, bench, victim, soon):
    """Its lease runs out, by the database's clock; its checkpoint is charged."""
    process = victim()
    bench.meter(journal=journals())
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    until(lambda: bench.books() == {"spent": 3, "reserved": 0, "available": 97})
    (told,) = bench.named("crashed")
    assert ("theirs", "committed", 3) == tuple(told[name] for name in ("usage_event_id", "state", "amount"))


def test_a_living_process_is_left_alone(journals, bench, victim, soon):
    """It beats, and ends its call itself."""
    process = victim()
    bench.meter(journal=journals())
    time.sleep(2 * LEASE)
    process.stdin.write("\n")
    process.stdin.flush()
    assert "closed True\n" == process.stdout.readline()
    assert {"spent": 3, "reserved": 0, "available": 97} == bench.books()
    assert [] == bench.named("crashed")


def test_a_stopped_process_that_goes_on_after_its_lease_loses_nothing(journals, bench, victim, soon):
    """What recovery left out is deducted under `<id>.late`, once (money rule 15)."""
    process = victim(recorded="nothing")
    process.send_signal(signal.SIGSTOP)
    meter = bench.meter(journal=journals())
    until(lambda: bench.named("crashed"))
    assert 0 == bench.settled(meter)
    process.send_signal(signal.SIGCONT)
    process.stdin.write("\n")
    process.stdin.flush()
    assert "closed True\n" == process.stdout.readline()
    assert {"spent": 5, "reserved": 0, "available": 95} == bench.books()
    assert {"theirs": "cancelled", "theirs.late": "settled"} == {
        charge.usage_event_id: charge.state for charge in meter.charges()
    }


def test_backends_that_are_terminated_all_the_time_cost_nothing_and_lose_nothing(shared, journals, bench):
    """Forty calls, sync and async, while every connection of the journal is cut every few hundredths of a second."""
    meter = bench.meter(journal=journals(lease=30), reserve_timeout=20)
    over = threading.Event()

    def cut():
        with psycopg.connect(shared, autocommit=True, application_name="admin") as admin:
            while not over.wait(0.04):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'countwerk-meter'"
                )

    cutter = threading.Thread(target=cut)
    cutter.start()
    ran = []

    async def call():
        try:
            async with meter.reserve(bench.account, "app.async", amount=3) as reservation:
                ran.append(reservation.usage_event_id)
                reservation.settle(2)
        except CountwerkError:
            return

    async def calls():
        await asyncio.gather(*(call() for _ in range(20)))

    try:
        asyncio.run(calls())
        for _ in range(20):
            try:
                with meter.reserve(bench.account, "app.sync", amount=3) as reservation:
                    ran.append(reservation.usage_event_id)
                    reservation.settle(2)
            except CountwerkError:
                continue
    finally:
        over.set()
        cutter.join()
    assert 20 < len(ran)
    assert meter.flush(30)
    # A hold whose gate gave up in doubt ends with its validity; nothing else is left.
    bench.control.advance(3600)
    assert 2 * len(ran) == bench.books()["spent"]
    assert {*ran} == {charge.usage_event_id for charge in meter.charges("settled")}


_FORKS = """
import os, sys
from countwerk_meter import Meter
url, key, journal = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=journal)
meter.deduct("acct_1", "app.parent", 2)
child = os.fork()
meter.deduct("acct_1", "app.both", 3)
assert meter.close(20)
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""


def test_a_forked_child_has_a_connection_and_an_owner_of_its_own(shared, bench):
    """gunicorn preload: neither disturbs the other."""
    arguments = ["-W", "ignore:This process:DeprecationWarning", "-c", _FORKS]
    done = subprocess.run(
        [sys.executable, *arguments, bench.sandbox.url, bench.sandbox.api_key, shared],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert {"spent": 8, "reserved": 0, "available": 92} == bench.books()
