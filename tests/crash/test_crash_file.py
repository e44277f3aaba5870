"""Killed while the journal's file itself is in pieces: being made, in the middle of a write, being closed."""

from .boundaries import is_a_commit
from .trials import deep


def test_a_kill_while_the_journal_is_being_made_leaves_nothing_in_the_way(crash_bench):
    """Whatever is there of it, the next process opens it, and its first call is charged."""
    points = crash_bench.boundaries("plain", opening=True)
    # What is after one statement is before the next.
    made = [point for point in points if point.startswith("sql ") and " before #" in point] + ["sql COMMIT after #1"]
    assert {"sql PRAGMA journal_mode = before #1", "sql COMMIT before #1"} <= set(made)
    trials = [crash_bench.trial("plain", point, opening=True) for point in made]
    crash_bench.run("plain, while its journal is being made", trials)
    crash_bench.run_again(trials[:: 1 if deep() else 3])


# A frame of the write-ahead log: 24 bytes of header, a page of 4096.
_BYTES = (0, 24, 24 + 2000, 24 + 4096, 2 * (24 + 4096) + 24)


def test_a_kill_in_the_middle_of_a_commits_write_is_a_kill_before_it(crash_bench):
    """What was not written as a whole was not committed, however much of it is in the file."""
    points = [point for point in crash_bench.boundaries("plain") if is_a_commit(point)]
    trials = [crash_bench.trial("plain", point, act=["tear", beyond]) for point in points for beyond in _BYTES]
    crash_bench.run("plain, in the middle of a write", trials)


def test_a_kill_in_the_middle_of_closing_the_file_loses_nothing(crash_bench):
    """The write-ahead log is copied into the file, and it dies on the way; the log is still there."""
    sizes = (1, 5000, 4096 * 3, 4096 * 7 + 1)
    trials = [crash_bench.trial("plain", "close before #1", act=["tear checkpoint", size]) for size in sizes]
    crash_bench.run("plain, while its journal is being closed", trials)
    assert [3] * len(sizes) == [trial.finding.charged for trial in trials]
