"""The resolved plan: what a rollout shall do, with every reference followed.

It is made from the API objects once per generation and never changes; everything that
happens to a rollout is in `state`. Fractions are of 1, percentages of 100.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any

from feature_rollout.core.calendar import Calendar
from feature_rollout.core.checks import Check
from feature_rollout.core.exposure import OFF, Exposure, FlagChange


class Severity(IntEnum):
    """A row of the rollback matrix; a higher number is more severe."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    def __str__(self) -> str:
        return self.name.capitalize()

    @classmethod
    def parse(cls, name: str) -> Severity:
        return cls[name.upper()]


class MetricType(StrEnum):
    RATIO = "Ratio"
    GAUGE = "Gauge"


class Mode(StrEnum):
    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class Sense(StrEnum):
    ABOVE = "above"
    BELOW = "below"


class BaselineType(StrEnum):
    """What a relative clause is measured against."""

    BEFORE_ROLLOUT = "BeforeRollout"
    CONTROL = "Control"


class ActionType(StrEnum):
    DISABLE_FLAGS = "DisableFlags"
    REDUCE_PERCENTAGE = "ReducePercentage"
    RESTRICT_TO_GROUPS = "RestrictToGroups"
    HOLD = "Hold"
    ROLL_BACK_DATABASE = "RollBackDatabase"

    @property
    def lowers(self) -> bool:
        return self is not ActionType.HOLD


class Target(StrEnum):
    """Where `ReducePercentage` goes when it names no percentage."""

    PREVIOUS_STAGE = "PreviousStage"
    BASELINE = "Baseline"


class OnDelete(StrEnum):
    KEEP = "Keep"
    RESTORE = "Restore"
    DISABLE = "Disable"


class OnDrift(StrEnum):
    """What becomes of a rollout while a row is not as the operator left it, because somebody else changed it.

    | | raising | guards |
    |---|---|---|
    | Respect | stops | lower the row when it is more exposed than their action allows, else leave it untouched |
    | LowerOnly | stops | lower it as any other row, which is the operator's from then on |
    | Report | goes on from the row as it is | likewise |
    """

    RESPECT = "Respect"
    LOWER_ONLY = "LowerOnly"
    REPORT = "Report"


class OnBlind(StrEnum):
    """What becomes of a rollout whose guards cannot be measured. It never advances.

    Hold leaves the flags as they are, however long it takes. Revert does what the row
    would do, once its metric's source has failed for the row's `respondWithin`.
    """

    HOLD = "Hold"
    REVERT = "Revert"


class OnNoTraffic(StrEnum):
    WAIT = "Wait"
    COUNT = "Count"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as people wrote it and as a number: a fraction of 1 on a Ratio, the metric's unit on a Gauge."""

    value: float
    text: str

    @property
    def complement(self) -> float:
        """1 minus a Ratio's limit, rounded so that 80 % gives 0.2 and not a little less."""
        return round(1 - self.value, 15)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Metric:
    """A bound metric. `blocker` says why this version cannot measure it, or is None.

    `key` names what its numbers are of: it changes when its template, its arguments or its
    provider do. `sample_ratio`: its units must be split between the arms as the plan has it.
    """

    name: str
    type: MetricType
    interval: timedelta
    delay: timedelta = timedelta(0)
    unit: str = ""
    counts_users: bool = False
    mode: Mode = Mode.ENFORCE
    blocker: str | None = None
    key: str = ""
    sample_ratio: bool = False

    def format(self, value: float) -> str:
        """A value of this metric as people read it."""
        return f"{value * 100:.4g}%" if self.type is MetricType.RATIO else f"{value:.4g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the stage's looks must show, once its bake is over. Exactly one of the two limits is set."""

    metric: str
    at_most: Limit | None = None
    at_least: Limit | None = None
    min_units: int = 1


@dataclass(frozen=True, slots=True)
class FlagEntry:
    names: tuple[str, ...]
    change: FlagChange


@dataclass(frozen=True, slots=True)
class Approval:
    """How many different people must approve of a stage, and whether a service account may be one of them."""

    required: int = 1
    service_accounts: bool = False


@dataclass(frozen=True, slots=True)
class After:
    """A stage of another rollout of the same namespace, which must have been passed."""

    rollout: str
    stage: str

    def __str__(self) -> str:
        return f"{self.rollout}/{self.stage}"


@dataclass(frozen=True, slots=True)
class Stage:
    """One entry of the plan. `blockers` are the parts of it that this version cannot do; they hold its start.

    `deadline` is how long after its start its bake and its gates may take before that is worth a page.
    """

    name: str
    entries: tuple[FlagEntry, ...] = ()
    bake: timedelta = timedelta(0)
    gates: tuple[Gate, ...] = ()
    on_no_traffic: OnNoTraffic = OnNoTraffic.WAIT
    deadline: timedelta | None = None
    blockers: tuple[str, ...] = ()
    digest: str = ""
    approval: Approval | None = None
    checks: tuple[Check, ...] = ()
    after: tuple[After, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(name for entry in self.entries for name in entry.names)

    def applied_to(self, rows: Mapping[str, Exposure]) -> dict[str, Exposure]:
        """Every row after this stage; rows that it does not name stay as they were."""
        after = dict(rows)
        for entry in self.entries:
            for name in entry.names:
                after[name] = entry.change.applied_to(after.get(name, OFF))
        return after


@dataclass(frozen=True, slots=True)
class Persist:
    """A gauge's clause is breached when `failures` of its last `of` looks are past the limit."""

    failures: int
    of: int


@dataclass(frozen=True, slots=True)
class Clause:
    """A guard. `key` names its evidence: it changes when the clause, its template or its provider does.

    With a `baseline` the limit is a change against it (0.5 for 50 %), an increase for
    `above` and a decrease for `below`. `blocker` says why this version cannot judge it, or is None.
    """

    key: str
    metric: str
    sense: Sense
    limit: Limit
    persist: Persist | None = None
    blocker: str | None = None
    baseline: BaselineType | None = None

    def __str__(self) -> str:
        if self.baseline is None:
            return f"{self.metric} {self.sense} {self.limit}"
        word = "increase" if self.sense is Sense.ABOVE else "decrease"
        return f"{self.metric} {word} {self.limit} against {self.baseline}"


@dataclass(frozen=True, slots=True)
class Action:
    """What a row does. `flags` is None for every flag that the attempt raised."""

    type: ActionType
    to: Target | None = None
    percentage: Decimal | None = None
    groups: frozenset[str] | None = None
    flags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    severity: Severity
    clauses: tuple[Clause, ...]
    respond_within: timedelta
    action: Action
    settle: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Notice:
    """A field that has no effect in this version: `path` as in the manifest, and what is done instead."""

    path: str
    consequence: str

    def __str__(self) -> str:
        return f"{self.path} ({self.consequence})"


# Without slots, which leave no place for what is cached: each decision asks for it many times.
@dataclass(frozen=True)
class Plan:
    """All of a rollout, resolved. `rows` are sorted, most severe first."""

    metrics: Mapping[str, Metric]
    rows: tuple[Row, ...]
    stages: tuple[Stage, ...]
    plan_hash: str
    spec_hash: str
    on_delete: OnDelete = OnDelete.KEEP
    on_blind: OnBlind = OnBlind.HOLD
    alpha: float = 0.05
    calendar: Calendar | None = None
    notices: tuple[Notice, ...] = ()
    preflight: tuple[Check, ...] = ()

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Every flag that the plan names, in order of first appearance."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.flags))

    @cached_property
    def lowering_clauses(self) -> int:
        """C of docs/statistics.md: clauses whose row lowers exposure, at least one."""
        enforced = (c for row in self.rows if row.action.type.lowers for c in row.clauses if self.is_enforced(c))
        return max(1, sum(1 for _ in enforced))

    @cached_property
    def flag_stages(self) -> int:
        """S of docs/statistics.md: stages with flags, at least one."""
        return max(1, sum(1 for stage in self.stages if stage.entries))

    @cached_property
    def bakes(self) -> timedelta:
        return sum((stage.bake for stage in self.stages), timedelta(0))

    @cached_property
    def bakes_s(self) -> float:
        return self.bakes.total_seconds()

    def is_enforced(self, clause: Clause) -> bool:
        """Whether the clause may act: its metric is bound and not only observed."""
        metric = self.metrics.get(clause.metric)
        return metric is not None and metric.mode is Mode.ENFORCE

    def guards(self) -> tuple[tuple[Row, Clause], ...]:
        """Every clause that may act, the most severe row first."""
        return self._guards

    def guards_on(self, metric: str) -> tuple[tuple[Row, Clause], ...]:
        """Those on one metric, in the same order."""
        return self._guards_by_metric.get(metric, ())

    @cached_property
    def guarded_metrics(self) -> tuple[str, ...]:
        """The metrics of these clauses, sorted."""
        return tuple(sorted(self._guards_by_metric))

    @cached_property
    def _guards_by_metric(self) -> Mapping[str, tuple[tuple[Row, Clause], ...]]:
        found: dict[str, tuple[tuple[Row, Clause], ...]] = {}
        for guard in self._guards:
            found[guard[1].metric] = (*found.get(guard[1].metric, ()), guard)
        return found

    @cached_property
    def _guards(self) -> tuple[tuple[Row, Clause], ...]:
        return tuple((row, clause) for row in self.rows for clause in row.clauses if self.is_enforced(clause))

    def exposure_after(self, stage: int, baseline: Mapping[str, Exposure]) -> dict[str, Exposure]:
        """Every flag's exposure once the stage of that index is in; -1 is the baseline."""
        rows = dict(baseline)
        for entered in self.stages[: stage + 1]:
            rows = entered.applied_to(rows)
        return rows

    def previous_flag_stage(self, stage: int) -> int:
        """The index of the stage before the newest one that wrote flags, or -1."""
        wrote = [i for i, entered in enumerate(self.stages[: stage + 1]) if entered.entries]
        return wrote[-2] if len(wrote) > 1 else -1

    def unchanged(self, executed: Sequence[str]) -> int:
        """How many of the stages that were entered, from the first on, are still as they were then."""
        pairs = enumerate(zip(self.stages, executed, strict=False))
        return next((i for i, (stage, digest) in pairs if stage.digest != digest), min(len(self.stages), len(executed)))

    @cached_property
    def gated_metrics(self) -> frozenset[str]:
        return frozenset(gate.metric for stage in self.stages for gate in stage.gates)


def format_duration(duration: timedelta) -> str:
    """As in a manifest: `2d`, `1h30m`, `45s`, `0.5s`."""
    seconds = duration.total_seconds()
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if seconds or not parts:
        parts.append(f"{seconds:g}s")
    return "".join(parts)


def digest(value: object) -> str:
    """`v1:` and the SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return "v1:" + hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")
