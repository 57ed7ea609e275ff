"""Waiting for a condition instead of sleeping, with a message that says what was seen last.

Looks become rarer while it lasts, because each costs a server something: at most POLL_S_MAX, and a tenth of the time
that has gone by, is lost by it.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

POLL_S, POLL_S_MAX = 0.02, 0.1
# What is waited for; as a function, it is asked only when the test has failed.
Description = str | Callable[[], str]


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0, describe: Description = "") -> Any:
    """Return the first true value of `condition()`; fail the test when there is none in time.

    An AssertionError of the condition means "not yet", so it may be written with `assert`.
    """
    begun = time.monotonic()
    while True:
        try:
            last = condition()
        except AssertionError as error:
            last = error
        else:
            if last:
                return last
        waited_s = time.monotonic() - begun
        if waited_s > timeout_s:
            _fail(condition, timeout_s, describe, last)
        time.sleep(_pause_s(waited_s))


async def wait_for_async(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout_s: float = 10.0, describe: Description = ""
) -> Any:
    """Do the same in an event loop; the condition may be a coroutine function, and is cut off when time is over."""
    begun = time.monotonic()
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
                await asyncio.sleep(_pause_s(time.monotonic() - begun))
    except TimeoutError:
        _fail(condition, timeout_s, describe, last)


def _pause_s(waited_s: float) -> float:
    return min(max(POLL_S, waited_s / 10), POLL_S_MAX)


def _fail(condition: object, timeout_s: float, describe: Description, last: object) -> NoReturn:
    what = (describe() if callable(describe) else describe) or getattr(condition, "__qualname__", repr(condition))
    pytest.fail(f"not within {timeout_s:g} s: {what}; last seen: {last!r}")
