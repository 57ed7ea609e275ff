"""FeatureRollout: the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.calendar import Calendar
from feature_rollout.api.metrictemplate import MetricTemplateSpec
from feature_rollout.api.rollbackmatrix import RollbackMatrixSpec
from feature_rollout.api.rules import Found, Rule, immutable, index_of
from feature_rollout.api.stages import Checks, Stage
from feature_rollout.api.status import FeatureRolloutStatus
from feature_rollout.api.values import BY_NAME, Bool, Identifier, Interval, LimitText, Line, Name, Reference
from feature_rollout.core.plan import MetricType, Mode, OnBlind, OnDelete

ArgumentValue = Annotated[str, StringConstraints(max_length=256)]


class MetricBinding(ApiModel):
    """A metric under the name by which the matrix and the gates know it."""

    name: Name
    """The metric's name in this rollout."""
    template_ref: Reference | None = None
    """The MetricTemplate that says how it is measured."""
    template: MetricTemplateSpec | None = None
    """The same, written here."""
    args: Annotated[dict[Identifier, ArgumentValue], Field(max_length=16)] | None = None
    """The values of the template's arguments."""
    interval: Interval = Interval("30s")
    """How often it is looked at; each look is at one interval."""
    mode: Mode = Mode.ENFORCE
    """Observe: measured and shown, but it never acts."""

    unhashed: ClassVar = frozenset({"interval"})
    rules: ClassVar = (
        Rule(
            "has(self.template) != has(self.templateRef)",
            "the metric {name} needs one template: write exactly one of template and templateRef",
            lambda m: {"name": m.name} if (m.template is None) == (m.template_ref is None) else None,
            name="self.name",
        ),
    )


class Contacts(ApiModel):
    """Who to talk to. People read it, and it is in the operator's notifications."""

    team: Line | None = None
    """The team that owns the rollout."""
    slack: Line | None = None
    """Its channel, as #name or id; the operator's Slack bot, if there is one, writes to it."""
    email: Line | None = None
    """Its mail address."""
    runbook: Line | None = None
    """The address of its runbook."""


def _bound(spec: FeatureRolloutSpec) -> set[str]:
    return {metric.name for metric in spec.metrics}


def _double_stage(spec: FeatureRolloutSpec) -> Found:
    names = [stage.name for stage in spec.stages]
    double = next((name for index, name in enumerate(names) if name in names[:index]), None)
    return None if double is None else {"stage": double}


def _unbound_gate(spec: FeatureRolloutSpec) -> Found:
    bound = _bound(spec)
    for stage in spec.stages:
        for gate in stage.gates:
            if gate.metric not in bound:
                return {"stage": stage.name, "metric": gate.metric}
    return None


def _unbound_clause(spec: FeatureRolloutSpec) -> Found:
    bound = _bound(spec)
    for row in spec.matrix.rows if spec.matrix else ():
        for clause in row.when:
            if clause.metric is not None and clause.metric not in bound and not clause.optional:
                return {"severity": str(row.severity), "metric": clause.metric}
    return None


def _limits(spec: FeatureRolloutSpec) -> Iterator[tuple[str, LimitText]]:
    for stage in spec.stages:
        for gate in stage.gates:
            yield from ((gate.metric, limit) for limit in (gate.at_most, gate.at_least) if limit is not None)
    for row in spec.matrix.rows if spec.matrix else ():
        for clause in row.when:
            limits = (limit for limit in (clause.above, clause.below) if limit is not None)
            yield from ((clause.metric or "", limit) for limit in limits)


def _mismatch(spec: FeatureRolloutSpec) -> Found:
    types = {metric.name: metric.template.type for metric in spec.metrics if metric.template is not None}
    for name, limit in _limits(spec):
        if name in types and limit.is_percent != (types[name] is MetricType.RATIO):
            return {"metric": name, "type": str(types[name])}
    return None


def _unknown_hold(spec: FeatureRolloutSpec) -> Found:
    if spec.hold_at is None or any(stage.name == spec.hold_at for stage in spec.stages):
        return None
    return {"stage": spec.hold_at}


def _unbound(name: str) -> str:
    return f"!(has(self.metrics) && self.metrics.exists(m, m.name == {name}))"


def _unbound_gates(stage: str) -> str:
    return f"has({stage}.gates) && {stage}.gates.exists(g, {_unbound('g.metric')})"


def _is_unbound_clause(clause: str) -> str:
    is_optional = f"(has({clause}.optional) && {clause}.optional)"
    return f"has({clause}.metric) && !{is_optional} && {_unbound(f'{clause}.metric')}"


def _unfit(limit: str) -> str:
    """CEL: the limit is there and not of the kind that the type of metric `m` demands."""
    return f"(has({limit}) && {limit}.endsWith('%') != ({{m}}.template.type == 'Ratio'))"


def _mismatched(metric: str) -> str:
    gate = f"g.metric == {metric}.name && ({_unfit('g.atMost')} || {_unfit('g.atLeast')})"
    clause = f"has(c.metric) && c.metric == {metric}.name && ({_unfit('c.above')} || {_unfit('c.below')})"
    rule = (
        f"has({metric}.template) && (self.stages.exists(s, has(s.gates) && s.gates.exists(g, {gate})) "
        f"|| (has(self.matrix) && self.matrix.rows.exists(r, r.when.exists(c, {clause}))))"
    )
    return rule.replace("{m}", metric)


_DOUBLE_STAGE_CEL = index_of("self.stages", 32, "!self.stages.exists_one(o, o.name == self.stages[i].name)")
_GATED_STAGE_CEL = index_of("self.stages", 32, _unbound_gates("self.stages[i]"))
# `[x].map(s, ...)[0]` gives x a name, so that it is not searched for again for each gate.
_GATE_CEL = (
    f"[{_GATED_STAGE_CEL}].map(s, "
    f"{index_of('self.stages[s].gates', 16, _unbound('self.stages[s].gates[j].metric'), 'j')})[0]"
)
_ROW_CEL = index_of("self.matrix.rows", 4, f"self.matrix.rows[i].when.exists(c, {_is_unbound_clause('c')})")
_CLAUSE_CEL = (
    f"[{_ROW_CEL}].map(r, "
    f"{index_of('self.matrix.rows[r].when', 16, _is_unbound_clause('self.matrix.rows[r].when[j]'), 'j')})[0]"
)
_MISFIT_CEL = index_of("self.metrics", 32, _mismatched("self.metrics[i]"))


class FeatureRolloutSpec(ApiModel):
    """How a set of flags shall reach their users, stage by stage, and what takes them back."""

    store_ref: Annotated[Reference, immutable("storeRef")]
    """The FlagStore with the flags. Cannot be changed."""
    matrix_ref: Reference | None = None
    """The RollbackMatrix that guards the rollout."""
    matrix: RollbackMatrixSpec | None = None
    """The same, written here."""
    contacts: Contacts | None = None
    """Who to talk to."""
    metrics: Annotated[tuple[MetricBinding, ...], Field(max_length=32), BY_NAME] = ()
    """What is measured: all that the matrix and the gates may name."""
    calendar: Calendar | None = None
    """When the rollout may advance."""
    preflight: Checks = ()
    """What must be so before the first stage."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=32)]
    """The plan, in order."""
    suspend: Bool = False
    """Raise nothing while this is true; guards go on."""
    hold_at: Name | None = None
    """Do not go beyond this stage."""
    on_blind: OnBlind = OnBlind.HOLD
    """What to do when a guard cannot be measured. It never advances.

    Hold: leave the flags as they are. Revert: act as the guard's row would, when its source has failed for the row's
    respondWithin, and for ten looks in a row at least.
    """
    on_delete: OnDelete = OnDelete.KEEP
    """What becomes of the flags when the rollout is deleted: Keep as they are, Restore as before it, or Disable."""

    rules: ClassVar = (
        Rule(
            "has(self.matrix) != has(self.matrixRef)",
            "a rollout needs one matrix and this one has {count}: write exactly one of matrix and matrixRef",
            lambda spec: (
                {"count": "none" if spec.matrix is None else "two"}
                if (spec.matrix is None) == (spec.matrix_ref is None)
                else None
            ),
            count="(has(self.matrix) ? 'two' : 'none')",
        ),
        Rule(
            "self.stages.all(s, self.stages.exists_one(o, o.name == s.name))",
            'two stages are called "{stage}": give each its own name',
            _double_stage,
            stage=f"self.stages[{_DOUBLE_STAGE_CEL}].name",
        ),
        Rule(
            f"!self.stages.exists(s, {_unbound_gates('s')})",
            'the stage {stage} has a gate on "{metric}", which spec.metrics does not bind: bind it or correct the name',
            _unbound_gate,
            stage=f"self.stages[{_GATED_STAGE_CEL}].name",
            metric=f"self.stages[{_GATED_STAGE_CEL}].gates[{_GATE_CEL}].metric",
        ),
        Rule(
            f"!has(self.matrix) || !self.matrix.rows.exists(r, r.when.exists(c, {_is_unbound_clause('c')}))",
            'the row {severity} has a clause on "{metric}", which spec.metrics does not bind: '
            "bind it, or write optional: true",
            _unbound_clause,
            severity=f"self.matrix.rows[{_ROW_CEL}].severity",
            metric=f"self.matrix.rows[{_ROW_CEL}].when[{_CLAUSE_CEL}].metric",
        ),
        Rule(
            f"!has(self.metrics) || !self.metrics.exists(m, {_mismatched('m')})",
            'a limit on {metric} does not fit its type {type}: a Ratio\'s limit is a percentage such as "0.1%", '
            'a Gauge\'s is a plain number such as "0.8"',
            _mismatch,
            metric=f"self.metrics[{_MISFIT_CEL}].name",
            type=f"self.metrics[{_MISFIT_CEL}].template.type",
        ),
        Rule(
            "!has(self.holdAt) || self.stages.exists(s, s.name == self.holdAt)",
            'holdAt names "{stage}", which is not a stage: name one of spec.stages',
            _unknown_hold,
            stage="self.holdAt",
        ),
    )


def _self_reference(rollout: FeatureRollout) -> Found:
    name = rollout.metadata.name
    waiting = (stage.name for stage in rollout.spec.stages if any(one.rollout == name for one in stage.after))
    return next(({"stage": stage} for stage in waiting), None)


def _waits_for_itself(stage: str) -> str:
    return f"has({stage}.after) && {stage}.after.exists(a, a.rollout == self.metadata.name)"


_SELF_REFERENCE_CEL = index_of("self.spec.stages", 32, _waits_for_itself("self.spec.stages[i]"))


class FeatureRollout(Resource):
    """A plan: how a set of feature flags shall reach their users over days or weeks.

    The operator raises the flags stage by stage, measures, and takes them back when a metric breaches the matrix.
    """

    plural: ClassVar = "featurerollouts"
    short_names: ClassVar = ("fro",)
    rules: ClassVar = (
        Rule(
            f"!self.spec.stages.exists(s, {_waits_for_itself('s')})",
            "the stage {stage} waits for its own rollout: name another in after, the stages of one plan run in order",
            _self_reference,
            stage=f"self.spec.stages[{_SELF_REFERENCE_CEL}].name",
        ),
    )

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["FeatureRollout"]
    spec: FeatureRolloutSpec
    """The plan."""
    status: FeatureRolloutStatus | None = None
    """Where the rollout is, written by the operator."""
