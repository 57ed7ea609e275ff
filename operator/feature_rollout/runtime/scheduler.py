"""The work queue: which key is worked on next, by at most one worker at a time.

As client-go's: a key that is woken a hundred times before its turn is worked on once,
and a key that is woken while it is worked on is worked on once more afterwards. Times
are the event loop's, which neither wall-clock steps nor leap seconds touch.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from itertools import count
from typing import Generic, TypeVar

from feature_rollout.runtime.logs import report

log = logging.getLogger(__name__)

BACKOFF_S_MAX = 60.0
# A worker that takes longer hangs; its key is tried again, and the others get the worker back.
RUN_S_MAX = 300.0
# What can wait gives way to the keys until no key was waiting or worked on for so long, and for no longer than that.
QUIET_S = 0.05
GIVE_WAY_S_MAX = 1.0
# Entries of the heap that an earlier time has replaced are thrown away when there are this many times more than keys.
SLACK = 2

K = TypeVar("K", bound=Hashable)


class Scheduler(Generic[K]):
    """`wake` and `wake_in` at any time, from the loop's thread; `run` as a task; `drain` to end it.

    `on_depth(n)` is called when the number of waiting keys changes, `on_wait(seconds)`
    when a key gets its worker.
    """

    def __init__(
        self,
        *,
        on_depth: Callable[[int], None] | None = None,
        on_wait: Callable[[float], None] | None = None,
        run_s_max: float = RUN_S_MAX,
    ) -> None:
        self._on_depth = on_depth or (lambda _depth: None)
        self._on_wait = on_wait or (lambda _seconds: None)
        self._run_s_max = run_s_max
        # The dirty set, as two lanes in order of arrival, with the time of arrival.
        self._urgent: dict[K, float] = {}
        self._normal: dict[K, float] = {}
        self._processing: dict[K, asyncio.Task[None]] = {}
        # Woken while they were worked on, and whether that was urgent.
        self._again: dict[K, bool] = {}
        self._due: dict[K, tuple[float, bool]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = count()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        # When the last worker ended.
        self._ended_s = float("-inf")

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._urgent) + len(self._normal)

    async def give_way(self, waited_s: float) -> None:
        """For what can wait, and has for so long: return when there is nothing to work on, or after a second in all."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + GIVE_WAY_S_MAX - waited_s
        while (left_s := deadline_s - loop.time()) > 0:
            if not self.depth and not self._processing and loop.time() - self._ended_s >= QUIET_S:
                return
            await asyncio.sleep(min(left_s, QUIET_S))

    def wake(self, key: K, *, urgent: bool = False) -> None:
        """Work on this key as soon as a worker is free; urgent ones before all others."""
        if key in self._processing:
            self._again[key] = urgent or self._again.get(key, False)
            return
        now = asyncio.get_running_loop().time()
        if urgent:
            self._urgent.setdefault(key, self._normal.pop(key, now))
        elif key not in self._urgent:
            self._normal.setdefault(key, now)
        self._on_depth(self.depth)
        self._changed.set()

    def wake_in(self, key: K, seconds: float, *, urgent: bool = False) -> None:
        """Wake this key after so many seconds, unless it is to be woken earlier already."""
        if seconds <= 0:
            self.wake(key, urgent=urgent)
            return
        when = asyncio.get_running_loop().time() + seconds
        if not math.isfinite(when):
            raise ValueError(f"a key cannot be woken in {seconds} seconds")
        due = self._due.get(key)
        if due is not None and due[0] <= when:
            return
        self._due[key] = (when, urgent)
        heapq.heappush(self._heap, (when, next(self._order), key))
        if len(self._heap) > SLACK * len(self._due) + 64:
            self._heap = [(when, next(self._order), key) for key, (when, _) in self._due.items()]
            heapq.heapify(self._heap)
        self._changed.set()

    def forget(self, key: K) -> None:
        """The key is no more: no due time, no failures.

        A wake that nobody has worked on yet stays: it may be about a new object of the same name.
        """
        self._due.pop(key, None)
        self._failures.pop(key, None)

    async def run(self, worker: Callable[[K], Awaitable[float | None]], *, workers: int = 8) -> None:
        """Hand out keys until `drain`. The worker returns after how many seconds its key is due again, or None.

        What a worker raises is logged, and its key is tried again after 1, 2, 4 … 60
        seconds; no other key notices.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self._stopping:
                    self._changed.clear()
                    next_due_s = self._wake_due()
                    while self.depth and len(self._processing) < workers:
                        key = self._take()
                        self._processing[key] = tasks.create_task(self._work(worker, key), name=f"reconcile {key}")
                    await self._wait(next_due_s)
        finally:
            self._stopping = True

    async def drain(self, timeout_s: float) -> bool:
        """Hand out nothing more, and wait for the running workers; cancel those that take too long.

        Return whether all ended by themselves.
        """
        self._stopping = True
        self._changed.set()
        running = list(self._processing.values())
        if not running:
            return True
        _, late = await asyncio.wait(running, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout_s)
        return not late

    def _wake_due(self) -> float | None:
        """Wake what is due; return in how many seconds the next one is."""
        now = asyncio.get_running_loop().time()
        while self._heap:
            when, _, key = self._heap[0]
            due = self._due.get(key)
            if due is not None and due[0] == when:
                if when > now:
                    return when - now
                del self._due[key]
                self.wake(key, urgent=due[1])
            heapq.heappop(self._heap)
        return None

    def _take(self) -> K:
        lane = self._urgent or self._normal
        key = next(iter(lane))
        self._on_wait(asyncio.get_running_loop().time() - lane.pop(key))
        self._on_depth(self.depth)
        # The run looks at everything and says when it is due next, so an older due time means nothing any more.
        self._due.pop(key, None)
        return key

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _work(self, worker: Callable[[K], Awaitable[float | None]], key: K) -> None:
        next_s: float | None = None
        failed = True
        try:
            async with asyncio.timeout(self._run_s_max):
                next_s = await worker(key)
            failed = next_s is not None and not math.isfinite(next_s)
            if failed:
                log.error("the worker wants to be called again in %s seconds", next_s, extra={"rollout": _text(key)})
        except Exception as error:  # noqa: BLE001 - S21: nothing about one key may end the others' loop
            report(log, "reconcile failed", error, rollout=_text(key))
        finally:
            # Also when something cancelled the task: the key must never be lost.
            self._finish(key, next_s, failed=failed)

    def _finish(self, key: K, next_s: float | None, *, failed: bool) -> None:
        del self._processing[key]
        self._ended_s = asyncio.get_running_loop().time()
        if failed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            self.wake_in(key, min(BACKOFF_S_MAX, 2.0 ** min(failures - 1, 10)))
        else:
            self._failures.pop(key, None)
            if next_s is not None:
                self.wake_in(key, next_s)
        if key in self._again:
            self.wake(key, urgent=self._again.pop(key))
        self._changed.set()


def _text(key: object) -> str:
    return "/".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
