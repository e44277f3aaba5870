"""
Legs: the parts of a charge that go under an id of their own, as deducts.

`<id>.over` is what lies beyond the hold (money rule 9); `<id>.late` what an answer left short (rule 1) or recovery left
out (rule 15). A second late part of one charge is `<id>.late.late`: one id never stands for two amounts (I2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.rows import DEDUCT, ChargeRow, replace
from countwerk_meter._flow.states import WAITING, ChargeState

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

OVER, LATE = ".over", ".late"
_LONGEST_ID: Final = 64
_MIRRORED: Final = frozenset({ChargeState.SETTLED, ChargeState.UNCOLLECTED, ChargeState.UNRESOLVED})


def leg(charge: ChargeRow, suffix: str, amount: int, now: float) -> ChargeRow:
    """Return the part of a charge that goes under an id of its own, as a deduct."""
    name = charge.parent or charge.id
    return replace(
        charge,
        id=name + suffix,
        parent=name,
        state=ChargeState.COMMITTED,
        epoch=0,
        reservation_key=None,
        estimate=0,
        draw=False,
        amount=amount,
        share=amount,
        exact=None,
        via=DEDUCT,
        lines=None,
        reason=None,
        committed_at=now,
        failures=0,
        due_at=now,
        closed_as=None,
        note=None,
        closed_at=None,
    )


def add_late(
    books: Books, charge: ChargeRow, amount: int, now: float, *, basis: str | None = None, lines: str | None = None
) -> ChargeRow:
    """
    Save a late leg under the first id that is free.

    Where the ids run out (an explicit one may be 59 characters long), nothing is sent: the leg is unresolved, and so
    stays listed until someone closes it (I3).
    """
    late = replace(leg(charge, LATE, amount, now), basis=basis or charge.basis, lines=lines)
    while books.charge(late.ledger, late.id) is not None:
        late = replace(late, id=late.id + LATE)
    if len(late.id) > _LONGEST_ID:
        late = replace(late, state=ChargeState.UNRESOLVED, reason="no id left for it", due_at=None)
    books.save_charge(late)
    return late


def late_of(books: Books, charge: ChargeRow, at: float | None) -> ChargeRow | None:
    """Return the late leg that was made at that moment, if one was."""
    name = (charge.parent or charge.id) + LATE
    while (late := books.charge(charge.ledger, name)) is not None:
        if late.committed_at == at:
            return late
        name += LATE
    return None


def other_half(books: Books, charge: ChargeRow) -> ChargeRow | None:
    """Return the leg of a charge that lies wholly beyond its hold, or the charge of such a leg: they end together."""
    if charge.parent is None:
        return None if charge.share else books.charge(charge.ledger, charge.id + OVER)
    if charge.id != charge.parent + OVER:
        return None
    whole = books.charge(charge.ledger, charge.parent)
    return None if whole is None or whole.share else whole


def mirror(books: Books, part: ChargeRow) -> None:
    """
    Let a charge that lies wholly beyond its hold end as its one leg ended.

    It was never carried by a confirm, so nothing else may call it settled (I5).
    """
    if part.parent is None or part.id != part.parent + OVER or part.state not in _MIRRORED:
        return
    whole = books.charge(part.ledger, part.parent)
    mirroring = WAITING | {ChargeState.UNRESOLVED, ChargeState.CLOSED}
    if whole is not None and whole.share == 0 and whole.state in mirroring:
        books.save_charge(replace(whole, state=whole.checked_step(part.state), reason=part.reason, due_at=None))
