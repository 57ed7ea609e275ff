"""MetricTemplate: what is measured, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.rules import Found, Rule
from feature_rollout.api.values import BY_NAME, Duration, Identifier, Reference, Sql
from feature_rollout.core.plan import MetricType

PromQl = Annotated[str, Field(min_length=1, max_length=4096)]


class Counts(StrEnum):
    EVENTS = "Events"
    USERS = "Users"


class Argument(ApiModel):
    """A value that each rollout that binds the metric gives."""

    name: Identifier
    """The name by which the query refers to it."""


class SqlSource(ApiModel):
    """A query on the FlagStore's database, run by its reader role."""

    query: Sql
    """One SELECT that returns one row: events and units for a Ratio, value and perhaps units for a Gauge.

    %(window_start)s and %(window_end)s are the look's window, %(name)s is an argument. A Ratio's row may also have
    control_events and control_units, a Gauge's control_value, of the users without the flags; the others are then of
    those with them.
    """


class PrometheusSource(ApiModel):
    """Queries in PromQL, evaluated at the window's end; each gives one number: a scalar, or a vector of one series.

    {{window}} is the window's length, {{name}} in a quoted string is an argument.
    """

    provider_ref: Reference
    """The MetricProvider that is asked."""
    events: PromQl | None = None
    """Of a Ratio: how many bad things happened in the window."""
    units: PromQl | None = None
    """How many chances there were in the window; a Gauge may have it too."""
    value: PromQl | None = None
    """Of a Gauge: its value."""
    control_events: PromQl | None = None
    """Of a Ratio: the bad things in the control arm, those who do not have the flags."""
    control_units: PromQl | None = None
    """How many chances there were in the control arm."""
    control_value: PromQl | None = None
    """Of a Gauge: its value in the control arm."""


def _one_source(spec: MetricTemplateSpec) -> Found:
    if (spec.sql is None) != (spec.prometheus is None):
        return None
    return {"count": "none" if spec.sql is None else "both"}


def _queries_fit_type(spec: MetricTemplateSpec) -> Found:
    if spec.prometheus is None:
        return None
    has_events, has_units = spec.prometheus.events is not None, spec.prometheus.units is not None
    has_value = spec.prometheus.value is not None
    is_ratio = spec.type is MetricType.RATIO
    fits = has_events and has_units and not has_value if is_ratio else has_value and not has_events
    return None if fits else {"type": str(spec.type)}


def _whole_control_arm(spec: MetricTemplateSpec) -> Found:
    if spec.prometheus is None:
        return None
    given = (spec.prometheus.control_events is not None, spec.prometheus.control_units is not None)
    has_value = spec.prometheus.control_value is not None
    fits = given[0] == given[1] and not has_value if spec.type is MetricType.RATIO else not any(given)
    return None if fits else {"type": str(spec.type)}


def _sample_has_arms(spec: MetricTemplateSpec) -> Found:
    has_arms = spec.prometheus is None or spec.prometheus.control_units is not None
    is_of_users = spec.type is MetricType.RATIO and spec.counts is Counts.USERS
    return None if not spec.sample_ratio or (is_of_users and has_arms) else {}


class MetricTemplateSpec(ApiModel):
    """A metric's type and its query."""

    type: MetricType
    """Ratio: bad events of units, which exact tests work on. Gauge: one number a look."""
    counts: Counts = Counts.EVENTS
    """What a Ratio's units are. Users: distinct users in each window, so failures come one by one and not in bursts."""
    sample_ratio: bool = False
    """Whether the rollout holds unless the arms' users are split as the stage's percentage says.

    For a Ratio of users with a control arm: all users without the flags, and each user in one window of a stage only,
    as at a sign-up or a first visit.
    """
    delay: Duration = Duration("0s")
    """How long after a window's end its numbers are settled."""
    unit: Annotated[str, Field(max_length=16)] = ""
    """The unit of a Gauge, for messages, such as s."""
    args: Annotated[tuple[Argument, ...], Field(max_length=16), BY_NAME] = ()
    """The values that a rollout must give when it binds the metric."""
    sql: SqlSource | None = None
    """Measured by SQL."""
    prometheus: PrometheusSource | None = None
    """Measured by Prometheus."""

    rules: ClassVar = (
        Rule(
            "has(self.sql) != has(self.prometheus)",
            "a metric has {count} of sql and prometheus: write exactly one",
            _one_source,
            count="(has(self.sql) ? 'both' : 'none')",
        ),
        Rule(
            """!has(self.prometheus) || (self.type == 'Ratio'
            ? has(self.prometheus.events) && has(self.prometheus.units) && !has(self.prometheus.value)
            : has(self.prometheus.value) && !has(self.prometheus.events))""",
            "the queries do not fit a {type}: a Ratio needs events and units, a Gauge needs value and may have units",
            _queries_fit_type,
            type="self.type",
        ),
        Rule(
            """!has(self.prometheus)
            || (self.type == 'Ratio'
            ? has(self.prometheus.controlEvents) == has(self.prometheus.controlUnits)
            && !has(self.prometheus.controlValue)
            : !has(self.prometheus.controlEvents) && !has(self.prometheus.controlUnits))""",
            "the control arm of a {type} does not fit: a Ratio has both of controlEvents and controlUnits, or none; "
            "a Gauge has controlValue, or none",
            _whole_control_arm,
            type="self.type",
        ),
        Rule(
            # A template that is written in a rollout has no defaults, so its keys may be missing.
            """!has(self.sampleRatio) || !self.sampleRatio || (self.type == 'Ratio' && has(self.counts)
            && self.counts == 'Users' && (!has(self.prometheus) || has(self.prometheus.controlUnits)))""",
            "sampleRatio is of users in two arms: write type: Ratio, counts: Users and a control arm",
            _sample_has_arms,
        ),
    )


class MetricTemplate(Resource):
    """A metric that any FeatureRollout of the namespace can bind: its type and its query."""

    plural: ClassVar = "metrictemplates"
    short_names: ClassVar = ("mt",)

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["MetricTemplate"]
    spec: MetricTemplateSpec
    """What is measured, and how."""
