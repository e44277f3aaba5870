"""Under `carry` an account's fraction is one number, whoever charges: threads, processes, machines (rule 11)."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from countwerk_meter import Usage

_WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from countwerk_meter import Meter, Usage
url, key, journal, prices, seed = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=journal, prices=json.loads(prices), rounding="carry",
              reserve_timeout=60)

def call(number):
    with meter.reserve("acct_1", "app.chat", amount=2) as reservation:
        reservation.record(Usage(input_tokens=(int(seed) * 397 + number * 613) % 1500))

with ThreadPoolExecutor(8) as pool:
    list(pool.map(call, range(25)))
assert meter.close(60)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def shared_journal(request, tmp_path):
    return f"sqlite:///{tmp_path}/journal.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def test_four_processes_charge_within_a_credit_of_the_exact_total(shared_journal, bench):
    """A hundred calls of up to one and a half credits, eight threads a process."""
    bench.control.account(bench.account, balance=1000, ai_product_id="product_1")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, bench.sandbox.url, bench.sandbox.api_key, shared_journal,
             json.dumps(bench.prices), str(seed)],
        )
        for seed in range(4)
    ]  # fmt: skip
    assert [0] * 4 == [worker.wait(100) for worker in workers]
    tokens = sum((seed * 397 + number * 613) % 1500 for seed in range(4) for number in range(25))
    exact = tokens * Decimal("0.001")
    assert int(exact) == bench.books()["spent"]
    assert 0 == bench.books()["reserved"]
    meter = bench.meter(journal=shared_journal, rounding="carry")
    charges = meter.charges("settled")
    assert 100 == len({charge.usage_event_id for charge in charges if charge.parent is None})
    assert exact == sum(Decimal(charge.exact) for charge in charges if charge.parent is None)
    # What is carried on is in the next charge: with one that completes it, a whole credit more is due.
    with meter.reserve(bench.account, "app.chat", amount=2) as reservation:
        reservation.record(Usage(input_tokens=1000 - tokens % 1000))
    assert int(exact) + 1 == bench.settled(meter)
