"""The first confirm is opened with the commit where it leaves at once, and nowhere else (money rules 4 and 7)."""

import time

import pytest

from countwerk_meter._flow.states import ReservationState
from countwerk_meter.journal import MemoryJournal, SqliteJournal

CONFIRM = "/api/credits/confirm-reservation"


class Noting(SqliteJournal):
    """Notes which steps are carried out that write."""

    def __init__(self, path):
        self.steps = []
        super().__init__(path)

    def submit(self, operation):
        if not operation.reads:
            self.steps.append(type(operation).__name__)
        return super().submit(operation)


def charge(bench, meter, amount=5):
    with meter.reserve(bench.account, "app.chat.reply", amount=amount):
        pass


def warmed(bench, meter):
    """A thread that has settled one call is there for the next."""
    charge(bench, meter)
    assert meter.flush(20)
    return meter


@pytest.mark.parametrize("settlement", ["background", "inline"])
def test_a_call_is_four_steps_of_the_journal(bench, tmp_path, settlement):
    """The commit opens the confirm: no step, and no sync, lies between the two."""
    journal = Noting(tmp_path / "own.db")
    meter = warmed(bench, bench.meter(journal=journal, settlement=settlement))
    journal.steps.clear()
    charge(bench, meter)
    assert 10 == bench.settled(meter)
    assert ["Begin", "MarkHeld", "Commit", "Confirmed"] == [name for name in journal.steps if name != "SaveHistory"]


def test_an_outage_leaves_no_attempts_open(bench):
    """While the ledger is probed, a commit opens nothing: what waits expires into deducts (money rule 12)."""
    meter = warmed(bench, bench.meter())
    calls = [meter.reserve(bench.account, "app.chat.reply", amount=5) for _ in range(4)]
    for call in calls:
        call.begin()
    bench.control.faults(
        [{"path": path, "kind": "drop_before", "times": 99} for path in (CONFIRM, "/api/credits/balance")]
    )
    calls[0].finish()
    deadline = time.monotonic() + 10
    while meter._engine.settlement._probing is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for call in calls[1:]:
        call.finish()
    rows = bench.rows(meter, ReservationState.CLOSING)
    assert [0, 0, 0, 1] == sorted(row.confirms_open for row in rows)
    bench.control.faults([])
    assert 25 == bench.settled(meter)


def test_a_confirm_that_cannot_leave_any_more_is_closed_again(bench):
    """The thread ends between the commit and the confirm: its attempt was never sent, and is not in doubt."""
    meter = warmed(bench, bench.meter())
    with meter.reserve(bench.account, "app.chat.reply", amount=5):
        settlement = meter._engine.settlement
        free, settlement.free = settlement.free, lambda account_id: True
        settlement.stop(5)
    settlement.free = free
    (row,) = bench.rows(meter, ReservationState.CLOSING)
    assert (1, 0, False) == (row.confirms, row.confirms_open, row.confirm_delivered)
    assert meter._engine.flush(10, inline=True)
    assert ["settled"] * 2 == [each.state for each in meter.charges()]
    assert 10 == bench.books()["spent"]


def test_a_confirm_that_waited_past_its_hold_does_not_leave(bench):
    """It was alive when its attempt was opened, and is not when its turn comes: the charge becomes a deduct."""
    meter = warmed(bench, bench.meter())
    settlement, depart = meter._engine.settlement, meter._engine.settlement._depart
    settlement._depart = lambda: None
    charge(bench, meter)
    bench.control.advance(16 * 60)
    # The ledger says so with its next answer.
    with meter.reserve(bench.account, "app.chat.reply", amount=1):
        pass
    settlement._depart = depart
    assert 11 == bench.settled(meter)
    assert bench.counts()["deduct"] == 1
    assert bench.named("converted")


def test_a_commit_that_could_not_be_written_opens_nothing(bench):
    """Written late, its confirm does not leave at once: it is found as due (money rule 7)."""

    class Full(MemoryJournal):
        failing = False

        def submit(self, operation):
            if self.failing and type(operation).__name__ == "Commit":
                self._closed = True
                try:
                    return super().submit(operation)
                finally:
                    self._closed = False
            return super().submit(operation)

    journal = Full()
    meter = warmed(bench, bench.meter(journal=journal))
    with meter.reserve(bench.account, "app.chat.reply", amount=5):
        journal.failing = True
    ((operation, _),) = meter._engine.commits._kept.values()
    assert operation.leaves is None
    journal.failing = False
    assert 10 == bench.settled(meter)
