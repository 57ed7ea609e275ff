"""Is a database set up as the operator needs it, and may its roles do no more than they must?

Everything is read from the catalogue, as the role that it is about; nothing is written.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import psycopg

from feature_rollout.ports import Problem
from feature_rollout.postgres import (
    CONNECTION_INVALID,
    Connection,
    Server,
    bounded,
    classify,
    connect,
    dispose,
    quoted,
)
from feature_rollout.store import deliveries, drift, inspection, migrations, serving
from feature_rollout.store.config import TableMapping

_ROLE_TIMEOUT_S: Final = 20.0
_NOTIFY_TIMEOUT_S: Final = 2.0
_SKEW_S_MAX: Final = 2.0
# Those that the test suite runs on; older ones lack nothing that is known, and nobody has tried.
_TESTED_FROM: Final = 150_000
_NAMED_MAX: Final = 5
# What waits for longer than this to be told is worth a line.
_UNTOLD_S_MAX: Final = 300.0
# What the operator sets when it connects as the reader; a pooler in transaction mode does not let it.
_READER_SETTINGS: Final = {
    "statement_timeout": "'10s'",
    "lock_timeout": "'1s'",
    "idle_in_transaction_session_timeout": "'5s'",
    "search_path": "pg_catalog, public, pg_temp",
}

# Groups of PostgreSQL's own whose members reach beyond tables.
_POWERFUL: Final = [
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_maintain",
]
_NOT_SYSTEM: Final = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `message` says what was found and, unless all is well, what to do. No secret is in it."""

    check: str
    result: Result
    message: str


@dataclass(frozen=True, slots=True)
class Roles:
    """Connection strings of the three roles, None for those that are not to be looked at."""

    writer: Server | None
    reader: Server | None
    owner: Server | None


Checks = AsyncIterator[Finding]
_UP_TO_DATE: Final = f"schema feature_rollout is at version {migrations.newest()}"


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Result.OK, message)


def _warning(check: str, message: str) -> Finding:
    return Finding(check, Result.WARNING, message)


def _error(check: str, message: str) -> Finding:
    return Finding(check, Result.ERROR, message)


async def examine(roles: Roles, table: TableMapping) -> list[Finding]:
    """All findings, in the order in which they are best mended. Raises nothing but what is a bug."""
    doctor = _Doctor(roles, table)
    found: list[Finding] = []
    # The owner before the writer: whether missing bookkeeping is a fault depends on it.
    for name, server, checks in (
        ("owner", roles.owner, doctor.owner),
        ("writer", roles.writer, doctor.writer),
        ("reader", roles.reader, doctor.reader),
    ):
        if server is None:
            found.append(Finding(name, Result.SKIPPED, f"no connection string of the {name} was given"))
        else:
            found += await _role(name, server, table, checks)
    return found


async def _role(
    name: str, server: Server, table: TableMapping, checks: Callable[[Connection, Server], Checks]
) -> list[Finding]:
    found: list[Finding] = []

    async def run(connection: Connection) -> None:
        found.extend([finding async for finding in _connection(name, connection)])
        async for finding in checks(connection, server):
            found.append(finding)  # noqa: PERF401 - what was found before an error is kept

    try:
        # Without options: the settings are to be those of the role itself.
        connection = await connect(server)
    except Problem as problem:
        return [_problem(f"{name}: connection", problem)]
    try:
        await bounded(connection, run(connection), _ROLE_TIMEOUT_S)
    except Problem as problem:
        found.append(_problem(f"{name}: checks", problem))
    except psycopg.Error as error:
        found.append(_problem(f"{name}: checks", classify(error, table.subject(server.role))))
    finally:
        await dispose(connection)
    return found


def _problem(check: str, problem: Problem) -> Finding:
    return _error(check, f"{problem.reason}: {problem.message}")


async def _connection(name: str, connection: Connection) -> Checks:
    row = await _row(connection, "SELECT current_user, current_setting('server_version')")
    version = connection.info.server_version
    yield _ok(f"{name}: connection", f"as role {row[0]}")
    yield _tls(f"{name}: TLS", connection)
    if version < _TESTED_FROM:
        message = f"PostgreSQL {row[1]}: versions before {_TESTED_FROM // 10_000} are not tested; upgrade the server"
        yield _warning(f"{name}: server version", message)
    else:
        yield _ok(f"{name}: server version", f"PostgreSQL {row[1]}")


def _tls(check: str, connection: Connection) -> Finding:
    if connection.pgconn.ssl_in_use:
        if connection.info.get_parameters().get("sslmode") in ("verify-ca", "verify-full"):
            return _ok(check, "in use, and the server's certificate is verified")
        return _ok(check, "in use; add sslmode=verify-full to have the server's certificate verified too")
    if _is_local(connection.info.hostaddr):
        return _ok(check, "not in use, on a connection that does not leave this machine")
    message = "not in use, and everybody on the way can read along: add sslmode=verify-full to the connection string"
    return _warning(check, message)


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class _Doctor:
    def __init__(self, roles: Roles, table: TableMapping) -> None:
        self._roles = roles
        self._table = table
        self._database: tuple[Any, ...] | None = None
        self._can_install = False

    async def owner(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("owner", connection)
        finding = await _can_create_schema(connection, server.role)
        yield finding
        usable = await _row(connection, "SELECT to_regrole(%s) IS NOT NULL", migrations.WRITER_ROLE)
        self._can_install = finding.result is Result.OK and usable[0]
        if not usable[0]:
            message = f"role {migrations.WRITER_ROLE} does not exist: CREATE ROLE {migrations.WRITER_ROLE} NOLOGIN"
            yield _error("owner: writers' group", message)
        excess = await _powers(connection)
        yield _excess("owner: rights", excess, server.role) if excess else _ok("owner: rights", "no more than it needs")

    async def writer(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("writer", connection)
        try:
            await inspection.check_writable(connection)
        except Problem as problem:
            yield _problem("writer: primary", problem)
        else:
            yield _ok("writer: primary", "the server accepts writes")
        bookkeeping = await self._bookkeeping(connection, server.role)
        yield bookkeeping
        if bookkeeping.message == _UP_TO_DATE:
            yield await _evaluation(connection, self._table)
            yield await _told(connection)
        try:
            await inspection.shape(connection, self._table, server.role)
        except Problem as problem:
            yield _problem("writer: flag table", problem)
        else:
            yield _ok("writer: flag table", f"{self._table} has the columns, and the writer may change them")
            yield await _too_much(connection, self._table, server.role)
            is_usable = await migrations.check(connection, server.role) is None
            yield await _watched(connection, self._table, is_usable=is_usable)
        yield await _may_interrupt(connection, server.role)
        yield await _notify(connection)
        yield await _clock(connection)

    async def reader(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("reader", connection)
        yield await _read_only_by_default(connection, server.role)
        yield await _settings(connection, server)
        excess = [*await _powers(connection), *await self._memberships(connection)]
        if excess:
            yield _excess("reader: rights", excess, server.role)
            if excess[0] == _SUPERUSER:
                return
        else:
            yield _ok("reader: rights", "neither superuser nor member of a group that writes")
        yield await _writable(connection, server.role)
        yield await _definers(connection)

    async def _same_database(self, name: str, connection: Connection) -> Finding:
        # The oid tells apart databases of one name on two servers, and is the same on a replica.
        row = await _row(connection, "SELECT datname, oid FROM pg_catalog.pg_database WHERE datname=current_database()")
        self._database = self._database or row
        check = f"{name}: database"
        if row != self._database:
            return _error(check, "this is another database than the other role's: the connection strings must agree")
        return _ok(check, str(row[0]))

    async def _bookkeeping(self, connection: Connection, role: str) -> Finding:
        check = "writer: bookkeeping"
        problem = await migrations.check(connection, role)
        if problem is None:
            return _ok(check, _UP_TO_DATE)
        if problem.reason == migrations.BOOKKEEPING_MISSING and self._can_install:
            member = await _row(connection, "SELECT pg_has_role(%s, 'USAGE')", migrations.WRITER_ROLE)
            if not member[0]:
                message = f"GRANT {migrations.WRITER_ROLE} TO {quoted(role)}"
                return _error(check, f"role {role} will not be able to use the schema feature_rollout: {message}")
            return _ok(check, "not installed or not up to date; the operator installs it, as the owner")
        return _problem(check, problem)

    async def _memberships(self, connection: Connection) -> list[str]:
        others = [server.role for server in (self._roles.writer, self._roles.owner) if server is not None]
        rows = await _rows(
            connection,
            "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s::text[]) AND rolname <> current_user "
            "AND pg_has_role(oid, 'MEMBER') ORDER BY rolname",
            [migrations.WRITER_ROLE, *others],
        )
        same = ["the same role as the writer or the owner"] if self._is_shared() else []
        return [*same, *(f"member of {name}" for (name,) in rows)]

    def _is_shared(self) -> bool:
        reader = self._roles.reader
        others = (self._roles.writer, self._roles.owner)
        return reader is not None and any(other is not None and other.role == reader.role for other in others)


async def _can_create_schema(connection: Connection, role: str) -> Finding:
    check = "owner: schema"
    owns = await _rows(
        connection,
        "SELECT pg_has_role(n.nspowner, 'USAGE'), pg_get_userbyid(n.nspowner) "
        "FROM pg_catalog.pg_namespace n WHERE n.nspname = 'feature_rollout'",
    )
    if owns:
        if owns[0][0]:
            return _ok(check, "owns the schema feature_rollout")
        message = f"the schema feature_rollout belongs to {owns[0][1]}: GRANT {quoted(owns[0][1])} TO {quoted(role)}"
        return _error(check, f"{message}, or log in as that role")
    row = await _row(connection, "SELECT has_database_privilege(current_database(), 'CREATE'), current_database()")
    if row[0]:
        return _ok(check, "may create the schema feature_rollout")
    grant = f"GRANT CREATE ON DATABASE {quoted(row[1])} TO {quoted(role)}"
    return _error(check, f"role {role} may not create the schema feature_rollout: {grant}")


_SUPERUSER: Final = "superuser"


async def _powers(connection: Connection) -> list[str]:
    """What the role may do beyond tables; only the first matters when it is a superuser."""
    row = await _row(
        connection,
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication "
        "FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    if row[0]:
        return [_SUPERUSER]
    names = ("BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION")
    held = [name for name, has in zip(names, row[1:], strict=True) if has]
    groups = await _rows(
        connection,
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s::text[]) AND pg_has_role(oid, 'MEMBER')",
        _POWERFUL,
    )
    return [*held, *(f"member of {name}" for (name,) in groups)]


def _excess(check: str, excess: Sequence[str], role: str) -> Finding:
    """For a reader this is an error: metric SQL is written by tenants. For the others it is carelessness."""
    if excess[0] == _SUPERUSER:
        mended = f"ALTER ROLE {quoted(role)} NOSUPERUSER, or use a role of its own"
    else:
        revokes = [f"REVOKE {quoted(e.removeprefix('member of '))} FROM {quoted(role)}" for e in excess if " of " in e]
        attributes = [f"NO{power}" for power in excess if power.isupper()]
        alters = [f"ALTER ROLE {quoted(role)} {' '.join(attributes)}"] if attributes else []
        mended = "; ".join([*alters, *revokes])
    if any(power.startswith("the same") for power in excess):
        mended = "create a role of its own for each"
    result = Result.ERROR if check.startswith("reader") else Result.WARNING
    return Finding(check, result, f"role {role} is or has more than it needs, {', '.join(excess)}: {mended}")


async def _may_interrupt(connection: Connection, role: str) -> Finding:
    """Whether sessions whose locks block a revert can be interrupted. To grant it is a choice, not a duty."""
    row = await _row(
        connection, "SELECT pg_has_role('pg_signal_backend', 'USAGE'), pg_has_role('pg_read_all_stats', 'USAGE')"
    )
    missing = [name for name, has in zip(("pg_signal_backend", "pg_read_all_stats"), row, strict=True) if not has]
    check = "writer: blocked reverts"
    if not missing:
        return _ok(check, "sessions that block a revert are interrupted, but those of superusers")
    grant = f"GRANT {', '.join(missing)} TO {quoted(role)}"
    return _ok(check, f"sessions of other roles that block a revert are not interrupted; to allow it: {grant}")


async def _too_much(connection: Connection, table: TableMapping, role: str) -> Finding:
    """What the writer may do beyond changing the mapped columns."""
    check = "writer: rights"
    # That one is offered in the documentation, for reverts that are kept waiting.
    powers = [power for power in await _powers(connection) if power != "member of pg_signal_backend"]
    if powers:
        return _excess(check, powers, role)
    row = await _row(
        connection,
        """
        SELECT pg_has_role(c.relowner, 'USAGE'),
               ARRAY(SELECT p FROM unnest(ARRAY['INSERT', 'DELETE', 'TRUNCATE']) p WHERE has_table_privilege(c.oid, p)),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND a.attname <> ALL(%s::text[]) AND has_column_privilege(c.oid, a.attnum, 'UPDATE')
                     ORDER BY a.attnum)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s
        """,
        list(table.written_columns),
        table.schema,
        table.table,
    )
    owns, privileges, columns = row
    if owns:
        return _warning(check, f"role {role} owns {table}, which only a role for migrations should: use another role")
    excess = [*privileges, *([f"UPDATE ({', '.join(quoted(column) for column in columns)})"] if columns else [])]
    if not excess:
        return _ok(check, "no more than it needs")
    mended = f"REVOKE ALL ON {table} FROM {quoted(role)}, PUBLIC; {table.grant(role)}"
    return _warning(check, f"role {role} may do more than it needs on {table}, {', '.join(excess)}: {mended}")


async def _evaluation(connection: Connection, table: TableMapping) -> Finding:
    """Whether services can ask the database who has a flag of this table."""
    check = "writer: evaluation"
    reads = await serving.reads(connection, table)
    if reads == "this":
        return _ok(check, f"feature_rollout.flag_enabled reads {table}")
    if reads == "another":
        return _ok(
            check, f"feature_rollout.flag_enabled reads another table; for {table} call feature_rollout.has_flag"
        )
    what = "is missing" if reads is None else f"reads other columns of {table}"
    message = "run `featurerollout store install` as the owner, with the table and columns of the FlagStore"
    return _warning(check, f"feature_rollout.flag_enabled {what}: {message}")


async def _watched(connection: Connection, table: TableMapping, *, is_usable: bool) -> Finding:
    check = "writer: changes by others"
    if is_usable and await drift.is_watched(connection, table):
        return _ok(check, "a trigger tells of them at once, and the audit knows who it was")
    statement = drift.watch_statement(table).strip()
    return _ok(check, f"polled; to hear of them at once, the owner of {table} may run: {statement}")


async def _notify(connection: Connection) -> Finding:
    check = "writer: NOTIFY"
    channel = f"feature_rollout_doctor_{secrets.token_hex(6)}"
    await connection.execute(f"LISTEN {channel}".encode())
    await connection.execute("SELECT pg_notify(%s, 'doctor')", (channel,))
    arrived = [notice async for notice in connection.notifies(timeout=_NOTIFY_TIMEOUT_S, stop_after=1)]
    await connection.execute(f"UNLISTEN {channel}".encode())
    if arrived:
        return _ok(check, "a notification arrived")
    message = "no notification arrived, as behind a pooler in transaction mode: set `pooler: Transaction`"
    return _warning(check, f"{message} in the FlagStore; services must poll, or listen past the pooler")


async def _clock(connection: Connection) -> Finding:
    """The server's clock against this machine's, at the middle of a round trip."""
    check = "writer: clock"
    began_at = time.time()
    row = await _row(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    ended_at = time.time()
    skew_s = row[0] - (began_at + ended_at) / 2
    if abs(skew_s) <= _SKEW_S_MAX + (ended_at - began_at) / 2:
        return _ok(check, f"within {_SKEW_S_MAX:g} s of this machine's")
    ahead = "ahead of" if skew_s > 0 else "behind"
    message = f"the server's clock is {abs(skew_s):.1f} s {ahead} this machine's: synchronise both (NTP)"
    return _warning(check, f"{message}, or windows of metrics miss what was just written")


async def _read_only_by_default(connection: Connection, role: str) -> Finding:
    check = "reader: read-only"
    row = await _row(connection, "SELECT current_setting('default_transaction_read_only')")
    if row[0] == "on":
        return _ok(check, "default_transaction_read_only is on")
    alter = f"ALTER ROLE {quoted(role)} SET default_transaction_read_only = on"
    return _warning(check, f"default_transaction_read_only is off for role {role}: {alter}")


async def _settings(connection: Connection, server: Server) -> Finding:
    """Behind a pooler: the time-outs, and a search_path in which nobody can shadow a function, are the role's own."""
    check = "reader: settings"
    if not await _is_pooled(server):
        return _ok(check, "the operator sets time-outs and search_path when it connects")
    rows = await _rows(
        connection,
        "SELECT s, current_setting(s) FROM unnest(%s::text[]) WITH ORDINALITY AS u (s, n) ORDER BY n",
        list(_READER_SETTINGS),
    )
    lacking = [name for name, value in rows if value == "0" or (name == "search_path" and not _begins_safely(value))]
    if not lacking:
        return _ok(check, "behind a pooler, and the role has time-outs and a search_path of its own")
    alters = "; ".join(f"ALTER ROLE {quoted(server.role)} SET {name} = {_READER_SETTINGS[name]}" for name in lacking)
    message = (
        f"behind a pooler role {server.role} needs {', '.join(lacking)} of its own, and new sessions of the pooler"
    )
    return _warning(check, f"{message}: {alters}")


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
        row = await _row(connection, "SELECT current_setting('statement_timeout')")
        return bool(row[0] != "4321ms")
    finally:
        await dispose(connection)


async def _writable(connection: Connection, role: str) -> Finding:
    """Tables, sequences and schemas of this database that the reader may write to."""
    check = "reader: privileges"
    rows = await _rows(
        connection,
        f"""
        SELECT format('%%I.%%I', n.nspname, c.relname), CASE WHEN c.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'USAGE') AND CASE
            WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, UPDATE')
            WHEN c.relkind IN ('r', 'p', 'v', 'f') THEN has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
              OR has_any_column_privilege(c.oid, 'INSERT, UPDATE') END
        UNION ALL
        SELECT format('%%I', n.nspname), 'SCHEMA' FROM pg_catalog.pg_namespace n
        WHERE {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'CREATE')
        ORDER BY 2, 1 LIMIT %s
        """,  # noqa: S608 - made of constants
        _NAMED_MAX + 1,
    )
    if not rows:
        return _ok(check, "no table, sequence or schema of this database can be written")
    named = [f"{kind.lower()} {name}" for name, kind in rows[:_NAMED_MAX]]
    more = ", and more" if len(rows) > _NAMED_MAX else ""
    rights = {"TABLE": "INSERT, UPDATE, DELETE, TRUNCATE", "SEQUENCE": "USAGE, UPDATE", "SCHEMA": "CREATE"}
    revokes = [f"REVOKE {rights[kind]} ON {kind} {name} FROM {quoted(role)}, PUBLIC" for name, kind in rows]
    mended = "; ".join(revokes[:_NAMED_MAX])
    return _error(check, f"role {role} may write to {', '.join(named)}{more}, and so may metric SQL: {mended}")


async def _definers(connection: Connection) -> Finding:
    """Functions that run with their owner's rights, which the reader may call: a way past being read-only."""
    check = "reader: functions"
    rows = await _rows(
        connection,
        f"""
        SELECT format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'USAGE')
          AND has_function_privilege(p.oid, 'EXECUTE')
          AND p.prorettype <> ALL(ARRAY['trigger', 'event_trigger']::regtype[])
        ORDER BY 1 LIMIT %s
        """,  # noqa: S608 - made of constants
        _NAMED_MAX + 1,
    )
    if not rows:
        return _ok(check, "no SECURITY DEFINER function can be called")
    named = ", ".join(name for (name,) in rows[:_NAMED_MAX]) + (", and more" if len(rows) > _NAMED_MAX else "")
    revokes = "; ".join(f"REVOKE EXECUTE ON ROUTINE {name} FROM PUBLIC" for (name,) in rows[:_NAMED_MAX])
    return _warning(check, f"metric SQL may call SECURITY DEFINER functions, {named}: {revokes}")


async def _told(connection: Connection) -> Finding:
    """Whether those who are to be told of transitions are."""
    check = "writer: notifications"
    found = await deliveries.backlogs(connection)
    late = [f"{one.recipient} waits for {one.waiting} since {one.since_s / 60:.0f} min: {one.problem}" for one in found
            if one.since_s > _UNTOLD_S_MAX]  # fmt: skip
    lost = [f"{one.given_up} were never told to {one.recipient}" for one in found if one.given_up]
    if late or lost:
        hint = "SELECT at, operation_id, given_up FROM feature_rollout.outbox WHERE given_up <> '{}' lists those; "
        acknowledged = f"{hint}DELETE them when they are known" if lost else "see docs/notifications.md"
        return _warning(check, f"{'; '.join((*late, *lost))}; {acknowledged}")
    names = ", ".join(one.recipient for one in found)
    return _ok(check, f"nothing waits for long: {names}" if found else "no operator on this database notifies anybody")


async def _rows(connection: Connection, statement: str, *params: object) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode(), params or None)
    return await cursor.fetchall()


async def _row(connection: Connection, statement: str, *params: object) -> tuple[Any, ...]:
    return (await _rows(connection, statement, *params))[0]
