"""Statuses are written in the background.

| what | then |
|---|---|
| there are rows to write | statuses give way, and wait a second at most |
| a status is replaced while it waits | only the newest is written |
| another replica leads by then | it is lost, and told to be |
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from feature_rollout.kube.rollouts import KubeRollouts
from feature_rollout.runtime.objects import BackgroundObjects
from feature_rollout.runtime.scheduler import GIVE_WAY_S_MAX, Scheduler
from support.waiting import wait_for_async


def rollout(uid: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "namespace": "shop", "name": uid}}


class Written:
    """Stands for the API server: remembers what was written, and when."""

    def __init__(self) -> None:
        self.statuses: list[tuple[str, Mapping[str, Any]]] = []
        self.at_s: list[float] = []

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self.statuses.append((rollout["metadata"]["uid"], status))
        self.at_s.append(asyncio.get_running_loop().time())


@asynccontextmanager
async def writing(written: Written, give_way: Callable[[float], Awaitable[None]]) -> AsyncIterator[BackgroundObjects]:
    objects = BackgroundObjects(cast("KubeRollouts", written), lambda *_: None, lambda *_: None, give_way)
    task = asyncio.create_task(objects.run())
    yield objects
    assert await objects.drain(5)
    task.cancel()
    await asyncio.wait([task])


async def test_only_the_newest_is_written_of_what_was_queued_meanwhile() -> None:
    free = asyncio.Event()

    async def give_way(_waited_s: float) -> None:
        await free.wait()

    written = Written()
    async with writing(written, give_way) as objects:
        for phase in ("Pending", "Baking"):
            await objects.write_status(rollout("a"), {"phase": phase})
            await asyncio.sleep(0)
        assert written.statuses == []
        free.set()
    assert written.statuses == [("a", {"phase": "Baking"})]


async def test_statuses_wait_for_the_rows_of_others_but_not_for_ever() -> None:
    """A worker that never ends stands for rollouts that come one after the other."""
    queue: Scheduler[str] = Scheduler()
    ended = asyncio.Event()

    async def work(_key: str) -> None:
        await ended.wait()

    written = Written()
    running = asyncio.create_task(queue.run(work))
    queue.wake("row")
    async with writing(written, queue.give_way) as objects:
        begun_s = asyncio.get_running_loop().time()
        for uid in ("a", "b", "c", "d", "e", "f"):
            await objects.write_status(rollout(uid), {})
        await wait_for_async(lambda: len(written.statuses) == 6, 10)
    assert min(written.at_s) - begun_s >= GIVE_WAY_S_MAX
    ended.set()
    await queue.drain(1)
    await running


async def test_without_anything_to_work_on_nothing_waits() -> None:
    queue: Scheduler[str] = Scheduler()
    written = Written()
    async with writing(written, queue.give_way) as objects:
        await objects.write_status(rollout("a"), {})
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(written.statuses) == 1


async def test_what_is_queued_when_the_lead_is_lost_is_not_written() -> None:
    leading, lost = True, list[tuple[str, str, str]]()
    written, free = Written(), asyncio.Event()

    async def give_way(_waited_s: float) -> None:
        await free.wait()

    objects = BackgroundObjects(
        cast("KubeRollouts", written), lambda *what: lost.append(what), lambda *_: None, give_way, lambda _uid: leading
    )
    task = asyncio.create_task(objects.run())
    await objects.write_status(rollout("a"), {"phase": "Baking"})
    leading = False
    free.set()
    assert await objects.drain(5)
    assert (written.statuses, lost) == ([], [("a", "shop", "a")])
    leading = True
    await objects.write_status(rollout("a"), {"phase": "Held"})
    assert await objects.drain(5)
    assert written.statuses == [("a", {"phase": "Held"})]
    task.cancel()
    await asyncio.wait([task])
