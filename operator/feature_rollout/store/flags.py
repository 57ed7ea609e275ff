"""Rows of the flag table: read, locked, and written one column at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import sql

from feature_rollout.connectionstring import Server
from feature_rollout.core.exposure import FULL, NONE, Exposure, format_percentage
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, Cursor, bounded, classify, connect, dispose
from feature_rollout.store.config import TableMapping

FLAG_MISSING: Final = "FlagMissing"
FLAG_AMBIGUOUS: Final = "FlagAmbiguous"
FLAG_ROW_INVALID: Final = "FlagRowInvalid"
FLAG_WRITE_ALTERED: Final = "FlagWriteAltered"
PERCENTAGE_NOT_WHOLE: Final = "PercentageNotWhole"

# A group that nobody is in: stands for groups that cannot be read, when exposure is lowered.
_NOBODY: Final = ""
_READ_TIMEOUT_S: Final = 10.0
# For so many tables, and combinations of their columns, a statement is kept as it was composed.
_TABLES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Row:
    """A flag row as it is in the database, whatever is in it. `percentage` is its text, so that no digit is lost."""

    name: str
    enabled: bool | None
    percentage: str | None
    groups: Sequence[Any] | None

    def exposure(self, table: TableMapping) -> Exposure:
        """What the row means; raises Problem(FlagRowInvalid) when it means nothing."""
        if self.enabled is None:
            raise self._invalid(table.enabled, "is NULL")
        if self.percentage is None:
            raise self._invalid(table.percentage, "is NULL")
        percentage = _decimal(self.percentage)
        if percentage is None or not NONE <= percentage <= FULL:
            raise self._invalid(table.percentage, f"is {self.percentage[:20]}, 0 to 100 is wanted")
        groups = self.groups or ()
        if not all(isinstance(group, str) for group in groups):
            raise self._invalid(table.groups, "holds a NULL or a nested list")
        return Exposure(self.enabled, percentage, frozenset(groups))

    def widest(self) -> Exposure:
        """The widest exposure that services may read from the row: what a lowering starts from.

        Lowering must work on rows that mean nothing too, and must not narrow them by an
        assumption: what is unknown counts as full exposure and is overwritten.
        """
        percentage = FULL if self.percentage is None else _decimal(self.percentage)
        percentage = FULL if percentage is None else min(max(percentage, NONE), FULL)
        groups = frozenset(group if isinstance(group, str) else _NOBODY for group in self.groups or ())
        return Exposure(self.enabled is not False, percentage, groups)

    def _invalid(self, column: str, what: str) -> Problem:
        return Problem(FLAG_ROW_INVALID, f"flag {self.name}: column {column} {what}")


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


async def select(
    connection: Connection, table: TableMapping, flags: Iterable[str], *, lock: bool, key: str | None = None
) -> Cursor:
    """The rows of these flags in the order of their names, locked for the transaction or not; for `rows`.

    With a ledger key those are left out that another rollout owns.
    """
    values = {"flags": sorted(flags), "key": key, "schema": table.schema, "table": table.table}
    return await connection.execute(_select(table, lock=lock, own=key is not None), values)


async def rows(cursor: Cursor) -> list[Row]:
    return [Row(*row) for row in await cursor.fetchall()]


async def fetch(connection: Connection, table: TableMapping, flags: Iterable[str], *, lock: bool) -> list[Row]:
    """The rows of these flags in the order of their names, locked for the transaction or not."""
    return await rows(await select(connection, table, flags, lock=lock))


@lru_cache(_TABLES_MAX)
def _select(table: TableMapping, *, lock: bool, own: bool) -> bytes:
    not_foreign = sql.SQL(
        "AND NOT EXISTS (SELECT FROM feature_rollout.ownership o WHERE o.table_schema = %(schema)s "
        "AND o.table_name = %(table)s AND o.flag = f.{name}::text AND o.owner <> %(key)s)"
    ).format(name=sql.Identifier(table.name))
    query = sql.SQL(
        "SELECT f.{name}::text, f.{enabled}, f.{percentage}::text, f.{groups}::text[] FROM {table} f "
        'WHERE f.{name} = ANY(%(flags)s::text[]) {not_foreign} ORDER BY f.{name}::text COLLATE "C" {lock}'
    )
    only = {"not_foreign": not_foreign if own else sql.SQL(""), "lock": sql.SQL("FOR UPDATE OF f" if lock else "")}
    return query.format(**_identifiers(table), **only).as_bytes()


async def read_as(server: Server, table: TableMapping, names: Iterable[str]) -> list[Row]:
    """`fetch` on a connection of its own, with the rights to read alone; raises Problem."""
    connection = await connect(server)
    try:
        return await bounded(connection, fetch(connection, table, names, lock=False), _READ_TIMEOUT_S)
    except psycopg.Error as error:
        raise classify(error, table.reading_subject(server.role)) from None
    finally:
        await dispose(connection)


async def fetch_all(connection: Connection, table: TableMapping) -> list[Row]:
    """All rows of the table, in no order."""
    query = sql.SQL("SELECT {name}::text, {enabled}, {percentage}::text, {groups}::text[] FROM {table}")
    cursor = await connection.execute(query.format(**_identifiers(table)))
    # A row without a name is nobody's flag.
    return [Row(*row) for row in await cursor.fetchall() if row[0] is not None]


def exposures(rows: Iterable[Row], table: TableMapping) -> dict[str, Exposure]:
    """What the rows mean, by flag; raises Problem for rows that nobody may raise."""
    found: dict[str, Exposure] = {}
    for row in rows:
        if row.name in found:
            raise Problem(FLAG_AMBIGUOUS, f"flag {row.name} has more than one row in {table}")
        found[row.name] = row.exposure(table)
    return found


async def write(connection: Connection, table: TableMapping, flag: str, columns: Mapping[str, object]) -> Cursor:
    """One UPDATE of these columns of the flag's rows; `rows` has them as triggers and types left them."""
    return await connection.execute(_write(table, tuple(columns)), (*columns.values(), flag))


@lru_cache(_TABLES_MAX)
def _write(table: TableMapping, columns: tuple[str, ...]) -> bytes:
    values = {column: sql.SQL("%s::text[]" if column == table.groups else "%s") for column in columns}
    returning = sql.SQL(" RETURNING {name}::text, {enabled}, {percentage}::text, {groups}::text[]")
    return (update(table, sql.SQL("%s::text"), values) + returning.format(**_identifiers(table))).as_bytes()


def update(table: TableMapping, flag: sql.Composable, values: Mapping[str, sql.Composable]) -> sql.Composed:
    """The UPDATE of these columns of a flag's rows."""
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in values.items()
    )
    return sql.SQL("UPDATE {table} SET {assignments} WHERE {name} = {flag}").format(
        table=sql.Identifier(table.schema, table.table),
        assignments=assignments,
        name=sql.Identifier(table.name),
        flag=flag,
    )


def shown(table: TableMapping, flag: str, before: Exposure, after: Exposure) -> str | None:
    """The UPDATE that takes a row from `before` to `after`, with its values in it, for people to read; None for none.

    What is run has its values apart from the statement (`write`).
    """
    columns = changed_columns(table, before, after)
    if not columns:
        return None
    if table.percentage in columns:
        columns[table.percentage] = Decimal(format_percentage(after.percentage))
    return update(table, sql.Literal(flag), {name: sql.Literal(value) for name, value in columns.items()}).as_string()


def changed_columns(table: TableMapping, before: Exposure, after: Exposure) -> dict[str, object]:
    """The columns that differ, with the values to write; all others stay byte-equal."""
    columns: dict[str, object] = {}
    if before.enabled != after.enabled:
        columns[table.enabled] = after.enabled
    if before.percentage != after.percentage:
        columns[table.percentage] = after.percentage
    if before.groups != after.groups:
        columns[table.groups] = sorted(after.groups)
    return columns


def rounded_down(percentage: Decimal, scale: int | None) -> Decimal:
    """The greatest percentage within this one that a column with so many decimal places can hold."""
    if scale is None:
        return percentage
    return percentage.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_DOWN)


def _identifiers(table: TableMapping) -> dict[str, sql.Identifier]:
    return {
        "table": sql.Identifier(table.schema, table.table),
        "name": sql.Identifier(table.name),
        "enabled": sql.Identifier(table.enabled),
        "percentage": sql.Identifier(table.percentage),
        "groups": sql.Identifier(table.groups),
    }
