"""Connections to PostgreSQL, and what its errors mean to the people who must act on them.

A connection string comes from a tenant's Secret: only the parameters that name a server
and a login are taken from it, nothing that reads files of this process or runs
something. Messages hold a SQLSTATE and our own words; never the server's text, which
quotes data, nor the connection string.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from feature_rollout.ports import Problem

T = TypeVar("T")
Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

# Reasons of Problems that come from the connection or from a statement's SQLSTATE.
CONNECTION_INVALID: Final = "ConnectionInvalid"
STORE_UNREACHABLE: Final = "StoreUnreachable"
AUTHENTICATION_FAILED: Final = "AuthenticationFailed"
DATABASE_MISSING: Final = "DatabaseMissing"
TOO_MANY_CONNECTIONS: Final = "TooManyConnections"
PERMISSION_DENIED: Final = "PermissionDenied"
TABLE_MISSING: Final = "TableMissing"
COLUMN_MISSING: Final = "ColumnMissing"
DISK_FULL: Final = "DiskFull"
LOCK_TIMEOUT: Final = "LockTimeout"
READ_ONLY: Final = "ReadOnly"
WRITE_REFUSED: Final = "WriteRefused"
STORE_ERROR: Final = "StoreError"

APPLICATION_NAME: Final = "feature-rollout-operator"
CONNECT_TIMEOUT_S: Final = 5

_ALLOWED: Final = ("host", "port", "user", "password", "dbname", "sslmode", "target_session_attrs")
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
# A partition is noticed in 10 + 3 * 5 seconds on an idle connection, and in 10 on a busy one.
_FIXED: Final = {
    "application_name": APPLICATION_NAME,
    "client_encoding": "utf8",
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "gssencmode": "disable",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # Without one, libpq would look for a password in a file of this process.
    "passfile": "/nonexistent/pgpass",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A checked connection string: where to connect, and as whom."""

    role: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement was about, for messages: the role that ran it, the flag table, and what mends a refusal."""

    role: str
    table: str
    grant: str


def parse_uri(uri: str, purpose: str = "writer") -> Server:
    """A connection string as a tenant wrote it; raises Problem(ConnectionInvalid), which never shows a value.

    `purpose` says whose string it is: writer, reader or owner.
    """
    try:
        return _parsed(uri)
    except ValueError as error:
        raise Problem(CONNECTION_INVALID, f"the {purpose}'s connection string cannot be used: {error}") from None


def _parsed(uri: str) -> Server:
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(uri).items() if value is not None}
    except psycopg.Error:
        raise ValueError("it is not of the form postgresql://user:password@host:port/database") from None
    for name in given:
        if name not in _ALLOWED:
            raise ValueError(f"parameter {name} is not allowed; allowed are {', '.join(_ALLOWED)}")
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"parameter {name} must be one of {', '.join(choices)}")
    if not given.get("user"):
        raise ValueError("parameter user is missing")
    if not re.fullmatch(r"[0-9,]*", given.get("port", "")):
        raise ValueError("parameter port must be a number")
    for host in given.get("host", "").split(","):
        if not host:
            raise ValueError("parameter host is missing")
        if host.startswith(("/", "@")):
            raise ValueError("parameter host must be a host name or an address, not a socket's path")
    if given.get("sslmode") == "verify-full" and not _has_root_certificate():
        # libpq would refuse for want of a file; the system's certificates are what people mean.
        given["sslrootcert"] = "system"
    return Server(given["user"], tuple(sorted(given.items())))


def _has_root_certificate() -> bool:
    return bool(os.environ.get("PGSSLROOTCERT")) or os.path.exists(  # noqa: PTH110 - libpq's own rule, literally
        os.path.expanduser("~/.postgresql/root.crt")  # noqa: PTH111
    )


async def connect(server: Server, *, options: str | None = None, seconds: float = CONNECT_TIMEOUT_S + 1) -> Connection:
    """A new connection in autocommit mode, that never prepares statements on the server; raises Problem."""
    parameters = dict(server.parameters) | _FIXED
    if options is not None:
        parameters["options"] = options
    try:
        async with asyncio.timeout(seconds):
            return await psycopg.AsyncConnection.connect("", autocommit=True, prepare_threshold=None, **parameters)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise _refusal(error, server) from None
    except (TimeoutError, OSError):
        raise unreachable(f"it did not accept a connection in {seconds:g} s") from None


# libpq gives no SQLSTATE for a refused connection, so its text has to be read. A server that speaks another
# language is reported as unreachable, which is less helpful and still true.
_REFUSALS: Final = (
    (re.compile(r"password authentication failed|no password supplied|pg_hba\.conf|authentication failed|"
                r"role .* does not exist|is not permitted to log in"), AUTHENTICATION_FAILED),
    (re.compile(r"database .* does not exist"), DATABASE_MISSING),
    (re.compile(r"too many (clients|connections)|connection slots|no more connections"), TOO_MANY_CONNECTIONS),
    (re.compile(r"session is read-only|server is in hot standby mode"), READ_ONLY),
    (re.compile(r"session is not read-only|server is not in hot standby mode"), "attributes"),
    (re.compile(r"permission denied for database"), PERMISSION_DENIED),
    (re.compile(r"SSL|certificate|TLS"), "tls"),
    (re.compile(r"failed to resolve|could not translate"), "dns"),
    (re.compile(r"unsupported startup parameter"), CONNECTION_INVALID),
)  # fmt: skip


def _refusal(error: psycopg.Error, server: Server) -> Problem:
    text = str(error)
    found = next((kind for pattern, kind in _REFUSALS if pattern.search(text)), "")
    if found in _UNREACHABLE:
        return unreachable(_UNREACHABLE[found])
    return Problem(found, _REFUSED[found].format(role=server.role), stalled=found != TOO_MANY_CONNECTIONS)


_REFUSED: Final = {
    AUTHENTICATION_FAILED: (
        "the server refused the login of role {role}: check its password, that it may log in, and pg_hba.conf"
    ),
    DATABASE_MISSING: "the database that the connection string names does not exist",
    TOO_MANY_CONNECTIONS: "the server has no free connection",
    READ_ONLY: "no server that the connection string names accepts writes",
    PERMISSION_DENIED: "role {role} may not connect: GRANT CONNECT ON DATABASE … TO {role}",
    CONNECTION_INVALID: "a pooler refused the start-up options: set `pooler: Transaction` in the FlagStore",
}
_UNREACHABLE: Final = {
    "tls": "TLS could not be agreed on: check sslmode and the server's certificate",
    "attributes": "none that the connection string names fits its target_session_attrs",
    "dns": "its host name cannot be resolved",
    "": "it cannot be reached, or it refused the connection",
}


def unreachable(message: str) -> Problem:
    return Problem(STORE_UNREACHABLE, f"the database server does not answer: {message}", stalled=False)


_STATES: Final = {
    "28P01": (AUTHENTICATION_FAILED, "the server refused the login of role {role}"),
    "28000": (AUTHENTICATION_FAILED, "the server refused the login of role {role}"),
    "42501": (PERMISSION_DENIED, "role {role} lacks a privilege: {grant}"),
    "42P01": (TABLE_MISSING, "table {table} does not exist"),
    "3F000": (TABLE_MISSING, "the schema of table {table} does not exist"),
    "42703": (COLUMN_MISSING, "a mapped column does not exist in table {table}"),
    "3D000": (DATABASE_MISSING, "the database that the connection string names does not exist"),
    "53300": (TOO_MANY_CONNECTIONS, "the server has no free connection"),
    "53100": (DISK_FULL, "the server's disk is full"),
    "55P03": (LOCK_TIMEOUT, "a row or table stayed locked by another session"),
    "40P01": (LOCK_TIMEOUT, "a row or table was locked by another session, which waited for this one"),
    "40001": (LOCK_TIMEOUT, "a row was changed by another session at the same time"),
    "25006": (READ_ONLY, "the server is read-only, as a replica is"),
}
_CLASSES: Final = {
    **dict.fromkeys(
        ("22", "23", "27", "44", "P0"),
        (WRITE_REFUSED, "the database refused to write: a type, constraint, policy or trigger, perhaps of {table}"),
    ),
    **dict.fromkeys(
        ("08", "25", "53", "57", "58"),
        (STORE_UNREACHABLE, "the database server ended the statement or the connection"),
    ),
}
_PASSING: Final = frozenset({STORE_UNREACHABLE, TOO_MANY_CONNECTIONS, LOCK_TIMEOUT})


def classify(error: psycopg.Error, subject: Subject) -> Problem:
    """What a failed statement means; the server's own text is dropped on purpose."""
    state = error.sqlstate
    if state is None:
        return unreachable("the connection was lost")
    unexpected = (STORE_ERROR, "the database answered with an error that the operator does not expect")
    reason, message = _STATES.get(state) or _CLASSES.get(state[:2], unexpected)
    message = message.format(role=subject.role, table=subject.table, grant=subject.grant)
    return Problem(reason, f"{message} (SQLSTATE {state})", stalled=reason not in _PASSING)


def shut_down(connection: Connection) -> None:
    """End the connection's socket now: whoever waits for the server gets an error at once."""
    with contextlib.suppress(psycopg.Error, OSError):
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


async def bounded(connection: Connection, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Await `work`, which uses the connection, for at most so long; raises Problem(StoreUnreachable).

    A cancelled psycopg call first asks the server to cancel, and waits for that: five to
    ten seconds when the server hangs. Shutting the socket frees the caller at once, both
    at the time-out and when the caller itself is cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError:
        await _abandon(connection, task)
        raise unreachable(f"no answer in {seconds:g} s") from None
    except asyncio.CancelledError:
        await _abandon(connection, task)
        raise


async def _abandon(connection: Connection, task: asyncio.Future[Any]) -> None:
    shut_down(connection)
    _, pending = await asyncio.wait([task], timeout=1)
    if pending:
        task.cancel()
        return
    if not task.cancelled():
        task.exception()  # it has been seen; asyncio would log it otherwise


async def dispose(connection: Connection) -> None:
    """Close a connection of any state, without waiting for the server."""
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()


_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
# Words that are likely as names, and mean something else without quotes.
_RESERVED: Final = frozenset(
    {"all", "any", "array", "check", "column", "default", "end", "from", "grant", "group", "in", "into", "limit", "not"}
    | {"offset", "on", "order", "primary", "references", "select", "table", "to", "union", "user", "using", "when"}
)


def quoted(*names: str) -> str:
    """An identifier as people write it in SQL, with quotes only where they are needed."""
    return ".".join(
        n if _PLAIN.fullmatch(n) and n not in _RESERVED else '"' + n.replace('"', '""') + '"' for n in names
    )
