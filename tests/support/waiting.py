"""Waiting for a condition instead of sleeping, with a message that says what was seen last."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

POLL_S = 0.02


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0, describe: str = "") -> Any:
    """Return the first true value of `condition()`; fail the test when there is none in time.

    An AssertionError of the condition means "not yet", so it may be written with `assert`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            last = condition()
        except AssertionError as error:
            last = error
        else:
            if last:
                return last
        if time.monotonic() > deadline:
            _fail(condition, timeout_s, describe, last)
        time.sleep(POLL_S)


async def wait_for_async(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout_s: float = 10.0, describe: str = ""
) -> Any:
    """Do the same in an event loop; the condition may be a coroutine function, and is cut off when time is over."""
    last: Any = "nothing: it did not answer"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    value = condition()
                    last = await value if inspect.isawaitable(value) else value
                except AssertionError as error:
                    last = error
                else:
                    if last:
                        return last
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        _fail(condition, timeout_s, describe, last)


def _fail(condition: object, timeout_s: float, describe: str, last: object) -> NoReturn:
    what = describe or getattr(condition, "__qualname__", repr(condition))
    pytest.fail(f"not within {timeout_s:g} s: {what}; last seen: {last!r}")
