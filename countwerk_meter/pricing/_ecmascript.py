"""
How JavaScript writes numbers and strings and reads dates.

The vendor's runtime is JavaScript, and a ruleset's hash covers the very bytes that `JSON.stringify` makes. Checked
against Node; the tests hold the figures.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ISO: Final = re.compile(
    r"([+-]\d{6}|\d{4})(?:-(\d\d)(?:-(\d\d))?)?"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?)?"
    r"(?:[Zz]|([+-])(\d\d):?(\d\d))?",
    re.ASCII,
)
_LATEST_MS: Final = 8_640_000_000_000_000
_EPOCH: Final = date(1970, 1, 1).toordinal()


def number(value: Decimal | int) -> str:
    """
    Write the double nearest to a number as `JSON.stringify` does: `3`, `0.000001`, `3e-7`, `1e+21`.

    Raises OverflowError where there is no such double.
    """
    # repr() finds the same shortest digits as JavaScript does; only where it puts the point differs.
    double = float(value)
    if not double:
        return "0"
    mantissa, _, exponent = repr(abs(double)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits[:point].ljust(point, "0") + ("." + digits[point:] if len(digits) > point else "")
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{point - 1:+d}"
    return text if double > 0 else "-" + text


def string(text: str) -> str:
    """Write a string as `JSON.stringify` does: all but quotes, backslashes, controls and lone surrogates as it is."""
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(paired(text), ensure_ascii=False))


def paired(text: str) -> str:
    """Join surrogates that stand in pairs, as JavaScript's strings cannot help doing."""
    if _LONE_SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")


def code_units(text: str) -> bytes:
    """Return a sort key for the order of JavaScript's `<` on strings: by UTF-16 code unit."""
    return text.encode("utf-16-be", "surrogatepass")


def parse_date(text: str) -> int | None:
    """
    Read an ISO date as `Date.parse` does, in milliseconds since 1970; None for what it cannot read.

    A time without a zone is UTC here (local time in JavaScript: a ledger's server runs in UTC). The other, unspecified
    forms that engines also read ("Wed, 01 Jan 2025") count as unreadable.
    """
    found = _ISO.fullmatch(text)
    if found is None or found[1] == "-000000":
        return None
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    hour, minute, second = int(found[4] or 0), int(found[5] or 0), int(found[6] or 0)
    millisecond = int((found[7] or "")[:3].ljust(3, "0"))
    zone_hour, zone_minute = int(found[9] or 0), int(found[10] or 0)
    midnight = hour == 24 and not (minute or second or millisecond)
    if not (1 <= month <= 12 and 1 <= day <= 31 and minute < 60 and second < 60 and zone_minute < 60):
        return None
    if not (hour < 24 or midnight) or zone_hour > 23:
        return None
    # The calendar repeats every 400 years, which reaches the years that `date` lacks. A 31st of February is in March.
    cycle, year = divmod(year - 1, 400)
    days = date(year + 1, month, 1).toordinal() - _EPOCH + day - 1 + cycle * 146_097
    minutes = (days * 24 + hour) * 60 + minute - int(f"{found[8] or '+'}1") * (zone_hour * 60 + zone_minute)
    value = (minutes * 60 + second) * 1000 + millisecond
    return value if abs(value) <= _LATEST_MS else None
