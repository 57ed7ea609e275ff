"""Our own recorder of Events (`events.k8s.io/v1`), which never makes its caller wait.

Repeats within ten minutes become one Event whose series counts them; an object that
says too much is cut off; while the API server is away, Events wait, and are written
once each when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Stale
from feature_rollout.kube.ratelimit import TokenBucket

log = logging.getLogger(__name__)

REPORTING_CONTROLLER = "featurerollout.dev/operator"
SERIES_S = 600.0
# As client-go: 25 Events of an object at once, then one every five minutes.
BURST = 25
PER_SECOND = 1 / 300
NOTE_BYTES_MAX = 1024
REASON_CHARS_MAX = 128
NAME_CHARS_MAX = 230
QUEUE_MAX = 1000
REMEMBERED_MAX = 4096
BACKOFF_S_MAX = 10.0
# An API server that has just been started forbids everything until it knows its RBAC objects.
FORBIDDEN_ATTEMPTS = 5
FORBIDDEN_PAUSE_S = 0.5

Key = tuple[str, str, str]


@dataclass
class _Series:
    """One Event and its repeats. `created` says that the API server has it, perhaps with a smaller count."""

    event: dict[str, Any]
    last_seen_s: float
    last_at: str
    count: int = 1
    created: bool = False
    forbidden: int = 0

    def body(self) -> dict[str, Any]:
        return self.event if self.count == 1 else {**self.event, "series": self.series()}

    def series(self) -> dict[str, Any]:
        return {"count": self.count, "lastObservedTime": self.last_at}


class EventRecorder:
    """`record()` at any time; `run()` writes, as a task; `drain()` before the end.

    `give_way(waited_s)` is awaited before an Event is written that was recorded so long ago: rows go first.
    `on_dropped(n)` is called when Events are lost: the queue was full, an object said
    too much, or the API server refused them.
    """

    def __init__(
        self,
        api: Api,
        *,
        instance: str | None = None,
        on_dropped: Callable[[int], None] | None = None,
        give_way: Callable[[float], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._instance = (instance or f"{socket.gethostname()}-{os.getpid()}")[:REASON_CHARS_MAX]
        self._on_dropped = on_dropped or (lambda _n: None)
        self._give_way = give_way
        self._clock = clock
        self._now = now
        self._known: OrderedDict[Key, _Series] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._queue: OrderedDict[int, _Series] = OrderedDict()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def record(self, obj: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        """Say this about the object; `kind` is Normal or Warning. A note is cut at 1 KiB."""
        note = _cut(note)
        uid = str(obj["metadata"].get("uid", ""))
        key = (uid, reason, note)
        at = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        series = self._known.get(key)
        if series is not None and self._clock() - series.last_seen_s <= SERIES_S:
            series.count += 1
            series.last_at = at
            series.last_seen_s = self._clock()
        else:
            series = _Series(self._event(obj, kind, reason, action, note=note, at=at), self._clock(), at)
            self._known[key] = series
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        if id(series) in self._queue:
            return
        if self._bucket(uid).take():
            self._enqueue(series)
        elif series.count == 1:
            # A repeat that is held back is told by the count of the next one; a first one that is held back is lost.
            del self._known[key]
            self._on_dropped(1)

    async def run(self) -> None:
        """Write what was recorded, oldest first, until cancelled."""
        backoff_s = 0.0
        while True:
            if not self._queue:
                self._changed.clear()
                await self._changed.wait()
                continue
            if self._give_way is not None:
                await self._give_way(self._clock() - next(iter(self._queue.values())).last_seen_s)
            series = self._queue.pop(next(iter(self._queue)))
            try:
                await self._write(series)
                backoff_s = 0.0
            except ApiUnavailable:
                self._put_back(series)
                backoff_s = min(BACKOFF_S_MAX, max(0.5, backoff_s * 2))
                await asyncio.sleep(backoff_s)
            except PermissionDenied as error:
                series.forbidden += 1
                if series.forbidden < FORBIDDEN_ATTEMPTS:
                    # Behind the others, which may be allowed.
                    self._enqueue(series)
                    await asyncio.sleep(FORBIDDEN_PAUSE_S)
                else:
                    self._drop(error)
            except ApiError as error:
                # Its object's namespace is being deleted, for example: later is no better.
                self._drop(error)
            except asyncio.CancelledError:
                self._put_back(series)
                raise
            if not self._queue:
                self._empty.set()

    def _drop(self, error: ApiError) -> None:
        self._on_dropped(1)
        log.warning("an Event was refused: %s", error)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything is written (`run` must be running); return whether it was."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _enqueue(self, series: _Series) -> None:
        self._queue[id(series)] = series
        self._empty.clear()
        self._changed.set()
        if len(self._queue) > QUEUE_MAX:
            self._queue.popitem(last=False)
            self._on_dropped(1)

    def _put_back(self, series: _Series) -> None:
        self._enqueue(series)
        if id(series) in self._queue:
            self._queue.move_to_end(id(series), last=False)

    async def _write(self, series: _Series) -> None:
        metadata = series.event["metadata"]
        if series.created:
            try:
                await self._api.patch_event(metadata["namespace"], metadata["name"], {"series": series.series()})
            except Gone:
                # The API server forgets Events after an hour; a series that goes on needs a new one.
                metadata["name"] = _event_name(series.event["regarding"]["name"])
                series.created = False
        if not series.created:
            try:
                await self._api.create_event(series.body())
            except Stale:
                # An earlier attempt, whose answer was lost, has created it, perhaps with a smaller count.
                if series.count > 1:
                    await self._api.patch_event(metadata["namespace"], metadata["name"], {"series": series.series()})
            series.created = True

    def _event(
        self, obj: Mapping[str, Any], kind: str, reason: str, action: str, *, note: str, at: str
    ) -> dict[str, Any]:
        metadata = obj["metadata"]
        regarding = {
            "apiVersion": obj.get("apiVersion"),
            "kind": obj.get("kind"),
            "namespace": metadata.get("namespace"),
            "name": metadata.get("name"),
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # Events of a cluster-scoped object are in "default", as client-go does it.
            "metadata": {
                "name": _event_name(metadata["name"]),
                "namespace": metadata.get("namespace") or "default",
            },
            "eventTime": at,
            "reportingController": REPORTING_CONTROLLER,
            "reportingInstance": self._instance,
            "type": kind,
            "reason": reason[:REASON_CHARS_MAX],
            "action": action[:REASON_CHARS_MAX],
            "note": note,
            "regarding": {field: value for field, value in regarding.items() if value},
        }

    def _bucket(self, uid: str) -> TokenBucket:
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = self._buckets[uid] = TokenBucket(per_second=PER_SECOND, burst=BURST, clock=self._clock)
        self._buckets.move_to_end(uid)
        if len(self._buckets) > REMEMBERED_MAX:
            self._buckets.popitem(last=False)
        return bucket


def _event_name(name: str) -> str:
    return f"{name[:NAME_CHARS_MAX].rstrip('.-')}.{uuid.uuid4().hex[:16]}"


def _cut(note: str) -> str:
    """At most 1 KiB of UTF-8, never through the middle of a character."""
    raw = note.encode()
    return note if len(raw) <= NOTE_BYTES_MAX else raw[: NOTE_BYTES_MAX - 3].decode(errors="ignore") + "…"
