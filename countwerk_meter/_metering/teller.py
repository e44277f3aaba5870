"""Telling of events away from the thread that they come from: whoever listens may block, or ask the meter."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter.telemetry import Telemetry

_IDLE_SECONDS: Final = 1.0


class Teller:
    """Tells events in their order, on a thread that is there while there is something to tell."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._waiting: queue.SimpleQueue[tuple[str, Mapping[str, Any]]] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._left = 0

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Tell an event soon. Waits for nobody."""
        with self._lock:
            self._left += 1
            self._waiting.put((event, fields))
            if self._thread is not None:
                return
            if not sys.is_finalizing():
                self._thread = threading.Thread(target=self._run, name="countwerk-events", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
                else:
                    return
        # No thread can be had, at exit say: better here than not at all.
        self._tell_waiting()

    def drained(self, seconds: float) -> bool:
        """Wait until all was told, so long at most."""
        deadline = time.monotonic() + seconds
        while self._left:
            if self._thread is threading.current_thread():
                break
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    def _run(self) -> None:
        while True:
            try:
                event, fields = self._waiting.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._thread = None
                        return
                continue
            self._heard(event, fields)

    def _tell_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._heard(*self._waiting.get_nowait())

    def _heard(self, event: str, fields: Mapping[str, Any]) -> None:
        try:
            self._telemetry.event(event, fields)
        finally:
            with self._lock:
                self._left -= 1
