"""From a rollout's bindings and their templates to metrics and queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feature_rollout.api import reasons
from feature_rollout.api.canonical import canonical
from feature_rollout.api.featurerollout import FeatureRollout, MetricBinding
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.metrictemplate import Counts, MetricTemplate, MetricTemplateSpec
from feature_rollout.core.plan import Metric, MetricType, Notice

# What every query gets besides its own arguments.
WINDOW_ARGUMENTS = ("window_start", "window_end")
_PLACEHOLDER = re.compile(r"%\(([^)]*)\)s")


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """An SQL metric's query. `params` are the rollout's arguments; the window's two come with each look.

    A text without any `%(name)s` must be run without parameters, or its literal percent signs would be refused.
    """

    type: MetricType
    text: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BoundMetric:
    """A binding with its template; `path` is where the manifest has it, `template_path` where its template is."""

    binding: MetricBinding
    template: MetricTemplateSpec
    path: str
    template_path: str

    @property
    def blocker(self) -> str | None:
        if self.template.prometheus is None:
            return None
        return f"{self.binding.name} cannot be measured: this version has no Prometheus metrics, use sql"

    @property
    def identity(self) -> dict[str, Any]:
        """What its evidence depends on: the template, its arguments and who answers."""
        return {"template": canonical(self.template), "args": canonical(self.binding.args or {})}

    def to_core(self) -> Metric:
        return Metric(
            name=self.binding.name,
            type=self.template.type,
            interval=self.binding.interval.delta,
            delay=self.template.delay.delta,
            unit=self.template.unit,
            counts_users=self.template.counts is Counts.USERS,
            mode=self.binding.mode,
            blocker=self.blocker,
        )

    def notices(self) -> Iterator[Notice]:
        if self.template.prometheus is not None:
            yield Notice(f"{self.template_path}.prometheus", "not measured, and what depends on it waits")

    def query(self) -> SqlQuery | None:
        if self.template.sql is None:
            return None
        return SqlQuery(self.template.type, self.template.sql.query, dict(self.binding.args or {}))


def bind(rollout: FeatureRollout, templates: Mapping[str, MetricTemplate]) -> dict[str, BoundMetric]:
    """Each metric by its name. Raises InvalidPlan."""
    bound: dict[str, BoundMetric] = {}
    for index, binding in enumerate(rollout.spec.metrics):
        path = f"spec.metrics[{index}]"
        if binding.template is not None:
            metric = BoundMetric(binding, binding.template, path, f"{path}.template")
        else:
            assert binding.template_ref is not None  # noqa: S101 - one of the two, by the model's rules
            name = binding.template_ref.name
            if name not in templates:
                raise InvalidPlan(
                    reasons.TEMPLATE_NOT_FOUND,
                    f"{path}.templateRef: there is no MetricTemplate {name} in namespace "
                    f"{rollout.metadata.namespace}: create it or correct the name",
                )
            metric = BoundMetric(binding, templates[name].spec, path, f"MetricTemplate/{name} spec")
        _check_arguments(metric)
        bound[binding.name] = metric
    return bound


def unknown_placeholders(template: MetricTemplateSpec) -> list[str]:
    """Names in the query that are neither the window's nor an argument."""
    if template.sql is None:
        return []
    known = {*WINDOW_ARGUMENTS, *(argument.name for argument in template.args)}
    return sorted(set(_PLACEHOLDER.findall(template.sql.query)) - known)


def _check_arguments(metric: BoundMetric) -> None:
    wanted = {argument.name for argument in metric.template.args}
    given = set(metric.binding.args or {})
    for name in sorted(wanted - given):
        raise InvalidPlan(
            reasons.ARGUMENT_MISSING,
            f"{metric.path}.args: {metric.template_path}.args has {name}, which gets no value: add it to args",
        )
    for name in sorted(given - wanted):
        raise InvalidPlan(
            reasons.ARGUMENT_UNKNOWN,
            f"{metric.path}.args: {name} is not an argument of the template: "
            f"it has {', '.join(sorted(wanted)) or 'none'}",
        )
    for name in unknown_placeholders(metric.template):
        raise InvalidPlan(
            reasons.ARGUMENT_UNKNOWN,
            f"{metric.template_path}.sql.query: %({name})s is neither %(window_start)s nor %(window_end)s "
            "nor in args: declare it in args",
        )
