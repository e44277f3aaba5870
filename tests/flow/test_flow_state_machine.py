"""
The state machine, over every store and every driver.

`COUNTWERK_TEST_DEEP=1` runs more, from a seed that it prints; `COUNTWERK_TEST_SEED=n` runs from that one again.
"""

import os
import random
from itertools import count

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from countwerk_meter.journal import MemoryJournal, SqliteJournal
from countwerk_meter.journal.postgres import PostgresJournal

from .machine import Machine

DEEP = bool(os.environ.get("COUNTWERK_TEST_DEEP"))
SEED = int(os.environ.get("COUNTWERK_TEST_SEED", random.randrange(10**6) if DEEP else 1))


@pytest.fixture
def store(request, tmp_path):
    """A journal; every example has a ledger of its own in it, so that one serves them all."""
    if request.param == "memory":
        yield MemoryJournal()
        return
    if request.param == "postgres":
        journal = PostgresJournal(request.getfixturevalue("postgres_url"))
    else:
        journal = SqliteJournal(tmp_path / "journal.db", synchronous=False)
    yield journal
    journal.close()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.timeout(3600 if DEEP else 120)
@pytest.mark.parametrize(
    ("store", "driver", "examples"),
    [
        ("memory", "simulated", 100),
        ("memory", "sync", 60),
        ("memory", "async", 60),
        ("sqlite", "sync", 30),
        ("sqlite", "async", 30),
        ("postgres", "sync", 10),
        ("postgres", "async", 10),
    ],
    indirect=["store"],
)
def test_flows_keep_the_invariants_whatever_happens(store, driver, examples, make_world, tell):
    """Lost requests and answers, refusals, delays, expiries, full disks, crashes and cancellations, in any order."""
    numbers = count()

    class Bound(Machine):
        def make(self):
            return make_world(store, driver, f"https://ledger{next(numbers)}.test")

    run_state_machine_as_test(
        seed(SEED)(Bound),
        settings=settings(
            max_examples=examples * (24 if DEEP else 1),
            stateful_step_count=60 if DEEP else 50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Bound.examples >= examples
    tell(f"state machine: {store.name}, {driver}: {Bound.examples} examples, seed {SEED}")
