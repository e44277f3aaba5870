"""The books balance, whatever happens, and the proof of it notices when they do not."""

import json
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from countwerk_meter.sandbox import NotABooksFileError, SandboxApp, create_app
from countwerk_meter.sandbox.audit import is_balanced, statement
from countwerk_meter.sandbox.books import Account, Books, InsufficientError, OverageError

ACCOUNTS = st.sampled_from(["a", "b"])
AMOUNTS = st.integers(1, 60)
EVENTS = st.sampled_from(["e1", "e2", "e3", "e4"])


@pytest.fixture
def books():
    """Books in memory with an account of 100 credits."""
    books = Books()
    books.open_account(Account("acct"), 0)
    books.set_available("acct", 100, 0)
    yield books
    books.close()


def hold(books, amount=10, expires_at=1000):
    return books.reserve("acct", "app.chat", amount, description=None, expires_at=expires_at, now=0)


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of requests, beside a model that knows only arithmetic."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_700_000_000.0
        self.app: SandboxApp = create_app(now=lambda: self.seconds)
        self.ledger = self.app.ledger
        self.available: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.held: dict[str, tuple[str, int, float]] = {}
        self.charged: dict[tuple[str, str], dict] = {}
        self.overage = False

    def teardown(self) -> None:
        self.app.close()

    def ask(self, endpoint: str, **body: object) -> tuple[int, dict]:
        answer = self.ledger.answer(f"/api/credits/{endpoint}", b"cs_sandbox", body)
        return answer.status, json.loads(answer.body)

    def expire(self) -> None:
        for reservation_id, (account, amount, until) in list(self.held.items()):
            if until <= self.seconds:
                del self.held[reservation_id]
                self.available[account] += amount

    @initialize()
    def open(self) -> None:
        for account in ("a", "b"):
            self.refill(account, 100)

    @rule(account=ACCOUNTS, balance=st.integers(0, 200))
    def refill(self, account: str, balance: int) -> None:
        books, now = self.ledger.books, self.ledger.clock.now_ms()
        books.expire(now)
        self.expire()
        books.open_account(replace(books.account(account)), now)
        books.set_available(account, balance, now)
        self.available[account] = balance

    @rule(target=holds, account=ACCOUNTS, amount=AMOUNTS, minutes=st.integers(1, 30))
    def reserve(self, account: str, amount: int, minutes: int) -> str:
        self.expire()
        status, answer = self.ask(
            "reserve", account_id=account, operation="app.chat", amount=amount, validityMinutes=minutes
        )
        assert status == (200 if amount <= self.available[account] else 402)
        if status != 200:
            return "res_refused"
        reservation_id = answer["data"]["reservationId"]
        self.available[account] -= amount
        self.held[reservation_id] = (account, amount, self.seconds + 60 * minutes)
        return reservation_id

    @rule(reservation_id=holds, actual=st.none() | st.integers(0, 80))
    def confirm(self, reservation_id: str, actual: int | None) -> None:
        self.expire()
        status, _ = self.ask("confirm-reservation", reservationId=reservation_id, actualAmount=actual)
        if actual == 0:
            assert status == 400
            return
        if reservation_id not in self.held:
            assert status == 404
            return
        account, amount, _ = self.held[reservation_id]
        charge = amount if actual is None else actual
        excess = charge - amount
        if excess > 0 and not self.overage:
            assert status == 400
        elif excess > self.available[account]:
            assert status == 402
        else:
            assert status == 200
            del self.held[reservation_id]
            self.available[account] -= excess
            self.spent[account] += charge

    @rule(reservation_id=consumes(holds))
    def cancel(self, reservation_id: str) -> None:
        self.expire()
        status, _ = self.ask("cancel-reservation", reservationId=reservation_id)
        assert status == (200 if reservation_id in self.held else 404)
        if reservation_id in self.held:
            account, amount, _ = self.held.pop(reservation_id)
            self.available[account] += amount

    @rule(account=ACCOUNTS, amount=AMOUNTS, event=EVENTS)
    def deduct(self, account: str, amount: int, event: str) -> None:
        self.expire()
        status, answer = self.ask(
            "deduct", account_id=account, operation="app.chat", amount=amount, usage_event_id=event
        )
        if (account, event) in self.charged:
            assert (200, self.charged[account, event]) == (status, answer["data"])
        elif amount > self.available[account]:
            assert status == 402
        else:
            assert status == 200
            self.charged[account, event] = answer["data"]
            self.available[account] -= amount
            self.spent[account] += amount

    @rule(minutes=st.integers(0, 40))
    def wait(self, minutes: int) -> None:
        self.seconds += 60 * minutes

    @rule(allow=st.booleans())
    def allow_overage(self, allow: bool) -> None:
        self.ledger.settings.update({"overage": "allow" if allow else "reject"})
        self.overage = allow

    @invariant()
    def books_balance(self) -> None:
        self.ledger.books.expire(self.ledger.clock.now_ms())
        self.expire()
        assert is_balanced(self.ledger.books)
        for name in ("a", "b"):
            account = self.ledger.books.account(name)
            reserved = sum(amount for owner, amount, _ in self.held.values() if owner == name)
            assert (self.available[name], reserved, self.spent[name]) == (
                account.available,
                account.reserved,
                account.spent,
            )
            assert account.earned == account.available + account.reserved + account.spent


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


def test_every_movement_sums_to_zero(books):
    """Each kind of transaction takes from one book what it puts into another."""
    books.confirm(hold(books), 4, 1, description=None, allow_overage=False)
    books.cancel(hold(books), None, 2)
    hold(books, expires_at=5)
    books.expire(5)
    books.deduct("acct", "app.chat", 7, usage_event_id="e", description=None, metadata=None, now=6)
    books.set_available("acct", 50, 7)
    kinds = books.connection.execute(
        "SELECT t.kind, SUM (p.amount) FROM transactions t JOIN postings p ON p.transaction_number = t.number "
        "GROUP BY t.kind ORDER BY t.kind"
    ).fetchall()

    assert [(kind, 0) for kind in ("cancel", "confirm", "correction", "deduct", "earn", "expire", "reserve")] == kinds
    assert is_balanced(books)


def test_a_correction_is_a_transaction_of_its_own(books):
    """A lower balance books a correction; the same balance books nothing."""
    books.set_available("acct", 100, 1)
    books.set_available("acct", 30, 2)
    lines = [(t["kind"], t["amount"]) for t in statement(books, "acct", 3)["transactions"]]

    assert lines == [("earn", 100), ("correction", 70)]
    assert (books.account("acct").earned, books.account("acct").available) == (30, 30)


@pytest.mark.parametrize(
    "tampering",
    [
        "INSERT INTO postings VALUES (1, 'spent', 1)",
        "UPDATE accounts SET available = available + 1, earned = earned + 1",
        "UPDATE reservations SET state = 'cancelled'",
        (
            "INSERT INTO transactions SELECT 99, 'txn_x', account_id, kind, operation, amount, NULL, NULL, NULL, NULL, "
            "0, 0 FROM transactions WHERE number = 1"
        ),
    ],
    ids=["posting", "total", "hold", "empty-transaction"],
)
def test_the_proof_notices(books, tampering):
    """A stray posting, a changed total, a lost hold or an empty transaction is seen by both proofs."""
    hold(books)
    assert is_balanced(books)
    assert is_balanced(books, "acct")

    books.connection.execute(tampering)

    assert not is_balanced(books)
    assert not is_balanced(books, "acct")


@pytest.mark.parametrize(
    "forbidden",
    [
        "UPDATE transactions SET amount = 1",
        "DELETE FROM transactions",
        "UPDATE postings SET amount = 1",
        "DELETE FROM postings",
        "UPDATE accounts SET available = available + 1",
        "UPDATE accounts SET available = available - 200, spent = spent + 200",
        (
            "INSERT INTO transactions SELECT 99, 'txn_x', account_id, kind, operation, amount, usage_event_id, "
            "NULL, NULL, NULL, 0, 0 FROM transactions WHERE kind = 'deduct'"
        ),
    ],
)
def test_the_schema_refuses_what_must_not_be(books, forbidden):
    """History cannot change, no book goes below zero, no usage event is charged twice."""
    books.deduct("acct", "app.chat", 7, usage_event_id="e", description=None, metadata=None, now=6)

    with pytest.raises(sqlite3.IntegrityError):
        books.connection.execute(forbidden)


def test_a_reservation_cannot_end_twice(books):
    """The schema holds it even where the code does not ask first."""
    ended = hold(books)
    books.cancel(ended, None, 1)

    with pytest.raises(sqlite3.IntegrityError, match="ends once"):
        books.confirm(ended, 1, 2, description=None, allow_overage=False)
    assert is_balanced(books)


def test_a_failed_movement_leaves_nothing_behind(books):
    """A movement that the schema refuses half way is rolled back whole."""
    before = statement(books, "acct", 0)
    live = hold(books)
    with pytest.raises(OverageError):
        books.confirm(live, 11, 1, description=None, allow_overage=False)
    with pytest.raises(InsufficientError):
        books.confirm(live, 200, 1, description=None, allow_overage=True)
    books.cancel(live, None, 1)

    assert before["available"] == books.account("acct").available


def test_books_in_a_file_outlive_the_process(tmp_path):
    """Accounts, holds and the moved clock are there again; settings and faults are not."""
    path = tmp_path / "ledger.db"
    first = Books(path)
    first.open_account(Account("acct", order_id="ORDER_1"), 0)
    first.set_available("acct", 100, 0)
    kept = hold(first)
    first.clock_offset = 5000
    first.close()
    second = Books(path)

    assert kept == second.hold(kept.reservation_id)
    assert second.account_of_order("ORDER_1").account_id == "acct"
    assert second.clock_offset == 5000
    second.reset()
    assert (second.clock_offset, second.account_of_order("ORDER_1")) == (0, None)
    second.close()


def test_foreign_files_are_left_alone(tmp_path):
    """A database of something else, a file that is no database and a missing folder are all refused."""
    other, text = tmp_path / "other.db", tmp_path / "text.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE precious (x)")
    connection.close()
    text.write_text("not a database, but long enough to be taken for the header of one, as these go" * 20)

    for path, why in ((other, "something else"), (text, "not a SQLite"), (tmp_path / "no" / "x.db", "open")):
        with pytest.raises(NotABooksFileError, match=why):
            Books(path)
    assert other.read_bytes()[:16] == b"SQLite format 3\0"
