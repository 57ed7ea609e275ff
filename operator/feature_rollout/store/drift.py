"""Changes of flag rows by others: who made them, and how the operator comes to know.

Where the flag table's owner allows it, a trigger (schema/0002_drift.sql) records each
change with its author and tells `listen`. Elsewhere the operator sees a change when it
reads the row, and records it then, by somebody unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg import sql

from feature_rollout.connectionstring import Server
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.reasons import MANUAL_CHANGE
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Why
from feature_rollout.postgres import Connection, bounded, classify, connect, dispose
from feature_rollout.store import audit, flags, ledger
from feature_rollout.store.config import TableMapping

# What the trigger notifies of; the payload is the flag's name.
CHANGED_CHANNEL: Final = "feature_rollout_drift"
# What `watch` answers when the trigger is there.
WATCHED: Final = frozenset({"watched", "unchanged"})
TABLE_MISSING: Final = "missing"

_WATCH_TIMEOUT_S: Final = 10.0
_UNKNOWN: Final = Why(
    reason=MANUAL_CHANGE,
    message="Changed by somebody else, seen when the row was read.",
    generation=0,
    stage="",
    actor="unknown",
)


async def sign(connection: Connection, operation: str) -> None:
    """Tell the trigger that the writes of this transaction are the operator's, which audits them itself."""
    await connection.execute("SELECT set_config('feature_rollout.operation', %s, true)", (operation,))


async def observe(connection: Connection, table: TableMapping, key: str, names: Sequence[str]) -> None:
    """Record what the audit cannot account for in these rows; locks them only when there is something."""
    now = await ledger.read(connection, key)
    if now is None:
        return
    rows = flags.exposures(await flags.fetch(connection, table, names, lock=False), table)
    suspects = [change.flag for change in await _unaccounted(connection, table, now, rows)]
    if not suspects:
        return
    # Somebody may have been between the two statements: a row and its audit are read together only when it is locked.
    rows = flags.exposures(await flags.fetch(connection, table, suspects, lock=True), table)
    await record(connection, table, now, rows)


async def record(connection: Connection, table: TableMapping, now: Ledger, rows: Mapping[str, Exposure]) -> None:
    """The same for rows that this transaction holds locked, as they were before it wrote them."""
    changes = await _unaccounted(connection, table, now, rows)
    operation = audit.unnumbered_operation_id(now.key)
    await audit.record(connection, table, now, operation=operation, changes=changes, why=_UNKNOWN, kind="Manual")


async def _unaccounted(
    connection: Connection, table: TableMapping, now: Ledger, rows: Mapping[str, Exposure]
) -> list[audit.Change]:
    """Rows that are neither what the audit of this rollout says last, nor the baseline when it says nothing."""
    cursor = await connection.execute(
        "SELECT f.flag, a.after FROM feature_rollout.ledger l, unnest(%s::text[]) AS f (flag), LATERAL ("
        "  SELECT after FROM feature_rollout.audit WHERE flag = f.flag AND table_schema = %s AND table_name = %s"
        "  AND at >= l.opened_at ORDER BY id DESC LIMIT 1"
        ") a WHERE l.key = %s",
        (sorted(rows), table.schema, table.table, now.key),
    )
    known = {**now.baseline, **{flag: Exposure.from_json(after) for flag, after in await cursor.fetchall()}}
    return [
        audit.Change(flag, known[flag], row)
        for flag, row in sorted(rows.items())
        if flag in known and known[flag] != row
    ]


async def is_watched(connection: Connection, table: TableMapping) -> bool:
    """Whether the trigger is on the table."""
    cursor = await connection.execute("SELECT feature_rollout.is_watched(%s, %s, %s, %s, %s, %s)", _arguments(table))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def watch_as(owner: Server, table: TableMapping) -> str:
    """Make the trigger as the owner: `watched`, `unchanged`, `missing`, `refused` or `busy`. Raises Problem."""
    connection = await connect(owner)
    try:
        return await bounded(connection, _watch(connection, table), _WATCH_TIMEOUT_S)
    except psycopg.Error as error:
        raise classify(error, table.subject(owner.role)) from None
    finally:
        await dispose(connection)


async def _watch(connection: Connection, table: TableMapping) -> str:
    cursor = await connection.execute("SELECT feature_rollout.watch(%s, %s, %s, %s, %s, %s)", _arguments(table))
    row = await cursor.fetchone()
    return str(row[0]) if row else TABLE_MISSING


def watch_statement(table: TableMapping) -> str:
    """What makes the trigger, for people who install by hand."""
    arguments = sql.SQL(", ").join(sql.Literal(name) for name in _arguments(table))
    return sql.SQL("SELECT feature_rollout.watch({});\n").format(arguments).as_string(None)


def _arguments(table: TableMapping) -> tuple[str, ...]:
    return (table.schema, table.table, table.name, table.enabled, table.percentage, table.groups)
