"""
The future of one step: what `concurrent.futures.Future` is, for a fifth of its cost, and never left stuck by Ctrl-C.

`Future` has a condition, which is two locks and a queue in Python code: an interrupt at the wrong place leaves one of
them taken for ever, and hangs the thread that has to tell the result. Here one lock is shut until there is a result.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG: Final = logging.getLogger("countwerk_meter.journal")
_Lock: Final = type(threading.RLock())  # itself, without the function around it
# concurrent.futures' own words, which its `wait` asks for.
_RUNNING: Final = "RUNNING"
_FINISHED: Final = "FINISHED"


class Outcome(Future[Any]):
    """
    What a step will have come to. Nobody can cancel it: what was queued is carried out, whoever stops waiting for it.

    Safe to use from any thread; `concurrent.futures.wait` and asyncio take it for any other future.
    """

    def __init__(self) -> None:
        # Not Future's own, which makes what is not needed here.
        self._condition: Any = _Lock()  # for `concurrent.futures.wait` alone
        self._state = _RUNNING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._callbacks: deque[Callable[[Future[Any]], object]] = deque()
        self._shut = threading.Lock()
        self._shut.acquire()

    def done(self) -> bool:
        return self._state is _FINISHED

    def result(self, timeout: float | None = None) -> Any:
        if self._state is not _FINISHED:
            self._wait(timeout)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # The error's traceback holds this frame.
                self = None  # noqa: PLW0642
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._state is not _FINISHED:
            self._wait(timeout)
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        most = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        try:
            self._shut.acquire(timeout=most)
        finally:
            # Whoever comes through, interrupted or not, opens it for the next: with no call in Python on the way, where
            # another interrupt might strike.
            if self._state is _FINISHED:
                try:  # noqa: SIM105
                    self._shut.release()
                except RuntimeError:  # it is open
                    pass
        if self._state is not _FINISHED:
            raise TimeoutError

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        self._callbacks.append(fn)
        # Between the two nobody is forgotten: what is taken from a deque is taken once.
        if self._state is _FINISHED:
            self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                callback(self)
            except Exception as error:  # noqa: BLE001 - it is the callback's own, and the others are called all the same
                # By its name alone: its text may hold anything.
                _LOG.error("what follows from a step failed: %s", type(error).__name__)

    def set_result(self, result: Any) -> None:
        self._finish(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self._finish(None, exception)

    def _finish(self, result: Any, exception: BaseException | None) -> None:
        with self._condition:
            if self._state is _FINISHED:
                raise InvalidStateError("it has a result")
            self._result, self._exception = result, exception
            self._state = _FINISHED
            for waiter in self._waiters:
                (waiter.add_result if exception is None else waiter.add_exception)(self)
        try:  # noqa: SIM105 - as above
            self._shut.release()
        except RuntimeError:  # whoever was there first has opened it
            pass
        self._call_back()
