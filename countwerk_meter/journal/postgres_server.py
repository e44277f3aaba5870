"""
Reaching a PostgreSQL journal: connecting, making the tables, and saying what went wrong without saying a password.

Nothing is expected of a session, so that a pooler may stand between: every transaction sets what it needs by itself.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter.errors import ConfigurationError, JournalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg
    from pydantic import SecretStr

    Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA_VERSION: Final = 4
_IS_MADE: Final = (
    "SELECT 1 FROM pg_catalog.pg_tables"
    " WHERE tablename = 'countwerk_schema' AND schemaname = ANY (current_schemas(false))"
)
_LOCK: Final = 0x43574D31
# A connection that is dead is noticed, and a transaction that hangs gives up its locks: milliseconds, or seconds.
_CONNECTING: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "countwerk-meter",
}
PATIENCE: Final = (
    "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '5s';"
    " SET LOCAL idle_in_transaction_session_timeout = '10s'"
)


class Server:
    """
    Where the tables are.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters; it is kept out of every text.

    Raises:
        ConfigurationError: psycopg is not installed, or the URL cannot be read.

    """

    def __init__(self, url: SecretStr) -> None:
        try:
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise ConfigurationError(
                "a PostgreSQL journal needs psycopg: pip install 'countwerk-meter[postgres]'"
            ) from None
        self._given = url
        try:
            parts = conninfo_to_dict(url.get_secret_value())
        except Exception:  # noqa: BLE001 - its text may quote the URL, password and all
            parts = None
        if parts is None or _misread(parts):
            raise ConfigurationError(
                "the journal's postgresql:// URL cannot be read; in a password write %40 for @, %2F for /, %3A for :"
            )
        host, port = parts.get("host") or "", parts.get("port")
        shown = "" if str(host).startswith("/") else f"{host}:{port}" if port else str(host)
        self.name = f"postgresql://{shown}/{parts.get('dbname') or ''}"
        self._defaults = {name: value for name, value in _CONNECTING.items() if name not in parts}

    def connect(self) -> Connection:
        """
        Return a new connection, which commits each statement by itself unless told otherwise.

        Raises:
            psycopg.Error: The server cannot be reached, or refuses.

        """
        import psycopg

        return psycopg.connect(
            self._given.get_secret_value(), autocommit=True, prepare_threshold=None, **self._defaults
        )

    def opened(self) -> Connection:
        """
        Return a connection to tables of this version, making them if they are not there.

        Raises:
            JournalError: The server cannot be reached, the tables cannot be made, or they are of a newer version.

        """
        import psycopg

        try:
            connection = self.connect()
        except psycopg.Error as error:
            raise self.unusable(error) from None
        try:
            if self._version(connection) != SCHEMA_VERSION:
                self._migrate(connection)
        except psycopg.Error as error:
            connection.close()
            raise self.unusable(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def unusable(self, error: Exception) -> JournalError:
        """Return what an app is told when the server could not be used."""
        return JournalError(f"the journal {self.name} cannot be used: {said(error)}")

    def _version(self, connection: Connection) -> int:
        # Looked up in the catalogue itself: a name's absence is remembered, even while another process makes it.
        if connection.execute(_IS_MADE).fetchone() is None:
            return 0
        row = connection.execute("SELECT max(version) FROM countwerk_schema").fetchone()
        version = int(row[0] or 0) if row is not None else 0
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.name} has schema version {version}, and this countwerk-meter knows up to "
                f"{SCHEMA_VERSION}; upgrade countwerk-meter, or name another database with COUNTWERK_JOURNAL"
            )
        return version

    def _migrate(self, connection: Connection) -> None:
        """Bring the schema forward, one named file a version, in one transaction; processes that start at once wait."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            version = self._version(connection)
            if version == 0:
                connection.execute("CREATE TABLE IF NOT EXISTS countwerk_schema (version INTEGER PRIMARY KEY)")
            for number in range(version + 1, SCHEMA_VERSION + 1):
                path = resources.files("countwerk_meter.journal").joinpath("sql", f"postgres_{number:03}.sql")
                connection.execute(path.read_bytes())
                connection.execute("INSERT INTO countwerk_schema (version) VALUES (%s)", (number,))


def _misread(parts: Mapping[str, Any]) -> bool:
    """Whether libpq took a piece of a password for the host, the port or the database, and would say it."""
    host, port, database = (str(parts.get(name) or "") for name in ("host", "port", "dbname"))
    return "@" in host + database or ":" in database or (port != "" and not port.replace(",", "").isdigit())


def said(error: Exception) -> str:
    """Return what a database said, in one line, without the values that it may quote."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    text = primary or str(error)
    return " ".join(text.split()) or type(error).__name__
