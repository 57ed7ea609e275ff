"""Metrics from SQL: one look is one row of finite numbers, asked by the store's reader (`reader.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Protocol

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.reader import Cursor, SqlReader, UnusableAnswerError

# So many windows of a history may fail in a row before no other is asked for.
_FAILURES_MAX: Final = 3

_PLACEHOLDER: Final = re.compile(r"%\(([^)]*)\)[sbt]")
_COLUMNS: Final = {MetricType.RATIO: ("events", "units"), MetricType.GAUGE: ("value", "units")}
# The users without the flags, beside those with them: all of these columns or none.
_CONTROL: Final = {MetricType.RATIO: ("control_events", "control_units"), MetricType.GAUGE: ("control_value",)}
# All other numbers are counts.
_SIGNED: Final = frozenset({"value", "control_value"})
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"})


class Query(Protocol):
    """A metric's query, whoever made it. `params` are the metric's args, beside `window_start` and `window_end`."""

    @property
    def type(self) -> MetricType: ...

    @property
    def text(self) -> str: ...

    @property
    def params(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """A `Query` by itself."""

    type: MetricType
    text: str
    params: Mapping[str, str] = field(default_factory=dict)


class SqlMetricSource:
    """The SQL metrics of one rollout, by name. Implements `ports.MetricSource`.

    `rollout` says whose they are: queries of one rollout wait for each other.
    """

    def __init__(self, reader: SqlReader, queries: Mapping[str, Query], rollout: str = "") -> None:
        self._reader = reader
        self._queries = queries
        self._rollout = rollout

    async def look(self, metric: str, window: Window) -> Look:
        """One evaluation; never raises but when it is cancelled. No row, and NULLs, are a look without numbers."""
        query = self._queries.get(metric)
        if query is None:
            return Look(metric, window, error="this rollout has no SQL metric of that name")
        try:
            question = (query.type, query.text, tuple(sorted(query.params.items())), window)
            row = await self._reader.shared.ask(question, lambda: self._ask(query, _parameters(query, window)))
            return _look(metric, window, query.type, row)
        except Exception as error:  # noqa: BLE001 - a metric must not end the loop that asks for it
            return Look(metric, window, error=self._reader.explained(error))

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        """One query after the other; after three failures in a row the rest is not asked and fails likewise."""
        looks: list[Look] = []
        for window in windows:
            newest = looks[-_FAILURES_MAX:]
            if len(newest) == _FAILURES_MAX and all(look.error is not None for look in newest):
                looks.append(Look(metric, window, error=newest[-1].error))
            else:
                async with self._reader.background:
                    looks.append(await self.look(metric, window))
        return looks

    async def _ask(self, query: Query, params: Mapping[str, object] | None) -> dict[str, Any] | None:
        return await self._reader.ask(query.text, params, lambda c: _row(c, query.type), rollout=self._rollout)


def _parameters(query: Query, window: Window) -> dict[str, object] | None:
    """The query's parameters, or None for a query that names none: then a % in it is only a %."""
    named = set(_PLACEHOLDER.findall(query.text))
    if not named:
        return None
    known: dict[str, object] = {**query.params, "window_start": window.start, "window_end": window.end}
    unknown = sorted(named - known.keys())
    if unknown:
        raise UnusableAnswerError(
            f"the query names %({unknown[0][:60]})s, which has no value: the metric has no such arg"
        )
    return {name: known[name] for name in named}


async def _row(cursor: Cursor, type_: MetricType) -> dict[str, Any] | None:
    """The one row by column name; None for no row."""
    names = _checked_columns(cursor, type_)
    rows = await cursor.fetchmany(2)
    if len(rows) > 1:
        raise UnusableAnswerError("more than one row was returned, exactly one is wanted")
    return dict(zip(names, rows[0], strict=True)) if rows else None


def _checked_columns(cursor: Cursor, type_: MetricType) -> list[str]:
    """The names of the columns, once they are known to be the wanted ones and numbers."""
    wanted = _COLUMNS[type_]
    columns = cursor.description or []
    names = [column.name for column in columns]
    required = wanted if type_ is MetricType.RATIO else wanted[:1]
    for name in required:
        if name not in names:
            raise UnusableAnswerError(f"column {name} is missing; a {type_} has {' and '.join(wanted)}")
    arms = _CONTROL[type_] if any(name in names for name in _CONTROL[type_]) else ()
    for name in arms:
        if name not in names:
            raise UnusableAnswerError(f"column {name} is missing; a control arm has {' and '.join(arms)}")
    for i, name in enumerate(names):
        if name not in (*wanted, *arms) or name in names[:i]:
            # By its place: a name that nobody asked for may be anything.
            raise UnusableAnswerError(f"column {i + 1} is one too many; a {type_} has {' and '.join(wanted)}")
    for column in columns:
        known = cursor.connection.adapters.types.get(column.type_code)
        if known is None or known.name not in _NUMBERS:
            shown = known.name if known else "of an unknown type"
            raise UnusableAnswerError(
                f"column {column.name} is {shown}, a number is wanted (cast a bare NULL: NULL::int)"
            )
    return names


def _look(metric: str, window: Window, type_: MetricType, row: Mapping[str, Any] | None) -> Look:
    if row is None:
        return Look(metric, window)
    numbers = {name: _number(name, value) for name, value in row.items()}
    units = numbers.get("units")
    if type_ is MetricType.GAUGE:
        value, control_value = numbers["value"], numbers.get("control_value")
        is_empty = "control_value" in numbers and control_value is None
        look = Look(
            metric, window, value=value, units=units if value is not None else None, control_value=control_value
        )
        return replace(look, control_units=0.0) if is_empty else look
    counts = _arm(numbers, "events", "units")
    control_columns = _CONTROL[type_]
    if control_columns[0] not in numbers:
        return Look(metric, window, *counts) if counts else Look(metric, window)
    control = _arm(numbers, *control_columns)
    if counts is None and control is None:
        return Look(metric, window)
    # An arm that nobody is in yet is empty, and the other one is worth knowing.
    events, units = counts or (0.0, 0.0)
    control_events, control_units = control or (0.0, 0.0)
    return Look(metric, window, events, units, control_events=control_events, control_units=control_units)


def _arm(numbers: Mapping[str, float | None], events_name: str, units_name: str) -> tuple[float, float] | None:
    """Events and units of one arm; None for sums over nothing: NULL of NULL, or of 0."""
    events, units = numbers[events_name], numbers[units_name]
    if events is None and not units:
        return None
    if events is None or units is None:
        raise UnusableAnswerError(
            f"column {events_name if events is None else units_name} is NULL and the other is not"
        )
    if events > units:
        raise UnusableAnswerError(f"{events_name} ({events:g}) are more than {units_name} ({units:g})")
    return events, units


def _number(name: str, value: object) -> float | None:
    """A finite number, not negative unless it is a gauge's value; None for NULL."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnusableAnswerError(f"column {name} is no number")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise UnusableAnswerError(f"{name} is {'NaN' if math.isnan(number) else 'infinite'}")
    if name not in _SIGNED and number < 0:
        raise UnusableAnswerError(f"{name} is {number:g}, 0 or more is wanted")
    return number
