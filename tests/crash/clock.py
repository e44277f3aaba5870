"""
A process' clocks, moved on from outside, also while it is stopped: as if that much time had passed.

Both go together, as they do on a machine that runs on while one of its processes is stopped.
"""

import mmap
import os
import struct
import time

_SHIFT = struct.Struct("d")


def make(path):
    """Make the file that holds the shift, in seconds."""
    path.write_bytes(_SHIFT.pack(0.0))


def advance(path, seconds):
    """Move the clocks of whoever follows the file."""
    (before,) = _SHIFT.unpack(path.read_bytes())
    with path.open("r+b") as file:
        file.write(_SHIFT.pack(before + seconds))


def follow(path):
    """Let this process' clocks follow the file, for good."""
    handle = os.open(path, os.O_RDONLY)
    shift = mmap.mmap(handle, _SHIFT.size, prot=mmap.PROT_READ)
    os.close(handle)
    wall, monotonic = time.time, time.monotonic
    time.time = lambda: wall() + _SHIFT.unpack(shift[:])[0]
    time.monotonic = lambda: monotonic() + _SHIFT.unpack(shift[:])[0]
