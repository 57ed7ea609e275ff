"""A reader of the flag table that never looks away, as the services are that have the flags from it."""

import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import psycopg

from support.audit import Row

TICK_S = 0.05
CONNECT_TIMEOUT_S = 5
FLAGS = "SELECT name, enabled, rollout_percentage, user_groups FROM feature_flags"

Rows = dict[str, Row]


class Witness:
    """A context manager. `seen` has all rows whenever they were others than before, with the time.

    While the database is away it tries again; `uri` may be changed for where it is then.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.seen: list[tuple[datetime, Rows]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def since(self, rows: Rows) -> datetime | None:
        """Since when these flags were seen as they are here, up to now; None when they are not."""
        first = None
        for at, seen in self.seen:
            same = all(seen[flag] == row for flag, row in rows.items())
            first = (first or at) if same else None
        return first

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with psycopg.connect(
                    self.uri, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, options="-c statement_timeout=1s"
                ) as connection:
                    while not self._stopped.wait(TICK_S):
                        self._look(connection)
            except psycopg.Error:
                time.sleep(TICK_S)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        rows = {name: (on, share, frozenset(groups)) for name, on, share, groups in connection.execute(FLAGS)}
        if not self.seen or self.seen[-1][1] != rows:
            self.seen.append((datetime.now(UTC), rows))
