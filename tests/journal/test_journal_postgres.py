"""What the PostgreSQL journal promises beyond the port: its tables, its transactions, its server's failures."""

import threading
import time
from dataclasses import fields

import psycopg
import pytest

from countwerk_meter._flow.rows import ChargeRow, ReservationRow
from countwerk_meter.errors import ConfigurationError, JournalError
from countwerk_meter.journal import open_journal, postgres, postgres_server
from countwerk_meter.journal.postgres import PostgresJournal
from countwerk_meter.testing.conformance import Do, DoDurably, Look, a_charge


def save(row):
    return lambda books: books.save_charge(row)


def count(journal):
    return len(journal.run(Look(lambda books: books.charges("l", None, 99))))


@pytest.fixture
def opened(postgres_url):
    """Open journals on one schema; closed at the end."""
    journals = []

    def make(url=postgres_url, **options):
        journals.append(PostgresJournal(url, **options))
        return journals[-1]

    yield make
    for journal in journals:
        journal.close()


@pytest.fixture
def admin(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True, application_name="admin") as connection:
        yield connection


def terminate(admin):
    """Terminate the backends of every journal."""
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'countwerk-meter'"
        " AND pid <> pg_backend_pid()"
    )


# Tables.


@pytest.mark.parametrize(("table", "row"), [("reservation", ReservationRow), ("charge", ChargeRow)])
def test_the_columns_are_the_fields_of_the_rows(opened, admin, table, row):
    """By name, and in their order."""
    opened()
    found = admin.execute(f"SELECT * FROM countwerk_{table} LIMIT 0").description
    assert [field.name for field in fields(row)] == [column.name for column in found]


def test_every_name_begins_with_ours(opened, admin):
    """It may stand in the app's own database."""
    opened()
    names = admin.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        " UNION SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
    ).fetchall()
    assert len(names) > 15
    assert all(name.startswith("countwerk_") for (name,) in names)


def test_a_newer_schema_is_refused(opened, admin):
    """An older version must not write to it."""
    opened().close()
    admin.execute("INSERT INTO countwerk_schema (version) VALUES (%s)", (postgres_server.SCHEMA_VERSION + 1,))
    known = postgres_server.SCHEMA_VERSION
    with pytest.raises(JournalError, match=rf"schema version {known + 1}.* knows up to {known}; upgrade"):
        opened()


def test_processes_that_start_at_once_make_the_tables_once(opened):
    """The others wait, and find them made."""
    failed = []

    def start():
        try:
            opened()
        except JournalError as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failed


def test_who_may_not_make_tables_may_use_them(opened, admin, postgres_url):
    """The app's own role needs no more than to read and write rows."""
    opened()
    (schema,) = admin.execute("SELECT current_schema()").fetchone()
    role = f"{schema}_app"
    admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw-{schema}'")
    try:
        admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        journal = opened(f"{postgres_url}&user={role}&password=pw-{schema}")
        journal.run(DoDurably(save(a_charge("a"))))
        journal.close()
    finally:
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


# Secrets.


def test_no_text_says_the_password(postgres_url):
    """Neither a name, nor a refusal, whatever is wrong with the URL."""
    for url in (
        "postgresql://app:s3cret@127.0.0.1:1/db?connect_timeout=2",
        "postgresql://app:s3cret@127.0.0.1:1/db?no_such_option=1",
        "postgresql://app:s3cret@127.0.0.1:port/db",
        "postgresql://app:s3cret@[::1/db",
    ):
        with pytest.raises((JournalError, ConfigurationError)) as caught:
            open_journal(url)
        shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        assert "s3cret" not in shown
    with pytest.raises(JournalError, match="cannot be used"):
        open_journal("postgresql://app:s3cret@127.0.0.1:1/db")


def test_its_name_says_where_it_is(opened, postgres_url):
    """Host and database, for messages."""
    assert "postgresql:///postgres" == opened().name
    assert "postgres" not in repr(opened()).replace("PostgresJournal", "").replace("journal.postgres", "")


def test_without_psycopg_it_says_what_to_install(monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg.conninfo", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'countwerk-meter\[postgres\]'"):
        open_journal("postgresql://localhost/db")


# Transactions.


def test_operations_of_rules_4_and_7_wait_for_the_disk(opened, monkeypatch):
    """The others need only survive the process."""
    said = []
    begin = postgres._Writer._begin
    monkeypatch.setattr(
        postgres._Writer, "_begin", lambda self, db, **how: (said.append(how), begin(self, db, **how))[1]
    )
    journal = opened()
    see = lambda books: books._db.execute("SHOW synchronous_commit").fetchone()[0]  # noqa: E731
    assert ["off", "on"] == [journal.run(kind(see)) for kind in (Do, DoDurably)]
    assert [False, True] == [how["durable"] for how in said]


def test_a_step_that_is_refused_is_undone_alone(opened, monkeypatch):
    """The others of its group are committed."""
    journal = opened()
    started, go_on = threading.Event(), threading.Event()
    first = journal.submit(Do(lambda _: (started.set(), go_on.wait(10))))
    assert started.wait(10)

    def refuse(books):
        books.save_charge(a_charge("gone"))
        raise JournalError("no")

    futures = [
        journal.submit(Do(save(a_charge("a")))),
        journal.submit(Do(refuse)),
        journal.submit(Do(save(a_charge("b", share=-1)))),
        journal.submit(Do(save(a_charge("c", description="\0")))),
        journal.submit(DoDurably(save(a_charge("d")))),
    ]
    go_on.set()
    first.result(10)
    assert [None, JournalError, JournalError, JournalError, None] == [
        type(error) if (error := future.exception(10)) else None for future in futures
    ]
    assert "check constraint" in str(futures[2].exception())
    assert {"a", "d"} == {row.id for row in journal.run(Look(lambda books: books.charges("l", None, 9)))}


def test_transactions_are_as_if_one_came_after_the_other(opened):
    """Eight writers that add one to the same number, a hundred times in all."""
    journals = [opened() for _ in range(4)]

    def add(books):
        books.set_carry("l", "a", books.carry("l", "a") + 1)

    def work(journal):
        for _ in range(25):
            journal.run(Do(add))

    threads = [threading.Thread(target=work, args=(journal,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 100 == journals[0].run(Look(lambda books: books.carry("l", "a")))


def test_a_row_that_another_transaction_moves_is_passed_over(opened):
    """Two recoverers never act on one row at once (`SKIP LOCKED`)."""
    first, second = opened(), opened()
    first.run(Do(lambda books: [books.save_charge(a_charge(name)) for name in "ab"]))
    locked, go_on = threading.Event(), threading.Event()

    def slow(books):
        mine = books.charges_owned("l", "p", "o", 10)
        locked.set()
        assert go_on.wait(20)
        return len(mine)

    waiting = first.submit(Do(slow))
    assert locked.wait(10)
    assert [] == second.run(Do(lambda books: books.charges_owned("l", "p", "o", 10)))
    assert 2 == len(second.run(Look(lambda books: books.charges_owned("l", "p", "o", 10))))
    go_on.set()
    assert 2 == waiting.result(10)


def test_a_transaction_that_hangs_lets_go_of_its_locks(opened, monkeypatch):
    """A process that is stopped in the middle of one must not stop every other."""
    monkeypatch.setattr(postgres, "PATIENCE", "SET LOCAL idle_in_transaction_session_timeout = '200ms'")
    hung = opened()
    hanging = threading.Event()
    tried = []

    def hang(books):
        tried.append(books.set_carry("l", "a", 1))
        if len(tried) == 1:
            hanging.set()
            time.sleep(1)

    waiting = hung.submit(Do(hang))
    assert hanging.wait(10)
    monkeypatch.undo()
    other = opened()
    other.run(Do(lambda books: books.set_carry("l", "a", books.carry("l", "a") + 5)))
    waiting.result(20)
    assert 2 == len(tried)


# The server fails.


def test_a_backend_that_is_terminated_between_two_operations_is_not_noticed(opened, admin):
    """The next one comes over a new connection."""
    journal = opened()
    terminate(admin)
    journal.run(DoDurably(save(a_charge("a"))))
    assert 1 == count(journal)


def test_a_backend_that_is_terminated_in_a_transaction_has_it_carried_out_again(opened, admin):
    """Nothing of the first try is there."""
    journal = opened()
    tries = []

    def step(books):
        books.save_charge(a_charge(f"try {len(tries)}"))
        tries.append(1)
        if len(tries) == 1:
            terminate(admin)
        books.save_charge(a_charge("last"))

    journal.run(DoDurably(step))
    rows = journal.run(Look(lambda books: books.charges("l", None, 9)))
    assert {"try 1", "last"} == {row.id for row in rows}


class Cut:
    """A connection that is lost at its commit: before the server heard of it, or before the answer was heard."""

    def __init__(self, connection, carried_out):
        self._connection, self._carried_out = connection, carried_out

    def execute(self, query, *args):
        if query != "COMMIT":
            return self._connection.execute(query, *args)
        if self._carried_out:
            self._connection.execute(query)
        self._connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    def __getattr__(self, name):
        return getattr(self._connection, name)


def cut_one_commit(monkeypatch, *, carried_out):
    """Lose the first connection that is used from here on at its commit."""
    connection, cuts = postgres._Writer._connection, []

    def cut_once(self):
        found = connection(self)
        if not cuts:
            cuts.append(1)
            return Cut(found, carried_out)
        return found

    monkeypatch.setattr(postgres._Writer, "_connection", cut_once)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_commit_whose_answer_is_lost_is_carried_out_once(opened, monkeypatch, carried_out):
    """The server is asked what became of it."""
    journal = opened()
    cut_one_commit(monkeypatch, carried_out=carried_out)
    journal.run(Do(lambda books: books.set_carry("l", "a", books.carry("l", "a") + 1)))
    assert 1 == journal.run(Look(lambda books: books.carry("l", "a")))


def known_as(xid):
    """Begin as ever, but let every transaction that writes be known by this id."""
    begin = postgres._Writer._begin

    def begun(*args, **named):
        mark = begin(*args, **named)
        return mark and mark._replace(xid=xid)

    return begun


def test_a_lost_commit_is_not_taken_for_another_one_of_the_same_id(opened, admin, monkeypatch):
    """A server that crashed gives out anew the ids that no disk had seen: an id alone proves nothing."""
    journal = opened()
    theirs = admin.execute("SELECT txid_current()").fetchone()[0]
    assert "committed" == admin.execute("SELECT txid_status(%s)", (theirs,)).fetchone()[0]
    cut_one_commit(monkeypatch, carried_out=False)
    monkeypatch.setattr(postgres._Writer, "_begin", known_as(str(theirs)))
    journal.run(DoDurably(save(a_charge("a"))))
    assert 1 == count(journal)


def test_an_id_that_the_server_has_forgotten_is_no_proof_either(opened, monkeypatch):
    """Right after its crash the id lies in the future: nothing was carried out, and it is done again."""
    journal = opened()
    cut_one_commit(monkeypatch, carried_out=False)
    monkeypatch.setattr(postgres._Writer, "_begin", known_as(str(2**40)))
    start = time.monotonic()
    journal.run(DoDurably(save(a_charge("a"))))
    assert 1 == count(journal)
    assert time.monotonic() - start < 4


def test_a_backend_that_hangs_is_cut_off(opened, monkeypatch):
    """Its own time limits hang with it; the operation is carried out over another one."""
    monkeypatch.setattr(postgres, "CUT_AFTER_SECONDS", 0.5)
    journal = opened()
    hung = []

    def step(books):
        if not hung:
            hung.append(1)
            books._db.execute("SET LOCAL statement_timeout = 0")
            books._db.execute("SELECT pg_sleep(8)")
        books.save_charge(a_charge("a"))

    start = time.monotonic()
    journal.submit(DoDurably(step)).result(20)
    assert time.monotonic() - start < 6
    assert 1 == count(journal)


def test_a_group_fails_as_one_where_no_server_answers(opened, monkeypatch):
    """Not one behind the other, each after its own time."""
    monkeypatch.setattr(postgres, "PATIENT_SECONDS", 1.0)
    journal = opened()
    begun, go_on = threading.Event(), threading.Event()
    first = journal.submit(Do(lambda _: (begun.set(), go_on.wait(10))))
    assert begun.wait(10)
    waiting = [journal.submit(Do(save(a_charge(f"c{number}")))) for number in range(10)]

    def away(self):
        raise postgres._UnreachableError("connection refused")

    monkeypatch.setattr(postgres._Writer, "_connection", away)
    go_on.set()
    start = time.monotonic()
    first.result(10)
    for future in waiting:
        with pytest.raises(JournalError, match="connection refused"):
            future.result(20)
    assert time.monotonic() - start < 6


def test_a_server_that_takes_no_writes_says_so_at_once(opened, monkeypatch):
    """A standby: no second try has better luck."""
    journal = opened()
    begin = postgres._Writer._begin

    def read_only(self, db, **named):
        found = begin(self, db, **named)
        db.execute("SET TRANSACTION READ ONLY")
        return found

    monkeypatch.setattr(postgres._Writer, "_begin", read_only)
    start = time.monotonic()
    with pytest.raises(JournalError, match="read-only transaction"):
        journal.run(Do(save(a_charge("a"))))
    assert time.monotonic() - start < 3


def test_a_role_that_reads_by_default_writes(opened, monkeypatch):
    """Its transactions say that they write."""
    with monkeypatch.context() as patched:
        patched.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
        opened().close()
        journal = opened()
    journal.run(Do(save(a_charge("a"))))
    assert 1 == count(journal)


def test_a_server_that_stays_away_fails_the_commit_and_later_ones_work_again(opened, monkeypatch):
    """Bounded, and whoever waits hears of it."""
    monkeypatch.setattr(postgres, "PATIENT_SECONDS", 0.3)
    journal = opened()
    connect = postgres_server.Server.connect

    def away(self):
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(postgres_server.Server, "connect", away)
    monkeypatch.setattr(postgres._Writer, "_begin", lambda *_, **__: (_ for _ in ()).throw(psycopg.OperationalError()))
    start = time.monotonic()
    with pytest.raises(JournalError, match="cannot be written"):
        journal.run(Do(save(a_charge("a"))))
    assert time.monotonic() - start < 10
    monkeypatch.undo()
    assert connect is postgres_server.Server.connect
    journal.run(Do(save(a_charge("a"))))
    assert 1 == count(journal)


def test_a_closed_journal_takes_nothing(opened):
    """And closing it twice does nothing."""
    journal = opened()
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.run(Do(save(a_charge("a"))))


# Owners.


def test_an_owner_lives_as_long_as_it_beats(opened):
    """By the database's clock; whoever never joined is dead."""
    journal, other = opened(lease=0.6), opened(lease=0.6)
    journal.join("me")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert other.is_alive("me")
        time.sleep(0.05)
    journal._heart.stop()
    deadline = time.monotonic() + 20
    while other.is_alive("me"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not other.is_alive("nobody")


def test_an_owner_that_leaves_is_dead_at_once(opened):
    """So is one whose journal was closed."""
    journal, other = opened(), opened()
    for name in ("a", "b"):
        journal.join(name)
        assert other.is_alive(name)
    journal.leave("a")
    assert [False, True] == [other.is_alive(name) for name in ("a", "b")]
    journal.close()
    assert not other.is_alive("b")


def test_a_heart_goes_on_beating_when_its_connection_is_lost(opened, admin):
    """Over a new one."""
    journal, other = opened(lease=1.0), opened(lease=1.0)
    journal.join("me")
    time.sleep(0.5)
    terminate(admin)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert other.is_alive("me")
        time.sleep(0.05)


def test_the_dead_do_not_come_alive_while_their_rows_are_taken(opened):
    """A beat waits for the transaction that found its owner dead."""
    journal, other = opened(lease=0.3), opened(lease=0.3)
    journal.join("me")
    journal._heart.stop()
    time.sleep(0.5)
    found, go_on = threading.Event(), threading.Event()

    def take(books):
        dead = books.is_dead("me")
        found.set()
        assert go_on.wait(20)
        return dead, books.is_dead("me")

    taking = other.submit(Do(take))
    assert found.wait(10)
    beaten = threading.Event()
    beat = threading.Thread(target=lambda: (journal.join("me"), beaten.set()))
    beat.start()
    assert not beaten.wait(0.3)
    go_on.set()
    assert (True, True) == taking.result(10)
    beat.join(10)
    assert beaten.is_set()


def test_a_server_that_hangs_holds_up_no_closing(opened, monkeypatch):
    """It accepts, and answers nothing any more: leaving and closing are bounded, the lease runs out by itself."""
    monkeypatch.setattr(postgres, "PATIENT_SECONDS", 0.2)
    journal = opened()
    journal.join("me")
    hanging, over = threading.Event(), threading.Event()
    hung = journal.submit(Do(lambda _: (hanging.set(), over.wait(20))))
    assert hanging.wait(10)
    start = time.monotonic()
    journal.leave("me")
    journal.close()
    assert time.monotonic() - start < 5
    over.set()
    hung.result(10)


@pytest.mark.parametrize("password", ["s3cr3t/x", "s3cr3t@x", "s3cr3t/x@y", "12/s3cr3t"])
def test_a_password_that_is_not_escaped_is_shown_nowhere(password):
    """libpq would take a piece of it for the host, the port or the database, and say it."""
    with pytest.raises((ConfigurationError, JournalError)) as caught:
        PostgresJournal(f"postgresql://user:{password}@127.0.0.1:1/database?connect_timeout=2")
    assert "s3cr3t" not in str(caught.value)
    assert "%2F" in str(caught.value)
