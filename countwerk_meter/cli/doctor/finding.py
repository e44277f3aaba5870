"""One thing that the doctor looked at, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What was found.

    Attributes:
        area: `configuration`, `ledger`, `journal`, `prices` or `frameworks`.
        name: What was looked at.
        status: `ok`; `note`: worth knowing; `problem`: something will not work.
        detail: What was found; never a secret.
        advice: What to do about it, or empty.

    """

    area: str
    name: str
    status: Status
    detail: str
    advice: str = ""
