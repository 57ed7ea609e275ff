"""What a role's sessions are like: encrypted, with the right clock, settings and notifications."""

from __future__ import annotations

import ipaddress
import secrets
import time
from typing import Final

from feature_rollout.connectionstring import CONNECTION_INVALID, Server
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, connect, dispose, quoted
from feature_rollout.store.findings import Checks, Finding, fetch, fetch_row, ok, warning

_NOTIFY_TIMEOUT_S: Final = 2.0
_SKEW_S_MAX: Final = 2.0
# Those that the test suite runs on; older ones lack nothing that is known, and nobody has tried.
_TESTED_FROM: Final = 150_000
# What the operator sets when it connects as the reader; a pooler in transaction mode does not let it.
_READER_SETTINGS: Final = {
    "statement_timeout": "'10s'",
    "lock_timeout": "'1s'",
    "idle_in_transaction_session_timeout": "'5s'",
    "search_path": "pg_catalog, public, pg_temp",
}


async def connected(name: str, connection: Connection) -> Checks:
    row = await fetch_row(connection, "SELECT current_user, current_setting('server_version')")
    version = connection.info.server_version
    yield ok(f"{name}: connection", f"as role {row[0]}")
    yield _tls(f"{name}: TLS", connection)
    if version < _TESTED_FROM:
        message = f"PostgreSQL {row[1]}: versions before {_TESTED_FROM // 10_000} are not tested; upgrade the server"
        yield warning(f"{name}: server version", message)
    else:
        yield ok(f"{name}: server version", f"PostgreSQL {row[1]}")


def _tls(check: str, connection: Connection) -> Finding:
    if connection.pgconn.ssl_in_use:
        if connection.info.get_parameters().get("sslmode") in ("verify-ca", "verify-full"):
            return ok(check, "in use, and the server's certificate is verified")
        return ok(check, "in use; add sslmode=verify-full to have the server's certificate verified too")
    if _is_local(connection.info.hostaddr):
        return ok(check, "not in use, on a connection that does not leave this machine")
    message = "not in use, and everybody on the way can read along: add sslmode=verify-full to the connection string"
    return warning(check, message)


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def notify(connection: Connection) -> Finding:
    check = "writer: NOTIFY"
    channel = f"feature_rollout_doctor_{secrets.token_hex(6)}"
    await connection.execute(f"LISTEN {channel}".encode())
    await connection.execute("SELECT pg_notify(%s, 'doctor')", (channel,))
    arrived = [notice async for notice in connection.notifies(timeout=_NOTIFY_TIMEOUT_S, stop_after=1)]
    await connection.execute(f"UNLISTEN {channel}".encode())
    if arrived:
        return ok(check, "a notification arrived")
    message = "no notification arrived, as behind a pooler in transaction mode: set `pooler: Transaction`"
    return warning(check, f"{message} in the FlagStore; services must poll, or listen past the pooler")


async def clock(connection: Connection) -> Finding:
    """The server's clock against this machine's, at the middle of a round trip."""
    check = "writer: clock"
    began_at = time.time()
    row = await fetch_row(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    ended_at = time.time()
    skew_s = row[0] - (began_at + ended_at) / 2
    if abs(skew_s) <= _SKEW_S_MAX + (ended_at - began_at) / 2:
        return ok(check, f"within {_SKEW_S_MAX:g} s of this machine's")
    ahead = "ahead of" if skew_s > 0 else "behind"
    message = f"the server's clock is {abs(skew_s):.1f} s {ahead} this machine's: synchronise both (NTP)"
    return warning(check, f"{message}, or windows of metrics miss what was just written")


async def read_only_by_default(connection: Connection, role: str) -> Finding:
    check = "reader: read-only"
    row = await fetch_row(connection, "SELECT current_setting('default_transaction_read_only')")
    if row[0] == "on":
        return ok(check, "default_transaction_read_only is on")
    alter = f"ALTER ROLE {quoted(role)} SET default_transaction_read_only = on"
    return warning(check, f"default_transaction_read_only is off for role {role}: {alter}")


async def settings(connection: Connection, server: Server) -> Finding:
    """Behind a pooler: the time-outs, and a search_path in which nobody can shadow a function, are the role's own."""
    check = "reader: settings"
    if not await _is_pooled(server):
        return ok(check, "the operator sets time-outs and search_path when it connects")
    rows = await fetch(
        connection,
        "SELECT s, current_setting(s) FROM unnest(%s::text[]) WITH ORDINALITY AS u (s, n) ORDER BY n",
        list(_READER_SETTINGS),
    )
    lacking = [name for name, value in rows if value == "0" or (name == "search_path" and not _begins_safely(value))]
    if not lacking:
        return ok(check, "behind a pooler, and the role has time-outs and a search_path of its own")
    alters = "; ".join(f"ALTER ROLE {quoted(server.role)} SET {name} = {_READER_SETTINGS[name]}" for name in lacking)
    message = (
        f"behind a pooler role {server.role} needs {', '.join(lacking)} of its own, and new sessions of the pooler"
    )
    return warning(check, f"{message}: {alters}")


def _begins_safely(search_path: str) -> bool:
    return search_path.partition(",")[0].strip() == "pg_catalog"


async def _is_pooled(server: Server) -> bool:
    """Whether start-up options are refused or ignored on the way to the server; raises Problem."""
    try:
        connection = await connect(server, options="-c statement_timeout=4321ms")
    except Problem as problem:
        if problem.reason == CONNECTION_INVALID:
            return True
        raise
    try:
        row = await fetch_row(connection, "SELECT current_setting('statement_timeout')")
        return bool(row[0] != "4321ms")
    finally:
        await dispose(connection)
