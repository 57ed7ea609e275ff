"""Made-up traffic of the notification system: users who get notifications, and flags that are asked for.

A user who has `FLAG` gets a failed delivery now and then once the regression is in, as
in a real release with a bug in it.
"""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import psycopg

from feature_rollout.core.exposure import bucket

FLAG = "notifications_intelligent_grouping"
USERS = 4000
PER_TICK = 30
TICK_S = 0.1
# Of the notifications of those who have the flag, once the regression is in.
FAILURES = 0.15


class Traffic:
    """A context manager; `break_flag()` lets the regression in. `error` is what ended it, if anything did."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._random = random.Random(20250806)  # noqa: S311 - made-up traffic wants to be the same every time
        self._broken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def break_flag(self) -> None:
        self._broken.set()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._uri, autocommit=True) as connection:
                while not self._stopped.wait(TICK_S):
                    self._tick(connection)
        except psycopg.Error as error:
            self.error = error

    def _tick(self, connection: psycopg.Connection[Any]) -> None:
        """A few users get a notification each; whether they have the flag is read from its row, as a service does."""
        row = connection.execute(
            "SELECT enabled, rollout_percentage, user_groups FROM feature_flags WHERE name = %s", (FLAG,)
        ).fetchone()
        enabled, percentage, groups = row or (False, 0, [])
        now = datetime.now(UTC)
        notifications, usage = [], []
        for number in self._random.sample(range(USERS), PER_TICK):
            user = f"user-{number}"
            mine = {"admin"} if number % 100 == 0 else {"agent"} if number % 100 == 1 else set()
            has_flag = enabled and (not groups or bool(mine & set(groups))) and bucket(FLAG, user) < percentage * 100
            failed = has_flag and self._broken.is_set() and self._random.random() < FAILURES
            took = timedelta(seconds=self._random.uniform(0.05, 0.9))
            notifications.append((user, "failed" if failed else "delivered", now, now + took))
            usage.append((FLAG, user, has_flag, now))
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notifications (user_id, delivery_status, created_at, updated_at) VALUES (%s, %s, %s, %s)",
                notifications,
            )
            cursor.executemany(
                'INSERT INTO feature_flag_usage (flag_name, user_id, enabled, "timestamp") VALUES (%s, %s, %s, %s)',
                usage,
            )
