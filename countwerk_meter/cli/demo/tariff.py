"""
What the demo's calls cost: one credit per hundred input tokens and per ten output tokens, each call rounded up.

The app gives this to the meter as a price profile. The auditor computes with the two numbers alone.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

INPUT: Final = Decimal("0.01")
OUTPUT: Final = Decimal("0.1")
# What a request holds, and the most that an answer may be long: so that a request's model call fits into its hold.
HOLD: Final = 10
MOST_OUTPUT: Final = 60
# Makes the fake model think first, so that ten requests are under way at once however slow the machine is.
SLOWLY: Final = " Take your time."

PROFILE: Final[dict[str, Any]] = {
    "profileVersionId": "demo",
    "eurPerCredit": 0.01,
    "rateRules": [
        {"id": "input", "dimensionKey": "llm_input_tokens", "creditsPerUnit": float(INPUT)},
        {"id": "output", "dimensionKey": "llm_output_tokens", "creditsPerUnit": float(OUTPUT)},
    ],
}


def credits_for(input_tokens: int, output_tokens: int) -> int:
    """Return what one call costs."""
    return math.ceil(input_tokens * INPUT + output_tokens * OUTPUT)
