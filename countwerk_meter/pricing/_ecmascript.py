"""
How JavaScript writes numbers and strings.

The vendor's runtime is JavaScript, and a ruleset's hash covers the very bytes that `JSON.stringify` makes. Checked
against Node; the tests hold the figures.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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
