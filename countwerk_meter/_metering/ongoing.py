"""
What is on its way through a meter just now: gates, and calls that are open.

Known by what they are, not counted up and down: Ctrl-C beside a count leaves it wrong for ever, and whoever closes
the meter waits for a call that is long over.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from countwerk_meter._metering.call import Call


class Gate:
    """
    One call at its gate; `loop`: the event loop that it waits on, if any.

    It is over when it says so, and at the latest when nobody knows of it any more, or its loop is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop

    @property
    def stands(self) -> bool:
        """Whether anybody may still go through."""
        return self._loop is None or not self._loop.is_closed()


class Ongoing:
    """Gates and open calls of one process. Safe from any thread."""

    def __init__(self) -> None:
        self._gates: dict[int, weakref.ref[Gate]] = {}
        self._calls: set[Call] = set()

    def arrived(self, gate: Gate) -> None:
        """A call stands before its gate."""
        self._gates[id(gate)] = weakref.ref(gate)

    def answered(self, gate: Gate) -> None:
        """It was let through, or refused."""
        self._gates.pop(id(gate), None)

    def began(self, call: Call) -> None:
        """A call has passed its gate."""
        self._calls.add(call)

    def ended(self, call: Call) -> None:
        """It is over, and its charge is queued."""
        self._calls.discard(call)

    def calls(self) -> bool:
        """Whether the charge of an open call is still to come."""
        return any(call.open for call in list(self._calls))

    def any(self) -> bool:
        """Whether a call is open, or still at its gate."""
        return self.calls() or any(self._standing())

    def _standing(self) -> Iterator[bool]:
        for known in list(self._gates.values()):
            gate = known()
            yield gate is not None and gate.stands
