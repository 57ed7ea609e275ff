"""The bookkeeping schema: numbered SQL files, applied forwards only, by a role that may create a schema.

Every file may be run twice, so that the script which people print and paste is safe to
repeat. A writer only checks: it never needs the right to create anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import psycopg

from feature_rollout.connectionstring import Server
from feature_rollout.ports import Problem
from feature_rollout.postgres import PERMISSION_DENIED, Connection, Subject, bounded, classify, connect, dispose

BOOKKEEPING_MISSING: Final = "BookkeepingMissing"
BOOKKEEPING_TOO_NEW: Final = "BookkeepingTooNew"

WRITER_ROLE: Final = "feature_rollout_writer"
INSTALL_HINT: Final = "run `featurerollout store install --print | psql …` as the owner of the database"

# One number for all operators on a server: whoever installs holds this advisory lock.
_LOCK: Final = 4_117_300_117
_LOCK_STATEMENT: Final = f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK});\n"
_SETTINGS: Final = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s';\n"

_INSTALL_TIMEOUT_S: Final = 60.0

_NEEDED: Final = {
    "migration": ("SELECT",),
    "ledger": ("SELECT", "INSERT", "UPDATE"),
    "ownership": ("SELECT", "INSERT", "UPDATE"),
    "plan": ("SELECT", "INSERT", "UPDATE"),
    "audit": ("SELECT", "INSERT"),
    "outbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "delivery": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "recipient": ("SELECT", "INSERT", "UPDATE"),
    "action": ("SELECT", "INSERT"),
    "evidence": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def statements(self) -> str:
        """The file and the row that says that it was applied, to be run in one transaction."""
        return (
            f"{self.text}\nINSERT INTO feature_rollout.migration (version, name) "
            f"VALUES ({self.version}, '{self.name}') ON CONFLICT DO NOTHING;\n"
        )


def migrations() -> list[Migration]:
    """All of them, in the order in which they are applied."""
    found = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in resources.files(__package__).joinpath("schema").iterdir()
        if (match := re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", file.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


def newest() -> int:
    """The version of the schema that this program needs."""
    return migrations()[-1].version


def script() -> str:
    """Everything as one script for people who install it by hand; it may be run twice."""
    files = "".join(migration.statements for migration in migrations())
    return f"BEGIN;\n{_LOCK_STATEMENT}{files}{_grants()}COMMIT;\n"


def _grants() -> str:
    return resources.files(__package__).joinpath("schema", "grants.sql").read_text(encoding="utf-8")


async def install(connection: Connection) -> None:
    """Apply what is missing, as the owner; nothing is written when nothing is. Raises psycopg's errors and Problem."""
    version = await _version(connection)
    if version > newest():
        raise _too_new(version)
    if version == newest() and await _has_grants(connection):
        return
    await _run(connection, f"BEGIN;\n{_SETTINGS}{_LOCK_STATEMENT}")
    try:
        # Somebody else may have been at it while we waited for the lock.
        version = await _version(connection)
        for migration in migrations():
            if migration.version > version:
                await _run(connection, migration.statements)
        await _run(connection, _grants())
        await _run(connection, "COMMIT")
    except psycopg.Error:
        if not connection.closed:
            await _run(connection, "ROLLBACK")
        raise


async def install_as(owner: Server) -> None:
    """`install` on a connection of its own; raises Problem."""
    connection = await connect(owner)
    try:
        await bounded(connection, install(connection), _INSTALL_TIMEOUT_S)
    except psycopg.Error as error:
        needs = "the owner needs CREATE on the database, or to own the schema feature_rollout"
        raise classify(error, Subject(owner.role, "feature_rollout.migration", needs)) from None
    finally:
        await dispose(connection)


async def writer_role_is_usable(owner: Server) -> bool:
    """Whether the writers' group is there with its rights: an owner may not be allowed to create it."""
    connection = await connect(owner)
    try:
        return await bounded(connection, _has_grants(connection), _INSTALL_TIMEOUT_S)
    except psycopg.Error as error:
        raise classify(error, Subject(owner.role, "feature_rollout.evidence", "")) from None
    finally:
        await dispose(connection)


async def check(connection: Connection, role: str) -> Problem | None:
    """Whether the writer that is connected can work with the bookkeeping; None when it can."""
    # The catalogue can be read by everyone: a missing schema and a missing privilege are told apart.
    tables = await _rows(
        connection,
        """
        SELECT c.relname, has_schema_privilege(n.oid, 'USAGE'),
               ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                     WHERE has_table_privilege(c.oid, p))
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'feature_rollout' AND c.relkind = 'r'
        """,
    )
    held = {name: set(privileges) if usage else set() for name, usage, privileges in tables}
    if "SELECT" in held.get("migration", ()) and (version := await _version(connection)) < newest():
        message = f"the schema feature_rollout is at version {version}, {newest()} is needed: {INSTALL_HINT}"
        return Problem(BOOKKEEPING_MISSING, message)
    if not held.keys() >= _NEEDED.keys():
        return Problem(BOOKKEEPING_MISSING, f"the schema feature_rollout is not installed: {INSTALL_HINT}")
    if any(not held[table].issuperset(privileges) for table, privileges in _NEEDED.items()):
        return await _not_a_member(connection, role)
    version = await _version(connection)
    if version > newest():
        return _too_new(version)
    return None


async def _not_a_member(connection: Connection, role: str) -> Problem:
    exists = await _rows(connection, "SELECT FROM pg_catalog.pg_roles WHERE rolname = 'feature_rollout_writer'")
    if not exists:
        message = f"role {WRITER_ROLE} does not exist: CREATE ROLE {WRITER_ROLE} NOLOGIN, then {INSTALL_HINT}"
        return Problem(PERMISSION_DENIED, message)
    message = f"role {role} may not use the schema feature_rollout: GRANT {WRITER_ROLE} TO {role}"
    return Problem(PERMISSION_DENIED, message)


def _too_new(version: int) -> Problem:
    message = (
        f"the schema feature_rollout is at version {version}, this operator knows {newest()}: "
        "it raises nothing until it is upgraded"
    )
    return Problem(BOOKKEEPING_TOO_NEW, message)


async def _version(connection: Connection) -> int:
    """0 when nothing is installed."""
    if not await _rows(
        connection,
        "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'feature_rollout' AND c.relname = 'migration'",
    ):
        return 0
    return int((await _rows(connection, "SELECT coalesce(max(version), 0) FROM feature_rollout.migration"))[0][0])


async def _has_grants(connection: Connection) -> bool:
    rows = await _rows(
        connection,
        "SELECT has_table_privilege(oid, 'feature_rollout.evidence', 'INSERT') "
        "FROM pg_catalog.pg_roles WHERE rolname = 'feature_rollout_writer'",
    )
    return bool(rows and rows[0][0])


async def _rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode())
    return await cursor.fetchall()


async def _run(connection: Connection, statements: str) -> None:
    # Bytes, because psycopg takes literal strings only: these come from files of this package.
    await connection.execute(statements.encode())
