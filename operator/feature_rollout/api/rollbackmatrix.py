"""RollbackMatrix: what takes exposure back, how soon, and how far."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.rules import Found, Rule, index_of
from feature_rollout.api.values import (
    AS_SET,
    Approval,
    Bool,
    BudgetText,
    ChangeText,
    ConfigMapSource,
    Duration,
    FlagName,
    Group,
    GuardLimitText,
    Int,
    Name,
    Number,
    Sha256,
)
from feature_rollout.core.plan import ActionType, BaselineType, Target

WORDS = ("above", "below", "increase", "decrease", "alert")


class SeverityName(StrEnum):
    CRITICAL = "Critical"
    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


class Baseline(ApiModel):
    """What a relative change is measured against."""

    type: BaselineType
    """BeforeRollout: the seven days before the first raise. Control: the users without the flags, at the same time."""


class Persistence(ApiModel):
    """How often a Gauge must be past its limit."""

    failures: Annotated[Int, Field(ge=1, le=1000)]
    """So many looks past the limit."""
    of: Annotated[Int, Field(ge=1, le=1000)]
    """Of so many of the last looks."""

    rules: ClassVar = (
        Rule(
            "self.failures <= self.of",
            "failures is more than of, which can never be: write failures: 8, of: 10 for eight of the last ten looks",
            lambda persist: None if persist.failures <= persist.of else {},
        ),
    )


def _words(clause: Clause) -> list[str]:
    return [word for word in WORDS if getattr(clause, word) is not None]


def _subject(clause: Clause) -> str:
    return clause.metric if clause.metric is not None else "a pushed alert"


_SUBJECT_CEL = "(has(self.metric) ? self.metric : 'a pushed alert')"
_WORD_COUNT_CEL = (
    "[has(self.above), has(self.below), has(self.increase), has(self.decrease), has(self.alert)].filter(x, x).size()"
)


def _one_word(clause: Clause) -> Found:
    words = _words(clause)
    return None if len(words) == 1 else {"metric": _subject(clause), "count": "several" if words else "none"}


def _metric_or_alert(clause: Clause) -> Found:
    if (clause.metric is not None) != (clause.alert is not None):
        return None
    return {"subject": f"{clause.metric} and an alert" if clause.metric is not None else "neither"}


def _baseline_fits(clause: Clause) -> Found:
    is_relative = clause.increase is not None or clause.decrease is not None
    return None if is_relative == (clause.baseline is not None) else {"metric": _subject(clause)}


def _persist_fits(clause: Clause) -> Found:
    absolute = clause.above or clause.below
    if clause.persist is None or (absolute is not None and not absolute.is_percent):
        return None
    return {"metric": _subject(clause)}


class Clause(ApiModel):
    """A guard: one sign of harm, tried on every look of its metric. Exactly one word says which."""

    metric: Name | None = None
    """A metric that the rollout binds. Every clause has one, but for a pushed alert."""
    above: GuardLimitText | None = None
    """Breached above this limit."""
    below: GuardLimitText | None = None
    """Breached below this limit."""
    increase: ChangeText | None = None
    """Breached when it grew by more than this, relative to the baseline."""
    decrease: ChangeText | None = None
    """Breached when it shrank by more than this, relative to the baseline."""
    alert: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Breached while the alert of this name is pushed. Not in effect yet: such a guard is blind."""
    baseline: Baseline | None = None
    """What increase and decrease are relative to."""
    persist: Persistence | None = None
    """Of a Gauge: breached by so many looks, in place of the rule on blocks of looks."""
    optional: Bool = False
    """Drop the clause for a rollout that does not bind its metric; otherwise such a plan is invalid."""

    rules: ClassVar = (
        Rule(
            f"{_WORD_COUNT_CEL} == 1",
            "the clause on {metric} has {count} of above, below, increase, decrease and alert: write exactly one",
            _one_word,
            metric=_SUBJECT_CEL,
            count=f"({_WORD_COUNT_CEL} == 0 ? 'none' : 'several')",
        ),
        Rule(
            "has(self.metric) != has(self.alert)",
            "a clause names either a metric or a pushed alert, this one names {subject}: write exactly one of the two",
            _metric_or_alert,
            subject="(has(self.metric) ? self.metric + ' and an alert' : 'neither')",
        ),
        Rule(
            "(has(self.increase) || has(self.decrease)) == has(self.baseline)",
            "the clause on {metric} needs baseline exactly when it has increase or decrease: "
            "write baseline: {{type: BeforeRollout}} or {{type: Control}} there, and nowhere else",
            _baseline_fits,
            metric=_SUBJECT_CEL,
        ),
        Rule(
            """!has(self.persist) || (has(self.above) && !self.above.endsWith('%'))
            || (has(self.below) && !self.below.endsWith('%'))""",
            "the clause on {metric} cannot have persist: it is for a Gauge with above or below, remove it",
            _persist_fits,
            metric=_SUBJECT_CEL,
        ),
    )


def _action_has(action: Action, *names: str) -> bool:
    return any(getattr(action, name) is not None for name in names)


def _reduce_fits(action: Action) -> Found:
    has_to, has_percentage = action.to is not None, action.percentage is not None
    is_reduce = action.type is ActionType.REDUCE_PERCENTAGE
    fits = has_to != has_percentage if is_reduce else not has_to and not has_percentage
    return None if fits else {"type": str(action.type)}


def _groups_fit(action: Action) -> Found:
    wants = action.type is ActionType.RESTRICT_TO_GROUPS
    return None if wants == bool(action.groups) and (wants or action.groups is None) else {"type": str(action.type)}


_SCRIPT_FIELDS = ("script", "sha256", "acknowledge_data_loss", "approval")


def _script_fits(action: Action) -> Found:
    if action.type is ActionType.ROLL_BACK_DATABASE:
        fits = action.script is not None and action.sha256 is not None and action.acknowledge_data_loss is True
    else:
        fits = not _action_has(action, *_SCRIPT_FIELDS)
    return None if fits else {"type": str(action.type)}


class Action(ApiModel):
    """What a row does when one of its clauses is breached. It only ever lowers."""

    type: ActionType
    """DisableFlags, ReducePercentage, RestrictToGroups, Hold, or RollBackDatabase.

    Hold stops the advance and keeps measuring. RollBackDatabase disables the flags at once, then runs the script, once.
    """
    to: Target | None = None
    """Of ReducePercentage: back to what it was in the previous stage, or before the rollout."""
    percentage: Annotated[Number, Field(ge=0, le=100)] | None = None
    """Of ReducePercentage: to at most so much."""
    groups: Annotated[tuple[Group, ...], Field(min_length=1, max_length=16), AS_SET] | None = None
    """Of RestrictToGroups: only these keep the flags."""
    flags: Annotated[tuple[FlagName, ...], Field(min_length=1, max_length=32), AS_SET] | None = None
    """The flags that it touches; otherwise every flag that the rollout raised."""
    script: ConfigMapSource | None = None
    """Of RollBackDatabase: the SQL script. Not in effect yet: the flags are disabled, it is not run."""
    sha256: Sha256 | None = None
    """Of RollBackDatabase: the script's SHA-256; another script is not run."""
    acknowledge_data_loss: Bool | None = None
    """Of RollBackDatabase: true, because what the migration added is lost."""
    approval: Approval | None = None
    """Of RollBackDatabase: who must approve before the script is run; the flags do not wait for it."""

    unordered: ClassVar = frozenset({"groups", "flags"})
    rules: ClassVar = (
        Rule(
            """self.type == 'ReducePercentage' ? has(self.to) != has(self.percentage)
            : !has(self.to) && !has(self.percentage)""",
            "to and percentage do not fit {type}: ReducePercentage has exactly one of them, other actions have neither",
            _reduce_fits,
            type="self.type",
        ),
        Rule(
            "has(self.groups) == (self.type == 'RestrictToGroups')",
            "groups does not fit {type}: RestrictToGroups names at least one group, other actions have none",
            _groups_fit,
            type="self.type",
        ),
        Rule(
            """self.type == 'RollBackDatabase'
            ? has(self.script) && has(self.sha256) && has(self.acknowledgeDataLoss) && self.acknowledgeDataLoss
            : !has(self.script) && !has(self.sha256) && !has(self.acknowledgeDataLoss) && !has(self.approval)""",
            "the script of {type} is wrong: RollBackDatabase needs script, sha256 and acknowledgeDataLoss: true, "
            "other actions have none of them and no approval",
            _script_fits,
            type="self.type",
        ),
    )


class Row(ApiModel):
    """A severity, its signs, its deadline and its action."""

    severity: SeverityName
    """Of several breached rows the most severe acts."""
    when: Annotated[tuple[Clause, ...], Field(min_length=1, max_length=16)]
    """The signs of harm; one breached clause is enough."""
    respond_within: Duration
    """From the first look past the limit to the committed action. 0s: as soon as the evidence is conclusive."""
    settle: Duration = Duration("2m")
    """Harm in the middle of a stage must outlast this. 0s: a single look may be enough."""
    action: Action
    """What is done."""

    unordered: ClassVar = frozenset({"when"})


def _double_severity(spec: RollbackMatrixSpec) -> Found:
    severities = [row.severity for row in spec.rows]
    double = next((s for i, s in enumerate(severities) if s in severities[:i]), None)
    return None if double is None else {"severity": str(double)}


_DOUBLE_ROW_CEL = index_of("self.rows", 4, "!self.rows.exists_one(o, o.severity == self.rows[i].severity)")


class RollbackMatrixSpec(ApiModel):
    """What takes exposure back: at most one row for each severity."""

    rows: Annotated[tuple[Row, ...], Field(min_length=1, max_length=4)]
    """The rows, in any order."""
    alpha_budget: BudgetText = BudgetText("5%")
    """The chance that a healthy rollout is ever reverted, over all its looks and clauses."""

    unordered: ClassVar = frozenset({"rows"})
    rules: ClassVar = (
        Rule(
            "self.rows.all(r, self.rows.exists_one(o, o.severity == r.severity))",
            "severity {severity} has two rows: write one row, with the clauses of both",
            _double_severity,
            severity=f"self.rows[{_DOUBLE_ROW_CEL}].severity",
        ),
    )


class RollbackMatrix(Resource):
    """What takes exposure back, how soon and how far. Any FeatureRollout of the namespace can name it."""

    plural: ClassVar = "rollbackmatrices"
    short_names: ClassVar = ("rbm",)

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["RollbackMatrix"]
    spec: RollbackMatrixSpec
    """The rows."""
