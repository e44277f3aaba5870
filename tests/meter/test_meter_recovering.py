"""Recovery while the meter runs: dead processes, hung ones, other keys, other ledgers."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time

import pytest

from countwerk_meter import Meter, Usage
from countwerk_meter._flow.recover import OVERDUE_AFTER, Recovered
from countwerk_meter._flow.states import ReservationState
from countwerk_meter._metering import settlement

from .waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")

_VICTIM = """
import os, signal, sys
from countwerk_meter import Meter, Usage
url, key, path, recorded = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}")
block = meter.reserve("acct_1", "app.chat.reply", amount=5).begin()
if recorded == "checkpoint":
    block.settle(3)
    block.checkpoint()
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def victim(bench):
    """A process that is in the middle of a call, until it is killed."""
    processes = []

    def start(recorded="checkpoint"):
        process = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, bench.sandbox.url, bench.sandbox.api_key, str(bench.path), recorded],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert "ready\n" == process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=30)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(30)


@pytest.fixture
def soon(monkeypatch):
    """Look for dead processes every tenth of a second."""
    monkeypatch.setattr(settlement, "RECOVER_SECONDS", 0.1)


def test_a_process_that_dies_while_another_lives_is_recovered_by_it(bench, victim, soon):
    """No restart and no command: the other one sees it, charges the checkpoint, and tells of the call."""
    process = victim()
    bench.meter()
    kill(process)
    until(lambda: bench.books() == {"spent": 3, "reserved": 0, "available": 97})
    (told,) = bench.named("crashed")
    assert ("committed", 3, "set", "its process died") == tuple(told[k] for k in ("state", "amount", "basis", "reason"))
    assert [{"closed": 1, "resumed": 1, "orphans": 0}] == bench.named("recovered")


def test_usage_that_nobody_knows_is_lost_and_told(bench, victim, soon):
    """Nothing is charged, the hold goes back, and the call stays listed."""
    process = victim("nothing")
    meter = bench.meter()
    kill(process)
    until(lambda: bench.books() == {"spent": 0, "reserved": 0, "available": 100})
    (told,) = bench.named("crashed")
    assert ("lost", 0) == (told["state"], told["amount"])
    assert ["lost"] == [charge.state for charge in meter.charges("lost")]


def test_a_living_process_is_left_alone(bench, victim, soon):
    """Its call goes on."""
    victim()
    meter = bench.meter()
    time.sleep(0.5)
    assert [] == bench.named("recovered")
    assert {"spent": 0, "reserved": 5, "available": 95} == bench.books()
    assert ["open"] == [charge.state for charge in meter.charges()]


def test_several_recoverers_take_each_row_once(bench, victim):
    """Eight at once, over what three processes left."""
    victims = [victim() for _ in range(3)]
    meters = [bench.meter() for _ in range(8)]
    for process in victims:
        kill(process)
    together = threading.Barrier(len(meters))
    taken = []

    def recover(meter):
        together.wait(10)
        taken.append(meter.recover())

    threads = [threading.Thread(target=recover, args=(meter,)) for meter in meters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (3, 3) == (sum(one.closed for one in taken), sum(one.resumed for one in taken))
    until(lambda: bench.books() == {"spent": 9, "reserved": 0, "available": 91})


def test_an_inline_meter_recovers_too(bench, victim, monkeypatch):
    """It has no thread: it looks when it settles."""
    from countwerk_meter._metering import inline

    monkeypatch.setattr(inline, "RECOVER_SECONDS", 0.0)
    process = victim()
    meter = bench.meter(settlement="inline")
    kill(process)
    with meter.reserve("acct_1", "app.chat.reply", amount=2):
        pass
    assert 5 == bench.settled(meter)


def test_a_row_that_its_living_owner_leaves_alone_is_taken(bench, soon):
    """An open reservation is recovered at its expiry whoever owns it; what its call then costs is deducted."""
    owner = bench.meter(settlement="inline")
    block = owner.reserve("acct_1", "app.chat.reply", amount=5).begin()
    block.record(Usage(input_tokens=2000))
    (row,) = bench.rows(owner, ReservationState.HELD)
    bench.save(owner, dataclasses.replace(row, due_at=time.time() - OVERDUE_AFTER - 1))
    bench.control.advance(3600)
    other = bench.meter()
    until(lambda: bench.rows(other, ReservationState.EXPIRED))
    (taken,) = bench.rows(other, ReservationState.EXPIRED)
    assert (other._engine.terms.owner, row.epoch + 1) == (taken.owner, taken.epoch)
    block.finish()
    assert owner.flush(10)
    assert {"spent": 2, "reserved": 0, "available": 98} == bench.books()


def test_rows_of_another_key_are_not_touched(bench, victim):
    """Nothing proves that two keys see the same accounts: a deduct under the wrong one would charge somebody else."""
    kill(victim())
    sent = bench.counts()
    with Meter(
        "product_1", api_key="cs_another", base_url=bench.sandbox.url, journal=f"sqlite:///{bench.path}"
    ) as other:
        assert Recovered() == other.recover()
        assert ["open"] == [charge.state for charge in other.charges()]
        assert other.flush(5)
    assert sent == bench.counts()
    assert {"spent": 0, "reserved": 5, "available": 95} == bench.books()


def test_rows_of_another_ledger_are_not_touched(bench, victim):
    """The same journal, another base URL: nothing is replayed there."""
    kill(victim())
    elsewhere = bench.sandbox.url.replace("127.0.0.1", "localhost")
    with Meter("product_1", api_key=bench.sandbox.api_key, base_url=elsewhere, journal=f"sqlite:///{bench.path}") as it:
        assert Recovered() == it.recover()
        assert [] == it.charges()
        assert it.flush(5)
    assert {"spent": 0, "reserved": 5, "available": 95} == bench.books()
