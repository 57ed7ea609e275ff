"""/livez, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

log = logging.getLogger(__name__)

BEAT_S = 1.0
SILENCE_S_MAX = 30.0
SHUTDOWN_S = 2.0

# What is wrong now, in words; empty when nothing is.
Problems = Callable[[], Sequence[str]]


class Heartbeat:
    """Says how long ago the event loop last had time for a small task; `run()` as a task.

    `on_lag` is called each time with the seconds that it came too late by.
    """

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        self._on_lag = on_lag
        self._beat: float | None = None

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._beat = begun = clock()
            await asyncio.sleep(BEAT_S)
            self._on_lag(max(clock() - begun - BEAT_S, 0.0))

    def problems(self) -> list[str]:
        if self._beat is None:
            return ["the event loop's heartbeat has not begun"]
        silence_s = asyncio.get_running_loop().time() - self._beat
        return [f"the event loop was silent for {silence_s:.0f} s"] if silence_s > SILENCE_S_MAX else []


class HttpServer:
    """Answers 200 `ok`, or 503 with a line for each problem."""

    def __init__(self, *, host: str, port: int, registry: CollectorRegistry, live: Problems, ready: Problems) -> None:
        self._host = host
        self._wanted_port = port
        self._registry = registry
        self._live = live
        self._ready = ready
        self._runner: web.AppRunner | None = None
        # One thread, which looks up no names: who scrapes without end delays nobody else.
        self._scraper = ThreadPoolExecutor(1, "metrics")

    @property
    def port(self) -> int:
        """The port that it listens on, after `start`."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the HTTP server is not started")
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen; OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._wanted_port).start()
        except OSError:
            await self.stop()
            raise
        log.info("listening on %s port %d: /livez, /readyz, /metrics", self._host, self.port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._scraper.shutdown(wait=False)

    async def _livez(self, _request: web.Request) -> web.Response:
        return _answer(self._live())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _metrics(self, _request: web.Request) -> web.Response:
        # In a thread: hundreds of rollouts have tens of thousands of lines, and reverts must not wait for them.
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._scraper, generate_latest, self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _answer(problems: Sequence[str]) -> web.Response:
    if not problems:
        return web.Response(text="ok\n")
    return web.Response(status=503, text="".join(f"{problem}\n" for problem in problems))
