"""JSON and texts that PostgreSQL takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb


def jsonb(value: object) -> Jsonb:
    """A jsonb parameter. jsonb has no NaN and no infinities: they become texts, which `float()` reads back."""
    return Jsonb(_plain(value))


def text(value: str) -> str:
    """PostgreSQL has no NUL in a text."""
    return value.replace("\x00", "")


def _plain(value: Any) -> Any:
    match value:
        case str():
            return text(value)
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {text(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
