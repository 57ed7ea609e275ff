"""Metrics from SQL: one look is one row of finite numbers from a role that may only read.

A query is written by a tenant. What keeps it from writing: it runs as a role with SELECT
only, on a connection that starts read-only, in a read-only transaction, as the query of a
cursor (which takes a SELECT and no data-modifying WITH), by the extended protocol (which
takes one statement). What keeps it from hurting: time-outs, two queries at a time, and
at most two rows of numbers fetched. Errors are told by SQLSTATE and in our words, since
the server's text quotes data.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

import psycopg
from psycopg import pq, sql

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.ports import Problem
from feature_rollout.postgres import (
    ANYWHERE,
    CONNECT_TIMEOUT_S,
    Access,
    Connection,
    bounded,
    connect,
    dispose,
    parse_uri,
)

QUERIES_AT_A_TIME: Final = 2
TIMEOUT_S: Final = 10.0
_RESET_TIMEOUT_S: Final = 2.0

_PLACEHOLDER: Final = re.compile(r"%\(([^)]*)\)[sbt]")
_COLUMNS: Final = {MetricType.RATIO: ("events", "units"), MetricType.GAUGE: ("value", "units")}
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"})
_SEARCH_PATH: Final = "pg_catalog,public,pg_temp"

_BEGIN: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = {statement_timeout_ms}; "
    "SET LOCAL lock_timeout = '1s'; SET LOCAL idle_in_transaction_session_timeout = '5s'; "
    "SET LOCAL search_path = pg_catalog, public, pg_temp"
)

_STATES: Final = {
    "0A000": "only a SELECT is wanted, without data-modifying WITH",
    "22012": "division by zero",
    "25006": "the query tries to write",
    "42501": "the reader role lacks a privilege that the query needs",
    "42601": "a syntax error, or something else than one SELECT",
    "42703": "a column in the query does not exist",
    "42883": "a function or operator in the query does not exist for these types",
    "42P01": "a table in the query does not exist",
    "3F000": "a schema in the query does not exist",
    "53300": "the server has no free connection",
    "55P03": "a table stayed locked by another session",
}
_CLASSES: Final = {
    "22": "a value in the query cannot be computed or converted",
    "42": "the query does not fit the database",
    "53": "the server lacks memory, disk or connections",
    "57": "the server ended the query",
}


class Query(Protocol):
    """A metric's query, whoever made it. `params` are the metric's args, beside `window_start` and `window_end`."""

    @property
    def type(self) -> MetricType: ...

    @property
    def text(self) -> str: ...

    @property
    def params(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """A `Query` by itself."""

    type: MetricType
    text: str
    params: Mapping[str, str] = field(default_factory=dict)


class UnusableAnswerError(Exception):
    """The answer is no look; the text says why and holds no data of the tenant but numbers and column names."""


class SqlReader:
    """The read-only connections of one FlagStore, shared by all of its metrics.

    `transaction_pooler` says that the connection string leads to PgBouncer or the like:
    no start-up options then, and no session is used twice. The constructor connects to
    nothing; it raises Problem(ConnectionInvalid).
    """

    def __init__(
        self,
        uri: str,
        *,
        transaction_pooler: bool = False,
        timeout_s: float = TIMEOUT_S,
        access: Access = ANYWHERE,
    ) -> None:
        self._server = parse_uri(uri, "reader", access)
        self._transaction_pooler = transaction_pooler
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(QUERIES_AT_A_TIME)
        self._idle: list[Connection] = []
        self._closed = False

    @property
    def timeout_text(self) -> str:
        return f"timeout after {self._timeout_s:g}s"

    async def fetch(self, query: Query, params: Mapping[str, object] | None) -> dict[str, Any] | None:
        """The one row of a query by column name, None for no row; raises psycopg.Error, Problem or TimeoutError.

        The time-out is that of everything: waiting for a connection, connecting, the query.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        async with asyncio.timeout_at(deadline):
            await self._slots.acquire()
        try:
            while True:
                left_s = deadline - loop.time()
                connection, is_new = await self._connection(left_s)
                try:
                    return await self._look(connection, query, params, deadline - loop.time())
                except (psycopg.OperationalError, Problem):
                    if loop.time() >= deadline:
                        raise TimeoutError from None
                    if is_new or not connection.broken:
                        raise
                    # An idle connection that had ended meanwhile says nothing of the query: another one is tried.
                finally:
                    await self._put_back(connection)
        finally:
            self._slots.release()

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await dispose(self._idle.pop())

    async def _connection(self, left_s: float) -> tuple[Connection, bool]:
        """An idle connection or a new one, and whether it is new."""
        if self._idle:
            return self._idle.pop(), False
        if left_s < CONNECT_TIMEOUT_S:
            async with asyncio.timeout(left_s):
                return await connect(self._server, options=self._options()), True
        return await connect(self._server, options=self._options()), True

    def _options(self) -> str | None:
        if self._transaction_pooler:
            return None
        settings = {
            "default_transaction_read_only": "on",
            "statement_timeout": _milliseconds(self._timeout_s),
            "lock_timeout": "1s",
            "idle_in_transaction_session_timeout": "5s",
            "search_path": _SEARCH_PATH,
        }
        return " ".join(f"-c {name}={value}" for name, value in settings.items())

    async def _look(
        self, connection: Connection, query: Query, params: Mapping[str, object] | None, left_s: float
    ) -> dict[str, Any] | None:
        begin = _BEGIN.format(statement_timeout_ms=sql.Literal(_milliseconds(left_s)))
        return await bounded(connection, _row(connection, begin, query, params), left_s)

    async def _put_back(self, connection: Connection) -> None:
        clean = not connection.closed and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if not clean or self._closed or self._transaction_pooler:
            await dispose(connection)
            return
        try:
            # Whatever the query set, locked or prepared in the session ends here.
            await bounded(connection, connection.execute("DISCARD ALL"), _RESET_TIMEOUT_S)
        except (psycopg.Error, Problem):
            await dispose(connection)
        except BaseException:
            await dispose(connection)
            raise
        else:
            self._idle.append(connection)


def _milliseconds(seconds: float) -> int:
    # 0 would be no time-out at all.
    return max(1, int(seconds * 1000))


async def _row(
    connection: Connection, begin: sql.Composed, query: Query, params: Mapping[str, object] | None
) -> dict[str, Any] | None:
    await connection.execute(begin)
    # A cursor on the server: no more than two rows ever come over, and types are known before any does.
    cursor = connection.cursor("look")
    try:
        await cursor.execute(query.text.encode(), params, binary=True)
        names = _checked_columns(cursor, query.type)
        rows = await cursor.fetchmany(2)
    finally:
        try:
            if connection.pgconn.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
                await connection.execute("ROLLBACK")
        finally:
            # After the rollback, or on a connection that is lost, this asks the server for nothing.
            with contextlib.suppress(psycopg.Error):
                await cursor.close()
    if len(rows) > 1:
        raise UnusableAnswerError("more than one row was returned, exactly one is wanted")
    return dict(zip(names, rows[0], strict=True)) if rows else None


class SqlMetricSource:
    """The SQL metrics of one rollout, by name. Implements `ports.MetricSource`."""

    def __init__(self, reader: SqlReader, queries: Mapping[str, Query]) -> None:
        self._reader = reader
        self._queries = queries

    async def look(self, metric: str, window: Window) -> Look:
        """One evaluation; never raises but when it is cancelled. No row, and NULLs, are a look without numbers."""
        query = self._queries.get(metric)
        if query is None:
            return Look(metric, window, error="this rollout has no SQL metric of that name")
        try:
            row = await self._reader.fetch(query, _parameters(query, window))
            return _look(metric, window, query.type, row)
        except Exception as error:  # noqa: BLE001 - a metric must not end the loop that asks for it
            return Look(metric, window, error=self._described(error))

    def _described(self, error: Exception) -> str:
        match error:
            case UnusableAnswerError():
                text = str(error)
            case TimeoutError() | psycopg.errors.QueryCanceled():
                text = self._reader.timeout_text
            case Problem():
                text = f"{error.reason}: {error.message}"
            case psycopg.Error(sqlstate=str(state)):
                words = _STATES.get(state) or _CLASSES.get(state[:2], "the query failed")
                text = f"SQLSTATE {state}: {words}"
            case psycopg.ProgrammingError():
                text = "a literal % must be doubled (%%) in a query that names a parameter"
            case psycopg.OperationalError():
                text = "the connection to the database was lost"
            case _:
                text = f"the answer cannot be read ({type(error).__name__})"
        return text


def _parameters(query: Query, window: Window) -> dict[str, object] | None:
    """The query's parameters, or None for a query that names none: then a % in it is only a %."""
    named = set(_PLACEHOLDER.findall(query.text))
    if not named:
        return None
    known: dict[str, object] = {**query.params, "window_start": window.start, "window_end": window.end}
    unknown = sorted(named - known.keys())
    if unknown:
        raise UnusableAnswerError(
            f"the query names %({unknown[0][:60]})s, which has no value: the metric has no such arg"
        )
    return {name: known[name] for name in named}


def _checked_columns(cursor: psycopg.AsyncServerCursor[tuple[Any, ...]], type_: MetricType) -> list[str]:
    """The names of the columns, once they are known to be the wanted ones and numbers."""
    wanted = _COLUMNS[type_]
    columns = cursor.description or []
    names = [column.name for column in columns]
    required = wanted if type_ is MetricType.RATIO else wanted[:1]
    for name in required:
        if name not in names:
            raise UnusableAnswerError(f"column {name} is missing; a {type_} has {' and '.join(wanted)}")
    extra = [name for i, name in enumerate(names) if name not in wanted or name in names[:i]]
    if extra:
        raise UnusableAnswerError(f"column {extra[0][:60]} is one too many; a {type_} has {' and '.join(wanted)}")
    for column in columns:
        known = cursor.connection.adapters.types.get(column.type_code)
        if known is None or known.name not in _NUMBERS:
            shown = known.name if known else "of an unknown type"
            raise UnusableAnswerError(
                f"column {column.name} is {shown}, a number is wanted (cast a bare NULL: NULL::int)"
            )
    return names


def _look(metric: str, window: Window, type_: MetricType, row: Mapping[str, Any] | None) -> Look:
    if row is None:
        return Look(metric, window)
    numbers = {name: _number(name, value) for name, value in row.items()}
    units = numbers.get("units")
    if type_ is MetricType.GAUGE:
        value = numbers["value"]
        return Look(metric, window, value=value, units=units if value is not None else None)
    events = numbers["events"]
    if events is None and not units:
        # Sums over nothing: NULL of NULL, or of 0.
        return Look(metric, window)
    if events is None or units is None:
        raise UnusableAnswerError(f"column {'events' if events is None else 'units'} is NULL and the other is not")
    if events > units:
        raise UnusableAnswerError(f"events ({events:g}) are more than units ({units:g})")
    return Look(metric, window, events=events, units=units)


def _number(name: str, value: object) -> float | None:
    """A finite number, not negative unless it is a gauge's value; None for NULL."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnusableAnswerError(f"column {name} is no number")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise UnusableAnswerError(f"{name} is {'NaN' if math.isnan(number) else 'infinite'}")
    if name != "value" and number < 0:
        raise UnusableAnswerError(f"{name} is {number:g}, 0 or more is wanted")
    return number
