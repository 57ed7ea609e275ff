"""Looks: one evaluation of one metric over one closed window.

Windows lie on a grid of the metric's interval from the epoch, so that they are
disjoint, the same for every rollout that asks, and the same after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from feature_rollout.core.plan import Metric

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Verdict(StrEnum):
    PASS = "Pass"  # noqa: S105 - a verdict, not a password
    FAIL = "Fail"
    NO_DATA = "NoData"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Window:
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """What a metric showed in a window.

    A Ratio has `events` of `units`, a Gauge has `value` and perhaps `units`. `error`
    says what went wrong; without an error and without numbers, the source had no data.
    With arms these are the treated users'. Those without the flags have, in the same window,
    `control_events` of `control_units` on a Ratio, both or none, and on a Gauge
    `control_value`, or `control_units` of 0 where the arm is empty.
    """

    metric: str
    window: Window
    events: float | None = None
    units: float | None = None
    value: float | None = None
    error: str | None = None
    control_events: float | None = None
    control_units: float | None = None
    control_value: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether there is something to judge."""
        return self.error is None and self.number is not None

    @property
    def number(self) -> float | None:
        """The fraction of a Ratio or the value of a Gauge; None without units or value."""
        if self.events is not None and self.units:
            return self.events / self.units
        return self.value

    @property
    def control_number(self) -> float | None:
        """The fraction of the control arm, or its value; None without units in it."""
        if self.control_events is not None and self.control_units:
            return self.control_events / self.control_units
        return self.control_value

    @property
    def has_control(self) -> bool:
        """Whether there is a control arm, be it empty."""
        return self.control_units is not None or self.control_value is not None

    def checked(self) -> Look:
        """This look, or an error in its place when its numbers are none that could be judged."""
        counts = (self.events, self.units, self.control_events, self.control_units)
        what = ""
        for number in (*counts, self.value, self.control_value):
            if number is not None and not math.isfinite(number):
                what = "a number that is not finite"
        for count in () if what else counts:
            if count is not None and count < 0:
                what = "a negative count"
        if not what and (self.control_units is None if self.control_events is not None else bool(self.control_units)):
            what = "one of the control arm's two counts without the other"
        return Look(self.metric, self.window, error=f"the source gave {what}") if what else self

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "start": self.window.start.isoformat(),
            "end": self.window.end.isoformat(),
            "events": self.events,
            "units": self.units,
            "value": self.value,
            "error": self.error,
            "controlEvents": self.control_events,
            "controlUnits": self.control_units,
            "controlValue": self.control_value,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Look:
        window = Window(datetime.fromisoformat(data["start"]), datetime.fromisoformat(data["end"]))
        return cls(
            data["metric"],
            window,
            data["events"],
            data["units"],
            data["value"],
            data["error"],
            # Not there in what an earlier version has stored.
            data.get("controlEvents"),
            data.get("controlUnits"),
            data.get("controlValue"),
        )


def next_window(metric: Metric, after: datetime) -> Window:
    """The first window of the metric's grid that starts at or after `after`."""
    index = -((EPOCH - after) // metric.interval)
    start = EPOCH + index * metric.interval
    return Window(start, start + metric.interval)


def known_at(metric: Metric, window: Window) -> datetime:
    """When the window's numbers are settled and may be asked for."""
    return window.end + metric.delay


def stale_after(metric: Metric) -> timedelta:
    """How old the end of the newest window may be before the metric counts as blind."""
    return 3 * metric.interval + metric.delay + timedelta(seconds=10)
