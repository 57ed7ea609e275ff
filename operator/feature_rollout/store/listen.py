"""Listening for changes of flags by others, which the trigger of `drift` tells of.

It only makes drift seen sooner: what is missed while there is no connection, the
operator sees when it reads the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg import sql

from feature_rollout.connectionstring import Server, parse_uri
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, Subject, bounded, classify, connect, dispose
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.drift import CHANGED_CHANNEL

log = logging.getLogger(__name__)

BACKOFF_S: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
_LISTEN_TIMEOUT_S: Final = 5.0


class DriftListener:
    """One connection of the writer. `changed(flag)` is called in the loop's thread, quick, for each change.

    The constructor connects to nothing; it raises Problem(ConnectionInvalid).
    """

    def __init__(self, config: StoreConfig, changed: Callable[[str], None]) -> None:
        self._server: Server = parse_uri(config.writer_uri, "writer", config.access)
        self._subject: Subject = config.table.subject(self._server.role)
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    def start(self) -> None:
        """Listen until `close`."""
        self._task = asyncio.create_task(self._run(), name="drift listener")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        backoff_s, told = BACKOFF_S, ""
        while True:
            try:
                await self._listen()
            except Problem as problem:
                if problem.reason != told:
                    log.info("changes by others are polled, not heard of: %s", problem)
                told = problem.reason
            if self.listening.is_set():
                self.listening.clear()
                backoff_s, told = BACKOFF_S, ""
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _listen(self) -> None:
        """Hear until the connection ends; raises Problem."""
        connection = await connect(self._server)
        try:
            await bounded(connection, self._subscribe(connection), _LISTEN_TIMEOUT_S)
            self.listening.set()
            async for note in connection.notifies():
                self._changed(note.payload)
        except psycopg.Error as error:
            raise classify(error, self._subject) from None
        finally:
            await dispose(connection)

    async def _subscribe(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANGED_CHANNEL)))
