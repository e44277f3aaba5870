"""The replay's accounting finds what does not add up: here the books are wrong on purpose."""

from decimal import Decimal

import pytest

from countwerk_meter._flow.states import ChargeState
from countwerk_meter.cli.replay.accounting import account_for
from countwerk_meter.cli.replay.ledgers import Statement, fault_plan
from countwerk_meter.cli.replay.traffic import Tally
from countwerk_meter.journal import MemoryJournal

LEDGER = "http://127.0.0.1:1"


@pytest.fixture
def journal(charge_row):
    """Two settled charges, of 3 and of 4 credits."""
    store = MemoryJournal()
    for row in (charge_row("event-3", 3), charge_row("event-4", 4)):
        store._books.save_charge(row)
    return store


@pytest.fixture
def charge_row():
    from countwerk_meter._flow.rows import ChargeRow

    def make(name, amount, state=ChargeState.SETTLED):
        return ChargeRow(
            id=name,
            ledger=LEDGER,
            principal="p",
            owner="o",
            account_id="ada",
            operation="app.call",
            created_at=10.0,
            state=state,
            amount=amount,
            share=amount,
            exact=str(Decimal(amount)),
        )

    return make


def judge(journal, books, *, calls=2, reserved=0, end=None, balanced=True):
    said = Statement(sum(sum(each) for each in books.values()), reserved, balanced, books)
    ended = Statement(said.spent, 0, balanced, books) if end is None else end
    return account_for(
        journal, LEDGER, {"ada": Tally(calls=calls, let_through=2, held=20)}, {"ada": said}, {"ada": ended}, 0.0
    )


def test_nothing_is_found_where_nothing_is_wrong(journal):
    """The total is the sum of the accounts."""
    result = judge(journal, {"event-3": [3], "event-4": [4]})
    assert ([], 7, 2) == (result.differences, result.total.charged, result.total.charged_calls)


@pytest.mark.parametrize(
    ("books", "found"),
    [
        ({"event-3": [3, 3], "event-4": [4]}, "event-3 is settled with 3 credits, and the books have [3, 3]"),
        ({"event-3": [3]}, "event-4 is settled with 4 credits, and the books have none"),
        ({"event-3": [4], "event-4": [3]}, "event-3 is settled with 3 credits, and the books have [4]"),
        ({"event-3": [3], "event-4": [4], "event-x": [1]}, "the books have [1] for event-x, unknown to the journal"),
    ],
)
def test_a_charge_that_differs_is_named(journal, books, found):
    """Twice, not at all, with another amount, or of nobody: even where the sums agree."""
    assert any(found in difference for difference in judge(journal, books).differences)


def test_a_call_that_is_nowhere_is_found(journal):
    """Every call is charged, refused or unavailable."""
    (difference,) = judge(journal, {"event-3": [3], "event-4": [4]}, calls=3).differences
    assert "ada: 3 calls, but 2 were charged, refused or unavailable" == difference


def test_a_hold_that_stays_is_found(journal):
    """Credits that are held and in nobody's doubt, and such as outlast every validity."""
    books = {"event-3": [3], "event-4": [4]}
    found = judge(journal, books, reserved=5, end=Statement(7, 5, balanced=True, by_id=books)).differences
    assert ["5 credits are still held, and only 0 are in doubt", "5 credits are still held after every validity"] == [
        difference.removeprefix("ada: ").removesuffix(" has passed") for difference in found
    ]


def test_books_that_do_not_balance_are_found(journal):
    """The ledger's own proof counts."""
    assert ["ada: its books do not balance"] == judge(
        journal, {"event-3": [3], "event-4": [4]}, balanced=False
    ).differences


def test_what_is_unresolved_may_be_charged_or_not(journal, charge_row):
    """It is listed, and a range: neither of the two is a difference."""
    journal._books.save_charge(charge_row("event-5", 5, ChargeState.UNRESOLVED))
    for extra in ({}, {"event-5": [5]}):
        result = judge(journal, {"event-3": [3], "event-4": [4], **extra}, calls=3)
        assert ([], 1, 5) == (result.differences, result.total.unresolved_charges, result.total.unresolved)


def test_the_faults_together_strike_at_the_rate_that_was_asked_for():
    """Drawn one after the other, each as often as any other."""
    left, shares = 1.0, []
    for fault in fault_plan(0.3):
        shares.append(left * fault["probability"])
        left -= shares[-1]
    assert (pytest.approx(0.7), [pytest.approx(0.05)] * 6) == (left, shares)
    assert [] == fault_plan(0.0)
