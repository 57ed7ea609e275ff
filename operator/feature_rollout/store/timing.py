"""How long the operations of a store take, whether they succeed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

# The operation's name, which is that of the method, and seconds.
OnCall = Callable[[str, float], None]


class Timed(Protocol):
    on_call: OnCall


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Timed)
Operation = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def timed(operation: Operation[S, P, T]) -> Operation[S, P, T]:
    """A method that tells `on_call` of each of its calls when it ends."""

    @wraps(operation)
    async def measured(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        try:
            return await operation(self, *args, **kwargs)
        finally:
            self.on_call(operation.__name__, clock() - begun_s)

    return measured
