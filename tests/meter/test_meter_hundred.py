"""A hundred calls at once on a balance for ten: ten run, ninety are refused before they run, the books are exact."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from countwerk_meter import InsufficientCreditsError

CALLS, PRICE, FOR = 100, 7, 10

_WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from countwerk_meter import InsufficientCreditsError, Meter
url, key, journal, calls, price = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=journal, reserve_timeout=60)
ran = []

def call(_):
    try:
        with meter.reserve("acct_1", "app.chat", amount=int(price)):
            ran.append(1)
    except InsufficientCreditsError:
        return 1
    return 0

print("ready", flush=True)
if not sys.stdin.readline():
    sys.exit("not told to go")
with ThreadPoolExecutor(int(calls)) as pool:
    refused = sum(pool.map(call, range(int(calls))))
closed = meter.close(60)
print(json.dumps([len(ran), refused, closed]))
"""


@pytest.fixture(params=["sqlite", "postgres"])
def shared_journal(request, tmp_path):
    """A journal that several processes share, by its URL."""
    return f"sqlite:///{tmp_path}/journal.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def rich(bench):
    """The account has credits for ten calls, and a few that make no call."""
    bench.control.account(bench.account, balance=FOR * PRICE + PRICE - 1, ai_product_id="product_1")
    return bench


def exact(bench):
    """What the ledger's books say in the end."""
    assert {"spent": FOR * PRICE, "reserved": 0, "available": PRICE - 1} == bench.books()


def test_a_hundred_threads(shared_journal, rich):
    """Sync."""
    meter = rich.meter(reserve_timeout=60, journal=shared_journal)
    ran = []

    def call(_):
        try:
            with meter.reserve(rich.account, "app.chat", amount=PRICE):
                ran.append(1)
        except InsufficientCreditsError:
            return 1
        return 0

    with ThreadPoolExecutor(CALLS) as pool:
        refused = sum(pool.map(call, range(CALLS)))
    assert (FOR, CALLS - FOR) == (len(ran), refused)
    assert FOR * PRICE == rich.settled(meter)
    exact(rich)


async def test_a_hundred_tasks(shared_journal, rich):
    """Async."""
    meter = rich.meter(reserve_timeout=60, journal=shared_journal)
    ran = []

    async def call():
        try:
            async with meter.reserve(rich.account, "app.chat", amount=PRICE):
                ran.append(1)
        except InsufficientCreditsError:
            return 1
        return 0

    refused = sum(await asyncio.gather(*(call() for _ in range(CALLS))))
    assert (FOR, CALLS - FOR) == (len(ran), refused)
    assert FOR * PRICE == rich.settled(meter)
    exact(rich)


def test_four_processes_that_share_a_journal(shared_journal, rich):
    """Twenty-five threads each."""
    arguments = [rich.sandbox.url, rich.sandbox.api_key, shared_journal, str(CALLS // 4), str(PRICE)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert ["ready\n"] * 4 == [worker.stdout.readline() for worker in workers]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [json.loads(worker.communicate(timeout=100)[0]) for worker in workers]
    assert [FOR, CALLS - FOR, 4] == [sum(column) for column in zip(*told, strict=True)]
    exact(rich)
