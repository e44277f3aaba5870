"""The auditor itself: it shares no code with what it audits, and sees each of the wrongs that it is there to see."""

import ast
import copy
import sys
from pathlib import Path

import pytest

from .auditor import Rows, audit_after_validity, audit_death

_SOURCE = Path(__file__).with_name("auditor.py")


def test_the_auditor_imports_the_standard_library_only():
    """What it shared with the meter, it could not see."""
    imported = set()
    for node in ast.walk(ast.parse(_SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert 0 == node.level
            imported.add(node.module.partition(".")[0])
    assert {"json", "sqlite3", "urllib"} <= imported
    assert set() == imported - set(sys.stdlib_module_names)


_CHARGE = {
    "id": "c", "state": "settled", "amount": 3, "share": 3, "via": "confirm", "parent": None, "reservation_key": "k",
    "estimate": 5, "exact": "3", "operation": "app.chat.reply",
}  # fmt: skip
_HOLD = {
    "key": "k", "state": "confirmed", "amount": 5, "committed": 3, "reservation_id": "res_1",
    "operation": "app.chat.reply",
}  # fmt: skip
_BOOKS = {
    "earned": 100, "spent": 3, "reserved": 0, "available": 97,
    "reservations": [{"reservation_id": "res_1", "state": "confirmed", "amount": 5, "actual_amount": 3}],
    "transactions": [{"kind": "confirm", "amount": 3, "usage_event_id": None}],
}  # fmt: skip
_FACTS = ({"used": "c", "credits": 3}, {"returned": "c"}, {"settled": True, "seconds": 0.1})


class Case:
    """One call of 3 credits, confirmed on its hold of 5: as it should be, until a test spoils it."""

    def __init__(self):
        self.dead = Rows({"c": dict(_CHARGE)}, {"k": dict(_HOLD)})
        self.rest = Rows({"c": dict(_CHARGE)}, {"k": dict(_HOLD)})
        self.books = copy.deepcopy(_BOOKS)
        self.facts = list(_FACTS)
        self.on_crash = "checkpoint"

    def deduct(self, charge_id, amount):
        self.books["transactions"].append({"kind": "deduct", "amount": amount, "usage_event_id": charge_id})
        self.books["spent"] += amount
        self.books["available"] -= amount

    def unpaid(self):
        self.books |= {"spent": 0, "available": 100, "reservations": [], "transactions": []}

    def open(self, **fields):
        self.dead.charges["c"] |= {"state": "open", "amount": None, "share": 0, "exact": None, **fields}
        self.dead.reservations["k"] |= {"state": "held", "committed": 0}
        self.facts.remove({"returned": "c"})

    def found(self):
        return audit_death(self.dead, self.rest, self.books, self.facts, self.on_crash)


@pytest.fixture
def case():
    return Case()


def test_what_is_right_is_found_right(case):
    """3 due, 3 charged, nothing to say."""
    found = case.found()
    assert (3, 3, 0, 0, 0, []) == (
        found.due, found.charged, found.doubled, found.lost, found.stranded, found.complaints,
    )  # fmt: skip


def test_a_charge_that_was_deducted_beside_its_confirm_is_double(case):
    """The ledger has both."""
    case.deduct("c", 3)
    assert 3 == case.found().doubled


def test_credits_that_belong_to_no_charge_are_double(case):
    """A hold that was confirmed and that no row of the journal names."""
    case.books["reservations"].append(
        {"reservation_id": "res_2", "state": "confirmed", "amount": 5, "actual_amount": 4}
    )
    case.books["transactions"].append({"kind": "confirm", "amount": 4, "usage_event_id": None})
    case.books |= {"spent": 7, "available": 93}
    assert 4 == case.found().doubled


def test_a_charge_at_more_than_was_used_is_double(case):
    """The side log knows better than the journal."""
    case.facts[0] = {"used": "c", "credits": 2}
    found = case.found()
    assert 1 == found.doubled
    assert "c used 2 and was committed as 3" in found.complaints


def test_a_committed_charge_that_was_not_charged_is_lost(case):
    """The commit is the charge."""
    case.unpaid()
    assert 3 == case.found().lost


def test_an_answered_call_without_a_commit_is_lost(case):
    """The app has its result; then the charge must stand."""
    case.dead.charges.clear()
    case.unpaid()
    assert 3 == case.found().lost


def test_a_checkpoint_that_was_not_charged_is_lost(case):
    """What was kept of an open call is due."""
    case.open(exact="2.5")
    case.unpaid()
    assert 3 == case.found().lost


def test_a_call_that_a_crash_should_cost_its_hold_is_charged_the_hold(case):
    """The policy `reserved`."""
    case.open()
    case.on_crash = "reserved"
    assert 2 == case.found().lost


def test_an_open_call_that_recovery_closes_in_silence_is_complained_of(case):
    """Somebody must be told."""
    case.open()
    case.unpaid()
    case.rest.charges["c"]["state"] = "lost"
    case.rest.reservations["k"]["state"] = "cancelled"
    assert ["c was closed by recovery and no event said so"] == case.found().complaints
    case.facts.append({"event": "crashed", "id": "c"})
    found = case.found()
    assert (1, []) == (found.listed, found.complaints)


def test_an_open_call_that_nobody_lists_is_complained_of(case):
    """Its row is gone."""
    case.open()
    case.unpaid()
    del case.rest.charges["c"]
    assert "c was open at death and is None" in case.found().complaints


def test_a_hold_that_the_journal_can_name_is_stranded(case):
    """Known holds vanish."""
    case.books["reservations"].append({"reservation_id": "res_1", "state": "active", "amount": 5})
    assert 5 == case.found().stranded


def test_a_hold_that_the_journal_does_not_know_is_stranded_unless_it_is_in_doubt(case):
    """A reserve in doubt may hold until its validity; one that nobody knows of may not."""
    case.books["reservations"].append({"reservation_id": "res_9", "state": "active", "amount": 5})
    assert (5, 0) == (case.found().stranded, case.found().in_doubt)
    case.rest.reservations["o"] = {"key": "o", "state": "orphan_possible", "amount": 5, "reservation_id": None}
    assert (0, 5) == (case.found().stranded, case.found().in_doubt)


def test_after_every_validity_nothing_may_be_held(case):
    """Not even what was in doubt."""
    assert 0 == audit_after_validity(case.books)
    case.books["reservations"].append({"reservation_id": "res_9", "state": "active", "amount": 5})
    assert 5 == audit_after_validity(case.books)


def test_rows_that_still_move_are_complained_of(case):
    """At rest every row has ended, or waits for a person."""
    case.rest.charges["c"]["state"] = "committed"
    case.rest.reservations["k"]["state"] = "closing"
    assert ["c is still committed", "a hold of app.chat.reply is still closing"] == case.found().complaints


def test_books_that_do_not_add_up_are_complained_of(case):
    """earned = available + reserved + spent."""
    case.books["available"] = 96
    assert ["earned is not available + reserved + spent"] == case.found().complaints


def test_a_recovery_that_did_not_come_to_rest_is_complained_of(case):
    """It says so itself."""
    case.facts[-1] = {"settled": False, "seconds": 60.0}
    assert ["recovery did not come to rest"] == case.found().complaints
