"""From a rollout's bindings and their templates to metrics and queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic.alias_generators import to_camel

from feature_rollout.api import promql, reasons
from feature_rollout.api.canonical import canonical
from feature_rollout.api.featurerollout import FeatureRollout, MetricBinding
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.metricprovider import MetricProvider, MetricProviderSpec
from feature_rollout.api.metrictemplate import Counts, MetricTemplate, MetricTemplateSpec, PrometheusSource
from feature_rollout.core.plan import Metric, MetricType, digest

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
class PrometheusQuery:
    """A metric's queries in PromQL with its arguments in them; `{{window}}` is still to be replaced.

    A Ratio has events and units, and perhaps both of its control arm; a Gauge has a value and perhaps units.
    """

    provider: str
    type: MetricType
    events: str | None = None
    units: str | None = None
    value: str | None = None
    control_events: str | None = None
    control_units: str | None = None
    control_value: str | None = None


@dataclass(frozen=True, slots=True)
class BoundMetric:
    """A binding with its template; `path` is where the manifest has it, `template_path` where its template is.

    `provider` is None for SQL, and where nobody has looked it up.
    """

    binding: MetricBinding
    template: MetricTemplateSpec
    path: str
    template_path: str
    provider: MetricProviderSpec | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What its evidence depends on: the template, its arguments and who answers."""
        who = {} if self.provider is None else {"provider": canonical(self.provider.prometheus)}
        return {"template": canonical(self.template), "args": canonical(self.binding.args or {}), **who}

    def to_core(self) -> Metric:
        return Metric(
            name=self.binding.name,
            type=self.template.type,
            interval=self.binding.interval.delta,
            delay=self.template.delay.delta,
            unit=self.template.unit,
            counts_users=self.template.counts is Counts.USERS,
            mode=self.binding.mode,
            key=digest(self.identity),
            sample_ratio=self.template.sample_ratio,
        )

    def sql_query(self) -> SqlQuery | None:
        if self.template.sql is None:
            return None
        return SqlQuery(self.template.type, self.template.sql.query, dict(self.binding.args or {}))

    def prometheus_query(self) -> PrometheusQuery | None:
        source = self.template.prometheus
        if source is None:
            return None
        args = self.binding.args or {}
        rendered = {name: promql.with_arguments(text, args) for name, text in promql_texts(source).items()}
        return PrometheusQuery(source.provider_ref.name, self.template.type, **rendered)


def bind(
    rollout: FeatureRollout,
    templates: Mapping[str, MetricTemplate],
    providers: Mapping[str, MetricProvider] | None = None,
) -> dict[str, BoundMetric]:
    """Each metric by its name. `providers` is None where they are not looked at. Raises InvalidPlan."""
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
        if metric.template.prometheus is not None and providers is not None:
            metric = replace(metric, provider=_provider(rollout, metric, metric.template.prometheus, providers))
        bound[binding.name] = metric
    return bound


def _provider(
    rollout: FeatureRollout, metric: BoundMetric, source: PrometheusSource, providers: Mapping[str, MetricProvider]
) -> MetricProviderSpec:
    """Its address is not in what is said: who may not ask it need not know it."""
    name, namespace = source.provider_ref.name, rollout.metadata.namespace
    path = f"{metric.template_path}.prometheus.providerRef"
    if name not in providers:
        raise InvalidPlan(
            reasons.PROVIDER_NOT_FOUND, f"{path}: there is no MetricProvider {name}: create it or correct the name"
        )
    spec = providers[name].spec
    if not spec.allows(namespace):
        raise InvalidPlan(reasons.PROVIDER_NOT_ALLOWED, f"{path}: {not_allowed(name, namespace)}")
    return spec


def not_allowed(provider: str, namespace: str) -> str:
    return (
        f"the MetricProvider {provider} is not for namespace {namespace}: ask for it to be added to allowedNamespaces"
    )


def promql_texts(source: PrometheusSource) -> dict[str, str]:
    """The queries that there are, by the names of their fields in Python."""
    fields = ("events", "units", "value", "control_events", "control_units", "control_value")
    return {name: text for name in fields if (text := getattr(source, name)) is not None}


def placeholder_problems(template: MetricTemplateSpec) -> Iterator[tuple[str, str]]:
    """What is wrong with the placeholders of the queries: the reason, and a text that begins with the field."""
    arguments = {argument.name for argument in template.args}
    if template.sql is not None:
        for name in sorted(set(_PLACEHOLDER.findall(template.sql.query)) - arguments - {*WINDOW_ARGUMENTS}):
            yield (
                reasons.ARGUMENT_UNKNOWN,
                f"sql.query: %({name})s is neither %(window_start)s nor %(window_end)s nor in args: declare it in args",
            )
    if template.prometheus is not None:
        for field, text in promql_texts(template.prometheus).items():
            for name, is_misplaced in promql.problems(text, arguments):
                yield _promql_problem(f"prometheus.{to_camel(field)}", name, is_misplaced=is_misplaced)


def _promql_problem(path: str, name: str, *, is_misplaced: bool) -> tuple[str, str]:
    placeholder = "{{" + name + "}}"
    if is_misplaced:
        text = f"{path}: {placeholder} stands outside of a quoted string: an argument is a label's value, as in "
        return reasons.ARGUMENT_MISPLACED, text + '{flag="' + placeholder + '"}'
    return reasons.ARGUMENT_UNKNOWN, f"{path}: {placeholder} is neither {{{{window}}}} nor in args: declare it in args"


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
    for reason, text in placeholder_problems(metric.template):
        raise InvalidPlan(reason, f"{metric.template_path}.{text}")
