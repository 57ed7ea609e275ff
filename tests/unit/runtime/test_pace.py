"""When a watch is begun again.

| the last one of its path | the pause |
|---|---|
| there was none, or it was begun long ago | none |
| ended at once, again and again | 1, 2, 4, 4 … seconds from its beginning |
| ended after some seconds | what is left of the pause |
| another path | has nothing to do with it |
"""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from feature_rollout.runtime import pace
from feature_rollout.runtime.pace import Pace


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_pauses_of_a_watch_that_ends_at_once() -> None:
    now = Time()
    watches = Pace(now)
    waits = []
    for _ in range(7):
        waits.append(watches.wait_s("/rollouts"))
        now.now_s += waits[-1]
    assert waits == [0.0, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert watches.wait_s("/stores") == 0.0
    now.now_s += 3.0
    assert watches.wait_s("/rollouts") == 1.0
    now.now_s += 1.0 + pace.GOOD_S
    assert watches.wait_s("/rollouts") == 0.0
    assert watches.wait_s("/rollouts") == 1.0


async def test_only_watches_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def ok(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/rollouts", ok)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/rollouts"
    async with aiohttp.ClientSession(trace_configs=[Pace(Time()).tracing()]) as session:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            for query in ("", "?limit=500", "?watch=true", "?watch=true&resourceVersion=7", "?limit=500"):
                await session.get(url + query)
    await runner.cleanup()
    assert [seconds for seconds in waited if seconds in (0.0, 1.0)] == [0.0, 1.0]
