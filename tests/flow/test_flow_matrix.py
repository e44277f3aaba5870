"""
The whole outcome table: each cell run through the real flow, and what must follow written down here once more.

The other test_flow_outcomes_* files go into each row's details; this one holds that no cell is missing, and that the
tables that the flows read, the rules that people read, and what the flows do are the same.
"""

import re
from importlib import resources

import pytest

from countwerk_meter._flow import diagram
from countwerk_meter._flow.states import (
    CHARGE_STEPS,
    ON_CANCEL,
    ON_CONFIRM,
    ON_DEDUCT,
    ON_RESERVE,
    RESERVATION_STEPS,
    Outcome,
)  # fmt: skip
from countwerk_meter.errors import CountwerkError

# Which scripted reply stands for which column.
REPLIES = {
    Outcome.DONE: "carried",
    Outcome.NOT_SENT: "not_sent",
    Outcome.NO_CREDITS: "INSUFFICIENT_CREDITS",
    Outcome.RATE_LIMITED: "RATE_LIMIT_EXCEEDED",
    Outcome.BAD_KEY: "INVALID_API_KEY",
    Outcome.FORBIDDEN: "FORBIDDEN",
    Outcome.REJECTED: "INVALID_INPUT",
    Outcome.NOT_FOUND: "RESERVATION_NOT_FOUND",
    Outcome.IN_DOUBT: "failed",
}
O = Outcome  # noqa: E741 - as in the tables

# reserve: how the call is told, the states of its charge and of its hold, and how often the request left.
RESERVE = {
    O.DONE: (None, "open", "held", 1),
    O.NOT_SENT: ("LedgerUnavailableError", "cancelled", "refused", "many"),
    O.NO_CREDITS: ("InsufficientCreditsError", "denied", "refused", 1),
    O.RATE_LIMITED: ("RateLimitError", "cancelled", "refused", "many"),
    O.BAD_KEY: ("AuthenticationError", "cancelled", "refused", 1),
    O.FORBIDDEN: ("PermissionDeniedError", "cancelled", "refused", 1),
    O.REJECTED: ("InvalidRequestError", "cancelled", "refused", 1),
    O.NOT_FOUND: ("NotFoundError", "cancelled", "refused", 1),
    O.IN_DOUBT: ("LedgerUnavailableError", "orphaned", "orphan_possible", 1),
}
# The others: the pass' verdict, the states of charge and hold, attempts left open, and what was sent.
CONFIRM = {
    O.DONE: ("ended", "settled", "confirmed", 0, ["confirm-reservation"]),
    O.NOT_SENT: ("doubtful", "committed", "closing", 0, ["confirm-reservation"]),
    O.NO_CREDITS: ("ended", "committed", "cancelled", 0, ["confirm-reservation", "cancel-reservation"]),
    O.RATE_LIMITED: ("later", "committed", "closing", 0, ["confirm-reservation"]),
    O.BAD_KEY: ("paused", "committed", "closing", 0, ["confirm-reservation"]),
    O.FORBIDDEN: ("parked", "committed", "closing", 0, ["confirm-reservation"]),
    O.REJECTED: ("ended", "unresolved", "unresolved", 0, ["confirm-reservation"]),
    O.NOT_FOUND: ("ended", "unresolved", "unresolved", 0, ["confirm-reservation"]),
    O.IN_DOUBT: ("doubtful", "committed", "closing", 1, ["confirm-reservation"]),
}
CANCEL = {
    O.DONE: ("ended", "cancelled", "cancelled", 0, ["cancel-reservation"]),
    O.NOT_SENT: ("doubtful", "cancelled", "closing", 0, ["cancel-reservation"]),
    O.NO_CREDITS: ("ended", "cancelled", "unresolved", 0, ["cancel-reservation"]),
    O.RATE_LIMITED: ("later", "cancelled", "closing", 0, ["cancel-reservation"]),
    O.BAD_KEY: ("paused", "cancelled", "closing", 0, ["cancel-reservation"]),
    O.FORBIDDEN: ("parked", "cancelled", "closing", 0, ["cancel-reservation"]),
    O.REJECTED: ("ended", "cancelled", "unresolved", 0, ["cancel-reservation"]),
    O.NOT_FOUND: ("ended", "cancelled", "cancelled", 0, ["cancel-reservation"]),
    O.IN_DOUBT: ("doubtful", "cancelled", "closing", 1, ["cancel-reservation"]),
}
DEDUCT = {
    O.DONE: ("ended", "settled", None, 0, ["deduct"]),
    O.NOT_SENT: ("doubtful", "committed", None, 0, ["deduct"]),
    O.NO_CREDITS: ("later", "uncollected", None, 0, ["deduct"]),
    O.RATE_LIMITED: ("later", "committed", None, 0, ["deduct"]),
    O.BAD_KEY: ("paused", "committed", None, 0, ["deduct"]),
    O.FORBIDDEN: ("parked", "committed", None, 0, ["deduct"]),
    O.REJECTED: ("ended", "unresolved", None, 0, ["deduct"]),
    O.NOT_FOUND: ("ended", "unresolved", None, 0, ["deduct"]),
    O.IN_DOUBT: ("doubtful", "committed", None, 0, ["deduct"]),
}


def cell(table):
    return pytest.mark.parametrize(("outcome", "expected"), table.items(), ids=[outcome.name for outcome in table])


def said(say, outcome):
    name = REPLIES[outcome]
    return getattr(say, name) if hasattr(say, name) else say.code(name)


@cell(RESERVE)
def test_reserve(world, say, outcome, expected):
    """Row `reserve`: what the app is told, what stays in the journal, and that no doubt is ever sent again."""
    error, charge, hold, sent = expected
    world.then(*[said(say, outcome)] * (40 if sent == "many" else 1))
    try:
        world.reserve()
        told = None
    except CountwerkError as raised:
        told = type(raised).__name__
    times = world.names().count("reserve")
    assert (error, charge, hold) == (told, world.state(), str(world.all_holds()[0].state))
    assert times > 3 if sent == "many" else times == sent


@pytest.mark.parametrize("outcome", [O.DONE, O.NOT_SENT, O.RATE_LIMITED, O.IN_DOUBT], ids=lambda one: one.name)
def test_reserve_deferred(world, say, outcome):
    """Where the app chose so, a ledger that cannot be reached lets the call run, to be deducted later."""
    from dataclasses import replace

    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=50)
    world.then(*[said(say, outcome)] * 40)
    gate = world.reserve()
    assert ("open", None if outcome is O.DONE else "deferred") == (world.state(), gate.charge.reason)


def check(world, row, done, expected, charge):
    verdict, state, hold, open_attempts, sent = expected
    assert (verdict, state, sent) == (done.verdict.value, world.state(charge), world.names()[1:])
    if hold is not None:
        assert (hold, open_attempts) == (str(row.state), row.confirms_open + row.cancels_open)


@cell(CONFIRM)
def test_confirm(world, say, outcome, expected):
    """Row `confirm`: a first attempt, while the hold lives."""
    gate = world.call()
    world.then(said(say, outcome))
    done = world.settle(gate)
    check(world, world.hold(gate), done, expected, "e1")


@cell(CANCEL)
def test_cancel(world, say, outcome, expected):
    """Row `cancel`: of a call that used nothing."""
    gate = world.reserve()
    world.release(gate)
    world.then(said(say, outcome))
    done = world.settle(gate)
    check(world, world.hold(gate), done, expected, "e1")


@cell(DEDUCT)
def test_deduct(world, say, outcome, expected):
    """Row `deduct`: of a leg beyond the hold."""
    world.call("e1", 5, 7)
    world.then(said(say, outcome))
    done = world.deduct("e1.over")
    check(world, None, done, expected, "e1.over")


def test_no_cell_is_missing():
    """Each table has every outcome, and so have the tests."""
    everything = set(Outcome)
    for table in (ON_RESERVE, ON_CONFIRM, ON_CANCEL, ON_DEDUCT, RESERVE, CONFIRM, CANCEL, DEDUCT, REPLIES):
        assert everything == set(table)


def test_the_rules_are_written_from_the_tables():
    """`just rules` was run."""
    rules = resources.files("countwerk_meter._flow").joinpath("RULES.md").read_text("utf-8")
    assert rules == diagram.rewritten(rules)
    drawn = {tuple(step.split(" --> ")) for step in re.findall(r"^    (\w+ --> \w+)$", rules, re.MULTILINE)}
    steps = [
        (before, after) for table in (RESERVATION_STEPS, CHARGE_STEPS) for before in table for after in table[before]
    ]
    assert set(steps) == drawn
