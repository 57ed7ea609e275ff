"""The notification system of the deployment guide: its manifests with seconds for days, its metrics, its readers."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import yaml

from support.exporter import Exporter
from support.manifests import Object
from support.waiting import wait_for
from support.world import FLAGS, Row

FOLDER = Path(__file__).parents[2] / "examples" / "notifications"
NAME = "enhanced-notifications"
PROVIDER = "prometheus"
# What runs migrations, which this version cannot, and what asks whether they have run.
BEFORE_FLAGS = ("database-migration", "flags-exist-and-are-off")
# A window's rows are there a moment after its end; the guide's 30 s are for a busy system.
DELAY = "300ms"
# With one look a second instead of two a minute, a stage sees a hundredth of the units.
UNITS_PART = 100
READ_S = 0.01

Rows = dict[str, Row]


def manifests(namespace: str, prometheus: str, day_s: float) -> list[Object]:
    """The examples, for this namespace and Prometheus, with `day_s` seconds for a day and a calendar always open."""
    paths = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "rolloutaction.yaml"]
    objects: list[Any] = [obj for path in paths for obj in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    for obj in objects:
        spec = obj["spec"]
        if obj["kind"] == "MetricProvider":
            spec.update(prometheus={"address": prometheus}, allowedNamespaces=[namespace])
            continue
        obj["metadata"].pop("namespace")
        if obj["kind"] == "MetricTemplate":
            spec["delay"] = DELAY
        elif obj["kind"] == "RollbackMatrix":
            for row in spec["rows"]:
                row["settle"] = "1s"
        elif obj["kind"] == "FeatureRollout":
            _shorten(spec, day_s)
    return objects


def _shorten(spec: Any, day_s: float) -> None:
    for metric in spec["metrics"]:
        metric["interval"] = "1s"
    week = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    spec["calendar"]["windows"] = [{"days": week, "from": "00:00", "to": "24:00"}]
    spec["calendar"]["freezes"] = [{"from": "2020-12-20", "to": "2021-01-03", "reason": "year end"}]
    assert tuple(stage["name"] for stage in spec["stages"][:2]) == BEFORE_FLAGS
    del spec["stages"][:2]
    for stage in spec["stages"]:
        if "bake" in stage:
            stage["bake"] = f"{round(1000 * day_s * int(stage['bake'].removesuffix('d')))}ms"
        for gate in stage.get("gates", ()):
            if "minUnits" in gate:
                gate["minUnits"] //= UNITS_PART


class System(Exporter):
    """What its services tell Prometheus: websockets, the cache, response times. Everything is healthy until told.

    `dropped` is the share of websocket connections that end abnormally, `hits` that of requests the cache answers.
    """

    # 95 % of the requests take at most 0.4 s: three quarters of what lies between 0.1 s and 0.5 s.
    QUICK = 0.8

    def __init__(self) -> None:
        super().__init__()
        self.healthy()
        self._dropped = self._hits = 0.0

    def healthy(self) -> None:
        self.dropped, self.hits = 0.0, 0.95

    def _text(self) -> str:
        with self._lock:
            now_s = time.monotonic()
            count = (now_s - self._counted_s) * self.per_second
            self._counted_s = now_s
            self._requests += count
            self._dropped += count * self.dropped
            self._hits += count * self.hits
            seconds = 'http_request_duration_seconds_bucket{service="notifications",le='
            return (
                f"websocket_connections_total {self._requests}\n"
                f'websocket_disconnects_total{{reason="abnormal"}} {self._dropped}\n'
                f"notification_cache_requests_total {self._requests}\n"
                f"notification_cache_hits_total {self._hits}\n"
                f'{seconds}"0.1"}} {self._requests * self.QUICK}\n'
                f'{seconds}"0.5"}} {self._requests}\n'
                f'{seconds}"+Inf"}} {self._requests}\n'
            )

    @classmethod
    def past(cls) -> dict[str, list[tuple[datetime, float]]]:
        """The response times of the eight days before, for Prometheus: a sample each ten minutes."""
        now = datetime.now(UTC)
        times = [now - timedelta(minutes=10 * i) for i in range(8 * 144, 0, -1)]
        shares = {"0.1": cls.QUICK, "0.5": 1.0, "+Inf": 1.0}
        return {
            f'http_request_duration_seconds_bucket{{service="notifications",le="{le}"}}': [
                (at, 1000.0 * share * number) for number, at in enumerate(times)
            ]
            for le, share in shares.items()
        }


class Reader:
    """A context manager: a service that reads the flag table all the time, and `seen`, all that it was, in order."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.seen: list[Rows] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def wait(self, rows: Rows, describe: str, timeout_s: float = 90.0) -> None:
        """Until the table is, or has been, like this."""

        def was() -> bool:
            newest = self.seen[-1] if self.seen else {}
            others = {flag: (newest.get(flag), row) for flag, row in rows.items() if newest.get(flag) != row}
            assert rows in self.seen, f"as it is, and as it shall be: {others}"
            return True

        wait_for(was, timeout_s, describe)

    def _run(self) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            while not self._stopped.wait(READ_S):
                # One statement, so one moment.
                rows = {name: (on, int(part), frozenset(who)) for name, on, part, who in connection.execute(FLAGS)}
                if not self.seen or rows != self.seen[-1]:
                    self.seen.append(rows)
