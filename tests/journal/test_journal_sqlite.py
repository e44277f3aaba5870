"""What the SQLite journal promises beyond the port: the file, its commits, its limits."""

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import fields

import pytest

from countwerk_meter._flow.rows import ChargeRow, ReservationRow
from countwerk_meter._flow.states import ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import forking, owners, sqlite_file
from countwerk_meter.journal import sqlite as module
from countwerk_meter.journal.statements import Statements
from countwerk_meter.testing.conformance import Do, DoDurably, Look, a_charge, a_reservation


def save(row):
    return lambda books: books.save_charge(row)


def test_the_file_is_readable_by_its_owner_alone(opened, path):
    """0600, its -wal and -shm too, whatever the umask; the directories it makes 0700."""
    before = os.umask(0)
    try:
        journal = opened(path.parent / "new" / "journal.db")
        journal.run(DoDurably(save(a_charge("c"))))
        journal.join("me")
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in (path.parent / "new").iterdir()}
    assert {
        "journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600, "journal.db.owners": 0o700
    } == modes  # fmt: skip
    assert 0o700 == stat.S_IMODE((path.parent / "new").stat().st_mode)


def test_it_is_ours_in_wal_mode_and_of_this_version(opened, path):
    """Application id, version, journal mode, columns."""
    opened()
    db = sqlite3.connect(path)
    pragma = lambda name: db.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert (0x43574D31, sqlite_file.SCHEMA_VERSION, "wal") == (
        pragma("application_id"),
        pragma("user_version"),
        pragma("journal_mode"),
    )
    db.close()


@pytest.mark.parametrize(("table", "row"), [("reservation", ReservationRow), ("charge", ChargeRow)])
def test_the_columns_are_the_fields_of_the_rows(opened, path, table, row):
    """By name, and in their order."""
    opened()
    db = sqlite3.connect(path)
    assert [field.name for field in fields(row)] == [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    db.close()


def test_the_commits_of_rules_4_and_7_are_synced_and_the_others_need_only_survive_the_process(traced, synced, opened):
    """Each durable operation brings the log to the disk, before it is answered; the others, and reads, do not."""
    journal = opened()
    journal.run(Do(save(a_charge("a"))))
    assert [] == synced
    journal.run(DoDurably(save(a_charge("b"))))
    assert 1 == len(synced)
    journal.run(Look(lambda books: books.charge("l", "a")))
    journal.run(DoDurably(save(a_charge("c"))))
    journal.run(Do(save(a_charge("d"))))
    assert 2 == len(synced)
    assert {f"{journal.name}-wal"} == set(synced)
    begins = [text for text in traced if text.startswith("BEGIN")]
    assert ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN", "BEGIN IMMEDIATE", "BEGIN IMMEDIATE"] == begins


@pytest.mark.parametrize(
    "query",
    [
        *("charge", "charges_of", "reservation", "knows", "owed", "holding", "charged", "due", "next_due", "moving"),
        *("reservations_owned", "charges_owned", "overdue", "owners", "principals"),
    ],
)
def test_no_query_of_a_call_or_of_recovery_grows_with_what_is_settled(opened, path, query):
    """Each goes through an index of what is open, or of one account; none reads a table, or all of a ledger's rows."""
    opened()
    found = getattr(Statements(hints=True), query)
    text = found(2) if callable(found) else found
    db = sqlite3.connect(path)
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", ("x",) * text.count("?"))]
    db.close()
    reads = [line for line in plan if line.startswith(("SEARCH reservation", "SEARCH charge", "SCAN "))]
    assert reads
    # An index of what lives holds nothing else.
    scans = [line for line in reads if not line.endswith(("INDEX reservation_live", "INDEX charge_live"))]
    assert not [line for line in scans if line.startswith(("SCAN reservation", "SCAN charge"))]
    assert not [line for line in reads if line.endswith(("PRIMARY KEY (ledger=?)", "charge_newest (ledger=?)"))]


@pytest.mark.parametrize("query", ["charge", "reservation", "knows", "owed", "due", "next_due"])
def test_no_query_of_a_call_or_of_settling_grows_with_what_is_open(opened, path, query):
    """Counted in steps of SQLite's machine: with 500 calls open, as with five."""
    journal = opened()
    found = getattr(Statements(hints=True), query)
    text = found(0) if callable(found) else found
    values = {
        "charge": ("l", "c0"), "reservation": ("k0",), "knows": ("l", "r0") * 2, "owed": ("l", "p", "a"),
        "due": ("o", 50.0, "l") * 2 + (64,), "next_due": ("o", 50.0, "l") * 2,
    }[query]  # fmt: skip

    def steps(opens):
        def open_them(books):
            for at in range(opens):
                held = {"state": ReservationState.HELD, "reservation_id": f"r{at}", "due_at": 100.0 + at}
                books.save_reservation(a_reservation(f"k{at}", **held))
                books.save_charge(a_charge(f"c{at}", reservation_key=f"k{at}"))

        journal.run(Do(open_them))
        db, counted = sqlite3.connect(path), []
        db.set_progress_handler(lambda: counted.append(1), 1)
        db.execute(text, values).fetchall()
        db.close()
        return len(counted)

    few = steps(5)
    assert steps(500) <= few + 2


def test_the_operations_of_rules_4_and_7_ask_to_be_synced():
    """The first of these that is not is a charge that a power cut may take."""
    from countwerk_meter._flow import attempts, begin, ending, recover

    durable = {
        attempts.OpenAttempt, attempts.Convert, attempts.End, attempts.NotThere, begin.Direct, ending.Commit, recover.Adopt
    }  # fmt: skip
    assert all(operation.durable and not operation.reads for operation in durable)
    assert not begin.Begin.durable


def test_who_trusts_the_operating_system_pays_no_fsync(synced, opened):
    """`synchronous=False` is the user's choice."""
    opened(synchronous=False).run(DoDurably(save(a_charge("b"))))
    assert [] == synced


def test_commits_that_come_together_share_one_transaction(traced, synced, held):
    """One fsync for all of them, if one of them needs it."""
    futures = [held.submit((DoDurably if n == 7 else Do)(save(a_charge(f"c{n}")))) for n in range(50)]
    traced.clear()
    held.release()
    assert [None] * 50 == [future.result(10) for future in futures]
    assert 1 == sum(text.startswith("BEGIN IMMEDIATE") for text in traced)
    assert 1 == len(synced)


def test_one_that_fails_is_undone_alone(held):
    """Its neighbours in the group are committed."""

    def fail(books):
        books.save_charge(a_charge("bad"))
        raise OverflowError("too large")

    futures = [
        held.submit(Do(step))
        for step in (save(a_charge("a")), fail, save(a_charge("b", created_at="text")), save(a_charge("c")))
    ]
    held.release()
    errors = [future.exception(10) for future in futures]
    assert [None, "JournalError", "JournalError", None] == [error and type(error).__name__ for error in errors]
    rows = held.run(Look(lambda books: books.charges("l", None, 9)))
    assert {"a", "c"} == {row.id for row in rows}


def test_a_number_that_no_column_can_hold_fails_alone(held):
    """SQLite's integers have 64 bits; Python's have not."""
    good = held.submit(Do(save(a_charge("a"))))
    bad = held.submit(Do(save(a_charge("b", estimate=1 << 70))))
    held.release()
    assert good.exception(10) is None
    assert isinstance(bad.exception(10), JournalError)


def test_a_full_disk_fails_the_commit_and_later_ones_work_again(monkeypatch, opened, path):
    """Whoever waits hears of it, with the file's name; nothing hangs."""
    connections = []
    real = sqlite_file.opened
    monkeypatch.setattr(module, "opened", lambda at: connections.append(real(at)) or connections[-1])
    journal = opened()
    pages = journal.run(Look(lambda books: books._db.execute("PRAGMA page_count").fetchone()[0]))
    connections[0].execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="full") as caught:
        journal.run(DoDurably(save(a_charge("big", lines="x" * 1_000_000))))
    assert str(path) in str(caught.value)
    with pytest.raises(JournalError, match="full"):
        journal.run(DoDurably(save(a_charge("big", lines="x" * 1_000_000))))
    journal.run(Look(lambda books: books._db.execute("PRAGMA max_page_count = 1000000").fetchone()))
    journal.run(DoDurably(save(a_charge("big", lines="x" * 1_000_000))))
    assert "ok" == journal.run(Look(lambda books: books._db.execute("PRAGMA integrity_check").fetchone()[0]))


def test_the_busy_time_out_is_bounded(monkeypatch, opened, path):
    """Another process that keeps the file locked fails the commit after a bounded time, and no later one."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.2)
    journal = opened()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(JournalError, match="locked"):
        journal.run(Do(save(a_charge("a"))))
    assert 0.15 < time.monotonic() - started < 5
    assert journal.run(Look(lambda books: books.charge("l", "a"))) is None
    other.execute("ROLLBACK")
    other.close()
    journal.run(Do(save(a_charge("a"))))


def test_what_was_committed_is_there_when_it_is_opened_again(opened):
    """And the last one to close leaves one file."""
    first = opened()
    first.run(DoDurably(save(a_charge("a"))))
    first.run(Do(lambda books: books.save_reservation(a_reservation("k"))))
    first.close()
    again = opened()
    assert "a" == again.run(Look(lambda books: books.charge("l", "a"))).id
    assert "k" == again.run(Look(lambda books: books.reservation("k"))).key


def test_two_journals_of_one_process_on_one_file_do_not_harm_each_other(opened, path):
    """Opening the second must not let go of the first one's locks (POSIX): the file stays whole."""
    first = opened()
    first.run(DoDurably(save(a_charge("a"))))
    second = opened()
    for number in range(50):
        (first, second)[number % 2].run(Do(save(a_charge(f"c{number}"))))
    second.close()
    first.run(DoDurably(save(a_charge("b"))))
    assert 52 == len(first.run(Look(lambda books: books.charges("l", None, 100))))


def test_a_file_that_is_there_is_never_opened_and_closed_beside_sqlite(monkeypatch, opened):
    """That would drop every lock this process holds on it."""
    opened()
    real, seen = os.open, []
    monkeypatch.setattr(
        os, "open", lambda at, flags, *more, **named: (seen.append(flags), real(at, flags, *more, **named))[1]
    )
    opened()
    assert all(flags & os.O_EXCL for flags in seen)


def test_a_lock_that_cannot_be_had_names_the_directory(opened, path):
    """An owner that cannot be announced would be thought dead."""
    journal = opened()
    (path.parent / "journal.db.owners").write_text("in the way")
    with pytest.raises(JournalError, match="owners"):
        journal.join("me")


def test_an_owner_of_another_user_is_alive_as_far_as_anybody_can_tell(opened, path, monkeypatch):
    """What cannot be told dead is not taken over."""
    journal = opened()

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert journal.is_alive("them")
    monkeypatch.undo()


def test_a_transaction_that_cannot_even_be_undone_does_not_stop_the_writer(opened):
    """The thread goes on, or every later commit would wait for ever."""
    journal = opened()

    def break_out(books):
        books._db.execute("COMMIT")
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(JournalError, match="I/O"):
        journal.run(Do(break_out))
    journal.run(Do(save(a_charge("a"))))


def test_what_is_only_read_does_not_fail_with_a_write_beside_it(held):
    """On a full disk the state of a charge can still be asked for, whatever else was queued at the same time."""

    def fill(_):
        raise sqlite3.OperationalError("database or disk is full")

    first = held.submit(Look(lambda books: books.carry("l", "a")))
    write = held.submit(Do(fill))
    second = held.submit(Look(lambda books: books.charges("l", None, 9)))
    held.release()
    assert (0, []) == (first.result(10), second.result(10))
    with pytest.raises(JournalError, match="full"):
        write.result(10)
    held.run(Do(save(a_charge("a"))))


def test_more_than_one_group_of_commits_is_carried_out(traced, held):
    """A group has a limit, so that nobody waits for all the others."""
    futures = [held.submit(Do(save(a_charge(f"c{number}")))) for number in range(300)]
    traced.clear()
    held.release()
    assert [None] * 300 == [future.result(10) for future in futures]
    assert 2 == sum(text.startswith("BEGIN IMMEDIATE") for text in traced)


def test_after_a_fork_it_starts_anew(opened, monkeypatch):
    """Told by the process id; the tests with real forks stand in test_journal_processes."""
    journal = opened()
    journal.join("parent")
    thread, lock = journal._thread, journal._lock
    monkeypatch.setattr(journal, "_pid", -1)
    forking._after_fork_in_child()
    owners._after_fork()
    assert lock is not journal._lock
    assert not journal.is_alive("parent")
    journal.run(Do(save(a_charge("c"))))
    assert thread is not journal._thread
    assert os.getpid() == journal._pid


def test_a_process_that_changes_its_directory_and_forks_keeps_to_its_file(opened, path, monkeypatch, tmp_path_factory):
    """As daemons do: its connection is closed for the length of a fork, and opened again afterwards, on both sides."""
    monkeypatch.chdir(path.parent)
    journal = opened(path.name)
    journal.run(Do(save(a_charge("before"))))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            journal.run(DoDurably(save(a_charge("child"))))
        os._exit(0)
    os.waitpid(child, 0)
    journal.run(DoDurably(save(a_charge("after"))))
    assert [] == list(elsewhere.iterdir())
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert [("after",), ("before",), ("child",)] == db.execute("SELECT id FROM charge ORDER BY id").fetchall()


def test_closing_in_a_child_does_not_wait_for_the_parents_thread(opened, monkeypatch):
    """It is not there."""
    journal = opened()
    monkeypatch.setattr(journal, "_pid", -1)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.run(Do(save(a_charge("c"))))


def test_a_very_large_file_is_not_read_through_at_every_start(monkeypatch, opened, path):
    """Its pages are checked as they are used."""
    opened().close()
    monkeypatch.setattr(sqlite_file, "_CHECKED_BYTES", 0)
    seen = []
    real = sqlite3.connect

    def connect(*args, **options):
        connection = real(*args, **options)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    opened()
    assert seen
    assert not any("quick_check" in text for text in seen)
