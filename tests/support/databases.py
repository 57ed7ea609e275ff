"""A fresh database for one test, and the marks that run a test on every PostgreSQL of this machine."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.database import PostgresAccess
from support.pgbouncer import PgBouncer

MAJORS = [found.major for found in toolchain.postgres_installations()]
_ids = [f"pg{major}" for major in MAJORS]

# On a test (or `pytestmark` of a file): once on each version, on the server that all tests share.
all_postgres = pytest.mark.parametrize("postgres_server", MAJORS, ids=_ids, indirect=True)
# The same for tests that kill or restart a server of their own.
all_own_postgres = pytest.mark.parametrize("own_postgres", MAJORS, ids=_ids, indirect=True)


# In this database alone: the server is shared with other tests.
ADVISORY_LOCKS = (
    "SELECT objid FROM pg_locks JOIN pg_database d ON d.oid = database "
    "WHERE datname = current_database() AND locktype = 'advisory'"
)


class Database:
    """A database of its own, and SQL in it as the superuser."""

    def __init__(self, server: PostgresAccess, name: str) -> None:
        self.server = server
        self.name = name
        # When a test sets it, all roles but the superuser connect through it.
        self.pooler: PgBouncer | None = None
        self._passwords: dict[str, str] = {}
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    @classmethod
    @contextmanager
    def fresh(cls, server: PostgresAccess, template: str | None = None) -> Iterator[Self]:
        """Create a database, from a template if one is given, and drop it with its roles at the end."""
        database = cls(server, f"test_{secrets.token_hex(6)}")
        server.create_database(database.name, template)
        try:
            yield database
        finally:
            database._drop()

    def uri(self, user: str | None = None, password: str | None = None) -> str:
        """Return a connection URI of the superuser, or of this user; the password of a `role` is known."""
        if user is not None and password is None:
            password = self._passwords.get(user)
        direct = self.server.uri(self.name, user, password)
        return direct if user is None or self.pooler is None else self.pooler.uri(direct)

    def role(self, prefix: str = "role", attributes: str = "") -> str:
        """Create a role that can log in and return its name, which is unique: roles belong to the server."""
        name = f"{prefix}_{secrets.token_hex(4)}"
        password = secrets.token_urlsafe(12)
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + attributes)
        self.server.psql(statement.format(sql.Identifier(name), sql.Literal(password)))
        self._passwords[name] = password
        return name

    def query(self, statement: str, *params: object) -> list[dict[str, Any]]:
        """Run one statement in autocommit and return its rows."""
        return self._connected().execute(statement.encode(), params or None).fetchall()

    def execute(self, statement: str, *params: object) -> int:
        """Run SQL in autocommit (several statements when there are no parameters); return the last row count."""
        return self._connected().execute(statement.encode(), params or None).rowcount

    def disconnect(self) -> None:
        """Close the connection of `query` and `execute`; the next call opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        if self._connection is None or self._connection.broken:
            self._connection = psycopg.connect(self.uri(), autocommit=True, row_factory=dict_row, connect_timeout=10)
        return self._connection

    def _drop(self) -> None:
        self.disconnect()
        self.server.drop_database(self.name)
        for name in self._passwords:
            self.server.psql(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
