"""Whether the flag table is there, has the mapped columns, and may be written: found out before it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from feature_rollout.ports import Problem
from feature_rollout.postgres import (
    COLUMN_MISSING,
    PERMISSION_DENIED,
    READ_ONLY,
    TABLE_MISSING,
    Connection,
    quoted,
)
from feature_rollout.store.config import TableMapping

COLUMN_TYPE: Final = "ColumnType"

_NAMES: Final = frozenset({"text", "varchar", "bpchar", "name", "citext"})
_BOOLEANS: Final = frozenset({"bool"})
_WHOLE: Final = frozenset({"int2", "int4", "int8"})
_NUMBERS: Final = _WHOLE | {"numeric", "float4", "float8"}
_LISTS: Final = frozenset({"_text", "_varchar", "_bpchar", "_name", "_citext"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What has to be known of the table to write it: decimal places of the percentage, None for any number."""

    percentage_scale: int | None


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    shown_type: str
    modifier: int
    readable: bool
    writable: bool


async def check_writable(connection: Connection) -> None:
    """Raises Problem(ReadOnly) for a replica, and for a server or role that is set to read-only."""
    cursor = await connection.execute("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')")
    row = await cursor.fetchone()
    if row is not None and row[0]:
        raise Problem(READ_ONLY, "the server is a replica: the connection string must name the primary")
    if row is not None and row[1] == "on":
        raise Problem(READ_ONLY, "default_transaction_read_only is on for this role, database or server")


async def shape(connection: Connection, table: TableMapping, role: str) -> Shape:
    """The table's shape; raises Problem when it cannot hold flags or the writer may not write it."""
    oid = await _table(connection, table, role)
    columns = await _columns(connection, oid, table)
    wanted = (
        (table.name, _NAMES, "text"),
        (table.enabled, _BOOLEANS, "boolean"),
        (table.percentage, _NUMBERS, "integer or numeric"),
        (table.groups, _LISTS, "text[]"),
    )
    for name, types, right in wanted:
        column = columns.get(name)
        if column is None:
            raise Problem(COLUMN_MISSING, f"column {quoted(name)} ({right}) does not exist in table {table}")
        if column.type not in types:
            message = f"column {quoted(name)} of table {table} is {column.shown_type}, {right} is wanted"
            raise Problem(COLUMN_TYPE, message)
    unreadable = any(not column.readable for column in columns.values())
    if unreadable or any(not columns[name].writable for name in table.written_columns):
        raise Problem(PERMISSION_DENIED, f"role {role} may not change flags: {table.grant(role)}")
    return Shape(_scale(columns[table.percentage]))


async def _table(connection: Connection, table: TableMapping, role: str) -> int:
    cursor = await connection.execute(
        """
        SELECT c.oid, has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid),
               EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'f')
        """,
        (table.schema, table.table),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Problem(TABLE_MISSING, f"table {table} does not exist")
    oid, usage, row_security, policies = row
    if not usage:
        grant = f"GRANT USAGE ON SCHEMA {quoted(table.schema)} TO {quoted(role)}"
        raise Problem(PERMISSION_DENIED, f"role {role} may not use the schema of table {table}: {grant}")
    if row_security and not policies:
        policy = f"CREATE POLICY feature_rollout ON {table} TO {quoted(role)} USING (true)"
        raise Problem(PERMISSION_DENIED, f"row-level security hides every row of {table} from role {role}: {policy}")
    return int(oid)


async def _columns(connection: Connection, oid: int, table: TableMapping) -> dict[str, _Column]:
    cursor = await connection.execute(
        """
        SELECT a.attname, coalesce(base.typname, t.typname), format_type(a.atttypid, a.atttypmod),
               CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
               has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
               has_column_privilege(a.attrelid, a.attnum, 'UPDATE')
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_type base ON base.oid = nullif(t.typbasetype, 0)
        WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY(%s::text[])
        """,
        (oid, [table.name, *table.written_columns]),
    )
    return {row[0]: _Column(*row) for row in await cursor.fetchall()}


def _scale(column: _Column) -> int | None:
    if column.type in _WHOLE:
        return 0
    if column.type == "numeric" and column.modifier >= 0:
        # numeric(precision, scale): the low eleven bits hold the scale, since 15 as a signed number.
        scale = (column.modifier - 4) & 0x7FF
        return max(0, scale - 0x800 if scale >= 0x400 else scale)
    return None


async def hidden_rows_hint(connection: Connection, table: TableMapping) -> str:
    """What to say beside a missing row when policies may be hiding it."""
    cursor = await connection.execute(
        "SELECT row_security_active(c.oid) FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        (table.schema, table.table),
    )
    row: tuple[Any, ...] | None = await cursor.fetchone()
    return "; row-level security is active and may be hiding it from this role" if row is not None and row[0] else ""
