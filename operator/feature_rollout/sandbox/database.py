"""Access to a running PostgreSQL server: addresses, SQL, databases. Starting and stopping it is `postgres`'s."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

SUPERUSER = "postgres"
CONNECT_TIMEOUT_S = 10
# One number for all: whoever makes a template holds this advisory lock.
TEMPLATE_LOCK = 7_230_001


class PostgresAccess:
    """A PostgreSQL server that somebody else may have started, reached as its superuser unless told otherwise."""

    def __init__(self, major: int, port: int, password: str, folder: Path) -> None:
        self.major = major
        self.host = "127.0.0.1"
        self.port = port
        self.password = password
        self.folder = folder

    def to_json(self) -> str:
        """Return what another process needs for `from_json`. It contains the password."""
        fields = {"major": self.major, "port": self.port, "password": self.password, "folder": str(self.folder)}
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "PostgresAccess":
        fields = json.loads(text)
        return PostgresAccess(fields["major"], fields["port"], fields["password"], Path(fields["folder"]))

    @property
    def socket_folder(self) -> Path:
        """The folder of the Unix socket: the `host` of a connection that does not go through TCP."""
        return self.folder / "socket"

    def uri(self, database: str = SUPERUSER, user: str | None = None, password: str | None = None) -> str:
        """Return a connection URI: of the superuser, or of `user` with this password."""
        if user is None:
            user, password = SUPERUSER, password if password is not None else self.password
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{quote(user, safe='')}{secret}@{self.host}:{self.port}/{quote(database, safe='')}"

    def psql(
        self, query: str | sql.Composed, params: Sequence[object] = (), *, database: str = SUPERUSER
    ) -> list[dict[str, Any]]:
        """Run SQL as the superuser in autocommit; return the rows of the last statement that has some.

        Several statements at once are fine as long as there are no parameters.
        """
        with self._connect(database) as connection:
            cursor = connection.execute(_sql(query), params or None)
            rows: list[dict[str, Any]] = []
            while True:
                if cursor.description is not None:
                    rows = cursor.fetchall()
                if not cursor.nextset():
                    return rows

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database; a copy of `template`, which nobody may be connected to, when it is given."""
        clause = sql.SQL("TEMPLATE {}").format(sql.Identifier(template or "template0"))
        self.psql(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), clause))

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there, and cut whoever is connected to it."""
        self.psql(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def ensure_template(self, name: str, prepare: Callable[[str], object]) -> str:
        """Return `name`, a database that `prepare(uri)` has filled: once, however many processes ask for it.

        Everything that `prepare` opens must be closed when it returns, or the template cannot be copied.
        """
        with self._connect(SUPERUSER) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (TEMPLATE_LOCK,))
            found = connection.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if found is None or not found["datistemplate"]:
                # One that was not finished is made again.
                self.drop_database(name)
                self.create_database(name)
                prepare(self.uri(name))
                connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(sql.Identifier(name)))
        return name

    def _connect(self, database: str) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(
            self.uri(database),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            row_factory=dict_row,
            application_name=f"sandbox {os.getpid()}",
        )


def _sql(query: str | sql.Composed) -> bytes | sql.Composed:
    # psycopg takes literal strings only, so that nobody pastes values into them. Here the caller owns the server.
    return query.encode() if isinstance(query, str) else query
