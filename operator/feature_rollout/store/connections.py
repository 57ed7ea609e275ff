"""A few connections of one role, and transactions on them.

Not psycopg_pool: it logs the server's text when it cannot connect, and hides the reason
of a refused login behind a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Final, Literal, TypeVar

import psycopg
from psycopg import pq, sql

from feature_rollout import failpoints
from feature_rollout.connectionstring import Server
from feature_rollout.ports import Problem, Unconfirmed
from feature_rollout.postgres import (
    READ_ONLY,
    STORE_UNREACHABLE,
    Connection,
    Cursor,
    Subject,
    bounded,
    classify,
    connect,
    dispose,
    unreachable,
)

T = TypeVar("T")
Mode = Literal["READ COMMITTED", "REPEATABLE READ READ ONLY"]

STORE_BUSY: Final = "StoreBusy"

# A connection that was idle may be half open: its first statement gets less time than a transaction.
_BEGIN_TIMEOUT_S: Final = 2.0
_TRANSACTION_TIMEOUT_S: Final = 8.0
_SLOT_TIMEOUT_S: Final = 20.0

_BEGIN: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL {mode}; SET LOCAL lock_timeout = {lock_timeout_ms}; "
    "SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s'"
)


@cache
def _begin(mode: Mode, lock_timeout_ms: int) -> bytes:
    return _BEGIN.format(mode=sql.SQL(mode), lock_timeout_ms=sql.Literal(lock_timeout_ms)).as_bytes()


class Connections:
    """At most `limit` connections at a time, of which `keep` stay open when nobody waits for one.

    To log in costs more than most transactions do, on both sides.
    """

    def __init__(self, server: Server, subject: Subject, *, limit: int, keep: int) -> None:
        self._server = server
        self._subject = subject
        self._slots = asyncio.Semaphore(limit)
        self._keep = keep
        self._idle: list[Connection] = []
        # How many wait for a slot.
        self._waiting = 0
        self._closed = False
        # Whether the server has answered when it was asked last.
        self.answers = True

    async def warm(self) -> None:
        """Have a connection open before it is needed; raises Problem."""
        if not self._idle and not self._closed:
            self._idle.append(await connect(self._server))

    async def transaction(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        mode: Mode = "READ COMMITTED",
        lock_timeout_ms: int = 1000,
        crash: failpoints.Places | None = None,
    ) -> T:
        """Run `work` in a transaction of its own and commit it; raises Problem, or what `work` raises.

        Statements are pipelined: one that is executed is sent, and waited for only when the
        answer of it, or of a later one, is fetched. So a failed statement may raise at a later one.
        `crash` names the failpoints before and after the COMMIT. When the answer to the
        COMMIT is lost, the Problem is Unconfirmed.
        """
        begin = _begin(mode, lock_timeout_ms)
        try:
            self._waiting += 1
            async with asyncio.timeout(_SLOT_TIMEOUT_S):
                await self._slots.acquire()
        except TimeoutError:
            message = f"all connections of the operator to this store were busy for {_SLOT_TIMEOUT_S:g} s"
            raise Problem(STORE_BUSY, message, stalled=False) from None
        finally:
            self._waiting -= 1
        try:
            connection = await self._begun(begin)
            try:
                result = await self._committed(connection, work, crash)
            finally:
                await self._put_back(connection)
        except Problem as problem:
            self.answers = problem.reason != STORE_UNREACHABLE
            raise
        else:
            self.answers = True
            return result
        finally:
            self._slots.release()

    async def _begun(self, begin: bytes) -> Connection:
        """A connection with a transaction open: an idle one that still works, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            try:
                await bounded(connection, connection.execute(begin), _BEGIN_TIMEOUT_S)
            except (psycopg.Error, Problem):
                await dispose(connection)
            except BaseException:
                await dispose(connection)
                raise
            else:
                return connection
        if self._closed:
            raise unreachable("this store was closed")
        connection = await connect(self._server)
        try:
            await bounded(connection, connection.execute(begin), _BEGIN_TIMEOUT_S)
        except psycopg.Error as error:
            await dispose(connection)
            raise classify(error, self._subject) from None
        except BaseException:
            await dispose(connection)
            raise
        return connection

    async def _committed(
        self, connection: Connection, work: Callable[[Connection], Awaitable[T]], crash: failpoints.Places | None
    ) -> T:
        commit = _Commit()
        try:
            try:
                return await bounded(connection, commit.after(connection, work, crash), _TRANSACTION_TIMEOUT_S)
            except psycopg.Error as error:
                raise classify(error, self._subject) from None
        except Problem as problem:
            if problem.reason in (READ_ONLY, STORE_UNREACHABLE):
                # After a failover this and the others are of the old primary: new ones ask for its address again.
                await dispose(connection)
                await self.forget()
            if problem.reason == STORE_UNREACHABLE and commit.sent:
                raise Unconfirmed(problem.reason, problem.message, stalled=problem.stalled) from None
            raise

    async def _put_back(self, connection: Connection) -> None:
        clean = not connection.closed and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if clean and not self._closed and len(self._idle) < max(self._keep, self._waiting):
            self._idle.append(connection)
        else:
            await dispose(connection)

    async def forget(self) -> None:
        """Close the idle connections; new ones are made when they are needed."""
        while self._idle:
            await dispose(self._idle.pop())

    async def close(self) -> None:
        self._closed = True
        await self.forget()


class _Commit:
    """One run of a transaction's work and its COMMIT. `sent`: from then on only the server knows how it ended."""

    def __init__(self) -> None:
        self.sent = False

    async def after(
        self, connection: Connection, work: Callable[[Connection], Awaitable[T]], crash: failpoints.Places | None
    ) -> T:
        try:
            result, committed = await self._pipelined(connection, work, crash)
        except BaseException:
            # The first error is the one to tell of, also when the connection is gone by now.
            with contextlib.suppress(psycopg.Error):
                await connection.execute("ROLLBACK")
            raise
        if committed.statusmessage != "COMMIT":
            # The server answers ROLLBACK to the COMMIT of a transaction that has failed.
            raise Problem("StoreError", "the database rolled the transaction back instead of committing it")
        if crash:
            failpoints.hit(crash[1])
        return result

    async def _pipelined(
        self, connection: Connection, work: Callable[[Connection], Awaitable[T]], crash: failpoints.Places | None
    ) -> tuple[T, Cursor]:
        """The work's result, and the cursor of the COMMIT. After a statement that failed the server skips the rest.

        So the COMMIT may go out before the statements ahead of it are answered: it is not carried out unless all were.
        """
        ended: tuple[T, Cursor] | BaseException | None = None
        try:
            async with connection.pipeline():
                # Kept from the pipeline's end, which would log the server's words of a second error.
                try:
                    result = await work(connection)
                    if crash:
                        failpoints.hit(crash[0])
                    self.sent = True
                    ended = result, await connection.execute("COMMIT")
                except BaseException as error:  # noqa: BLE001 - raised below
                    ended = error
        except psycopg.Error as error:
            ended = ended if isinstance(ended, BaseException) else error
        if isinstance(ended, tuple):
            return ended
        assert ended is not None  # noqa: S101 - for the type checker: the block was left by an error, or it has ended
        raise ended
