"""A Prometheus that answers what a test tells it to, on a real socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from support.waiting import wait_for_async

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakePrometheus:
    """An async context manager. `answer` is what every call gets; `calls` are the queries asked, in their order.

    A query that is in `numbers` is answered with that: a number, None for no series.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float | str | None] = {}
        self.answer: Handler | None = None
        self.calls: list[dict[str, str]] = []
        self.open = self.most_open = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def queries(self) -> list[str]:
        return [call["query"] for call in self.calls]

    async def wait_calls(self, number: int) -> None:
        await wait_for_async(lambda: len(self.calls) >= number, 20.0, f"{number} calls")

    async def wait_closed(self) -> None:
        """Until every request that was open has ended, by whichever side."""
        await wait_for_async(lambda: self.open == 0, 20.0, "the requests' end")

    async def hang(self, request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append({**request.query, "path": request.path})
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.answer is not None:
                return await self.answer(request)
            query = request.query["query"]
            return vector(self.numbers[query], float(request.query["time"]))
        finally:
            self.open -= 1


def vector(number: float | str | None, time_s: float) -> web.Response:
    result = [] if number is None else [{"metric": {}, "value": [time_s, str(number)]}]
    return data("vector", result)


def data(kind: str, result: Any, **more: Any) -> web.Response:
    return web.json_response({"status": "success", "data": {"resultType": kind, "result": result}, **more})


def always(response: Callable[[], web.StreamResponse]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return response()

    return handle


def text(status: int, body: str | bytes, content_type: str = "text/html", **headers: str) -> Handler:
    raw = body.encode() if isinstance(body, str) else body
    return always(lambda: web.Response(status=status, body=raw, content_type=content_type, headers=headers))


def error(status: int, kind: str, message: str) -> Handler:
    body = json.dumps({"status": "error", "errorType": kind, "error": message})
    return text(status, body, "application/json")
