"""
The tables of `states.py` and `events.py` as documentation: two state diagrams, the outcome table and the events.

`python -m countwerk_meter._flow.diagram FILE` writes them between the marks in FILE (RULES.md); a test holds the two
equal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from countwerk_meter._flow.events import table as event_table
from countwerk_meter._flow.states import (
    CHARGE_STEPS,
    ON_CANCEL,
    ON_CONFIRM,
    ON_DEDUCT,
    ON_RESERVE,
    RESERVATION_STEPS,
    Outcome,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S", bound=str)

BEGIN: Final = "<!-- written from states.py -->"
END: Final = "<!-- end of what is written -->"


def state_diagram(steps: Mapping[S, frozenset[S]]) -> str:
    """Return a Mermaid state diagram of a table; its first state is the start, those without steps are ends."""
    first = next(iter(steps))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {before} --> {after}" for before, afters in steps.items() for after in sorted(afters)]
    lines += [f"    {state} --> [*]" for state, afters in steps.items() if not afters]
    return "\n".join([*lines, "```"])


def outcome_table() -> str:
    """Return the outcome table in Markdown: a row for each request that moves money, a column for each outcome."""
    rows = {"reserve": ON_RESERVE, "confirm": ON_CONFIRM, "cancel": ON_CANCEL, "deduct": ON_DEDUCT}
    lines = ["| outcome of | " + " | ".join(Outcome) + " |", "|---" * (len(Outcome) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(table[outcome] for outcome in Outcome) + " |" for name, table in rows.items()]
    return "\n".join(lines)


def written() -> str:
    """Return everything that is written between the marks."""
    parts = [
        "### Outcomes",
        outcome_table(),
        "### States of a reservation",
        state_diagram(RESERVATION_STEPS),
        "### States of a charge",
        state_diagram(CHARGE_STEPS),
        "### Events",
        event_table(),
    ]
    return "\n\n".join(parts)


def rewritten(text: str) -> str:
    """Return a document with what stands between its marks brought up to date."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{written()}\n\n{END}{after}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(rewritten(file.read_text("utf-8")), "utf-8")
