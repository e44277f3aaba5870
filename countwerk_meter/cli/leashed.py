"""
`python -m countwerk_meter.cli.leashed MODULE ...`: runs a module that ends when whoever started it does.

However that happens, SIGKILL included: the other end of stdin is closed then.
"""

import os
import runpy
import signal
import sys
import threading


def _watch() -> None:
    """Wait for the end of stdin, then leave as if told to."""
    # Not through sys.stdin: the interpreter cannot end while a thread holds the lock of its buffer.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="countwerk-leash", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
