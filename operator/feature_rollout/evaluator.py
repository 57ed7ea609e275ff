"""For services: who has a flag, answered in process, from rows that a thread keeps up to date.

    client = FlagClient(os.environ["FLAGS_URI"], notify_channel="feature_flags")
    client.start()
    if client.is_enabled("new_checkout", user_id, groups): ...

An answer never waits for the database. It is given from the rows as they were last read,
and `age_s` says how long ago that was. Without a database `evaluate` answers for one row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from feature_rollout.connectionstring import Server, parse_uri
from feature_rollout.core.evaluation import FLAG_MISSING, ROWS_UNKNOWN, Evaluation, Reason, Rule, evaluate, rule
from feature_rollout.core.exposure import Exposure
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, Subject, bounded, classify, connect, dispose
from feature_rollout.store import flags
from feature_rollout.store.config import TableMapping

__all__ = ["Evaluation", "Exposure", "FlagClient", "Problem", "Reason", "TableMapping", "evaluate"]

log = logging.getLogger(__name__)

APPLICATION_NAME: Final = "feature-rollout-evaluator"
POLL_S: Final = 10.0
# A statement that is not answered in this time is given up, with its connection.
STATEMENT_TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 0.5
BACKOFF_S_MAX: Final = 5.0
# Stages of many rollouts may come at once: what is told of within this time is read together.
_GATHER_S: Final = 0.1
_CLOSE_TIMEOUT_S: Final = 5.0


class FlagClient:
    """The flags of one table. Safe to use from any number of threads.

    `uri` is of a role that may read the table; the table's rows are read as a whole.
    `notify_channel` is that of the FlagStore: a change by the operator is then seen at once.
    Without it, behind a pooler, and for changes by others it is seen within `poll_s`
    seconds. The constructor connects to nothing; it raises Problem(ConnectionInvalid).
    """

    def __init__(
        self,
        uri: str,
        *,
        table: TableMapping = TableMapping(),  # noqa: B008 - frozen
        notify_channel: str | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        if not poll_s > 0:
            raise ValueError(f"poll_s is {poll_s}, a number of seconds above 0 is wanted")
        self._server: Server = parse_uri(uri, "service")
        self._subject: Subject = table.reading_subject(self._server.role)
        self._table = table
        self._channel = notify_channel
        self._poll_s = poll_s
        self._rules: Mapping[str, Rule] | None = None
        self._read_at_s = 0.0
        self._problem: Problem | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def evaluate(self, flag: str, user_id: str | None = None, groups: Iterable[str] = ()) -> Evaluation:
        """What the user gets, and why; disabled with RowsUnknown until the table was read once. Does no I/O.

        `user_id` None is a visitor without an id, who has what everybody has. Raises
        TypeError when `groups` is a single text.
        """
        rules = self._rules
        if rules is None:
            return ROWS_UNKNOWN
        found = rules.get(flag)
        return FLAG_MISSING if found is None else found.evaluate(user_id, groups)

    def is_enabled(self, flag: str, user_id: str | None = None, groups: Iterable[str] = ()) -> bool:
        """`evaluate` without the reason."""
        return self.evaluate(flag, user_id, groups).enabled

    @property
    def age_s(self) -> float | None:
        """How long ago the rows were as they are here, in seconds; None when they were never read.

        In order it is at most `poll_s` and a second; it grows while the database is away.
        """
        return None if self._rules is None else time.monotonic() - self._read_at_s

    @property
    def problem(self) -> Problem | None:
        """Why the rows cannot be read just now, without secrets; None when they can."""
        return self._problem

    def start(self, timeout_s: float = 10.0) -> bool:
        """Begin to keep the rows, and wait for the first ones; False when there are none in this time.

        It goes on trying all the same: a service may start while the database is away. Threads
        do not come along in a fork: each worker of a server that forks calls this itself.
        """
        if self._thread is None or not self._thread.is_alive():  # as after a fork, too
            self._stop, self._ready = asyncio.Event(), threading.Event()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="flag rows", daemon=True)
            self._thread.start()
        return self._ready.wait(timeout_s)

    def close(self) -> None:
        """Stop keeping the rows; answers are given from the last ones, which get older."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed before
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(self._keep_until_stopped())
        finally:
            loop.close()

    async def _keep_until_stopped(self) -> None:
        keeper = asyncio.create_task(self._keep())
        await self._stop.wait()
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper

    async def _keep(self) -> None:
        backoff_s = BACKOFF_S
        while True:
            try:
                await self._follow()
            except Problem as problem:
                self._failed(problem)
            except Exception as error:  # noqa: BLE001 - a service's flags must not freeze for good
                self._failed(Problem("StoreError", f"unexpected {type(error).__name__} while reading flags"))
            # Rows were read since it last failed: this is another outage, not the same one.
            backoff_s = BACKOFF_S if self._fresh() else min(2 * backoff_s, BACKOFF_S_MAX)
            await asyncio.sleep(backoff_s)

    def _fresh(self) -> bool:
        return self.age_s is not None and self.age_s <= self._poll_s + STATEMENT_TIMEOUT_S

    def _failed(self, problem: Problem) -> None:
        if self._problem is None or self._problem.reason != problem.reason:
            known = "never" if self.age_s is None else f"{self.age_s:.0f} s ago"
            log.warning("flags cannot be read, they were %s: %s", known, problem)
        self._problem = problem

    async def _follow(self) -> None:
        """Read the rows whenever they may have changed, on one connection until it fails; raises Problem."""
        connection = await connect(self._server)
        try:
            await bounded(connection, self._subscribe(connection), STATEMENT_TIMEOUT_S)
            while True:
                await bounded(connection, self._read(connection), STATEMENT_TIMEOUT_S)
                async for _ in connection.notifies(timeout=self._poll_s, stop_after=1):
                    pass
                await asyncio.sleep(_GATHER_S)
        except psycopg.Error as error:
            raise classify(error, self._subject) from None
        finally:
            await dispose(connection)

    async def _subscribe(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("SET application_name = {}").format(sql.Literal(APPLICATION_NAME)))
        if self._channel is not None:
            # Before the rows are read, so that no change is missed between the two.
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))

    async def _read(self, connection: Connection) -> None:
        asked_at_s = time.monotonic()
        by_flag: dict[str, list[Exposure]] = defaultdict(list)
        for row in await flags.fetch_all(connection, self._table):
            by_flag[row.name].append(row.widest())
        # Whole at once: an evaluation in another thread sees the rows of one reading.
        self._rules = {flag: rule(rows, flag) for flag, rows in by_flag.items()}
        self._read_at_s = asked_at_s
        if self._problem is not None:
            log.info("flags are read again")
            self._problem = None
        self._ready.set()
