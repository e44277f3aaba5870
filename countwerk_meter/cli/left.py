"""What is left in a journal, by what has to become of it: it settles by itself, needs a command, or a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.overview import EVERY, Charges, Owners, Unsettled
from countwerk_meter._flow.states import ChargeState, ReservationState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter.journal import Journal

MEANING: Final = {
    "running": "calls of a process that lives",
    "committed": "charged here, and not on the ledger yet: run settle again",
    "holds to end": "credits held for calls that are over: run settle again",
    "holds in doubt": "may be held; end by themselves when their validity has passed",
    "of other keys": "begun under another API key, which settles them: see countwerk-meter doctor",
    "uncollected": "the account had too few credits; tried again by itself",
    "unresolved": "nobody can tell from here: countwerk-meter reconcile",
    "lost": "a process died during the call, usage unknown: countwerk-meter reconcile",
}
# Nobody has to do anything about these.
NOT_LEFT: Final = ("running", "holds in doubt")
# What one more `settle` with the same key can do something about.
SETTLES: Final = ("committed", "holds to end")
_THEIRS: Final = frozenset({ChargeState.OPEN, ChargeState.COMMITTED})


def taken_over(counts: Mapping[str, int]) -> str:
    """Say what recovery took over, in one line; `counts` are the fields of its event."""
    parts = f"{counts['closed']} calls closed, {counts['resumed']} rows resumed, {counts['orphans']} holds in doubt"
    return f"Taken over from dead processes: {parts}"


def left(store: Journal, ledger: str, principal: str) -> dict[str, int]:
    """Count what is left, as `MEANING` names it, for whoever holds the key of this fingerprint."""
    alive = {owner for owner in store.run(Owners(ledger)) if store.is_alive(owner)}
    counts: Counter[str] = Counter()
    for charge in store.run(Charges(ledger, frozenset({*ChargeState} - {ChargeState.SETTLED}), EVERY)):
        if charge.state not in _THEIRS:
            counts[str(charge.state)] += 1
        elif charge.owner in alive:
            counts["running"] += 1
        else:
            counts["committed" if charge.principal == principal else "of other keys"] += 1
    for hold in store.run(Unsettled(ledger, EVERY)):
        if hold.state is ReservationState.ORPHAN_POSSIBLE:
            counts["holds in doubt"] += 1
        elif hold.state is ReservationState.CLOSING and hold.owner not in alive:
            counts["holds to end" if hold.principal == principal else "of other keys"] += 1
    return {name: counts[name] for name in MEANING}
