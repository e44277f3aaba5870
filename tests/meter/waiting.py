"""Waiting for what another thread or process does."""

import time


def until(condition, seconds=20.0):
    """Return as soon as it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
