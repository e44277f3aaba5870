"""
Double-entry books over SQLite: the only code that moves credits.

The rule: every movement is one transaction whose postings sum to zero between the books earned, available, reserved
and spent, written in one SQL transaction with the running totals. The schema refuses what must not be: a negative
book, totals that do not add up, a changed posting, a reservation that ends twice, a usage event charged twice.
The books know credits and times; they know nothing of HTTP or of the contract's codes.
"""

import json
import secrets
import sqlite3
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Final, Literal

Kind = Literal["earn", "correction", "deduct", "reserve", "confirm", "cancel", "expire"]

# "cwSB": lets the sandbox recognise its own file, and leave anybody else's database alone.
_APPLICATION_ID: Final = 0x63775342
_VERSION: Final = 1

_ACCOUNT = """
SELECT account_id, ai_product_id, order_id, current_tier_product_id, earned, available, reserved, spent FROM accounts
"""
_RESERVATION = """
SELECT reservation_id, account_id, operation, amount, description, expires_at FROM reservations
"""


class InsufficientError(Exception):
    def __init__(self, required: int, available: int) -> None:
        super().__init__(f"{required} credits required, {available} available")
        self.required = required
        self.available = available


class OverageError(Exception):
    """More was to be confirmed than was reserved, and the ledger is set to refuse that."""


class NotABooksFileError(Exception):
    """The database file cannot be opened, or is not one that this sandbox wrote."""


@dataclass(frozen=True, slots=True)
class Account:
    account_id: str
    ai_product_id: str | None = None
    order_id: str | None = None
    current_tier_product_id: str | None = None
    earned: int = 0
    available: int = 0
    reserved: int = 0
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """A live reservation."""

    reservation_id: str
    account_id: str
    operation: str
    amount: int
    description: str | None
    expires_at: int


@dataclass(frozen=True, slots=True)
class Charge:
    """A deduction as it was first booked."""

    transaction_id: str
    balance: int
    amount: int
    operation: str
    description: str | None


class Books:
    """One SQLite database, at `path` or in memory. Callers serialise their calls; the connection may change threads."""

    def __init__(self, path: str | Path | None = None) -> None:
        # Autocommit, with explicit transactions below: what is atomic is then there to read.
        try:
            self.connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise NotABooksFileError(str(error)) from error
        self.close = weakref.finalize(self, self.connection.close)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Forget everything: an empty ledger with the clock at real time."""
        # Copied, page by page: a hundred times as fast as making the tables anew, and tests do it before each.
        self._empty.backup(self.connection)

    @cached_property
    def _empty(self) -> sqlite3.Connection:
        empty = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, empty.close)
        _lay_out(empty)
        return empty

    def account(self, account_id: str) -> Account:
        """Return an account; one that was never opened has nothing in any book."""
        row = self.connection.execute(_ACCOUNT + "WHERE account_id = ?", (account_id,)).fetchone()
        return Account(account_id) if row is None else Account(*row)

    def account_of_order(self, order_id: str) -> Account | None:
        row = self.connection.execute(_ACCOUNT + "WHERE order_id = ?", (order_id,)).fetchone()
        return None if row is None else Account(*row)

    def open_account(self, account: Account, now: int) -> None:
        """Open an account or change what is known about it. Its credits are not touched: see `set_available`."""
        known = (account.ai_product_id, account.order_id, account.current_tier_product_id)
        self.connection.execute(
            "INSERT INTO accounts (account_id, ai_product_id, order_id, current_tier_product_id, created_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (account_id) DO UPDATE SET ai_product_id = excluded.ai_product_id, "
            "order_id = excluded.order_id, current_tier_product_id = excluded.current_tier_product_id",
            (account.account_id, *known, now),
        )

    def set_available(self, account_id: str, target: int, now: int) -> None:
        """Bring the available credits to `target`: an earning when that is more, a correction when it is less."""
        difference = target - self.account(account_id).available
        if difference == 0:
            return
        with self._atomic():
            kind: Kind = "earn" if difference > 0 else "correction"
            self._post(account_id, kind, abs(difference), now, earned=-difference, available=difference)

    def expire(self, now: int) -> None:
        """Give back what is held by reservations whose time is over. Called before anything reads or moves credits."""
        overdue = self.connection.execute(
            _RESERVATION + "WHERE state = 'active' AND expires_at <= ? ORDER BY expires_at", (now,)
        ).fetchall()
        if not overdue:
            return
        with self._atomic():
            for row in overdue:
                hold = Hold(*row)
                self._end(hold, "expired")
                self._post_hold(hold, "expire", hold.amount, now, reserved=-hold.amount, available=hold.amount)

    def reserve(
        self, account_id: str, operation: str, amount: int, *, description: str | None, expires_at: int, now: int
    ) -> Hold:
        self._require(account_id, amount)
        hold = Hold("res_" + secrets.token_hex(16), account_id, operation, amount, description, expires_at)
        with self._atomic():
            self.connection.execute(
                "INSERT INTO reservations (reservation_id, account_id, operation, amount, description, created_at, "
                "expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (hold.reservation_id, account_id, operation, amount, description, now, expires_at),
            )
            self._post_hold(hold, "reserve", amount, now, available=-amount, reserved=amount)
        return hold

    def hold(self, reservation_id: str) -> Hold | None:
        """Return a reservation that is live; an ended or unknown one is None, and the two look the same."""
        row = self.connection.execute(
            _RESERVATION + "WHERE reservation_id = ? AND state = 'active'", (reservation_id,)
        ).fetchone()
        return None if row is None else Hold(*row)

    def account_of_reservation(self, reservation_id: str) -> str | None:
        """Return whose reservation it is, live or ended."""
        row = self.connection.execute(
            "SELECT account_id FROM reservations WHERE reservation_id = ?", (reservation_id,)
        ).fetchone()
        return None if row is None else row[0]

    def confirm(self, hold: Hold, amount: int, now: int, *, description: str | None, allow_overage: bool) -> None:
        """Charge `amount` for a live reservation and give the rest back, or take what lies beyond it."""
        rest = hold.amount - amount
        if rest < 0:
            if not allow_overage:
                raise OverageError
            self._require(hold.account_id, -rest)
        with self._atomic():
            self._end(hold, "confirmed", amount)
            self._post_hold(
                hold, "confirm", amount, now, description, reserved=-hold.amount, available=rest, spent=amount
            )

    def cancel(self, hold: Hold, reason: str | None, now: int) -> None:
        with self._atomic():
            self._end(hold, "cancelled")
            self._post_hold(hold, "cancel", hold.amount, now, reason, reserved=-hold.amount, available=hold.amount)

    def charged(self, account_id: str, usage_event_id: str) -> Charge | None:
        """Return what was booked for a usage event, if anything was."""
        row = self.connection.execute(
            "SELECT transaction_id, balance_after, amount, operation, description FROM transactions "
            "WHERE account_id = ? AND usage_event_id = ?",
            (account_id, usage_event_id),
        ).fetchone()
        return None if row is None else Charge(*row)

    def deduct(
        self,
        account_id: str,
        operation: str,
        amount: int,
        *,
        usage_event_id: str,
        description: str | None,
        metadata: dict[str, object] | None,
        now: int,
    ) -> Charge:
        self._require(account_id, amount)
        with self._atomic():
            transaction_id, balance = self._post(
                account_id,
                "deduct",
                amount,
                now,
                available=-amount,
                spent=amount,
                operation=operation,
                usage_event_id=usage_event_id,
                description=description,
                metadata=metadata,
            )
        return Charge(transaction_id, balance, amount, operation, description)

    def next_expiration(self, account_id: str) -> int | None:
        row = self.connection.execute(
            "SELECT MIN (expires_at) FROM reservations WHERE account_id = ? AND state = 'active'", (account_id,)
        ).fetchone()
        return row[0]

    @property
    def clock_offset(self) -> int:
        """How far this ledger's clock was moved, in milliseconds: kept with the books, whose times it explains."""
        return self.connection.execute("SELECT offset_ms FROM clock").fetchone()[0]

    @clock_offset.setter
    def clock_offset(self, milliseconds: int) -> None:
        self.connection.execute("UPDATE clock SET offset_ms = ?", (milliseconds,))

    def _prepare(self) -> None:
        db = self.connection
        try:
            (tables,) = db.execute("SELECT COUNT (*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            raise NotABooksFileError("not a SQLite database") from error
        mark = (db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0])
        if tables and mark != (_APPLICATION_ID, _VERSION):
            raise NotABooksFileError("a database of something else, or of another version of the sandbox")
        # Play money: it outlives the process, and need not outlive a power failure.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA foreign_keys = ON")
        if not tables:
            _lay_out(db)

    @contextmanager
    def _atomic(self) -> Generator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def _require(self, account_id: str, amount: int) -> None:
        available = self.account(account_id).available
        if available < amount:
            raise InsufficientError(amount, available)

    def _end(self, hold: Hold, state: str, actual_amount: int | None = None) -> None:
        self.connection.execute(
            "UPDATE reservations SET state = ?, actual_amount = ? WHERE reservation_id = ?",
            (state, actual_amount, hold.reservation_id),
        )

    def _post_hold(
        self,
        hold: Hold,
        kind: Kind,
        amount: int,
        now: int,
        description: str | None = None,
        *,
        available: int,
        reserved: int,
        spent: int = 0,
    ) -> None:
        self._post(
            hold.account_id,
            kind,
            amount,
            now,
            available=available,
            reserved=reserved,
            spent=spent,
            operation=hold.operation,
            reservation_id=hold.reservation_id,
            description=hold.description if description is None else description,
        )

    def _post(
        self,
        account_id: str,
        kind: Kind,
        amount: int,
        now: int,
        *,
        earned: int = 0,
        available: int = 0,
        reserved: int = 0,
        spent: int = 0,
        operation: str | None = None,
        usage_event_id: str | None = None,
        reservation_id: str | None = None,
        description: str | None = None,
        metadata: dict[str, object] | None = None,
    ) -> tuple[str, int]:
        """Book one movement inside the caller's SQL transaction. Return its id and the balance after it."""
        movement = {"earned": earned, "available": available, "reserved": reserved, "spent": spent}
        assert sum(movement.values()) == 0, "a movement takes from one book what it puts into another"
        db = self.connection
        db.execute(
            "UPDATE accounts SET earned = earned - ?, available = available + ?, reserved = reserved + ?, "
            "spent = spent + ? WHERE account_id = ?",
            (earned, available, reserved, spent, account_id),
        )
        balance: int = db.execute(
            "SELECT available + reserved FROM accounts WHERE account_id = ?", (account_id,)
        ).fetchone()[0]
        transaction_id = "txn_" + secrets.token_hex(16)
        number = db.execute(
            "INSERT INTO transactions (transaction_id, account_id, kind, operation, amount, usage_event_id, "
            "reservation_id, description, metadata, balance_after, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                transaction_id,
                account_id,
                kind,
                operation,
                amount,
                usage_event_id,
                reservation_id,
                description,
                None if metadata is None else json.dumps(metadata, ensure_ascii=False),
                balance,
                now,
            ),
        ).lastrowid
        db.executemany(
            "INSERT INTO postings (transaction_number, book, amount) VALUES (?, ?, ?)",
            [(number, book, part) for book, part in movement.items() if part],
        )
        return transaction_id, balance


def _lay_out(db: sqlite3.Connection) -> None:
    schema = resources.files(__package__ or "").joinpath("schema.sql").read_text(encoding="utf-8")
    db.executescript(
        f"BEGIN; {schema} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION}; COMMIT;"
    )
