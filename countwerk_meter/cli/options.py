"""Options that several commands share. There is none for the API key: arguments stand in process lists."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

import typer

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
BaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--base-url", envvar="COUNTWERK_BASE_URL", show_envvar=True, help="The ledger.", metavar="URL"),
]
JournalUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--journal",
        envvar="COUNTWERK_JOURNAL",
        show_envvar=True,
        metavar="URL",
        help="sqlite:///path or postgresql://host/db. Default: the file in your state directory.",
    ),
]
Product: TypeAlias = Annotated[
    str | None,
    typer.Option("--product", envvar="COUNTWERK_AI_PRODUCT_ID", show_envvar=True, metavar="ID", help="The AI product."),
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long the ledger may take.")]
Enforcement: TypeAlias = Annotated[
    Literal["on", "shadow"],
    typer.Option(
        "--enforcement", envvar="COUNTWERK_ENFORCEMENT", show_envvar=True, help="shadow: what a shadow meter noted."
    ),
]


class OnCrash(StrEnum):
    """What a killed process' open calls are charged."""

    CHECKPOINT = "checkpoint"
    CANCEL = "cancel"
    RESERVED = "reserved"


class Rounding(StrEnum):
    """How fractions become whole credits."""

    CEIL = "ceil"
    CARRY = "carry"


Policy: TypeAlias = Annotated[
    OnCrash,
    typer.Option(
        "--on-crash",
        envvar="COUNTWERK_ON_CRASH",
        show_envvar=True,
        help="What calls that were running are charged: as the app's own Meter has it.",
    ),
]
Rounded: TypeAlias = Annotated[
    Rounding,
    typer.Option(
        "--rounding", envvar="COUNTWERK_ROUNDING", show_envvar=True, help="Likewise, of fractions of credits."
    ),
]

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_LONGEST = 100_000


def age(text: str) -> timedelta:
    """Read `90d`, `36h` or `4w`."""
    match = re.fullmatch(r"([0-9]{1,6})([hdw])", text.strip())
    if match is None or int(match[1]) > _LONGEST:
        raise typer.BadParameter("a number and h, d or w: 90d, 36h, 4w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
