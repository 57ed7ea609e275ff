"""What the running task is about: every line that is logged meanwhile says so, whoever logs it.

Tasks that it starts inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_fields: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Of a block: rollout as namespace/name, stage, operation. What is empty says nothing."""
    token = _fields.set({**_fields.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _fields.reset(token)


def fields() -> Mapping[str, str]:
    return _fields.get()
