"""The notification system's deliveries: so many a second, of which so many fail. Nothing in it is random."""

import threading
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import psycopg

TICK_S = 0.1
CONNECT_TIMEOUT_S = 5
# Of so long there have been deliveries when it starts, or the first windows that are looked at could be empty.
BEFORE_S = 5.0
QUICK, SLOW = timedelta(milliseconds=100), timedelta(seconds=3)


class Traffic:
    """A context manager. Every delivery is to another user.

    `failed` and `slow` are shares of the deliveries, to be changed at any time; `harm_at(flag, percentage)` makes
    them count only while the flag's row is on and at that percentage or above, as a bug in a release does.
    An outage of the database pauses it; `uri` may be changed for where it is then.
    """

    def __init__(self, uri: str, per_second: int = 200) -> None:
        self.uri = uri
        self._per_tick = max(1, round(per_second * TICK_S))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._users = 0
        self._begun = False
        self._harm: tuple[str, int] | None = None
        self.failed = 0.0
        self.slow = 0.0
        self.flowing = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def harm_at(self, flag: str, percentage: int) -> None:
        self._harm = (flag, percentage)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with psycopg.connect(self.uri, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
                    if not self._begun:
                        now = datetime.now(UTC)
                        for back in range(round(BEFORE_S / TICK_S), 0, -1):
                            self._tick(connection, now - back * timedelta(seconds=TICK_S))
                        self._begun = True
                    while not self._stopped.wait(TICK_S):
                        self._tick(connection, datetime.now(UTC))
            except psycopg.Error:
                self._stopped.wait(TICK_S)

    def _tick(self, connection: psycopg.Connection[Any], now: datetime) -> None:
        if not self.flowing:
            return
        harmful = self._is_harmful(connection)
        failed = round(self._per_tick * self.failed) if harmful else 0
        slow = round(self._per_tick * self.slow) if harmful else 0
        rows = []
        for number in range(self._per_tick):
            self._users += 1
            status = "failed" if number < failed else "delivered"
            rows.append((f"user-{self._users}", status, now, now + (SLOW if number < slow else QUICK)))
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notifications (user_id, delivery_status, created_at, updated_at) VALUES (%s, %s, %s, %s)",
                rows,
            )

    def _is_harmful(self, connection: psycopg.Connection[Any]) -> bool:
        if self._harm is None:
            return True
        flag, percentage = self._harm
        row = connection.execute(
            "SELECT enabled AND rollout_percentage >= %s FROM feature_flags WHERE name = %s", (percentage, flag)
        ).fetchone()
        return bool(row and row[0])
