"""Is a database set up as the operator needs it, and may its roles do no more than they must?

Everything is read from the catalogue, as the role that it is about; nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from feature_rollout.connectionstring import Server
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, bounded, classify, connect, dispose, quoted
from feature_rollout.store import deliveries, drift, inspection, migrations, rights, serving, sessions
from feature_rollout.store.config import TableMapping
from feature_rollout.store.findings import (
    Checks,
    Finding,
    Result,
    error,
    fetch,
    fetch_row,
    of_problem,
    ok,
    warning,
)

_ROLE_TIMEOUT_S: Final = 20.0
# What waits for longer than this to be told is worth a line.
_UNTOLD_S_MAX: Final = 300.0


@dataclass(frozen=True, slots=True)
class Roles:
    """Connection strings of the three roles, None for those that are not to be looked at."""

    writer: Server | None
    reader: Server | None
    owner: Server | None


_UP_TO_DATE: Final = f"schema feature_rollout is at version {migrations.newest()}"


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
        found.extend([finding async for finding in sessions.connected(name, connection)])
        async for finding in checks(connection, server):
            found.append(finding)  # noqa: PERF401 - what was found before an error is kept

    try:
        # Without options: the settings are to be those of the role itself.
        connection = await connect(server)
    except Problem as problem:
        return [of_problem(f"{name}: connection", problem)]
    try:
        await bounded(connection, run(connection), _ROLE_TIMEOUT_S)
    except Problem as problem:
        found.append(of_problem(f"{name}: checks", problem))
    except psycopg.Error as error:
        found.append(of_problem(f"{name}: checks", classify(error, table.subject(server.role))))
    finally:
        await dispose(connection)
    return found


class _Doctor:
    def __init__(self, roles: Roles, table: TableMapping) -> None:
        self._roles = roles
        self._table = table
        self._database: tuple[Any, ...] | None = None
        self._can_install = False

    async def owner(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("owner", connection)
        finding = await rights.can_create_schema(connection, server.role)
        yield finding
        usable = await fetch_row(connection, "SELECT to_regrole(%s) IS NOT NULL", migrations.WRITER_ROLE)
        self._can_install = finding.result is Result.OK and usable[0]
        if not usable[0]:
            message = f"role {migrations.WRITER_ROLE} does not exist: CREATE ROLE {migrations.WRITER_ROLE} NOLOGIN"
            yield error("owner: writers' group", message)
        excess = await rights.powers(connection)
        yield (
            rights.excessive("owner: rights", excess, server.role)
            if excess
            else ok("owner: rights", "no more than it needs")
        )

    async def writer(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("writer", connection)
        try:
            await inspection.check_writable(connection)
        except Problem as problem:
            yield of_problem("writer: primary", problem)
        else:
            yield ok("writer: primary", "the server accepts writes")
        bookkeeping = await self._bookkeeping(connection, server.role)
        yield bookkeeping
        if bookkeeping.message == _UP_TO_DATE:
            yield await _evaluation(connection, self._table)
            yield await _told(connection)
        try:
            await inspection.shape(connection, self._table, server.role)
        except Problem as problem:
            yield of_problem("writer: flag table", problem)
        else:
            yield ok("writer: flag table", f"{self._table} has the columns, and the writer may change them")
            yield await rights.too_much(connection, self._table, server.role)
            is_usable = await migrations.check(connection, server.role) is None
            yield await _watched(connection, self._table, is_usable=is_usable)
        yield await rights.may_interrupt(connection, server.role)
        yield await sessions.notify(connection)
        yield await sessions.clock(connection)

    async def reader(self, connection: Connection, server: Server) -> Checks:
        yield await self._same_database("reader", connection)
        yield await sessions.read_only_by_default(connection, server.role)
        yield await sessions.settings(connection, server)
        excess = [*await rights.powers(connection), *await self._memberships(connection)]
        if excess:
            yield rights.excessive("reader: rights", excess, server.role)
            if excess[0] == rights.SUPERUSER:
                return
        else:
            yield ok("reader: rights", "neither superuser nor member of a group that writes")
        yield await rights.writable(connection, server.role)
        yield await rights.definers(connection)

    async def _same_database(self, name: str, connection: Connection) -> Finding:
        # The oid tells apart databases of one name on two servers, and is the same on a replica.
        row = await fetch_row(
            connection, "SELECT datname, oid FROM pg_catalog.pg_database WHERE datname=current_database()"
        )
        self._database = self._database or row
        check = f"{name}: database"
        if row != self._database:
            return error(check, "this is another database than the other role's: the connection strings must agree")
        return ok(check, str(row[0]))

    async def _bookkeeping(self, connection: Connection, role: str) -> Finding:
        check = "writer: bookkeeping"
        problem = await migrations.check(connection, role)
        if problem is None:
            return ok(check, _UP_TO_DATE)
        if problem.reason == migrations.BOOKKEEPING_MISSING and self._can_install:
            member = await fetch_row(connection, "SELECT pg_has_role(%s, 'USAGE')", migrations.WRITER_ROLE)
            if not member[0]:
                message = f"GRANT {migrations.WRITER_ROLE} TO {quoted(role)}"
                return error(check, f"role {role} will not be able to use the schema feature_rollout: {message}")
            return ok(check, "not installed or not up to date; the operator installs it, as the owner")
        return of_problem(check, problem)

    async def _memberships(self, connection: Connection) -> list[str]:
        others = [server.role for server in (self._roles.writer, self._roles.owner) if server is not None]
        rows = await fetch(
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


async def _evaluation(connection: Connection, table: TableMapping) -> Finding:
    """Whether services can ask the database who has a flag of this table."""
    check = "writer: evaluation"
    reads = await serving.reads(connection, table)
    if reads == "this":
        return ok(check, f"feature_rollout.flag_enabled reads {table}")
    if reads == "another":
        return ok(check, f"feature_rollout.flag_enabled reads another table; for {table} call feature_rollout.has_flag")
    what = "is missing" if reads is None else f"reads other columns of {table}"
    message = "run `featurerollout store install` as the owner, with the table and columns of the FlagStore"
    return warning(check, f"feature_rollout.flag_enabled {what}: {message}")


async def _watched(connection: Connection, table: TableMapping, *, is_usable: bool) -> Finding:
    check = "writer: changes by others"
    if is_usable and await drift.is_watched(connection, table):
        return ok(check, "a trigger tells of them at once, and the audit knows who it was")
    statement = drift.watch_statement(table).strip()
    return ok(check, f"polled; to hear of them at once, the owner of {table} may run: {statement}")


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
        return warning(check, f"{'; '.join((*late, *lost))}; {acknowledged}")
    names = ", ".join(one.recipient for one in found)
    return ok(check, f"nothing waits for long: {names}" if found else "no operator on this database notifies anybody")
