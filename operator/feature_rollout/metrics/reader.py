"""The reader role's connections, on which the SQL of metrics and checks is asked.

The SQL is written by a tenant. What keeps it from writing: it runs as a role with SELECT
only, on a connection that starts read-only, in a read-only transaction, as the query of a
cursor (which takes a SELECT and no data-modifying WITH), by the extended protocol (which
takes one statement). What keeps it from hurting: time-outs, two queries at a time,
one of each rollout, and few rows fetched. What keeps it from leaving anything: the transaction is rolled back, and
the session reset. Errors are told by SQLSTATE and in our words, since the server's text
quotes data.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import psycopg
from psycopg import pq, sql

from feature_rollout.connectionstring import ANYWHERE, Access, parse_uri
from feature_rollout.metrics.hub import Shared
from feature_rollout.ports import Problem
from feature_rollout.postgres import CONNECT_TIMEOUT_S, Connection, bounded, connect, dispose

T = TypeVar("T")
Cursor: TypeAlias = psycopg.AsyncServerCursor[tuple[Any, ...]]
Read: TypeAlias = Callable[[Cursor], Awaitable[T]]

QUERIES_AT_A_TIME: Final = 2
TIMEOUT_S: Final = 10.0
# How many time-outs a query waits for its turn: three in all stay within the usual interval of looks.
_TIMEOUTS_OF_WAITING: Final = 2
_RESET_TIMEOUT_S: Final = 2.0
# A query may end any session of its own role, so also those of other rollouts: these ask again.
_TRIES: Final = 3

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


# In one message, so that a pooler gives the session to nobody else in between. What a rollback leaves are locks.
_END: Final = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()"


class UnusableAnswerError(Exception):
    """The query was answered, and the answer says nothing; the text says why."""


class SqlReader:
    """The read-only connections of one FlagStore, shared by all of its metrics and checks.

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
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Whoever asks for the past of metrics shares one of the connections, so that another is left for looks.
        self.background = asyncio.Semaphore(1)
        # Rows by query and window, of all the rollouts on this FlagStore.
        self.shared: Shared[dict[str, Any] | None] = Shared()
        self._idle: list[Connection] = []
        self._closed = False

    async def ask(self, statement: str, params: Mapping[str, object] | None, read: Read[T], *, rollout: str = "") -> T:
        """What `read` makes of the query's cursor; raises what it raises, psycopg.Error, Problem or TimeoutError.

        The time-out is that of connecting and the query together. The wait for a turn before
        has a bound of its own: a rollout asks one query at a time and queues behind each
        other rollout once, so that slow queries of one make its own late and not others'.
        """
        turn = self._turns.setdefault(rollout, asyncio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(_TIMEOUTS_OF_WAITING * self._timeout_s):
                await stack.enter_async_context(turn)
                await stack.enter_async_context(self._slots)
            return await self._answered(statement.encode(), params, read)

    async def _answered(self, statement: bytes, params: Mapping[str, object] | None, read: Read[T]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        tries = 0
        while True:
            left_s = deadline - loop.time()
            connection, is_new = await self._connection(left_s)
            try:
                begin = _BEGIN.format(statement_timeout_ms=sql.Literal(_milliseconds(left_s)))
                answer = _answer(connection, begin, statement, params, read)
                return await bounded(connection, answer, deadline - loop.time())
            except (psycopg.Error, Problem) as error:
                was_ended = connection.broken or isinstance(error, psycopg.errors.QueryCanceled)
                if not was_ended and not isinstance(error, Problem):
                    raise
                if loop.time() >= deadline:
                    raise TimeoutError from None
                # An idle connection that had ended meanwhile says nothing of the query.
                tries += is_new
                if tries == _TRIES or not was_ended:
                    raise
            finally:
                await self._put_back(connection)

    def explained(self, error: Exception) -> str:
        """Why `ask` raised this, in our words. No byte of the server's text is in it."""
        match error:
            case UnusableAnswerError():
                text = str(error)
            case TimeoutError() | psycopg.errors.QueryCanceled():
                text = f"timeout after {self._timeout_s:g}s"
            case Problem():
                text = f"{error.reason}: {error.message}"
            case psycopg.Error(sqlstate=str(state)):
                words = _STATES.get(state) or _CLASSES.get(state[:2], "the query failed")
                text = f"SQLSTATE {state}: {words}"
            case psycopg.ProgrammingError():
                text = "a literal % must be doubled (%%) in a query that names a parameter"
            case psycopg.Error():
                text = "the connection to the database was lost"
            case _:
                text = f"the answer cannot be read ({type(error).__name__})"
        return text

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


async def _answer(
    connection: Connection, begin: sql.Composed, statement: bytes, params: Mapping[str, object] | None, read: Read[T]
) -> T:
    await connection.execute(begin)
    # A cursor on the server: only as many rows come over as are fetched, and types are known before any does.
    cursor = connection.cursor("look")
    try:
        await cursor.execute(statement, params, binary=True)
        return await read(cursor)
    finally:
        try:
            if connection.pgconn.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
                await connection.execute(_END)
        finally:
            # After the rollback, or on a connection that is lost, this asks the server for nothing.
            with contextlib.suppress(psycopg.Error):
                await cursor.close()
