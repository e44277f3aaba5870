"""What a flow may ask for, and what it is told. Time, randomness and sleep reach a flow only as replies."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Operation
    from countwerk_meter._wire.requests import LedgerRequest

T = TypeVar("T")


@frozen
class Send:
    """Send one request; answered with `Answer`, `NotSent` or `InDoubt` by `deadline` (monotonic seconds)."""

    request: LedgerRequest
    deadline: float


@frozen
class Journal:
    """
    Carry out one operation on the journal, in one transaction; answered with its result.

    With `waits` off it is queued, before all that comes later, and answered with None at once.
    """

    operation: Operation[Any]
    waits: bool = True


@frozen
class Sleep:
    """Wait `seconds`, or with `jitter` a random part of them (full jitter); answered with None."""

    seconds: float
    jitter: bool = False


@frozen
class Now:
    """Answered with a `Moment`."""


@frozen
class Emit:
    """Tell whoever listens what happened; answered with None. `fields` hold no secret, no prompt, no URL."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


@frozen
class Moment:
    """
    One reading of the clocks.

    Attributes:
        monotonic: Seconds, for deadlines.
        wall: POSIX seconds of this machine, for schedules; never for judging a hold (money rule 6).
        ledger: POSIX seconds of the ledger at the latest, carried on from an answer at most 60 s old; else None.

    """

    monotonic: float
    wall: float
    ledger: float | None = None


class Interrupted(BaseException):
    """
    Thrown into a flow that was cut short from outside (cancelled, Ctrl-C): no more waiting, nothing is sent any more.

    What the flow still commits is queued. At a `Send` the request is in doubt; at a `Journal` that step was queued.
    """


class InterruptedInDoubt(Interrupted):
    """A flow's own word for it: a request was out."""


Command: TypeAlias = Send | Journal | Sleep | Now | Emit
Flow: TypeAlias = Generator[Command, Any, T]
