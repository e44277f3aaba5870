"""What tests of a journal are made of: steps given as functions, and rows that are as plain as can be."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.rows import ChargeRow, ReservationRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._flow.books import Books


@dataclass(frozen=True, slots=True)
class Do(Operation[Any]):
    """One step over the books, given as a function."""

    step: Callable[[Books], Any]

    def apply(self, books: Books) -> Any:
        return self.step(books)


@dataclass(frozen=True, slots=True)
class DoDurably(Do):
    """One that must be synced to the disk before it is answered."""

    durable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Look(Do):
    """One that changes nothing."""

    reads: ClassVar[bool] = True


def a_reservation(key: str, **more: Any) -> ReservationRow:
    """Return a reservation's row; every field that is not given is as plain as can be."""
    plain: dict[str, Any] = {
        "ledger": "l", "principal": "p", "owner": "o", "account_id": "a", "operation": "app.chat",
        "amount": 10, "validity": 15, "created_at": 1.0,
    }  # fmt: skip
    return ReservationRow(key=key, **(plain | more))


def a_charge(id: str, **more: Any) -> ChargeRow:  # noqa: A002 - what the row calls it
    """Return a charge's row; every field that is not given is as plain as can be."""
    plain: dict[str, Any] = {
        "ledger": "l", "principal": "p", "owner": "o", "account_id": "a", "operation": "app.chat", "created_at": 1.0
    }  # fmt: skip
    return ChargeRow(id=id, **(plain | more))


def filled(row: ReservationRow | ChargeRow, fixed: dict[str, Any]) -> dict[str, Any]:
    """Return a value for every field that no other field has, in the field's own type."""
    values: dict[str, Any] = {}
    for number, field in enumerate(fields(row), start=1):
        kind = str(field.type)
        if "bool" in kind:
            values[field.name] = True
        elif "float" in kind:
            values[field.name] = number + 0.25
        elif "int" in kind:
            values[field.name] = number
        elif "str" in kind:
            values[field.name] = f"{field.name} äöü ' \" {number}"
    return values | fixed
