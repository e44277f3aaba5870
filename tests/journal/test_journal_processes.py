"""One file, several processes: writers at once, forks, and owners that die."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from countwerk_meter.journal import SqliteJournal, forking
from countwerk_meter.testing.conformance import Do, Look


def script(text, *args):
    """Start a Python process; it talks over its pipes. What 3.12 and later say of every fork is left out."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", textwrap.dedent(text), *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process):
    out, err = process.communicate(timeout=60)
    assert "" == err
    assert 0 == process.returncode
    return out


_WRITER = """
    import sys
    from countwerk_meter.journal import SqliteJournal
    from countwerk_meter.testing.conformance import Do, DoDurably, a_charge
    sys.stdin.readline()
    journal = SqliteJournal(sys.argv[1])
    def count(books):
        books.set_carry("l", "a", books.carry("l", "a") + 1)
    for number in range(100):
        journal.run((DoDurably if number % 10 == 0 else Do)(count))
    journal.close()
"""


def test_processes_that_make_and_write_one_file_at_once_lose_nothing(opened, path):
    """Neither in making it nor in writing it."""
    writers = [script(_WRITER, path) for _ in range(4)]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        ended(writer)
    assert opened().run(Look(lambda books: books.carry("l", "a"))) == 400


@pytest.mark.parametrize("moment", ["PRAGMA application_id", "SELECT count(*)", "PRAGMA quick", "PRAGMA journal"])
def test_a_file_that_another_makes_just_now_is_taken_for_a_journal(path, monkeypatch, moment):
    """Wherever the other is with it when this one looks what it is."""
    other = threading.Thread(target=lambda: opened_journal.append(SqliteJournal(path)))
    opened_journal, connect = [], sqlite3.connect

    class Looking(sqlite3.Connection):
        def execute(self, statement, *args):
            if statement.startswith(moment) and other.ident is None:
                monkeypatch.undo()
                other.start()
                other.join(0.3)
            return super().execute(statement, *args)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Looking, **options))
    SqliteJournal(path).close()
    other.join(10)
    (journal,) = opened_journal
    journal.close()


def test_a_file_is_not_taken_for_damaged_while_another_makes_it(path, monkeypatch):
    """Empty when it is first looked at, a journal a moment later."""
    path.touch(0o600)
    exists, made = Path.exists, []

    def looked(beside):
        if not made:
            monkeypatch.undo()
            made.append(SqliteJournal(path))
        return exists(beside)

    monkeypatch.setattr(Path, "exists", looked)
    SqliteJournal(path).close()
    made[0].close()


_OWNER = """
    import sys
    from countwerk_meter.journal import SqliteJournal
    journal = SqliteJournal(sys.argv[1])
    journal.join("other")
    print("joined", flush=True)
    sys.stdin.readline()
"""


def test_an_owner_in_another_process_lives_until_it_is_killed(opened, path):
    """The kernel lets go of its lock, and its lock file is tidied up."""
    journal = opened()
    process = script(_OWNER, path)
    try:
        assert "joined\n" == process.stdout.readline()
        assert journal.is_alive("other")
        assert journal.is_alive("other")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    lock = path.parent / "journal.db.owners" / "other.lock"
    assert lock.exists()
    assert not journal.is_alive("other")
    assert not lock.exists()
    assert not journal.is_alive("other")


_FORKER = """
    import os, sys, threading
    from countwerk_meter.journal import SqliteJournal
    from countwerk_meter.testing.conformance import Do, Look, a_charge
    journal = SqliteJournal(sys.argv[1])
    journal.join("parent")
    journal.run(Do(lambda books: books.save_charge(a_charge("before"))))
    parents_thread = journal._thread
    # Another thread holds the lock at the fork, and does not exist in the child.
    journal._lock.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        journal.run(Do(lambda books: books.save_charge(a_charge("child"))))
        journal.join("child")
        told = [
            journal._thread is not parents_thread,
            journal._thread.is_alive(),
            [row.id for row in journal.run(Look(lambda books: books.charges("l", None, 9)))] == ["before", "child"],
            journal.is_alive("parent"),
            journal.is_alive("child"),
            "parent" not in journal._locks._held,
        ]
        journal.close()
        os.write(write, repr(told).encode())
        os.close(write)
        os._exit(0)
    os.close(write)
    journal._lock.release()
    with os.fdopen(read) as pipe:
        print(pipe.read())
    os.waitpid(child, 0)
    print(journal.is_alive("parent"), journal.is_alive("child"))
    journal.run(Do(lambda books: books.save_charge(a_charge("after"))))
    print(sorted(row.id for row in journal.run(Look(lambda books: books.charges("l", None, 9)))))
    journal.close()
"""


def test_a_fork_gets_its_own_thread_connection_and_owner(path):
    """The child never touches what is the parent's, and the parent goes on."""
    told, owners, rows = ended(script(_FORKER, path)).splitlines()
    assert repr([True] * 6) == told
    assert "True False" == owners
    assert repr(["after", "before", "child"]) == rows


_DEAD_PARENT = """
    import os, sys
    from countwerk_meter.journal import SqliteJournal
    journal = SqliteJournal(sys.argv[1])
    journal.join("parent")
    if os.fork() == 0:
        sys.stdin.readline()
        os._exit(0)
    print("forked", flush=True)
    os._exit(0)
"""


_FORKED_BESIDE = """
    import os, sys, threading, time
    from countwerk_meter.journal import SqliteJournal, sqlite_file, write_ahead
    path, moment = sys.argv[1:]
    inside, made = threading.Event(), []
    def slowly(owner, name):
        real = getattr(owner, name)
        def slow(*args):
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                time.sleep(0.3)
            return real(*args)
        setattr(owner, name, slow)
    if moment == "opening":
        slowly(sqlite_file, "_checked")
        beside = threading.Thread(target=lambda: made.append(SqliteJournal(path)))
    else:
        slowly(write_ahead.WriteAheadLog, "close")
        beside = threading.Thread(target=SqliteJournal(path).close)
    beside.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        held = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")[:-1]]
        print([name for name in held if "journal.db" in name], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    beside.join()
    for journal in made:
        journal.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("moment", ["opening", "closing"])
def test_a_fork_beside_a_thread_that_opens_or_closes_a_journal_inherits_nothing_of_it(path, moment):
    """A child that inherited a connection would believe in its locks, and lose what it writes."""
    assert "[]\n" == ended(script(_FORKED_BESIDE, path, moment))


_TWO_FORK = """
    import os, sys, threading
    from countwerk_meter.journal import SqliteJournal
    from countwerk_meter.testing.conformance import Do
    path = sys.argv[1]
    kept = [SqliteJournal(f"{path}.{number}") for number in range(3)]
    over = threading.Event()
    def opens():
        while not over.is_set():
            SqliteJournal(path).close()
    def forks():
        for _ in range(15):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            for journal in kept:
                journal.run(Do(lambda books: None))
    opener = threading.Thread(target=opens)
    forkers = [threading.Thread(target=forks) for _ in range(2)]
    for thread in (opener, *forkers):
        thread.start()
    for thread in forkers:
        thread.join()
    over.set()
    opener.join()
    print("over")
    for journal in kept:
        journal.close()
"""


def test_threads_that_fork_at_once_beside_one_that_opens_do_not_wait_for_each_other(path):
    """Each lets go of the same writers, in an order of its own."""
    assert "over\n" == ended(script(_TWO_FORK, path))


def test_a_fork_that_ctrl_c_strikes_leaves_no_journal_paused(opened, monkeypatch):
    """The process forks all the same, so everything is let go of, and goes on afterwards."""
    journal, let_go, struck = opened(), SqliteJournal.let_go, []

    def strikes(self, pause):
        let_go(self, pause)
        if not struck:
            struck.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(SqliteJournal, "let_go", strikes)
    try:
        with pytest.raises(KeyboardInterrupt):
            forking._before_fork()
        waits = journal.submit(Do(lambda books: 3))
        time.sleep(0.2)
        assert not waits.done()
    finally:
        forking._after_fork_in_parent()
    assert 3 == waits.result(10)


def test_a_parent_that_died_is_dead_though_its_child_lives(opened, path):
    """What a fork hands down must not keep it alive."""
    process = script(_DEAD_PARENT, path)
    assert "forked\n" == process.stdout.readline()
    process.wait(60)
    journal, deadline = opened(), time.monotonic() + 20
    # The child lets go of what it was handed down as soon as it runs.
    while journal.is_alive("parent") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not journal.is_alive("parent")
    process.stdin.write("\n")
    process.communicate(timeout=60)


def test_a_child_whose_journal_cannot_be_opened_hears_of_it(path):
    """The file is gone: its future has the error, nothing hangs."""
    text = """
        import os, sys
        from countwerk_meter.errors import JournalError
        from countwerk_meter.journal import SqliteJournal
        from countwerk_meter.testing.conformance import Do
        journal = SqliteJournal(sys.argv[1])
        child = os.fork()
        if child == 0:
            os.unlink(sys.argv[1])
            os.mkdir(sys.argv[1])
            error = journal.submit(Do(lambda books: None)).exception(30)
            os._exit(0 if isinstance(error, JournalError) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    """
    assert "0\n" == ended(script(text, path))


def test_a_killed_process_loses_nothing_that_was_answered(opened, path):
    """Commits that need only survive the process do."""
    text = """
        import os, signal, sys
        from countwerk_meter.journal import SqliteJournal
        from countwerk_meter.testing.conformance import Do, a_charge
        journal = SqliteJournal(sys.argv[1])
        for number in range(20):
            journal.run(Do(lambda books, number=number: books.save_charge(a_charge(f"c{number}"))))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = script(text, path)
    process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode
    assert 20 == len(opened().run(Look(lambda books: books.charges("l", None, 99))))


def test_closing_an_inherited_journal_waits_for_no_thread_of_the_parents(path):
    """The thread stayed behind."""
    text = """
        import os, sys
        from countwerk_meter.journal import SqliteJournal
        journal = SqliteJournal(sys.argv[1])
        child = os.fork()
        if child == 0:
            journal.close()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        journal.close()
    """
    assert "0\n" == ended(script(text, path))


def test_an_owner_lives_by_whatever_name_another_process_knows_the_file(opened, path, tmp_path):
    """A link to it, or to its directory: an owner that seems dead would lose its calls."""
    journal = opened()
    journal.join("me")
    (tmp_path / "elsewhere").symlink_to(path.parent, target_is_directory=True)
    (tmp_path / "link.db").symlink_to(path)
    for other in (tmp_path / "elsewhere" / path.name, tmp_path / "link.db"):
        out = ended(
            script(
                """
                import sys
                from countwerk_meter.journal import SqliteJournal
                journal = SqliteJournal(sys.argv[1])
                print(journal.is_alive("me"))
                journal.close()
                """,
                other,
            )
        )
        assert "True" == out.strip()
