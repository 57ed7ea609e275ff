"""A token bucket: at most so many a second in the long run, and a burst."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count


class TokenBucket:
    """`take()` says yes or no at once; `acquire()` waits for its turn, the urgent ones before the others."""

    def __init__(self, *, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> bool:
        """Take a token if there is one."""
        self._refill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def full(self) -> bool:
        """Whether nothing was taken for so long that this bucket is as good as a new one."""
        self._refill()
        return self._tokens >= self._burst

    async def acquire(self, *, urgent: bool = False) -> None:
        """Wait until a token is there, and take it."""
        if not self._waiting and self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (0 if urgent else 1, next(self._order), turn))
        self._serve()
        # A waiter that is cancelled stays in the heap until its turn, where it takes no token.
        await turn

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            turn = self._waiting[0][2]
            if not turn.done() and not self.take():
                break
            heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            # A millisecond more than needed, so that rounding never makes the timer fire for nothing in a tight loop.
            wait_s = (1.0 - self._tokens) / self._per_second + 0.001
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._serve)
