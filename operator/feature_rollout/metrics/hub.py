"""What all metric sources share: each question is asked once, and each metric has its own source."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from feature_rollout.core.looks import Look, Window
from feature_rollout.ports import MetricSource

T = TypeVar("T")
# Windows lie on the same grid for everybody, so who asks the same does so within a moment.
ANSWERS_KEPT: Final = 1_000
UNKNOWN: Final = "this rollout has no metric of that name"


@dataclass(slots=True)
class _Asked(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Shared(Generic[T]):
    """Questions to one source. Who asks what is under way, or was answered a moment ago, gets that answer.

    A failure goes to everybody who waits for it and is not kept. A question that nobody
    waits for any more is cancelled.
    """

    def __init__(self, kept: int = ANSWERS_KEPT) -> None:
        self._kept = kept
        self._asked: OrderedDict[Hashable, _Asked[T]] = OrderedDict()

    async def ask(self, key: Hashable, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to the question that `key` stands for; raises what the question raises."""
        asked = self._asked.get(key)
        if asked is None:
            # In a context of its own: whoever shares the answer, its lines of the log are not the first one's alone.
            asked = self._asked[key] = _Asked(asyncio.create_task(question(), context=Context()))
            asked.task.add_done_callback(partial(self._ended, key, asked))
        asked.waiting += 1
        try:
            # Shielded, because others may wait for the same.
            return await asyncio.shield(asked.task)
        finally:
            asked.waiting -= 1
            if not asked.waiting and not asked.task.done():
                self._forget(key, asked)
                asked.task.cancel()

    def _ended(self, key: Hashable, asked: _Asked[T], task: asyncio.Task[T]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(key, asked)
            return
        while len(self._asked) > self._kept:
            self._asked.popitem(last=False)

    def _forget(self, key: Hashable, asked: _Asked[T]) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]


class RoutedSource:
    """The metrics of one rollout, each from its own source. Implements `ports.MetricSource`."""

    def __init__(self, routes: Mapping[str, MetricSource]) -> None:
        self._routes = routes

    async def look(self, metric: str, window: Window) -> Look:
        source = self._routes.get(metric)
        if source is None:
            return Look(metric, window, error=UNKNOWN)
        return await source.look(metric, window)

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        source = self._routes.get(metric)
        if source is None:
            return [Look(metric, window, error=UNKNOWN) for window in windows]
        return await source.history(metric, windows)
