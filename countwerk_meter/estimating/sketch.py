"""
A histogram of token counts in geometric buckets: small, mergeable, and it answers quantiles.

A bucket is 5 % wide, so a quantile is at most 5 % above the value that it stands for, and never below it. Old values
fade: past a limit all counts are halved.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Counts: TypeAlias = dict[int, float]

RATIO: Final = 1.05
_LOG_RATIO: Final = math.log(RATIO)
_LARGEST: Final = 1 << 40
# A count that was halved to less says nothing any more.
_FAINT: Final = 0.05


def bucket(tokens: int) -> int:
    """Return the bucket of a token count; 0 and 1 share the first."""
    return math.ceil(math.log(min(max(tokens, 1), _LARGEST)) / _LOG_RATIO - 1e-9)


def upper(index: int) -> int:
    """Return the largest token count of a bucket."""
    return int(RATIO**index + 1e-6)


def add(counts: Counts, tokens: int, weight: float = 1.0) -> None:
    """Count one value."""
    index = bucket(tokens)
    counts[index] = counts.get(index, 0.0) + weight


def halved(counts: Mapping[int, float]) -> Counts:
    """Return the counts at half their weight, without those that hardly weigh anything any more."""
    return {index: count / 2 for index, count in counts.items() if count / 2 >= _FAINT}


def merged(parts: Iterable[Mapping[int, float]]) -> Counts:
    """Return the sum of several histograms."""
    total: Counts = {}
    for part in parts:
        for index, count in part.items():
            total[index] = total.get(index, 0.0) + count
    return total


def quantile(counts: Mapping[int, float], share: float) -> int:
    """Return a token count that at least `share` of the next values are expected not to exceed; 0 of nothing."""
    if not counts:
        return 0
    wanted = share * (sum(counts.values()) + 1)
    seen = 0.0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= wanted:
            return upper(index)
    return upper(max(counts))
