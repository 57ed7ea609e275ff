"""An event loop whose time jumps to the next timer: nothing in it ever waits, and the same seed runs the same way.

It has no selector and no threads. When nothing is ready and no timer is set, every task
waits for something that cannot come: that is a defect of whoever waits, and is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Nothing is ready, and nothing is due."""


class _Jump:
    """Stands for the selector: instead of waiting it moves the time on."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            raise Deadlock("nothing is ready, and nothing is due")
        # A little more than asked for, or rounding would leave the timer a hair in the future, again and again.
        self.time_s += timeout_s + 1e-9 if timeout_s > 0 else 0.0
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` is in virtual seconds from 0."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Jump()
        # What ends a process in the simulation leaves tasks with errors behind that nobody asks for.
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self._selector.time_s

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; whatever else is still running then is cancelled."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        for _ in range(10):
            if all(task.done() for task in left):
                break
            loop.run_until_complete(asyncio.sleep(0))
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()
        asyncio.set_event_loop(None)
        loop.close()
