"""
How much output to expect of a call, from what an operation and a model have put out before.

An account's own history comes first. Until it is long enough, all accounts' common one is asked, in which an account
never weighs more than one twenty-fifth, however often it calls: less than the share of calls that may overrun, so one
account alone can move nobody else's bound beyond what the others' own answers say. Until the common one is long enough
for that, the rest of it counts as the cold start.

Kept are counts by size of input and output; no text.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Final, cast

from countwerk_meter.estimating.sketch import Counts, add, bucket, halved, merged, quantile, upper

COLD_START_TOKENS: Final = 1_024
SHARE: Final = 0.95
OWN_ENOUGH: Final = 50
# So many answers to inputs of about the same length; else longer and shorter ones are looked at too.
NEAR_ENOUGH: Final = 30
ACCOUNT_WEIGHT: Final = 8.0
COMMON_ENOUGH: Final = 25 * ACCOUNT_WEIGHT
LIMIT: Final = 2_000


def cell_of(input_tokens: int) -> int:
    """Return the half octave of an input's length."""
    return int(2 * math.log2(max(input_tokens, 1)))


@dataclass(slots=True)
class History:
    """
    Outputs seen, in histograms by length of input.

    Attributes:
        cells: A histogram for each half octave of input length.
        total: How much all of it weighs.
        generation: The common history's: how often it was halved. An account's: how often it was when last looked at.
        given: What the account weighed in the common history then.

    """

    cells: dict[int, Counts] = field(default_factory=dict[int, Counts])
    total: float = 0.0
    generation: int = 0
    given: float = 0.0

    @classmethod
    def load(cls, text: str | None) -> History:
        """Read what `dump` wrote; anything else is an empty history, because it is a statistic and no book."""
        try:
            data: dict[str, Any] = json.loads(text or "{}")
            cells = {
                int(cell): {int(index): float(count) for index, count in counts.items() if 0 < count < 1e9}
                for cell, counts in cast("dict[str, dict[str, float]]", data.get("cells", {})).items()
            }
            total = sum(sum(counts.values()) for counts in cells.values())
            return cls(cells, total, int(data.get("generation", 0)), float(data.get("given", 0)))
        except (ValueError, TypeError, AttributeError, OverflowError):
            return cls()

    def dump(self) -> str:
        """Return it as compact JSON."""
        cells = {
            str(cell): {str(index): round(count, 3) for index, count in sorted(counts.items())}
            for cell, counts in sorted(self.cells.items())
        }
        data = {"cells": cells, "generation": self.generation, "given": round(self.given, 3)}
        return json.dumps(data, separators=(",", ":"))

    def add(self, input_tokens: int, output_tokens: int) -> bool:
        """Count one answer; whether older ones have faded for it to half their weight."""
        add(self.cells.setdefault(cell_of(input_tokens), {}), output_tokens)
        self.total += 1
        if self.total <= LIMIT:
            return False
        self.cells = {cell: counts for cell, old in self.cells.items() if (counts := halved(old))}
        self.total = sum(sum(counts.values()) for counts in self.cells.values())
        return True

    def around(self, input_tokens: int, enough: float) -> Counts:
        """Return the histogram of inputs of about this length: as near as there are enough of them, else of all."""
        cell = cell_of(input_tokens)
        reach = max((abs(cell - other) for other in self.cells), default=0)
        for width in range(reach):
            near = merged(self.cells[other] for other in range(cell - width, cell + width + 1) if other in self.cells)
            if sum(near.values()) >= enough:
                return near
        return merged(self.cells.values())


@dataclass(slots=True)
class Histories:
    """What one account's calls of one operation and model are judged by: its own history, and the common one."""

    own: History = field(default_factory=History)
    common: History = field(default_factory=History)

    def learn(self, input_tokens: int, output_tokens: int) -> bool:
        """Count one answer; whether it went into the common history too: an account's weight there is capped."""
        own, common = self.own, self.common
        own.add(input_tokens, output_tokens)
        own.given *= 0.5 ** max(common.generation - own.generation, 0)
        own.generation = common.generation
        if own.given + 1 > ACCOUNT_WEIGHT:
            return False
        own.given += 1
        if common.add(input_tokens, output_tokens):
            common.generation += 1
        return True

    def bound(self, input_tokens: int, *, cold_start: int = COLD_START_TOKENS) -> int:
        """Return how many output tokens to hold for; 95 % of the answers are expected not to exceed it."""
        if self.own.total >= OWN_ENOUGH:
            return quantile(self.own.around(input_tokens, NEAR_ENOUGH), SHARE)
        counts = self.common.around(input_tokens, COMMON_ENOUGH)
        missing = COMMON_ENOUGH - sum(counts.values())
        if missing <= 0:
            return quantile(counts, SHARE)
        add(counts, cold_start, missing)
        bound = quantile(counts, SHARE)
        return cold_start if bound == upper(bucket(cold_start)) else bound
