"""
What several handlers that see one call must know of each other.

Two rules. The first handler of one meter, account and operation meters the call, and the others step aside, so that it
is counted once. And where one handler refuses the call, the others give back what they hold for it, because LangChain
tells them nothing more of it.

A run id alone names no call, because it may be a client's choice. All handlers of one call, and of one batch, are
handed the same `options` object, and a claim holds on to it, so that its identity names the call while it runs. Claims
are held by their calls alone: a handler that an app lets go takes its own along.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from countwerk_meter import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from countwerk_meter import Meter, Reservation

_REFUSED: Final = 100


@dataclass(slots=True, eq=False, weakref_slot=True)
class Claim:
    """
    One call, as one account's use of one operation of a meter.

    Attributes:
        run_id: The call's run.
        options: What all handlers of the call are handed alike.
        meter: The meter.
        account_id: The account.
        operation: The operation.
        alone: No other call is refused with it, as the prompts of a batch are.
        give_up: What ends it where it is metered.
        reservation: What holds its credits there.

    """

    run_id: UUID
    options: object
    meter: Meter
    account_id: str
    operation: str
    alone: bool = False
    give_up: Callable[[], None] | None = None
    reservation: Reservation | None = None

    @property
    def key(self) -> tuple[int, UUID, int, str, str]:
        """What two handlers would claim alike."""
        return id(self.options), self.run_id, id(self.meter), self.account_id, self.operation

    @property
    def together(self) -> tuple[int, UUID | None]:
        """What is refused together."""
        return id(self.options), self.run_id if self.alone else None


class Claims:
    """The claims of a process' handlers. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._claimed: weakref.WeakValueDictionary[tuple[int, UUID, int, str, str], Claim] = (
            weakref.WeakValueDictionary()
        )
        self._refused: OrderedDict[tuple[int, UUID | None], object] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claimed)

    def take(self, claim: Claim) -> bool:
        """
        Claim a call; False: another handler has, and this one steps aside.

        Raises:
            ConfigurationError: Another handler has refused the call already.

        """
        with self._lock:
            if claim.together in self._refused:
                raise ConfigurationError("another handler refused this call")
            return self._claimed.setdefault(claim.key, claim) is claim

    def holder(self, claim: Claim) -> Claim:
        """Return the claim of the handler that meters this call."""
        with self._lock:
            return self._claimed.get(claim.key, claim)

    def hold(self, claim: Claim, give_up: Callable[[], None]) -> None:
        """Say what ends a call that passed its gate; it ends at once if another handler refused it meanwhile."""
        with self._lock:
            refused = claim.together in self._refused
            claim.give_up = give_up
        if refused:
            give_up()

    def refuse(self, options: object, run_id: UUID | None = None) -> None:
        """Give back what any handler holds for a call that one of them refuses: this run's, or a whole batch."""
        together = id(options), run_id
        with self._lock:
            self._refused[together] = options
            if len(self._refused) > _REFUSED:
                self._refused.popitem(last=False)
            ends = [claim.give_up for claim in list(self._claimed.values()) if claim.together == together]
        for end in ends:
            if end is not None:
                end()

    def release(self, claim: Claim) -> None:
        """Let a call go that has ended."""
        with self._lock:
            if self._claimed.get(claim.key) is claim:
                del self._claimed[claim.key]


CLAIMS: Final = Claims()
