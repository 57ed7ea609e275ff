"""What was measured of one metric: its newest look, its counts in the present stage, its healthy time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from feature_rollout.core.evidence import Arm
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.relative import VETO_LOOKS, Arms, arms_of

# A gate on a Gauge is the median of at most so many of the stage's newest looks (three days of 30 s looks).
STAGE_VALUES_MAX = 8640
# Healthy spans that may wait for a guard that is not looked at; more are forgotten, which only makes the bake longer.
SPANS_MAX = 100


@dataclass(frozen=True, slots=True)
class MetricProgress:
    """One metric. `events`, `units` and `values` are the present stage's; `healthy` spans wait for the other guards.

    `failures` is how many of the newest looks, without a gap, its source has failed to answer; `failing_since` is
    the start of the first of them.
    `key` is the metric's when it was looked at; `arms` are those of its newest looks. `data_until` is the end of
    the newest window that had data. `sample` is how many units of the present stage were in the treated and in the
    control arm.
    """

    looked_until: datetime | None = None
    latest: Look | None = None
    events: float = 0.0
    units: float = 0.0
    values: tuple[float, ...] = ()
    healthy: tuple[Window, ...] = ()
    failures: int = 0
    failing_since: datetime | None = None
    key: str = ""
    arms: tuple[Arms, ...] = ()
    data_until: datetime | None = None
    sample: tuple[float, float] = (0.0, 0.0)

    def observed(
        self, look: Look, arms: tuple[Arms, ...], *, healthy: bool, keep_value: bool, of_stage: bool, key: str
    ) -> MetricProgress:
        """After a look; `arms` are those of the newest looks with it."""
        spans = self.healthy
        if healthy:
            joins = bool(spans) and spans[-1].end == look.window.start
            spans = (*spans[:-1], Window(spans[-1].start, look.window.end)) if joins else (*spans, look.window)
        values, measured = self.values, look.is_measured
        if keep_value and measured and look.value is not None:
            values = (*values, look.value)[-STAGE_VALUES_MAX:]
        return MetricProgress(
            looked_until=look.window.end,
            latest=look,
            events=self.events + (look.events or 0.0) if measured and of_stage else self.events,
            units=self.units + (look.units or 0.0) if measured and of_stage else self.units,
            values=values,
            healthy=spans[-SPANS_MAX:],
            failures=self.failures + 1 if look.error is not None else 0,
            failing_since=(self.failing_since or look.window.start) if look.error is not None else None,
            key=key,
            arms=arms,
            data_until=look.window.end if measured else self.data_until,
            sample=_with_units(self.sample, look) if of_stage else self.sample,
        )

    def rewound(self, now: datetime, counted_until: datetime | None) -> MetricProgress:
        """What was empty ahead of `now` is looked at again. Of the healthy spans stays what nobody has counted."""
        is_ahead = self.looked_until is not None and self.looked_until > now
        until = self.data_until if is_ahead else self.looked_until
        spans = tuple(
            Window(max(span.start, counted_until or span.start), min(span.end, until))
            for span in self.healthy
            if until is not None and span.start < until and (counted_until is None or span.end > counted_until)
        )
        return replace(self, looked_until=until, healthy=tuple(span for span in spans if span.start < span.end))

    def with_healthy(self, spans: tuple[Window, ...]) -> MetricProgress:
        """As `Progress.with_measured`, and for the same reason."""
        return MetricProgress(
            self.looked_until,
            self.latest,
            self.events,
            self.units,
            self.values,
            spans,
            self.failures,
            self.failing_since,
            self.key,
            self.arms,
            self.data_until,
            self.sample,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "lookedUntil": self.looked_until.isoformat() if self.looked_until else None,
            "latest": self.latest.to_json() if self.latest else None,
            "events": self.events,
            "units": self.units,
            "values": list(self.values),
            "healthy": [[w.start.isoformat(), w.end.isoformat()] for w in self.healthy],
            "failures": self.failures,
            "failingSince": self.failing_since.isoformat() if self.failing_since else None,
            "key": self.key,
            "arms": [[*treated, *control] for treated, control in self.arms],
            "dataUntil": self.data_until.isoformat() if self.data_until else None,
            "sample": list(self.sample),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MetricProgress:
        return cls(
            looked_until=read_time(data["lookedUntil"]),
            latest=Look.from_json(data["latest"]) if data["latest"] else None,
            events=data["events"],
            units=data["units"],
            values=tuple(data["values"]),
            healthy=tuple(Window(datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b in data["healthy"]),
            failures=data["failures"],
            failing_since=read_time(data["failingSince"]),
            # These are not there in what an earlier version has stored.
            key=data.get("key", ""),
            arms=tuple((Arm(a, b), Arm(c, d)) for a, b, c, d in data.get("arms", ())),
            data_until=read_time(data.get("dataUntil")),
            sample=(float(data["sample"][0]), float(data["sample"][1])) if "sample" in data else (0.0, 0.0),
        )


def with_arms(arms: tuple[Arms, ...], look: Look) -> tuple[Arms, ...]:
    """The arms of the newest looks that had any."""
    if look.control_events is None or look.error is not None:
        return arms
    treated, control = arms_of(look)
    return arms if control is None else (*arms, (treated, control))[-VETO_LOOKS:]


def _with_units(sample: tuple[float, float], look: Look) -> tuple[float, float]:
    """Also of a look without treated users: to leave those out would make the treated seem too many."""
    if look.control_events is None or look.error is not None:
        return sample
    treated, control = arms_of(look)
    if control is None:
        return sample
    return sample[0] + treated.units, sample[1] + control.units


def read_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
