"""What `featurerollout simulate` reads: looks, actions and flags, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.people import Request, RequestType, RollBackTo
from feature_rollout.core.plan import Metric, MetricType

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_WINDOW = {"metric", "window_start", "window_end"}
_COUNTS = {"events", "units", "control_events", "control_units"}
_FIELDS = {MetricType.RATIO: _WINDOW | _COUNTS | {"error"}, MetricType.GAUGE: _WINDOW | {"value", "units", "error"}}
_OF_ACTIONS = {"at", "type", "stage", "check", "to", "plan_hash", "by", "reason"}
_OF_FLAGS = {"flag", "enabled", "percentage", "groups"}


class RecordError(Exception):
    """A line that cannot be read; the message names the file, the line and the field."""


class _Wrong(Exception):
    """What is wrong in a line, without where that is."""


def looks(lines: Iterable[str], source: str, metrics: Mapping[str, Metric]) -> tuple[Look, ...]:
    """The looks of a file at metrics of the plan. Raises RecordError.

    Without numbers and without an error the source had no data. Numbers that are not finite
    are read, as they came: what becomes of them is the engine's to say.
    """
    return tuple(_read(lines, source, lambda record, _: _look(record, metrics)))


def actions(lines: Iterable[str], source: str, stages: Iterable[str]) -> tuple[Request, ...]:
    """What people do. `stages` are the names of the plan's. Raises RecordError."""
    names = tuple(stages)
    return tuple(_read(lines, source, lambda record, number: _action(record, number, names)))


def flags(lines: Iterable[str], source: str) -> dict[str, Exposure]:
    """Rows by flag; a column that is not given is disabled, 0 %, without groups. Raises RecordError."""
    found: dict[str, Exposure] = {}

    def add(record: Mapping[str, Any], _: int) -> None:
        flag = _text(record, "flag")
        if flag in found:
            raise _Wrong(f'flag: "{flag}" has a line before: give each flag once')
        found[flag] = _row(record)

    list(_read(lines, source, add))
    return found


def _read(lines: Iterable[str], source: str, make: Callable[[Mapping[str, Any], int], T]) -> Iterator[T]:
    """What each line says; lines of nothing but spaces are left out."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield make(_object(json.loads(line)), number)
        except json.JSONDecodeError as error:
            raise RecordError(f"{source}:{number}: this is not JSON: {error.msg} (column {error.colno})") from None
        except (RecursionError, ValueError):
            # Brackets within brackets, or a number of thousands of digits.
            raise RecordError(f"{source}:{number}: this is too deep, or a number in it too long") from None
        except _Wrong as wrong:
            raise RecordError(f"{source}:{number}: {wrong}") from None


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"this is a {type(value).__name__}, where a JSON object should be")
    return value


def _look(record: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Look:
    name = _text(record, "metric")
    metric = metrics.get(name)
    if metric is None:
        raise _Wrong(f'metric: the rollout has no metric "{name}": name one of {", ".join(metrics)}')
    _only(record, _FIELDS[metric.type], f"a look at {name}, which is a {metric.type}")
    window = Window(_time(record, "window_start"), _time(record, "window_end"))
    if window.end <= window.start:
        raise _Wrong(f"window_end: {record['window_end']} is not after window_start, {record['window_start']}")
    error = record.get("error")
    if error is not None:
        return Look(name, window, error=_text(record, "error"))
    return Look(
        name,
        window,
        events=_number(record, "events"),
        units=_number(record, "units"),
        value=_number(record, "value"),
        control_events=_number(record, "control_events"),
        control_units=_number(record, "control_units"),
    )


def _action(record: Mapping[str, Any], number: int, stages: tuple[str, ...]) -> Request:
    _only(record, _OF_ACTIONS, "an action")
    kind = _one_of(record, "type", RequestType)
    stage, check = _optional(record, "stage"), _optional(record, "check")
    if kind is RequestType.APPROVE and stage is None:
        raise _Wrong("stage: Approve needs it: name the stage that may begin")
    if stage is not None and stage not in stages:
        raise _Wrong(f'stage: the plan has no stage "{stage}": name one of {", ".join(stages)}')
    if (kind is RequestType.CONFIRM) != (check is not None):
        raise _Wrong(f"check: Confirm names the check that is confirmed, other types have none; this is {kind}")
    if kind is not RequestType.ROLL_BACK and record.get("to") is not None:
        raise _Wrong(f"to: only RollBack has it; this is {kind}")
    return Request(
        # Sorts as the lines do: of two at the same time, the first comes first.
        uid=f"action-{number:09}",
        type=kind,
        created_at=_time(record, "at"),
        name=f"line {number}",
        stage=stage,
        check=check,
        plan_hash=_optional(record, "plan_hash"),
        to=_one_of(record, "to", RollBackTo) if record.get("to") is not None else RollBackTo.OFF,
        reason=_optional(record, "reason") or "",
        requested_by=_optional(record, "by") or "",
    )


def _row(record: Mapping[str, Any]) -> Exposure:
    _only(record, _OF_FLAGS, "a flag")
    enabled, groups = record.get("enabled", False), record.get("groups", [])
    if not isinstance(enabled, bool):
        raise _Wrong(f"enabled: {json.dumps(enabled)} is neither true nor false")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise _Wrong(f"groups: {json.dumps(groups)} is not a list of names")
    percentage = _number(record, "percentage") or 0.0
    # A comparison that NaN does not pass.
    if not 0 <= percentage <= 100:
        raise _Wrong(f"percentage: {json.dumps(record['percentage'])} is not from 0 to 100")
    return Exposure(enabled, Decimal(str(percentage)), frozenset(groups))


def _only(record: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = None if record.keys() <= known else next(name for name in record if name not in known)
    if unknown is not None:
        raise _Wrong(f"{unknown}: {what} has no such field: it has {', '.join(sorted(known))}")


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        given = json.dumps(value) if name in record else "nothing"
        raise _Wrong(f"{name}: a text is needed, and there is {given}")
    return value


def _optional(record: Mapping[str, Any], name: str) -> str | None:
    return _text(record, name) if record.get(name) is not None else None


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{name}: {json.dumps(value)} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _Wrong(f"{name}: the number is too large") from None


def _time(record: Mapping[str, Any], name: str) -> datetime:
    text = _text(record, name)
    time = _parsed(text)
    if time is None:
        raise _Wrong(f'{name}: "{text}" is not a time with its offset, such as 2026-01-05T09:00:00+01:00')
    return time


# The same times are in the lines of all metrics, and a window ends when the next begins.
@lru_cache(maxsize=4096)
def _parsed(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if time.tzinfo is None else time


def _one_of(record: Mapping[str, Any], name: str, kind: type[E]) -> E:
    text = _text(record, name)
    try:
        return kind(text)
    except ValueError:
        raise _Wrong(f'{name}: "{text}" is none of {", ".join(kind)}') from None
