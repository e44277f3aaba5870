"""A meter on a fresh ledger, and short ways to ask what the ledger's own books say."""

import asyncio
import contextlib

import pytest

from countwerk_meter import Meter
from countwerk_meter._flow.events import EVENTS
from countwerk_meter.testing.journal_steps import Do, Look

from .leasing import leased
from .waiting import until

PRICES = {
    "profileVersionId": "test-1",
    "eurPerCredit": 0.01,
    "rateRules": [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.001},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 0.003},
        {"id": "special", "dimensionKey": "pages", "creditsPerUnit": 1, "attributesMatch": {"model": "reader"}},
    ],
}


class Bench:
    """A ledger with one account, and meters on it."""

    prices = PRICES

    def __init__(self, sandbox, tmp_path):
        self.sandbox = sandbox
        self.control = sandbox.control
        self.path = tmp_path / "journal.db"
        self.events = []
        self.meters = []
        self.account = "acct_1"
        self.control.account(self.account, balance=100, ai_product_id="product_1")

    def meter(self, **options):
        options.setdefault("journal", f"sqlite:///{self.path}")
        options.setdefault("prices", PRICES)
        options.setdefault("on_event", self.hear)
        meter = Meter("product_1", api_key=self.sandbox.api_key, base_url=self.sandbox.url, **options)
        self.meters.append(meter)
        return meter

    def hear(self, name, fields):
        self.events.append((name, dict(fields)))

    def books(self, account=None):
        books = self.control.books(account or self.account)
        assert books["balanced"]
        return {name: books[name] for name in ("spent", "reserved", "available")}

    def settled(self, meter):
        """Wait until nothing is due, and return what the ledger says was spent."""
        assert meter.flush(20)
        books = self.books()
        assert books["reserved"] == 0
        return books["spent"]

    def counts(self):
        return {path.rsplit("/", 1)[-1]: count for path, count in self.control.requests()["counts"].items()}

    def rows(self, meter, state):
        """The journal's reservations in a state."""
        return meter.journal.run(Look(lambda books: books.reservations(meter._engine.terms.ledger, {state}, 99)))

    def save(self, meter, row):
        meter.journal.run(Do(lambda books: books.save_reservation(row)))

    def named(self, event):
        return [fields for name, fields in self.events if name == event]


@pytest.fixture
def bench(countwerk_sandbox, tmp_path):
    bench = Bench(countwerk_sandbox, tmp_path)
    yield bench
    for meter in bench.meters:
        meter.close(1)
    for name, fields in bench.events:
        assert set(fields) <= set(EVENTS[name].fields), f"{name} says more than its table"


@pytest.fixture
def meter(bench):
    return bench.meter()


class Sync:
    """Runs one block in sync code."""

    name = "sync"

    def block(self, reservation, body):
        with reservation as entered:
            return body(entered)


class Async:
    """Runs one block in async code."""

    name = "async"

    def block(self, reservation, body):
        async def run():
            async with reservation as entered:
                return body(entered)

        return asyncio.run(run())


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def style(request):
    return request.param()


@pytest.fixture
def suppressed():
    return contextlib.suppress(RuntimeError)


@pytest.fixture
def rich(bench):
    """An account with enough for a lease of any size that is wanted."""
    bench.control.account(bench.account, balance=100_000, ai_product_id="product_1")
    return bench


@pytest.fixture
def leasing(rich):
    return rich.meter(leases=True)


@pytest.fixture
def poor(bench):
    """An account of 100 credits with a lease of 9 of them, or so."""
    meter = bench.meter(leases=True)
    lease = leased(bench, meter, amount=1)
    until(lambda: bench.books()["reserved"] == lease["amount"])
    return meter
