"""
What calls put out before, as one process knows it: read from the journal now and then, and written back in small lots.

Nothing here raises, and only the first estimate of a kind of call waits for the journal, briefly.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.learning import Answered, Kind, Learn, Recall
from countwerk_meter.errors import CountwerkError
from countwerk_meter.estimating import COLD_START_TOKENS, Histories

if TYPE_CHECKING:
    from concurrent.futures import Future

    from countwerk_meter.journal import Journal

LOT: Final = 8
REFRESH_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.05
_KINDS: Final = 512
_LONGEST_NAME: Final = 128


@dataclass(slots=True)
class _Known:
    """One kind of call: what the journal said, what was learned since, and what is not written yet."""

    histories: Histories = field(default_factory=Histories)
    waiting: list[Answered] = field(default_factory=list[Answered])
    read_at: float | None = None
    asked: bool = False


class Learner:
    """The histories of one meter's calls. Safe to use from any thread."""

    def __init__(self, journal: Journal, ledger: str) -> None:
        self._journal = journal
        self._ledger = ledger
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child: what waits is the parent's, whose lock may have been held."""
        self._lock = threading.RLock()
        self._known: OrderedDict[Kind, _Known] = OrderedDict()

    def bound(
        self, account_id: str, operation: str, model: str | None, input_tokens: int, *, cold_start: int | None = None
    ) -> int:
        """Return how many output tokens to hold for."""
        kind = self._kind(account_id, operation, model)
        known, future = self._fresh(kind)
        if future is not None and known.read_at is None:
            with contextlib.suppress(CountwerkError, TimeoutError):
                future.result(_FIRST_WAIT_SECONDS)
        with self._lock:
            return known.histories.bound(input_tokens, cold_start=cold_start or COLD_START_TOKENS)

    def observe(
        self, account_id: str, operation: str, model: str | None, input_tokens: int, output_tokens: int
    ) -> None:
        """Learn from one answer. It counts at once here, and for other processes with the next lot."""
        kind = self._kind(account_id, operation, model)
        answer = Answered(input_tokens, output_tokens)
        with self._lock:
            known = self._entry(kind)
            known.histories.learn(*answer)
            known.waiting.append(answer)
            full = len(known.waiting) >= LOT
        if full:
            self._write(kind, known)

    def flush(self) -> None:
        """Write what waits; its commits are queued, and waited for by whoever closes the journal."""
        with self._lock:
            waiting = [(kind, known) for kind, known in self._known.items() if known.waiting]
        for kind, known in waiting:
            self._write(kind, known)

    def _kind(self, account_id: str, operation: str, model: str | None) -> Kind:
        return Kind(self._ledger, account_id, operation, (model or "")[:_LONGEST_NAME])

    def _entry(self, kind: Kind) -> _Known:
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = _Known()
            if len(self._known) > _KINDS:
                # What it had not written is lost: a statistic.
                self._known.popitem(last=False)
        self._known.move_to_end(kind)
        return known

    def _fresh(self, kind: Kind) -> tuple[_Known, Future[Histories] | None]:
        """Return what is known, and a future where the journal was just asked for something newer."""
        with self._lock:
            known = self._entry(kind)
            if known.asked or (known.read_at is not None and time.monotonic() < known.read_at + REFRESH_SECONDS):
                return known, None
            known.asked = True
        future = self._journal.submit(Recall(kind))
        future.add_done_callback(lambda done: self._read(known, done))
        return known, future

    def _write(self, kind: Kind, known: _Known) -> None:
        with self._lock:
            answers, known.waiting = tuple(known.waiting), []
        if answers:
            future = self._journal.submit(Learn(kind, answers))
            future.add_done_callback(lambda done: self._read(known, done))

    def _read(self, known: _Known, done: Future[Histories]) -> None:
        with self._lock:
            known.asked = False
            known.read_at = time.monotonic()
            if done.exception() is None:
                known.histories = done.result()
                for answer in known.waiting:
                    known.histories.learn(*answer)
