"""The hub: a question is asked once however many want the answer.

| what happens | then |
|---|---|
| the same is asked while it is under way, or afterwards | one question, the same answer |
| something else is asked | another question |
| it fails | everybody who waits hears of it; who asks later asks anew |
| one of those who wait gives up | the others get their answer |
| all who wait give up | the question is cancelled |
"""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from feature_rollout.core.looks import Window
from feature_rollout.metrics.hub import RoutedSource, Shared
from support.fakes import FakeSource
from support.waiting import wait_for_async


class Source:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def question(self) -> int:
        self.asked += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.asked


@pytest.fixture
def source() -> Source:
    return Source()


async def asked(source: Source, number: int) -> None:
    await wait_for_async(lambda: source.asked == number)


async def test_many_want_one_answer(source: Source) -> None:
    shared: Shared[int] = Shared()
    waiting = [asyncio.create_task(shared.ask("a", source.question)) for _ in range(200)]
    await asked(source, 1)
    source.gate.set()
    assert await asyncio.gather(*waiting) == [1] * 200
    assert await shared.ask("a", source.question) == 1
    assert await shared.ask("b", source.question) == 2


async def test_so_many_answers_are_kept_and_no_more(source: Source) -> None:
    shared: Shared[int] = Shared(kept=2)
    source.gate.set()
    for key in "abc":
        await shared.ask(key, source.question)
    assert await shared.ask("c", source.question) == 3
    assert await shared.ask("a", source.question) == 4
    assert len(shared._asked) == 2


async def test_a_failure_is_heard_by_all_and_kept_by_none(source: Source) -> None:
    shared: Shared[int] = Shared()
    source.error = ValueError("no")
    source.gate.set()
    waiting = [asyncio.create_task(shared.ask("a", source.question)) for _ in range(3)]
    for task in waiting:
        with pytest.raises(ValueError, match="no"):
            await task
    source.error = None
    assert await shared.ask("a", source.question) == 2


async def test_one_gives_up_and_the_others_do_not(source: Source) -> None:
    shared: Shared[int] = Shared()
    first, second = (asyncio.create_task(shared.ask("a", source.question)) for _ in range(2))
    await asked(source, 1)
    first.cancel()
    await asyncio.wait([first])
    source.gate.set()
    assert await second == 1
    assert source.cancelled == 0


async def test_what_nobody_waits_for_is_cancelled(source: Source) -> None:
    shared: Shared[int] = Shared()
    only = asyncio.create_task(shared.ask("a", source.question))
    await asked(source, 1)
    only.cancel()
    await wait_for_async(lambda: source.cancelled == 1)
    source.gate.set()
    assert await shared.ask("a", source.question) == 2


async def test_each_metric_has_its_own_source() -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    window = Window(start, start + timedelta(seconds=30))
    routed = RoutedSource({"a": FakeSource(answer=lambda _metric, _window: {"value": 1.0})})
    assert (await routed.look("a", window)).value == 1.0
    assert (await routed.look("b", window)).error == "this rollout has no metric of that name"
    assert [look.error for look in await routed.history("b", [window])] == ["this rollout has no metric of that name"]
