"""Connections to PostgreSQL, and what its errors mean to the people who must act on them.

Messages hold a SQLSTATE and our own words; never the server's text, which quotes data.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import psycopg

from feature_rollout import libpq
from feature_rollout.connectionstring import CONNECTION_INVALID, Network, Server, is_socket
from feature_rollout.ports import Problem

T = TypeVar("T")
Connection: TypeAlias = libpq.Connection
Cursor: TypeAlias = psycopg.AsyncCursor[tuple[Any, ...]]

# Reasons of Problems that come from the connection or from a statement's SQLSTATE.
ADDRESS_DENIED: Final = "AddressDenied"
TLS_FAILED: Final = "TlsFailed"
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

_ADDRESSES_MAX: Final = 8
# A partition is noticed in 10 + 3 * 5 seconds on an idle connection, and in 10 on a busy one.
_FIXED: Final = {
    "application_name": APPLICATION_NAME,
    "client_encoding": "utf8",
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
class Subject:
    """What a statement was about, for messages: the role that ran it, the flag table, and what mends a refusal."""

    role: str
    table: str
    grant: str


async def connect(server: Server, *, options: str | None = None, seconds: float = CONNECT_TIMEOUT_S + 1) -> Connection:
    """A new connection in autocommit mode, that never prepares statements on the server; raises Problem.

    Each address of each host is tried in turn, each with its share of the time that is left.
    """
    parameters = dict(server.parameters) | _FIXED
    if options is not None:
        parameters["options"] = options
    deadline = asyncio.get_running_loop().time() + seconds
    problem = unreachable(f"it did not accept a connection in {seconds:g} s")
    try:
        async with asyncio.timeout_at(deadline):
            places = await _places(parameters, server.access.denied)
            for number, place in enumerate(places):
                share_s = (deadline - asyncio.get_running_loop().time()) / (len(places) - number)
                try:
                    return await _attempt(server, parameters | place, share_s)
                except Problem as error:
                    # That a server has said no tells more than that another one is away.
                    problem = error if number == 0 or problem.reason == STORE_UNREACHABLE else problem
    except TimeoutError:
        pass
    raise problem


async def _attempt(server: Server, parameters: dict[str, str], seconds: float) -> Connection:
    try:
        async with asyncio.timeout(seconds):
            return await libpq.attempt(parameters, server.access.authority)
    except libpq.Refused as refused:
        raise _refusal(refused, server, parameters) from None
    except TimeoutError:
        raise unreachable(f"it did not accept a connection in {seconds:.1f} s") from None
    except (psycopg.Error, OSError):
        raise unreachable(_UNREACHABLE[""]) from None


async def _places(parameters: dict[str, str], denied: Sequence[Network]) -> list[dict[str, str]]:
    """Each address to try, with its host for TLS; raises Problem when none is left.

    libpq is given the address that was checked, and asks for none itself: a name may
    have another one a moment later.
    """
    hosts, ports = parameters["host"].split(","), parameters.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    places: list[dict[str, str]] = []
    problem = unreachable(_UNREACHABLE["dns"])
    for host, port in zip(hosts, ports, strict=True):
        place = {"host": host, "port": port or "5432"}
        if is_socket(host):
            places.append(place)
            continue
        addresses = await _addresses(host)
        refused = {address: network for address in addresses if (network := _denying(address, denied))}
        places += [place | {"hostaddr": address} for address in addresses if address not in refused]
        for network in refused.values():
            problem = Problem(ADDRESS_DENIED, _DENIED.format(network=network))
    if not places:
        raise problem
    if parameters.get("target_session_attrs") == "prefer-standby":
        # One server at a time cannot know whether another one is a standby.
        places = [place | {"target_session_attrs": wanted} for wanted in ("standby", "any") for place in places]
    return places


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:_ADDRESSES_MAX]


def _denying(address: str, denied: Sequence[Network]) -> Network | None:
    parsed = ipaddress.ip_address(address)
    # ::ffff:127.0.0.1 is 127.0.0.1 to the kernel.
    plain = getattr(parsed, "ipv4_mapped", None) or parsed
    return next((network for network in denied if plain in network or parsed in network), None)


# What libpq itself says, always in English, and PgBouncer, which has one SQLSTATE for most of what it refuses.
_POOLER_STATE: Final = "08P01"
_REFUSALS: Final = (
    (re.compile(r"password authentication failed|no password supplied|authentication failed|no such user"),
     AUTHENTICATION_FAILED),
    (re.compile(r"no such database|database .* does not exist"), DATABASE_MISSING),
    (re.compile(r"no more connections"), TOO_MANY_CONNECTIONS),
    (re.compile(r"session is read-only|server is in hot standby mode"), READ_ONLY),
    (re.compile(r"session is not read-only|server is not in hot standby mode"), "attributes"),
    (re.compile(r"unsupported startup parameter"), CONNECTION_INVALID),
    (re.compile(r"server does not support SSL"), "no tls"),
    (re.compile(r"does not match host name"), "tls host"),
    (re.compile(r"certificate verify failed|certificate"), "tls certificate"),
    (re.compile(r"SSL|TLS"), "tls"),
)  # fmt: skip


def _refusal(refused: libpq.Refused, server: Server, parameters: dict[str, str]) -> Problem:
    state = refused.state
    reason, _ = _STATES.get(state, ("", ""))
    if reason in _REFUSED:
        message = _REFUSED[reason]
        if state == "28000" and parameters.get("sslmode") == "disable":
            message += "; it may want TLS, which sslmode=disable forbids"
        return Problem(reason, message.format(role=server.role), stalled=reason not in _PASSING)
    if state not in ("", _POOLER_STATE):
        return unreachable(_UNREACHABLE[""])
    found = next((kind for pattern, kind in _REFUSALS if pattern.search(refused.text)), "")
    if found in _TLS:
        return Problem(TLS_FAILED, _TLS[found])
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
_DENIED: Final = (
    "its host has an address in {network}, where the operator may not connect to: name another host, "
    "or have FEATUREROLLOUT_DENIED_ADDRESSES changed"
)
_TLS: Final = {
    "no tls": "the database server does not speak TLS, which sslmode demands",
    "tls host": "the certificate of the database server is for another host name than the connection string's",
    "tls certificate": (
        "the certificate of the database server is not trusted: it has expired, or another CA than the one named "
        "by spec.postgres.caCertificate (by default those of the system) has signed it"
    ),
    "tls": "TLS could not be agreed on with the database server: check sslmode and its certificate",
}
_UNREACHABLE: Final = {
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
