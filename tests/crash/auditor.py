"""
The auditor: the ledger's own books, the journal's rows at death and at rest, and what was true.

It shares no code with the meter: standard library only (a test holds it to that). What is due comes from the rows at
the moment of death and from the side log; what was charged comes from the ledger alone.
"""

import contextlib
import json
import math
import sqlite3
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from decimal import Decimal

_KNOWN = {"committed", "settled", "uncollected", "unresolved"}
_MOVING = {"open", "committed"}
_HOLDING = {"requested", "held", "closing"}
_LEGS = (".over", ".late")


@dataclass(frozen=True)
class Rows:
    """A journal's rows, as dicts: charges by id, reservations by key."""

    charges: dict
    reservations: dict


@dataclass
class Finding:
    """What one trial came to, in credits; `complaints` are all that should not be, in words."""

    due: int = 0
    charged: int = 0
    doubled: int = 0
    lost: int = 0
    stranded: int = 0
    in_doubt: int = 0
    listed: int = 0
    complaints: list = field(default_factory=list)

    @property
    def wrong(self):
        return bool(self.doubled or self.lost or self.stranded or self.complaints)


def read_books(url, account):
    """Return the ledger's statement of one account."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"{url}/_sandbox/books/{urllib.parse.quote(account, safe='')}"
    with opener.open(address, timeout=30) as answer:
        return json.load(answer)


def read_journal(path):
    """Return what stands in a journal file; one that was never made has no rows."""
    if not path.exists():
        return Rows({}, {})
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'charge'").fetchone():
            return Rows({}, {})
        charges = {row["id"]: dict(row) for row in db.execute("SELECT * FROM charge")}
        reservations = {row["key"]: dict(row) for row in db.execute("SELECT * FROM reservation")}
    return Rows(charges, reservations)


def read_facts(path):
    """Return the side log: what was true, in the order that it became so."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def audit_death(dead, rest, books, facts, on_crash, *, events=True):
    """
    Compare what a process that was killed owed with what was charged.

    Args:
        dead: The rows at the moment of death.
        rest: The rows when recovery had nothing left to do.
        books: The ledger's statement then.
        facts: The side logs of both processes.
        on_crash: The policy for a call whose usage nobody knows.
        events: Whether recovery must have told of each call that it closed. One that was killed itself may have
            died before it could; what it closed is listed all the same.

    """
    finding = Finding()
    used, returned = _used(facts), _returned(facts)
    due = {}
    for charge_id in _whole({*dead.charges, *used}):
        due[charge_id] = _due(dead, charge_id, used.get(charge_id, 0), on_crash, finding)
    for charge_id in returned:
        if due[charge_id] != used[charge_id]:
            finding.complaints.append(f"{charge_id} was answered and its charge not committed as {used[charge_id]}")
            finding.lost += used[charge_id] - due[charge_id]
    _compare(due, rest, books, facts, finding, {"uncollected"})
    crashed = {fact["id"] for fact in facts if fact.get("event") == "crashed"}
    for charge_id, row in dead.charges.items():
        now = rest.charges.get(charge_id, {}).get("state")
        if row["state"] != "open":
            continue
        if now == "lost":
            finding.listed += 1
        if events and now in {"lost", "committed", "settled"} and charge_id not in crashed | _flat(dead):
            finding.complaints.append(f"{charge_id} was closed by recovery and no event said so")
        if due[charge_id] == 0 and now not in {"lost", "orphaned", "settled", "cancelled"}:
            finding.complaints.append(f"{charge_id} was open at death and is {now}")
    return finding


def audit_late(rest, books, facts):
    """
    Compare what was used with what was charged where a process was only stopped, and went on after another took over.

    Every call that was answered is due in full, whatever recovery thought of it, and so is a flat price that was
    ordered. What the client cannot decide may stand as unresolved instead, if an event said so.
    """
    finding = Finding()
    used = _used(facts)
    due = {charge_id: used.get(charge_id, 0) for charge_id in _whole({*rest.charges, *used})}
    for charge_id in set(used) - _returned(facts):
        row = rest.charges.get(charge_id)
        ordered = row is not None and row["reservation_key"] is None and row["state"] in _KNOWN
        due[charge_id] = row["amount"] if ordered else 0
    told = {fact["id"] for fact in facts if fact.get("event") == "unresolved"}
    for row in rest.charges.values():
        if row["state"] == "unresolved" and row["id"] not in told:
            finding.complaints.append(f"{row['id']} is unresolved and no event said so")
    _compare(due, rest, books, facts, finding, {"uncollected", "unresolved"})
    return finding


def audit_after_validity(books):
    """Return the credits that are still held once every hold's validity has passed: there must be none."""
    active = sum(hold["amount"] for hold in books["reservations"] if hold["state"] == "active")
    return max(active, books["reserved"])


def _whole(charge_ids):
    """Leave out what is part of another charge."""
    return sorted(charge_id for charge_id in charge_ids if not charge_id.endswith(_LEGS))


def _used(facts):
    return {fact["used"]: fact["credits"] for fact in facts if "used" in fact}


def _returned(facts):
    return {fact["returned"] for fact in facts if "returned" in fact}


def _compare(due, rest, books, facts, finding, may_wait):
    """Compare charge by charge, then the account, its holds, and whether everything is at rest."""
    charged = _charged(rest, books, finding)
    for charge_id in sorted({*due, *charged}):
        owed, paid = due.get(charge_id, 0), charged.get(charge_id, 0)
        finding.due += owed
        finding.charged += paid
        finding.doubled += max(paid - owed, 0)
        if owed > paid:
            waits = _listed(rest, charge_id, may_wait)
            finding.listed += waits > 0
            finding.lost += max(owed - paid - waits, 0)
    _total(books, finding)
    _holds(rest, books, finding)
    _at_rest(rest, facts, finding)


def _listed(rest, charge_id, states):
    """Credits of a charge that stand in the journal for somebody to see."""
    rows = (rest.charges.get(charge_id + leg) for leg in ("", *_LEGS))
    return sum(row["share"] for row in rows if row is not None and row["state"] in states)


def _flat(dead):
    return {key for key, row in dead.charges.items() if row["via"] == "deduct" and row["amount"] is not None}


def _due(dead, charge_id, used, on_crash, finding):
    """What must be charged: the commit is the charge; an open call follows the policy."""
    row = dead.charges.get(charge_id)
    if row is None:
        return 0
    if row["state"] in _KNOWN or (row["state"] == "open" and charge_id in _flat(dead)):
        if row["amount"] != used:
            finding.complaints.append(f"{charge_id} used {used} and was committed as {row['amount']}")
        return min(row["amount"], used)
    if row["state"] != "open":
        return 0
    hold = dead.reservations.get(row["reservation_key"])
    if hold is not None and hold["state"] == "requested":
        return 0
    if on_crash == "reserved":
        return row["estimate"] if hold is None else min(row["estimate"], hold["amount"] - hold["committed"])
    if on_crash == "checkpoint" and row["exact"] is not None:
        kept = math.ceil(Decimal(row["exact"]))
        if kept > used:
            finding.complaints.append(f"{charge_id} used {used} and its checkpoint says {kept}")
        return min(kept, used)
    return 0


def _charged(rest, books, finding):
    """Credits charged by the ledger, by charge: deducts by their own id, confirms by what each hold carried."""
    charged = {}

    def add(charge_id, credits):
        for leg in _LEGS:
            charge_id = charge_id.removesuffix(leg)
        charged[charge_id] = charged.get(charge_id, 0) + credits

    seen = set()
    for row in books["transactions"]:
        if row["kind"] == "deduct":
            if row["usage_event_id"] in seen:
                finding.complaints.append(f"{row['usage_event_id']} was deducted twice")
            seen.add(row["usage_event_id"])
            add(row["usage_event_id"], row["amount"])
    keys = {row["reservation_id"]: key for key, row in rest.reservations.items() if row["reservation_id"]}
    for hold in books["reservations"]:
        if hold["state"] != "confirmed":
            continue
        key = keys.get(hold["reservation_id"])
        carried = [
            row
            for row in rest.charges.values()
            if key is not None and row["reservation_key"] == key and row["via"] == "confirm" and not row["parent"]
        ]
        for row in carried:
            add(row["id"], row["share"])
        if sum(row["share"] for row in carried) != hold["actual_amount"]:
            finding.complaints.append(f"a hold was confirmed with {hold['actual_amount']}, and no charges add up to it")
    return charged


def _total(books, finding):
    """The account as a whole must say the same as its charges one by one; and earned = available + reserved + spent."""
    moved = {"deduct": 0, "confirm": 0}
    for row in books["transactions"]:
        if row["kind"] in moved:
            moved[row["kind"]] += row["amount"]
    if sum(moved.values()) != books["spent"]:
        finding.complaints.append("what was spent is not the sum of deducts and confirms")
    if books["earned"] != books["available"] + books["reserved"] + books["spent"]:
        finding.complaints.append("earned is not available + reserved + spent")
    beyond = books["spent"] - finding.charged
    if beyond:
        finding.complaints.append(f"{beyond} credits were spent that belong to no charge")
        finding.doubled += max(beyond, 0)


def _holds(rest, books, finding):
    """
    A hold that the journal can name is ended; one that it cannot must be known to be in doubt.

    So may be one that was given up already: its request left after that, from a process that had been stopped.
    """
    named = {row["reservation_id"] for row in rest.reservations.values()}
    doubtful = [
        row["amount"]
        for row in rest.reservations.values()
        if row["state"] in {"orphan_possible", "expired"} and row["reservation_id"] is None
    ]
    for hold in books["reservations"]:
        if hold["state"] != "active":
            continue
        if hold["reservation_id"] not in named and hold["amount"] in doubtful:
            doubtful.remove(hold["amount"])
            finding.in_doubt += hold["amount"]
        else:
            finding.stranded += hold["amount"]


def _at_rest(rest, facts, finding):
    """Every row has ended, or waits for its validity or for a person."""
    settled = [fact["settled"] for fact in facts if "settled" in fact]
    if not settled or not all(settled):
        finding.complaints.append("recovery did not come to rest")
    for row in rest.charges.values():
        if row["state"] in _MOVING:
            finding.complaints.append(f"{row['id']} is still {row['state']}")
    for row in rest.reservations.values():
        if row["state"] in _HOLDING:
            finding.complaints.append(f"a hold of {row['operation']} is still {row['state']}")
