"""What the metrics of a rollout would show: healthy traffic, and spells in which it is something else.

A window has one answer, whoever asks for it and whenever, unless it is not over yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from random import Random
from typing import Any

from feature_rollout.core.looks import Window
from feature_rollout.core.plan import Metric, MetricType

# What a source's errors must never say further.
SECRET = "hunter2-of-the-metrics-reader"


class Kind(StrEnum):
    HARM = "harm"
    NAN = "NaN"
    INFINITE = "infinite"
    NULL = "null"
    NEGATIVE = "negative"
    ERROR = "error"
    RAISES = "raises"
    HANGS = "hangs"
    NO_TRAFFIC = "no traffic"


@dataclass(frozen=True, slots=True)
class Spell:
    """From `start` to `end`; `metric` None is all of them. `times` is how many times its limit a harmed rate is."""

    kind: Kind
    start: datetime
    end: datetime
    metric: str | None = None
    times: float = 0.0

    def covers(self, metric: str, window: Window) -> bool:
        return self.metric in (None, metric) and self.start < window.end and window.start < self.end


@dataclass(frozen=True, slots=True)
class Level:
    """What is healthy for a metric: its rate or value, what would be the limit, and its units a window."""

    healthy: float
    limit: float
    units: int
    # A metric whose limit is a lower one: harm makes it smaller.
    falls: bool = False
    control: bool = False


@dataclass
class Traffic:
    seed: int
    levels: Mapping[str, Level]
    spells: list[Spell] = field(default_factory=list)

    @property
    def levels_control(self) -> bool:
        """Whether there is a control arm, which may say that harm is not the rollout's doing."""
        return any(level.control for level in self.levels.values())

    def end(self, now: datetime, kind: Kind | None = None) -> bool:
        """Whatever is wrong, or all of that kind, is over; whether there was anything."""
        ending = [spell for spell in self.spells if spell.end > now and kind in (None, spell.kind)]
        self.spells[:] = [replace(spell, end=now) if spell in ending else spell for spell in self.spells]
        return bool(ending)

    def spell(self, metric: str, window: Window) -> Spell | None:
        """The newest one that covers the window."""
        return next((spell for spell in reversed(self.spells) if spell.covers(metric, window)), None)

    def numbers(self, metric: Metric, window: Window) -> dict[str, Any]:
        """A look's numbers; nothing where there was no traffic."""
        spell, level = self.spell(metric.name, window), self.levels[metric.name]
        kind = spell.kind if spell is not None else None
        if kind is Kind.NO_TRAFFIC:
            return {"events": 0.0, "units": 0.0} if metric.type is MetricType.RATIO else {}
        if kind is Kind.NULL:
            return {}
        odd = {Kind.NAN: math.nan, Kind.INFINITE: math.inf, Kind.NEGATIVE: -1.0}.get(kind) if kind else None
        rate = self._rate(level, spell)
        if metric.type is MetricType.GAUGE:
            value = odd if odd is not None and kind is not Kind.NEGATIVE else self._near(metric, window, rate)
            return {"value": value} | ({"control_value": level.healthy} if level.control else {})
        events = odd if odd is not None else self._count(metric, window, rate, level.units)
        found = {"events": events, "units": float(level.units)}
        if level.control:
            found |= {
                "control_events": float(round(level.healthy * level.units * 4)),
                "control_units": float(level.units * 4),
            }
        return found

    def _rate(self, level: Level, spell: Spell | None) -> float:
        if spell is None or spell.kind is not Kind.HARM:
            return level.healthy
        if level.falls:
            return max(0.0, 1 - spell.times * (1 - level.limit))
        return spell.times * level.limit

    def _chance(self, metric: Metric, window: Window) -> Random:
        return Random(f"{self.seed}/{metric.name}/{window.start.timestamp()}")

    def _count(self, metric: Metric, window: Window, rate: float, units: int) -> float:
        rate = min(max(rate, 0.0), 1.0)
        spread = math.sqrt(units * rate * (1 - rate))
        count = units * rate + self._chance(metric, window).gauss(0.0, 1.0) * spread
        return float(min(max(round(count), 0), units))

    def _near(self, metric: Metric, window: Window, value: float) -> float:
        return value * (1 + 0.03 * self._chance(metric, window).gauss(0.0, 1.0))
