"""
What the threads of a scenario run: an app's calls, and the passes of settlement and recovery.

A program is named by a tuple `(name, process, *arguments)`, so that it can be begun anew for every replay. One that
returns such a tuple goes on as that program.
"""

from dataclasses import replace
from decimal import Decimal

from countwerk_meter._flow.attempts import unsent
from countwerk_meter._flow.charge import charge_at_once
from countwerk_meter._flow.commands import Emit, Journal, Now
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.ending import Checkpoint, Commit, Measured, Release, Seal
from countwerk_meter._flow.lease import Wanted, call_back, take
from countwerk_meter._flow.recover import recover
from countwerk_meter._flow.reserve import draw, reserve
from countwerk_meter._flow.rows import DEDUCT, LEASE, ChargeRow, ReservationRow
from countwerk_meter._flow.settle import leave, settle
from countwerk_meter.errors import CountwerkError

from .state import ACCOUNT, LEDGER, OPERATION, VALIDITY, wall_time

# Programs that somebody waits for, and may stop waiting for; and those that are made again if they fail.
GATES = frozenset({"call", "clamped", "flat", "leased"})
PASSES = frozenset({"settle", "deduct", "recover"})


def _charge(terms, name, estimate):
    return ChargeRow(
        id=name, ledger=LEDGER, principal="p", owner=terms.owner, account_id=ACCOUNT, operation=OPERATION,
        created_at=wall_time(0), estimate=estimate,
    )  # fmt: skip


def _hold(terms, amount, key="k1"):
    return ReservationRow(
        key=key, ledger=LEDGER, principal="p", owner=terms.owner, account_id=ACCOUNT, operation=OPERATION,
        amount=amount, validity=VALIDITY, created_at=wall_time(0), settle_with=terms.settle_with,
    )  # fmt: skip


def _told(event, name):
    return Emit(event, {"usage_event_id": name})


def _committed(terms, charge, used, *, seal=True, opens=False, begins=None):
    """Commit what a call used, as the end of a block does; `opens`: with the attempt to confirm it, which is returned."""
    now = yield Now()
    measured = Measured(Decimal(used), "set")
    done = yield Journal(
        Commit(
            LEDGER, charge.id, charge.epoch, measured, now.wall, terms.rounding, seal, terms.owner,
            leaves=now if opens else None, begins=begins,
        )
    )  # fmt: skip
    yield _told("superseded" if done.superseded else "used", charge.id)
    return done.attempt


def _checkpointed(charge, known):
    yield Journal(Checkpoint(LEDGER, charge.id, charge.epoch, Measured(Decimal(known), "provider")))


def call(terms, used, hold=5, known=0, name="e1", key="k1"):
    """Pass the gate, run one model call, maybe checkpoint it, commit what it used: nothing is a release."""
    try:
        gate = yield from reserve(terms, _charge(terms, name, hold), _hold(terms, hold, key))
    except CountwerkError:
        return None
    yield _told("ran", name)
    return None if used is None else ("ending", _process(terms), gate.charge.epoch, used, known, name)


def clamped(terms, used, hold=5, name="e1"):
    """Pass a gate that takes what the balance pays for where that is less, and run a call that uses so much at most."""
    charge = _charge(terms, name, hold)
    try:
        gate = yield from reserve(terms, charge, _hold(terms, hold), fit=lambda available: min(available, hold - 1))
    except CountwerkError:
        return None
    yield _told("ran", name)
    return ("ending", _process(terms), gate.charge.epoch, used, 0, name)


def leaving(terms, used, leaves=True, name="e1"):
    """End a call that runs, and confirm it at once; or its confirm is opened with the commit and taken back."""
    attempt = yield from _committed(terms, _charge(terms, name, 0), used, opens=True)
    if attempt is not None and leaves:
        yield from leave(terms, attempt)
    elif attempt is not None:
        now = yield Now()
        yield Journal(unsent(attempt.row, now.wall))


def ending(terms, epoch, used, known=0, name="e1"):
    """End a call that runs."""
    charge = replace(_charge(terms, name, 0), epoch=epoch)
    if known:
        yield from _checkpointed(charge, known)
    if used:
        yield from _committed(terms, charge, used)
    else:
        now = yield Now()
        yield Journal(Release(LEDGER, charge.id, charge.epoch, "nothing used", now.wall))
        yield _told("released", name)


def flat(terms, price, name="e1"):
    """Charge a flat price at once: what the call costs is known, and it runs once it is paid for."""
    charge = replace(_charge(terms, name, price), amount=price, share=price, via=DEDUCT, basis="price")
    yield _told("asked", name)
    try:
        paid = yield from charge_at_once(terms, charge)
    except CountwerkError:
        return
    if paid.owner == terms.owner:
        yield _told("used", name)


def drawing(terms, used, name="e2", key="k1", within=False):
    """Run a call on another one's open hold."""
    gate = yield from draw(terms, _charge(terms, name, used), key, within=within)
    if gate is not None:
        yield _told("ran", name)
        yield from _committed(terms, gate.charge, used, seal=False)


def block(terms, first, second, estimates=(3, 2), hold=6, ahead=False):
    """Reserve once, for two calls; `ahead`: the second does not wait for the journal's word."""
    try:
        gate = yield from reserve(terms, _charge(terms, "e1", estimates[0]), _hold(terms, hold), shared=True)
    except CountwerkError:
        return None
    yield _told("ran", "e1")
    if gate.hold is None:
        return ("ending", _process(terms), gate.charge.epoch, first)
    return ("within", _process(terms), gate.hold.key, first, second, estimates[1], ahead)


def within(terms, key, first, second, estimate, ahead=False):
    """Run a second call on the block's hold, and end both, and the block."""
    charge = _charge(terms, "e2", estimate)
    nested = yield from draw(terms, charge, key, ahead=ahead)
    if nested is not None:
        if ahead:
            yield _told("ahead", "e2")
        yield _told("ran", "e2")
    yield from _committed(terms, _charge(terms, "e1", first), first, seal=False)
    if nested is not None:
        yield from _committed(terms, nested.charge, second, seal=False, begins=charge if ahead else None)
    now = yield Now()
    yield Journal(Seal(key, now.wall))


def leased(terms, first, second, *, recalled=True):
    """Take credits ahead, for two calls."""
    taken = yield from take(terms, _hold(terms, 0, LEASE), Wanted(6, 3))
    return None if taken.row is None else ("ahead", _process(terms), first, second, recalled)


def ahead(terms, first, second, recalled=True):
    """Run two calls on a lease, and give it back as a refused third one does, or leave it to its end."""
    calls = []
    for name, used in (("e1", first), ("e2", second)):
        gate = yield from draw(terms, _charge(terms, name, 3), LEASE)
        if gate is not None:
            yield _told("ran", name)
            calls.append((gate.charge, used))
    for charge, used in calls:
        if used:
            yield from _committed(terms, charge, used, seal=False)
        else:
            now = yield Now()
            yield Journal(Release(LEDGER, charge.id, charge.epoch, "nothing used", now.wall, seal=False))
            yield _told("released", charge.id)
    if recalled:
        return ("recalled", _process(terms))
    return None


def recalled(terms):
    """Call a lease back, as a refused call does."""
    now = yield Now()
    yield from call_back(terms, (LEASE,), now.monotonic + terms.reserve_timeout, looks=2)


def _process(terms):
    return "abc".index(terms.owner)


PROGRAMS = {
    "settle": settle,
    "deduct": deduct,
    "recover": lambda terms, _key: recover(terms, at_once=1),
    "call": call,
    "clamped": clamped,
    "ending": ending,
    "leaving": leaving,
    "flat": flat,
    "drawing": drawing,
    "block": block,
    "within": within,
    "leased": lambda terms, first, second, kept=False: leased(terms, first, second, recalled=not kept),
    "ahead": ahead,
    "recalled": recalled,
}
