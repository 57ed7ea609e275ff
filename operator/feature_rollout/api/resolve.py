"""From API objects to the plan: every reference followed, every value a number.

What this version does not act on is never silently ignored: it blocks what depends on it,
and it is listed in the plan's notices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from feature_rollout.api import reasons, resolve_calendar, resolve_matrix, resolve_metrics, resolve_stages
from feature_rollout.api.canonical import canonical
from feature_rollout.api.featurerollout import FeatureRollout, FeatureRolloutSpec
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.metricprovider import MetricProvider
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.resolve_metrics import BoundMetric, PrometheusQuery, SqlQuery
from feature_rollout.api.resolve_stages import CheckQuery
from feature_rollout.api.rollbackmatrix import RollbackMatrix, RollbackMatrixSpec
from feature_rollout.api.values import KeyReference
from feature_rollout.core import checks
from feature_rollout.core.plan import Notice, OnBlind, Plan, digest

__all__ = [
    "CheckQuery",
    "InvalidPlan",
    "PrometheusQuery",
    "References",
    "Resolved",
    "SqlQuery",
    "references",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class References:
    """The objects of its own namespace that a rollout names."""

    store: str
    matrix: str | None
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rollout, resolved. `queries` are its SQL metrics, `prometheus` those of a Prometheus.

    `checks` are those that the database is asked, by their full names; `jobs` are those that
    a Job answers, each with where its manifest is.
    """

    plan: Plan
    queries: Mapping[str, SqlQuery]
    prometheus: Mapping[str, PrometheusQuery]
    store_name: str
    matrix_name: str | None
    template_names: tuple[str, ...]
    suspended: bool
    hold_at: str | None
    checks: Mapping[str, CheckQuery] = field(default_factory=dict)
    jobs: Mapping[str, KeyReference] = field(default_factory=dict)


def references(rollout: FeatureRollout) -> References:
    """What must be looked up before `resolve`."""
    spec = rollout.spec
    templates = (metric.template_ref.name for metric in spec.metrics if metric.template_ref is not None)
    return References(
        store=spec.store_ref.name,
        matrix=spec.matrix_ref.name if spec.matrix_ref is not None else None,
        templates=tuple(dict.fromkeys(templates)),
    )


def resolve(
    rollout: FeatureRollout,
    *,
    matrix: RollbackMatrix | None = None,
    templates: Mapping[str, MetricTemplate] | None = None,
    store: FlagStore | None = None,
    providers: Mapping[str, MetricProvider] | None = None,
) -> Resolved:
    """The plan of a rollout. Raises InvalidPlan.

    `matrix` and `templates` are the objects of `references`, so far as they exist. The
    `store` only gives its table's names to the plan hash; without one the hash is
    another than the operator's. So it is without `providers` (None), and then nobody
    looks whether those that are named exist and may be asked.
    """
    spec, named = rollout.spec, references(rollout)
    guards, path = _matrix(rollout, matrix)
    metrics = resolve_metrics.bind(rollout, templates or {}, providers)
    stages = resolve_stages.stages(spec, metrics)
    flags = tuple(dict.fromkeys(name for stage in stages for name in stage.flags))
    plan = Plan(
        metrics={name: metric.to_core() for name, metric in metrics.items()} | resolve_matrix.alerts(guards),
        rows=resolve_matrix.rows(guards, path, metrics, flags),
        stages=stages,
        plan_hash=digest(_plan_identity(spec, guards, metrics, store)),
        spec_hash=digest(_spec_identity(spec)),
        on_delete=spec.on_delete,
        on_blind=spec.on_blind,
        alpha=float(guards.alpha_budget.number),
        calendar=resolve_calendar.calendar(spec.calendar) if spec.calendar is not None else None,
        notices=tuple(_notices(spec, guards, path, metrics)),
        preflight=resolve_stages.checks(spec.preflight, checks.preflight_key),
    )
    return Resolved(
        plan=plan,
        queries={name: sql for name, metric in metrics.items() if (sql := metric.sql_query()) is not None},
        prometheus={
            name: query for name, metric in metrics.items() if (query := metric.prometheus_query()) is not None
        },
        store_name=named.store,
        matrix_name=named.matrix,
        template_names=named.templates,
        suspended=spec.suspend,
        hold_at=spec.hold_at,
        checks=resolve_stages.queries(spec),
        jobs=resolve_stages.jobs(spec),
    )


def _matrix(rollout: FeatureRollout, matrix: RollbackMatrix | None) -> tuple[RollbackMatrixSpec, str]:
    """The guards, and the path at which people find them."""
    if rollout.spec.matrix is not None:
        return rollout.spec.matrix, "spec.matrix"
    assert rollout.spec.matrix_ref is not None  # noqa: S101 - one of the two, by the model's rules
    name = rollout.spec.matrix_ref.name
    if matrix is None:
        raise InvalidPlan(
            reasons.MATRIX_NOT_FOUND,
            f"spec.matrixRef: there is no RollbackMatrix {name} in namespace {rollout.metadata.namespace}: "
            "create it or correct the name",
        )
    return matrix.spec, f"RollbackMatrix/{name} spec"


def _notices(
    spec: FeatureRolloutSpec, guards: RollbackMatrixSpec, path: str, metrics: Mapping[str, BoundMetric]
) -> Iterator[Notice]:
    yield from resolve_stages.notices(spec)
    yield from resolve_matrix.notices(guards, path, metrics)


def _plan_identity(
    spec: FeatureRolloutSpec, guards: RollbackMatrixSpec, metrics: Mapping[str, BoundMetric], store: FlagStore | None
) -> dict[str, Any]:
    """What an approval binds to. Not the calendar, intervals, contacts, suspend, holdAt and onDelete."""
    return {
        "store": spec.store_ref.name,
        "table": canonical(store.spec.table) if store is not None else None,
        "matrix": canonical(guards),
        "metrics": {name: {**metric.identity, "mode": metric.binding.mode} for name, metric in metrics.items()},
        "stages": canonical(spec.stages),
        # Left out where they say nothing, so that hashes of plans without them stay as they were.
        **({} if spec.on_blind is OnBlind.HOLD else {"onBlind": spec.on_blind}),
        **({"preflight": canonical(spec.preflight)} if spec.preflight else {}),
    }


def _spec_identity(spec: FeatureRolloutSpec) -> dict[str, Any]:
    """The rollout's own words: an edit of a shared matrix or template is not in it, since it must not clear a latch."""
    return {
        "store": spec.store_ref.name,
        "matrix": canonical(spec.matrix if spec.matrix is not None else spec.matrix_ref),
        "metrics": {metric.name: canonical(metric) for metric in spec.metrics},
        "stages": canonical(spec.stages),
    }
