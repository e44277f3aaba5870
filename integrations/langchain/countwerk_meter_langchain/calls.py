"""What a handler knows of a model call, or of a priced tool's, from its gate to its end; and of the batch it is in."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from countwerk_meter_langchain.answers import Streamed

if TYPE_CHECKING:
    import weakref
    from collections.abc import Generator
    from uuid import UUID

    from countwerk_meter import Reservation, Usage
    from countwerk_meter_langchain.claims import Claim
    from countwerk_meter_langchain.steps import Named

_PATIENCE_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class Batch:
    """
    The prompts of one `generate` call. They share one `options` object, which names the batch while it is referred to.

    Attributes:
        failed: Why none of it will run.
        known: One of its answers reported usage.
        ended: How many of its calls have ended with an answer.
        sharing: Answers whose usage another one reports, perhaps; they wait until that is known.
        lock: Guards the last three: on the async path the ends of a batch come at once.

    """

    options: object
    size: int
    open: list[Run] = field(default_factory=list["Run"])
    failed: BaseException | None = None
    known: bool = False
    ended: int = 0
    sharing: list[Run] = field(default_factory=list["Run"])
    lock: threading.RLock = field(default_factory=threading.RLock)
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Run:
    """
    One model call that passed the gate.

    Attributes:
        named_by: LangChain's own object that names the call. Whatever would tell of the call's end holds on to it; so
            once it is gone, nobody will.
        ordinal_back: Its place among the calls of its step was given to the next one.
        ending: Held by whoever ends it, see `alone`.

    """

    run_id: UUID
    reservation: Reservation
    model: str | None
    input_tokens: int
    path: tuple[UUID, ...]
    batch: Batch | None = None
    claim: Claim | None = None
    named: Named | None = None
    streamed: Streamed = field(default_factory=Streamed)
    began: float = field(default_factory=time.monotonic)
    touched: float = 0.0
    abandoned: bool = False
    released: bool = False
    recorded: Usage | None = None
    named_by: weakref.ref[UUID] | None = None
    ordinal_back: bool = False
    ending: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def alone(self) -> Generator[None]:
        """
        End it, so that an answer comes before or after it is given up, and not in the middle.

        Not waited for without end: the collector may end a call on a thread that holds what the other one needs.
        """
        held = self.ending.acquire(timeout=_PATIENCE_SECONDS)
        try:
            yield
        finally:
            if held:
                self.ending.release()
