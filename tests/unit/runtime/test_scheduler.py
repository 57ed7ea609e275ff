"""The work queue.

| what | then |
|---|---|
| a hundred wakes of one key | one run |
| a wake while the key is worked on | one more run, never two at a time |
| urgent and normal keys wait | the urgent ones first, each lane in order of arrival |
| due times | the earlier one counts; the run itself clears it |
| a worker fails, is cancelled, hangs, or answers nonsense | the key is tried again, the others do not notice |
| drain | nothing new starts; what runs may end, or is cancelled after the time-out |
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from feature_rollout.runtime import scheduler as module
from feature_rollout.runtime.scheduler import Scheduler
from support.waiting import wait_for_async

Worker = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(queue: Scheduler[str], worker: Worker, workers: int = 8) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(worker, workers=workers))
    yield
    assert await queue.drain(1)
    await task


async def idle(queue: Scheduler[str]) -> None:
    """Wait until nothing waits and nothing runs."""
    await wait_for_async(lambda: not queue.depth and not queue._processing, 2)


@pytest.fixture
def runs() -> list[str]:
    return []


@pytest.fixture
def worker(runs: list[str]) -> Worker:
    async def work(key: str) -> None:
        runs.append(key)
        await asyncio.sleep(0)

    return work


async def test_a_hundred_wakes_are_one_run(runs: list[str], worker: Worker) -> None:
    queue: Scheduler[str] = Scheduler()
    for _ in range(100):
        queue.wake("a")
    async with running(queue, worker):
        await idle(queue)
    assert runs == ["a"]


async def test_a_wake_during_the_run_is_one_more_run_and_never_at_the_same_time() -> None:
    queue: Scheduler[str] = Scheduler()
    runs, at_once, most = 0, 0, 0

    async def work(key: str) -> None:
        nonlocal runs, at_once, most
        runs, at_once = runs + 1, at_once + 1
        most = max(most, at_once)
        if runs == 1:
            for _ in range(10):
                queue.wake(key)
        await asyncio.sleep(0.005)
        at_once -= 1

    queue.wake("a")
    async with running(queue, work):
        await idle(queue)
    assert (runs, most) == (2, 1)


async def test_urgent_keys_come_first(runs: list[str], worker: Worker) -> None:
    queue: Scheduler[str] = Scheduler()
    for key in ("a", "b", "c", "d"):
        queue.wake(key)
    queue.wake("e", urgent=True)
    queue.wake("c", urgent=True)
    queue.wake("e")
    async with running(queue, worker, workers=1):
        await idle(queue)
    assert runs == ["e", "c", "a", "b", "d"]


async def test_no_more_workers_than_told() -> None:
    queue: Scheduler[str] = Scheduler()
    at_once, most = 0, 0

    async def work(_key: str) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1

    for number in range(20):
        queue.wake(str(number))
    async with running(queue, work, workers=3):
        await idle(queue)
    assert most == 3


async def test_the_earlier_due_time_counts(runs: list[str], worker: Worker) -> None:
    queue: Scheduler[str] = Scheduler()
    queue.wake_in("a", 3600)
    queue.wake_in("a", 0.01)
    queue.wake_in("a", 3600)
    queue.wake_in("b", 3600)
    async with running(queue, worker):
        await asyncio.sleep(0.03)
    assert runs == ["a"]


async def test_the_worker_says_when_it_is_due_next(runs: list[str]) -> None:
    queue: Scheduler[str] = Scheduler()

    async def work(key: str) -> float | None:
        runs.append(key)
        return 0.005 if len(runs) < 3 else None

    queue.wake("a")
    async with running(queue, work):
        await asyncio.sleep(0.05)
    assert runs == ["a"] * 3


async def test_a_run_replaces_an_older_due_time(runs: list[str], worker: Worker) -> None:
    queue: Scheduler[str] = Scheduler()
    queue.wake_in("a", 0.02)
    queue.wake("a")
    async with running(queue, worker):
        await asyncio.sleep(0.04)
    assert runs == ["a"]


async def test_a_forgotten_key_is_not_due(runs: list[str], worker: Worker) -> None:
    queue: Scheduler[str] = Scheduler()
    queue.wake_in("a", 0.01)
    queue.forget("a")
    async with running(queue, worker):
        await asyncio.sleep(0.02)
    assert runs == []


async def test_a_wake_during_the_run_that_forgets_is_not_lost(runs: list[str]) -> None:
    queue: Scheduler[str] = Scheduler()

    async def work(key: str) -> None:
        runs.append(key)
        if len(runs) == 1:
            queue.wake(key)
            queue.forget(key)

    queue.wake("a")
    async with running(queue, work):
        await idle(queue)
    assert runs == ["a", "a"]


async def test_due_times_that_were_replaced_do_not_pile_up() -> None:
    queue: Scheduler[str] = Scheduler()
    for number in range(10_000):
        queue.wake_in("a", 10_000 - number)
    assert len(queue._heap) < 100


@pytest.mark.parametrize("how", ["raise", "cancel", "nan", "hang"])
async def test_a_key_that_fails_is_tried_again_and_disturbs_nobody(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S_MAX", 0.005)
    queue: Scheduler[str] = Scheduler(run_s_max=0.02)
    runs = {"bad": 0, "good": 0}

    async def work(key: str) -> float | None:
        runs[key] += 1
        if key == "bad" and runs[key] < 4:
            match how:
                case "raise":
                    raise ValueError("postgresql://u:s3cr3t@h")
                case "cancel":
                    raise asyncio.CancelledError
                case "nan":
                    return math.nan
                case _:
                    await asyncio.sleep(60)
        return None

    queue.wake("bad")
    queue.wake("good")
    with caplog.at_level(logging.ERROR):
        async with running(queue, work):
            await wait_for_async(lambda: runs["bad"] == 4, 2)
    assert runs == {"bad": 4, "good": 1}
    assert "s3cr3t" not in caplog.text
    assert not queue._failures


async def test_the_backoff_grows_to_a_minute() -> None:
    queue: Scheduler[str] = Scheduler()
    delays = []
    loop = asyncio.get_running_loop()
    for _ in range(9):
        queue._processing["a"] = asyncio.create_task(asyncio.sleep(0))
        queue._finish("a", None, failed=True)
        delays.append(round(queue._due.pop("a")[0] - loop.time()))
    await asyncio.sleep(0)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_a_due_time_that_is_no_time_is_refused() -> None:
    queue: Scheduler[str] = Scheduler()
    with pytest.raises(ValueError, match="inf"):
        queue.wake_in("a", math.inf)


async def test_drain_waits_for_what_runs_and_starts_nothing_more() -> None:
    queue: Scheduler[str] = Scheduler()
    ended: list[str] = []
    started = asyncio.Event()

    async def work(key: str) -> None:
        started.set()
        await asyncio.sleep(0.02)
        ended.append(key)

    queue.wake("a")
    queue.wake("b")
    task = asyncio.create_task(queue.run(work, workers=1))
    await started.wait()
    assert await queue.drain(1)
    await task
    assert ended == ["a"]


async def test_drain_cancels_what_does_not_end() -> None:
    queue: Scheduler[str] = Scheduler()
    started = asyncio.Event()

    async def work(_key: str) -> None:
        started.set()
        await asyncio.sleep(60)

    queue.wake("a")
    task = asyncio.create_task(queue.run(work))
    await started.wait()
    assert not await queue.drain(0.01)
    await task


async def test_depth_and_waits_are_told(worker: Worker) -> None:
    depths: list[int] = []
    waits: list[float] = []
    queue: Scheduler[str] = Scheduler(on_depth=depths.append, on_wait=waits.append)
    queue.wake("a")
    queue.wake("b")
    async with running(queue, worker):
        await idle(queue)
    assert depths == [1, 2, 1, 0]
    assert len(waits) == 2
    assert all(0 <= wait < 1 for wait in waits)
