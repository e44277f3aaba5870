"""
Processes that a command starts and always ends: on an error, on Ctrl-C, when it is told to terminate, and by
themselves when it is killed (leashed.py).

What a child prints goes to files, so that it can neither garble the display nor block on a full pipe. Its first line on
stdout says where it listens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from types import FrameType, TracebackType

_STARTS_WITHIN: Final = 30.0
_STOPS_WITHIN: Final = 5.0
_POLLED_EVERY: Final = 0.02
_SHOWN_OF_ITS_ERRORS: Final = 400


class Child:
    """
    One `python -m ...` that announces itself with a line of JSON.

    Args:
        name: What messages and its files are called.
        arguments: What follows `python -m`.
        directory: Where its output is kept.
        environment: All that it sees of one; None: ours.

    """

    def __init__(
        self, name: str, arguments: list[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._arguments = arguments
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.announced: dict[str, Any] = {}

    def start(self) -> Self:
        """Start it, and wait until it has said where it is."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and arguments of our own
                [sys.executable, "-m", "countwerk_meter.cli.leashed", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=None if self._environment is None else dict(self._environment),
            )
        try:
            self.announced = json.loads(self._first_line(self._process))
        except BaseException:
            self.stop()
            raise
        return self

    def _first_line(self, process: subprocess.Popen[bytes]) -> bytes:
        deadline = time.monotonic() + _STARTS_WITHIN
        while True:
            line, ended, _ = self._out.read_bytes().partition(b"\n")
            if ended:
                return line
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                what = "did not start" if code is None else f"ended with exit code {code}"
                raise CountwerkError(f"the {self._name} {what}: {self.errors() or 'it said nothing'}")
            time.sleep(_POLLED_EVERY)

    def errors(self) -> str:
        """Return the end of what it wrote to stderr, in one line."""
        text = self._err.read_text(encoding="utf-8", errors="replace") if self._err.exists() else ""
        return " ".join(text.split())[-_SHOWN_OF_ITS_ERRORS:]

    def stop(self) -> None:
        """End it: politely, then not."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        if process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def sandbox_process(directory: Path) -> Child:
    """Return a sandbox in a process of its own, so that it does not share our interpreter's lock."""
    # It needs no secret of ours, so it is given none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COUNTWERK_")}
    return Child("sandbox", ["countwerk_meter.cli", "sandbox", "--port", "0", "--json"], directory, environment)


@contextmanager
def ended_on_sigterm() -> Generator[None]:
    """Make SIGTERM an exception inside, so that children are ended; a command owns its process, a library does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
