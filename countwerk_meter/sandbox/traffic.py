"""
What was asked of the sandbox lately, for tests that count requests.

The rule: an API key is never in it. Bodies are, since they are what a test wants to see.
"""

from collections import Counter, deque
from dataclasses import dataclass

from countwerk_meter.sandbox.clock import iso
from countwerk_meter.sandbox.contract import JsonObject

_KEPT = 1000


@dataclass(slots=True)
class Seen:
    """One request. `status` is what was answered: None while it is on its way, and if no answer was sent whole."""

    path: str
    at: int
    body: JsonObject | None
    fault: str | None
    status: int | None = None
    code: str | None = None

    def as_json(self) -> JsonObject:
        return {
            "path": self.path,
            "at": iso(self.at),
            "body": self.body,
            "fault": self.fault,
            "status": self.status,
            "code": self.code,
        }


class Traffic:
    """A count per path, and the last requests with what became of them."""

    __slots__ = ("counts", "recent")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.recent: deque[Seen] = deque(maxlen=_KEPT)

    def note(self, seen: Seen) -> None:
        self.counts[seen.path] += 1
        self.recent.append(seen)

    def clear(self) -> None:
        self.counts.clear()
        self.recent.clear()

    def as_json(self, limit: int) -> JsonObject:
        """Report the counts and the last `limit` requests, oldest first."""
        last = list(self.recent)[max(0, len(self.recent) - limit) :]
        return {"counts": dict(self.counts), "requests": [seen.as_json() for seen in last]}
