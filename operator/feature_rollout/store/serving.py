"""`feature_rollout.flag_enabled` in the database: made by the owner, whose rights it does not lend."""

from __future__ import annotations

from dataclasses import astuple
from typing import Final

import psycopg
from psycopg import sql

from feature_rollout.connectionstring import Server
from feature_rollout.postgres import Connection, bounded, classify, connect, dispose
from feature_rollout.store.config import TableMapping

# What `serve_as` answers when flag_enabled reads another table, and is left alone.
TAKEN: Final = "taken"

_SERVE_TIMEOUT_S: Final = 10.0


async def serve_as(owner: Server, table: TableMapping) -> str:
    """Make flag_enabled as the owner: `served`, `unchanged` or `taken`. Raises Problem."""
    connection = await connect(owner)
    try:
        return await bounded(connection, _serve(connection, table), _SERVE_TIMEOUT_S)
    except psycopg.Error as error:
        raise classify(error, table.subject(owner.role)) from None
    finally:
        await dispose(connection)


async def _serve(connection: Connection, table: TableMapping) -> str:
    cursor = await connection.execute("SELECT feature_rollout.serve(%s, %s, %s, %s, %s, %s)", astuple(table))
    row = await cursor.fetchone()
    return str(row[0]) if row else ""


async def reads(connection: Connection, table: TableMapping) -> str | None:
    """What flag_enabled reads: `this` table, this one by other `columns`, `another`; None when there is none."""
    query = "SELECT feature_rollout.flag_enabled_reads(%s, %s, %s, %s, %s, %s)"
    row = await (await connection.execute(query, astuple(table))).fetchone()
    return row[0] if row else None


def serve_statement(table: TableMapping) -> str:
    """What makes flag_enabled, for people who install by hand."""
    arguments = sql.SQL(", ").join(sql.Literal(name) for name in astuple(table))
    return sql.SQL("SELECT feature_rollout.serve({});\n").format(arguments).as_string(None)
