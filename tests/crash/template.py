"""The process that has imported everything, and forks those that die: a fork takes milliseconds, an import does not."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Template:
    """A process that has imported everything, and forks the ones that die."""

    def __init__(self, errors):
        self._errors = errors
        self._numbers = itertools.count()
        self._children = set()
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.worker"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip

    def ask(self, **order):
        number = next(self._numbers)
        self._process.stdin.write(json.dumps({"number": number, **order}) + "\n")
        self._process.stdin.flush()
        # What a test that was cut short never read is passed over.
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.pop("number") == number:
                return answer
        raise AssertionError(self.errors())

    def run(self, **order):
        """Carry out an order in a child, and return how that ended."""
        return self.wait(self.start(**order))

    def start(self, **order):
        """Carry out an order in a child, and return its process id."""
        pid = self.ask(**order)["pid"]
        self._children.add(pid)
        return pid

    def wait(self, pid):
        """Wait until a child has ended or is stopped."""
        ended = self.ask(do="wait", pid=pid)
        if "code" in ended:
            self._children.discard(pid)
        return ended

    def errors(self):
        return self._errors.read_text(errors="replace")

    def close(self):
        # Nobody has waited for these, so that the numbers are still theirs: a test that failed left them, stopped maybe.
        for pid in self._children if self._process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
