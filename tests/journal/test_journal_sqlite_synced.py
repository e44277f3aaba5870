"""Bringing commits to the disk behind the lock: who hears of what when, what a failing disk does, who else waits."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from countwerk_meter.errors import JournalError
from countwerk_meter.journal import sqlite_file, write_ahead
from countwerk_meter.journal.forking import Pause
from countwerk_meter.testing.conformance import Do, DoDurably, Look, a_charge


def save(name, **more):
    return lambda books: books.save_charge(a_charge(name, **more))


class Disk:
    """A disk that takes its time, or fails."""

    def __init__(self):
        self.entered, self.go, self.failures, self.times = threading.Event(), threading.Event(), 0, 0
        self.go.set()

    def __call__(self, number):
        self.times += 1
        self.entered.set()
        assert self.go.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")


@pytest.fixture
def impatient(monkeypatch):
    """SQLite waits a moment for a file, and not five seconds."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.2)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(write_ahead, "_to_disk", disk)
    yield disk
    disk.go.set()


def test_nobody_of_this_process_hears_of_a_commit_before_it_is_on_the_disk(opened, disk):
    """Nor of what was read beside it or after it: a deduct leaves because a commit is seen (the model check says why)."""
    journal = opened()
    journal.run(Do(save("before")))
    disk.go.clear()
    durable = journal.submit(DoDurably(save("c", amount=3)))
    assert disk.entered.wait(10)
    seen = journal.submit(Look(lambda books: books.charge("l", "c").amount))
    time.sleep(0.1)
    assert not durable.done()
    assert not seen.done()
    disk.go.set()
    durable.result(10)
    assert 3 == seen.result(10)


def test_what_is_answered_is_in_what_was_on_the_disk(opened, path, monkeypatch, tmp_path):
    """A power cut leaves the files as they were when the disk was last waited for: every answered commit is in them."""
    kept, real = tmp_path / "kept", write_ahead._to_disk
    kept.mkdir()

    def to_disk(number):
        real(number)
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", kept / f"journal.db{end}")

    monkeypatch.setattr(write_ahead, "_to_disk", to_disk)
    journal = opened()
    for number in range(40):
        journal.run(DoDurably(save(f"c{number}", description="x" * 2000)))
        if number % 8 == 7:
            # What came after it may be lost, and is not what was waited for.
            journal.run(Do(save(f"later{number}")))
            copy = tmp_path / f"after{number}"
            shutil.copytree(kept, copy)
            with contextlib.closing(sqlite3.connect(copy / "journal.db")) as db:
                (there,) = db.execute("SELECT count(*) FROM charge WHERE id LIKE 'c%'").fetchone()
            assert number + 1 == there


def test_another_process_writes_meanwhile(opened, path, disk):
    """The disk is waited for without the file's lock."""
    journal = opened()
    journal.run(Do(save("before")))
    disk.go.clear()
    durable = journal.submit(DoDurably(save("c")))
    assert disk.entered.wait(10)
    other = sqlite3.connect(path, timeout=0)
    other.execute("UPDATE charge SET reason = 'other' WHERE id = 'before'")
    other.commit()
    other.close()
    assert not durable.done()
    disk.go.set()
    durable.result(10)
    assert "other" == journal.run(Look(lambda books: books.charge("l", "before").reason))


def test_what_the_log_could_not_take_the_file_itself_is_given(opened, traced, disk):
    """A system tells of a failed sync once, and calls it done the next time; so it is not asked again before that."""
    journal = opened()
    disk.failures = 1
    journal.run(DoDurably(save("c", amount=3)))
    assert ["PRAGMA wal_checkpoint(FULL)"] == [text for text in traced if "checkpoint" in text]
    journal.run(DoDurably(save("d")))
    assert 2 == disk.times
    assert 1 == len([text for text in traced if "checkpoint" in text])


@pytest.fixture
def stuck(impatient, opened, path, disk):
    """The log is not synced, and the file cannot be brought up to date meanwhile, because somebody reads it as it was."""
    reader = sqlite3.connect(path, isolation_level=None)
    opened().run(Do(save("old")))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM charge").fetchall()
    disk.failures = 1
    yield reader
    reader.close()


def test_a_disk_that_takes_neither_is_one_that_hangs(stuck, held, disk, caplog):
    """
    Others see what was committed, so nobody is told that it failed; it is said in the log, once.

    Until the file has it: a log that was synced anew would call lost pages written.
    """
    futures = [held.submit(each) for each in (Do(save("a")), DoDurably(save("b")), Do(lambda books: 1 / 0))]
    held.release()
    time.sleep(1)
    assert not any(future.done() for future in futures)
    assert 1 == disk.times
    stuck.execute("ROLLBACK")
    for future in futures[:2]:
        future.result(30)
    with pytest.raises(JournalError, match="ZeroDivisionError"):
        futures[2].result(30)
    (told,) = caplog.records
    assert "answers nothing until its disk takes it" in told.message
    assert {"old", "a", "b"} == {row.id for row in held.run(Look(lambda books: books.charges("l", None, 9)))}


@pytest.mark.parametrize("end", ["close", "fork"])
def test_a_disk_that_takes_neither_keeps_no_process_from_its_end(stuck, held, end):
    """Nor a fork: what must last has failed then, and nothing else."""
    futures = [held.submit(each) for each in (Do(save("a")), DoDurably(save("b")))]
    held.release()
    time.sleep(0.5)
    pause = Pause()
    held.let_go(pause) if end == "fork" else held.close()
    futures[0].result(30)
    with pytest.raises(JournalError, match="cannot be written"):
        futures[1].result(30)
    pause.over.set()
    held.resume()


WRITER = """
import sys, time
from countwerk_meter.journal import SqliteJournal
from countwerk_meter.testing.conformance import DoDurably, a_charge
journal, name = SqliteJournal(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
end, done, worst = time.monotonic() + 2, 0, 0.0
while time.monotonic() < end:
    began = time.monotonic()
    journal.run(DoDurably(lambda books: books.save_charge(a_charge(f"{name}-{done}"))))
    done, worst = done + 1, max(worst, time.monotonic() - began)
print(done, flush=True)
journal.close()
"""


def test_no_process_starves_beside_others(path, opened):
    """Four that commit as fast as they can: with the sync inside of the lock, one or two of them got a commit or two."""
    opened().run(Do(save("first")))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, f"w{at}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for at in range(4)
    ]
    for writer in writers:
        assert "ready\n" == writer.stdout.readline()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    done = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert min(done) * 20 > max(done), done
