"""The reference: a metric's seven days before the first raise of an attempt.

It is taken once, in blocks of half an hour, and says three things: how bursty the metric
is (its dispersion), what was usual at each hour of the day (UTC), and whether a guard
would have fired without any rollout ("Dispersion", "The past as a baseline" and "Guards
must be quiet first" of docs/statistics.md). With arms, both are counted together: before
the rollout nobody had the flags.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from feature_rollout.core.gauge import median
from feature_rollout.core.looks import EPOCH, Look, Window

SPAN = timedelta(days=7)
BLOCK = timedelta(minutes=30)
BLOCKS = SPAN // BLOCK
# Fewer blocks say nothing of how events come, and are nothing to try a guard on.
BLOCKS_MIN = 30
# Events that a block must hold on average, or it is made longer.
BLOCK_EVENTS_MIN = 10.0
HOURS = 24

# The block sums scatter this much more than independent failures do: below it they are taken for such.
_INDEPENDENT_MAX = 1.3
# What is estimated is taken times this, since a week may have been a quiet one.
_MARGIN = 1.5
# One wild block must not hide what the others say.
_OUTLIER_MEDIANS = 20.0
# How far above the past, in standard deviations and in events, a limit stays that is made of it.
_SIGMAS, _EVENTS = 3.0, 3.0
# A limit of 1 or more could not be passed; the test needs one below.
_LIMIT_MAX = 0.999


class Block(NamedTuple):
    """Half an hour: `events` of `units` for a Ratio, `value` for a Gauge."""

    start: datetime
    events: float = 0.0
    units: float = 0.0
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of a metric's past. `key` is the metric's: another query has another past.

    `note` says why there is none, or is empty. `hours` are events and units (for a Gauge:
    the median and the number of its values) by hour of the day. `blocks` are only there
    until the first raise: they are what guards are tried on.
    """

    key: str
    note: str = ""
    dispersion: float | None = None
    hours: tuple[tuple[float, float], ...] = ()
    blocks: tuple[Block, ...] = ()

    def settled(self) -> Reference:
        """After the first raise: the blocks have served, and would only be stored again and again."""
        return replace(self, blocks=()) if self.blocks else self

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "note": self.note,
            "dispersion": self.dispersion,
            "hours": [list(hour) for hour in self.hours],
            "blocks": [[block.start.isoformat(), *block[1:]] for block in self.blocks],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        return cls(
            data["key"],
            data["note"],
            data["dispersion"],
            tuple((float(first), float(second)) for first, second in data["hours"]),
            tuple(Block(datetime.fromisoformat(start), *numbers) for start, *numbers in data["blocks"]),
        )


def windows_before(until: datetime) -> tuple[Window, ...]:
    """The half hours of the seven days that end with the last whole one before `until`, oldest first."""
    end = EPOCH + (until - EPOCH) // BLOCK * BLOCK
    starts = [end - SPAN + index * BLOCK for index in range(BLOCKS)]
    return tuple(Window(start, start + BLOCK) for start in starts)


def of_ratio(key: str, looks: Iterable[Look]) -> Reference:
    """The reference of a Ratio from a look at each half hour; those without units say nothing."""
    blocks = tuple(block for look in looks if (block := _counts(look)) is not None and block.units > 0)
    if not blocks:
        return Reference(key, note="it has no data in the seven days before")
    sums = merged(blocks)
    hours = [(sum(b.events for b in own), sum(b.units for b in own)) for own in _by_hour(blocks)]
    if sums is None:
        return Reference(key, note=too_few(), hours=tuple(hours))
    return Reference(key, dispersion=dispersion(sums), hours=tuple(hours), blocks=blocks)


def of_gauge(key: str, looks: Iterable[Look]) -> Reference:
    """The reference of a Gauge: the median of each hour of the day."""
    starts, values = [], []
    for look in looks:
        starts.append(look.window.start)
        # Before the rollout everybody was in what is now the control arm.
        value = look.control_value if look.value is None else look.value
        values.append(value if look.error is None else None)
    blocks = [Block(start, value=value) for start, value in zip(starts, values, strict=True) if value is not None]
    if not blocks:
        return Reference(key, note="it has no data in the seven days before")
    hours = []
    for own in _by_hour(blocks):
        found = tuple(block.value for block in own if block.value is not None)
        hours.append((median(found), float(len(found))) if found else (0.0, 0.0))
    return Reference(key, hours=tuple(hours))


def too_few() -> str:
    return f"the seven days before have fewer than {BLOCKS_MIN} blocks with {BLOCK_EVENTS_MIN:g} events on average"


def merged(blocks: Sequence[Block]) -> list[tuple[float, float]] | None:
    """Events and units of blocks of half an hour, longer until they hold 10 events on average; None for under 30."""
    for length in range(1, BLOCKS // BLOCKS_MIN + 1):
        sums: dict[int, tuple[float, float]] = {}
        for block in blocks:
            index = (block.start - EPOCH) // (length * BLOCK)
            events, units = sums.get(index, (0.0, 0.0))
            sums[index] = (events + block.events, units + block.units)
        if len(sums) < BLOCKS_MIN:
            return None
        if sum(events for events, _ in sums.values()) >= BLOCK_EVENTS_MIN * len(sums):
            return [sums[index] for index in sorted(sums)]
    return None


def dispersion(sums: Sequence[tuple[float, float]]) -> float:
    """How much more the blocks' rates scatter, from one to the next, than those of independent failures.

    `sums` are events and units of each block, all with units.
    """
    rate = sum(events for events, _ in sums) / sum(units for _, units in sums)
    if not 0 < rate < 1:
        return 1.0
    scatters = []
    for (events_a, units_a), (events_b, units_b) in pairwise(sums):
        variance = rate * (1 - rate) * (1 / units_a + 1 / units_b)
        scatters.append((events_b / units_b - events_a / units_a) ** 2 / variance)
    cap = _OUTLIER_MEDIANS * median(tuple(scatters))
    mean = sum(min(scatter, cap) for scatter in scatters) / len(scatters)
    return 1.0 if mean <= _INDEPENDENT_MAX else _MARGIN * mean


def limit_of_increase(events: float, units: float, increase: float, phi: float) -> float:
    """limit_h: the rate of an hour of the past, with a margin for how little of it was seen, times 1 + `increase`."""
    return (1 + increase) * (events + _SIGMAS * math.sqrt(phi * (events + 1)) + _EVENTS) / units


def limit_of_decrease(events: float, units: float, decrease: float, phi: float) -> float:
    """The limit of the complement: of what is no event, when events fall by more than `decrease`.

    The past rate is taken with the same margin, downwards. What scatters is the rarer of
    events and others, so that a hit rate of 95 % has the margin of its 5 % of misses.
    """
    rarer = min(events, max(units - events, 0.0))
    lowest = max(events - _SIGMAS * math.sqrt(phi * (rarer + 1)) - _EVENTS, 0.0) / units
    return 1 - (1 - decrease) * lowest


def ratio_limit(reference: Reference, at: datetime, change: float, phi: float) -> float | None:
    """The limit of the hour of `at`, or of the whole past where the hour has no units; None without any.

    `change` is an increase, or a decrease when it is negative: then it limits the complement.
    """
    if not reference.hours:
        return None
    events, units = reference.hours[at.astimezone(UTC).hour]
    if not units:
        events, units = (sum(numbers) for numbers in zip(*reference.hours, strict=True))
    if not units:
        return None
    limit = (
        limit_of_increase(events, units, change, phi) if change >= 0 else limit_of_decrease(events, units, -change, phi)
    )
    return min(limit, _LIMIT_MAX)


def gauge_limit(reference: Reference, at: datetime, change: float) -> float | None:
    """The hour's median times 1 + `change`, or that of all hours where the hour has no value; None without any."""
    if not reference.hours:
        return None
    value, count = reference.hours[at.astimezone(UTC).hour]
    known = tuple(value for value, count in reference.hours if count)
    if not known:
        return None
    usual = value if count else median(known)
    # Away from the past in the direction of the change, also below zero.
    return usual + change * abs(usual)


def _by_hour(blocks: Iterable[Block]) -> list[list[Block]]:
    hours: list[list[Block]] = [[] for _ in range(HOURS)]
    for block in blocks:
        hours[block.start.astimezone(UTC).hour].append(block)
    return hours


def _counts(look: Look) -> Block | None:
    """Both arms of a look at half an hour, or None when it says nothing."""
    look = look.checked()
    if look.error is not None or look.events is None or look.units is None:
        return None
    events, units = look.events + (look.control_events or 0.0), look.units + (look.control_units or 0.0)
    # Extrapolated counts may be more than there were chances.
    return Block(look.window.start, min(events, units), units)
