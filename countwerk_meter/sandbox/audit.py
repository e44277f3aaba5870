"""
Reading the books: statements for auditors, the proof that they balance, the overview for the page.

The rule: nothing here writes. The proof is SQL over the postings (the views in schema.sql), not a second opinion
kept in Python.
"""

import json
import sqlite3
from typing import TYPE_CHECKING

from countwerk_meter.sandbox.books import Books
from countwerk_meter.sandbox.clock import iso
from countwerk_meter.sandbox.contract import JsonObject

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNBALANCED = "SELECT COUNT (*) FROM unbalanced_transactions"
_DIFFERING = """
SELECT COUNT (*) FROM posted_totals
WHERE NOT (earned = posted_earned AND available = posted_available AND reserved = posted_reserved
           AND spent = posted_spent AND held = reserved)
"""
_RESERVATIONS = """
SELECT reservation_id, account_id, operation, amount, state, actual_amount, expires_at, description, created_at
FROM reservations
"""
_TRANSACTIONS = """
SELECT transaction_id, account_id, kind, operation, amount, usage_event_id, reservation_id, description, metadata,
       balance_after, created_at
FROM transactions
"""
_ACCOUNTS = """
SELECT account_id, ai_product_id, order_id, current_tier_product_id, earned, spent, reserved, available FROM accounts
"""


def is_balanced(books: Books, account_id: str | None = None) -> bool:
    """Prove it: of one account, or of the whole ledger."""
    db = books.connection
    if account_id is None:
        return db.execute(_UNBALANCED).fetchone()[0] == 0 and db.execute(_DIFFERING).fetchone()[0] == 0
    only = (account_id,)
    return (
        db.execute(_UNBALANCED + " WHERE account_id = ?", only).fetchone()[0] == 0
        and db.execute(_DIFFERING + " AND account_id = ?", only).fetchone()[0] == 0
    )


def statement(books: Books, account_id: str, now: int) -> JsonObject:
    """Everything about one account, oldest first. An account that was never opened has a statement of zeros."""
    account = books.account(account_id)
    db = books.connection
    mine = (account_id,)
    return {
        "account_id": account_id,
        "earned": account.earned,
        "spent": account.spent,
        "reserved": account.reserved,
        "available": account.available,
        "reservations": _rows(db.execute(_RESERVATIONS + "WHERE account_id = ? ORDER BY number", mine)),
        "transactions": _rows(db.execute(_TRANSACTIONS + "WHERE account_id = ? ORDER BY number", mine)),
        "balanced": is_balanced(books, account_id),
        "now": iso(now),
    }


def overview(books: Books, now: int, limit: int) -> JsonObject:
    """The whole ledger: its totals and its accounts, and at most `limit` live reservations and recent transactions."""
    db = books.connection
    totals = db.execute(
        "SELECT COUNT (*) AS accounts, COALESCE (SUM (earned), 0) AS earned, COALESCE (SUM (spent), 0) AS spent, "
        "COALESCE (SUM (reserved), 0) AS reserved, COALESCE (SUM (available), 0) AS available FROM accounts"
    )
    live = "WHERE state = 'active' ORDER BY expires_at, number LIMIT ?"
    return {
        "totals": _rows(totals)[0],
        "accounts": _rows(db.execute(_ACCOUNTS + "ORDER BY account_id LIMIT ?", (limit,))),
        "reservations": _rows(db.execute(_RESERVATIONS + live, (limit,))),
        "transactions": _rows(db.execute(_TRANSACTIONS + "ORDER BY number DESC LIMIT ?", (limit,))),
        "balanced": is_balanced(books),
        "now": iso(now),
    }


def _rows(cursor: sqlite3.Cursor) -> list[JsonObject]:
    names = [column[0] for column in cursor.description]
    rows: Iterable[tuple[object, ...]] = cursor
    return [{name: _readable(name, value) for name, value in zip(names, row, strict=True)} for row in rows]


def _readable(name: str, value: object) -> object:
    if name.endswith("_at") and isinstance(value, int):
        return iso(value)
    if name == "metadata" and isinstance(value, str):
        return json.loads(value)
    return value
