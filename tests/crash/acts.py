"""What happens to a process at its boundary: killed, stopped, or killed in the middle of its next write to a file."""

import itertools
import os
import resource
import signal
import threading
from pathlib import Path


def kill(_journal):
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(journal):
    """Stop until SIGCONT."""
    journal.quiet()
    # To this thread, so that it goes no further; the whole process stops with it.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def stop_inside(_journal):
    """Stop where it stands, also inside a transaction."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def tear(journal, beyond):
    """
    Let the kernel kill it in the middle of a write, so many bytes beyond the end of the write-ahead log.

    A limit on the size of files does that exactly: what fits below it is written, and then it dies by SIGXFSZ.
    """
    _limit(Path(journal.name + "-wal").stat().st_size + beyond)


def tear_checkpoint(_journal, at):
    """Let the kernel kill it in the middle of a write at an offset of the journal's main file."""
    _limit(at)


def no_room(journal):
    """Let no file of this process grow beyond the write-ahead log as it is now: what a full disk does."""
    _limit(Path(journal + "-wal").stat().st_size)


def room():
    """Let files grow again."""
    _limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])


def fill_disk(journal, times):
    """Leave no room for this commit, nor for the next ones until so many have failed."""
    failures = itertools.count(1)

    def failed():
        if next(failures) == times:
            room()

    journal.on_failure = failed
    no_room(journal.name)


def limit_kills():
    """Let the limit on the size of files kill, where Python would have it ignored. In the main thread only."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


ACTS = {
    "kill": kill,
    "stop": stop,
    "stop inside": stop_inside,
    "tear": tear,
    "tear checkpoint": tear_checkpoint,
    "fill disk": fill_disk,
}
