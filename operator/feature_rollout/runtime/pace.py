"""A watch that ends at once is begun again with a pause.

kopf pauses after an error, and hardly at all when a watch simply ends: one that a proxy closes, or that the API server
answers with a 410 each time, would be a loop of a hundred requests a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp

# A watch of the same path that was begun longer ago has done its work: the API server ends each after minutes.
GOOD_S = 20.0
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 4.0


class Pace:
    """`tracing()` has the watches of an aiohttp session wait. It belongs to one thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # When the last watch of each path was begun, and the pause before it.
        self._last: dict[str, tuple[float, float]] = {}

    def wait_s(self, path: str) -> float:
        """How long to wait before a watch of this path is begun; it counts as begun then."""
        now_s = self._now_s()
        last_s, pause_s = self._last.get(path, (float("-inf"), 0.0))
        pause_s = min(max(PAUSE_S_MIN, 2.0 * pause_s), PAUSE_S_MAX) if now_s - last_s < GOOD_S else 0.0
        wait_s = max(0.0, last_s + pause_s - now_s)
        self._last[path] = (now_s + wait_s, pause_s)
        return wait_s

    def tracing(self) -> aiohttp.TraceConfig:
        async def begins(_session: Any, _context: Any, params: aiohttp.TraceRequestStartParams) -> None:
            if "watch" in params.url.query:
                await asyncio.sleep(self.wait_s(params.url.path))

        config = aiohttp.TraceConfig()
        config.on_request_start.append(begins)
        return config
