"""Whether the API server answers the watch: said once when it goes away, and once when it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import aiohttp

log = logging.getLogger(__name__)

# A refusal or two is no outage, and neither is a storm of errors with answers in between.
PATIENCE_S = 3.0


class Reachable:
    """`failed` and `answered` for each request; they belong to one thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._failing_since_s: float | None = None
        self._told = False

    def failed(self, how: str) -> None:
        now_s = self._now_s()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if now_s - self._failing_since_s >= PATIENCE_S and not self._told:
            self._told = True
            log.warning("the API server does not answer (%s); guards go on with what is known", how)

    def answered(self, status: int) -> None:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            self.failed(f"HTTP {status}")
            return
        if self._told and self._failing_since_s is not None:
            log.warning("the API server answers again, after %.0f s", self._now_s() - self._failing_since_s)
        self._failing_since_s, self._told = None, False

    def tracing(self) -> aiohttp.TraceConfig:
        """Has an aiohttp session tell of each of its requests."""

        async def ended(_session: Any, _context: Any, params: aiohttp.TraceRequestEndParams) -> None:
            self.answered(params.response.status)

        async def raised(_session: Any, _context: Any, params: aiohttp.TraceRequestExceptionParams) -> None:
            # A request that we have cancelled ourselves says nothing.
            if isinstance(params.exception, Exception):
                self.failed(type(params.exception).__name__)

        config = aiohttp.TraceConfig()
        config.on_request_end.append(ended)
        config.on_request_exception.append(raised)
        return config
