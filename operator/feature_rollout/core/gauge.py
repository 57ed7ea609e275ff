"""Gauges: one number a look, which no test on counts can judge.

By default looks are gathered into blocks, whose value is the median of their looks: a
gauge is breached when 6 blocks in a row are beyond 1.25 times the limit, or 12 beyond
1.10 times. `persist: {failures: k, of: n}` on a clause replaces that with k of the last n
looks past the limit ("Gauges" of docs/statistics.md). Against a control arm both arms are
gathered into such blocks, which a sign test compares (`evidence.py`).

A look without a value says nothing: it neither counts nor breaks a row, of looks or of
blocks. So does a block with fewer than 5 values: it is left out, as if it had not been.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# A block lasts this long, or as long as the query's own range if that is longer.
BLOCK_S_MIN = 300.0
# Values that a block needs for its median to count.
BLOCK_LOOKS_MIN = 5
# Beyond the limit by this factor, for so many blocks in a row.
FAR_FACTOR, FAR_BLOCKS = 1.25, 6
NEAR_FACTOR, NEAR_BLOCKS = 1.10, 12


@dataclass(frozen=True, slots=True)
class GaugeRule:
    """A clause on a gauge: `above` (or else below) `limit`, in the unit of its template.

    `persist` is (k, n). `block_s` is the length that the caller wants, at least the range
    of the query, or looks of neighbouring blocks would share data.
    """

    limit: float
    above: bool
    persist: tuple[int, int] | None
    interval_s: float
    block_s: float = BLOCK_S_MIN

    def __post_init__(self) -> None:
        if self.persist and not 1 <= self.persist[0] <= self.persist[1]:
            raise ValueError(f"persist {self.persist[0]} of {self.persist[1]}: failures must be from 1 to `of`")
        if not math.isfinite(self.limit) or self.interval_s <= 0:
            raise ValueError(f"{self}: limit must be finite and interval_s more than 0")

    @property
    def block_length_s(self) -> float:
        """Longer than asked for where the interval is so long that a block could never hold 5 looks."""
        return max(self.block_s, BLOCK_S_MIN, BLOCK_LOOKS_MIN * self.interval_s)

    def is_past(self, value: float, factor: float = 1.0) -> bool:
        """Whether `value` is on the bad side of the limit, by more than `factor`.

        Away from the limit in the direction of harm: `above` 100 by 1.25 is above 125,
        `below` 100 by 1.25 is below 80 (100 / 1.25: what must grow by a quarter to be at
        the limit). Below zero the two swap, so that the bound is never on the good side;
        a limit of zero has no multiples, any value past it is beyond.
        """
        away_from_zero = self.above == (self.limit > 0)
        bound = self.limit * factor if away_from_zero else self.limit / factor
        return value > bound if self.above else value < bound


# Asked for at every look, mostly with the same limit.
made_rule = lru_cache(maxsize=1024)(GaugeRule)


class Pair(NamedTuple):
    """A whole block: the medians of both arms over the same looks."""

    start: datetime
    treated: float
    control: float


@dataclass(frozen=True, slots=True)
class GaugeRun:
    """What the looks of the present stage say about one clause."""

    past_limit: datetime | None = None  # start of the first of the unbroken run of looks past the limit
    recent: tuple[bool, ...] = ()  # with persist: of the last n looks, oldest first, which were past the limit
    block_start: datetime | None = None  # without persist: the block that is being filled
    block_values: tuple[float, ...] = ()
    control_values: tuple[float, ...] = ()  # against the control arm: its values in the same looks
    far_blocks: int = 0  # in a row, up to the newest whole block
    near_blocks: int = 0

    def looked(self, rule: GaugeRule, value: float | None, window_start: datetime, window_end: datetime) -> GaugeRun:
        """After a look; `None`, NaN and infinities are no value, only time that goes by."""
        if value is not None and not math.isfinite(value):
            value = None
        run = _with_onset(self, rule, value, window_start)
        if rule.persist is None:
            return _with_block(run, rule, value, window_start, window_end)
        if value is None:
            return run
        return replace(run, recent=(*run.recent, rule.is_past(value))[-rule.persist[1] :])

    def paired(
        self, rule: GaugeRule, arms: tuple[float, float] | None, window_start: datetime, window_end: datetime
    ) -> tuple[GaugeRun, Pair | None]:
        """After a look at both arms, treated first; None where one of them has no value.

        Also the block that is whole with it. `rule.limit` is what the control arm's value comes to.
        """
        run, pair = _with_onset(self, rule, arms[0] if arms else None, window_start), None
        length = timedelta(seconds=rule.block_length_s)
        if run.block_start is not None and window_start >= run.block_start + length:
            run, pair = _emptied(run), _pair(run)
        if arms is not None:
            treated, control = (*run.block_values, arms[0]), (*run.control_values, arms[1])
            start = run.block_start or window_start
            run = replace(run, block_start=start, block_values=treated, control_values=control)
        if run.block_start is not None and window_end >= run.block_start + length:
            run, pair = _emptied(run), _pair(run) or pair
        return run, pair

    def breached(self, rule: GaugeRule) -> bool:
        if rule.persist is None:
            return self.far_blocks >= FAR_BLOCKS or self.near_blocks >= NEAR_BLOCKS
        failures, of = rule.persist
        return sum(self.recent[-of:]) >= failures

    def to_json(self) -> dict[str, Any]:
        """A JSON object of finite numbers, from which exactly this run is read again."""
        return {
            "pastLimit": self.past_limit.isoformat() if self.past_limit else None,
            "recent": list(self.recent),
            "blockStart": self.block_start.isoformat() if self.block_start else None,
            "blockValues": list(self.block_values),
            "controlValues": list(self.control_values),
            "farBlocks": self.far_blocks,
            "nearBlocks": self.near_blocks,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GaugeRun:
        return cls(
            _time(data["pastLimit"]),
            tuple(data["recent"]),
            _time(data["blockStart"]),
            tuple(float(value) for value in data["blockValues"]),
            # Not there in what an earlier version has stored.
            tuple(float(value) for value in data.get("controlValues", ())),
            data["farBlocks"],
            data["nearBlocks"],
        )


def _with_onset(run: GaugeRun, rule: GaugeRule, value: float | None, window_start: datetime) -> GaugeRun:
    if value is None:
        return run
    if not rule.is_past(value):
        return replace(run, past_limit=None)
    return run if run.past_limit else replace(run, past_limit=window_start)


def _with_block(run: GaugeRun, rule: GaugeRule, value: float | None, start: datetime, end: datetime) -> GaugeRun:
    """A block starts with its first value, and is whole with the first look that ends at or after its end.

    The looks say so, not a clock: a restart moves no block.
    """
    length = timedelta(seconds=rule.block_length_s)
    if run.block_start is not None and start >= run.block_start + length:
        run = _block_closed(run, rule)
    if value is not None:
        run = replace(run, block_start=run.block_start or start, block_values=(*run.block_values, value))
    if run.block_start is not None and end >= run.block_start + length:
        run = _block_closed(run, rule)
    return run


def _block_closed(run: GaugeRun, rule: GaugeRule) -> GaugeRun:
    values, run = run.block_values, _emptied(run)
    if len(values) < BLOCK_LOOKS_MIN:
        return run
    value = median(values)
    return replace(
        run,
        far_blocks=run.far_blocks + 1 if rule.is_past(value, FAR_FACTOR) else 0,
        near_blocks=run.near_blocks + 1 if rule.is_past(value, NEAR_FACTOR) else 0,
    )


def _emptied(run: GaugeRun) -> GaugeRun:
    return replace(run, block_start=None, block_values=(), control_values=())


def _pair(run: GaugeRun) -> Pair | None:
    if run.block_start is None or len(run.block_values) < BLOCK_LOOKS_MIN:
        return None
    return Pair(run.block_start, median(run.block_values), median(run.control_values))


def median(values: tuple[float, ...]) -> float:
    # Not `statistics.median`: that module imports `random`, which the core is free of.
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    # Halved first, since the sum of two large floats may be infinite.
    return ordered[middle - 1] / 2 + ordered[middle] / 2


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
