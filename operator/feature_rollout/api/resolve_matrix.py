"""From a matrix and the bound metrics to rows of clauses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal

from feature_rollout.api import reasons
from feature_rollout.api import rollbackmatrix as models
from feature_rollout.api.canonical import canonical
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.resolve_metrics import BoundMetric
from feature_rollout.api.rollbackmatrix import RollbackMatrixSpec
from feature_rollout.api.values import LimitText
from feature_rollout.core.plan import (
    Action,
    ActionType,
    BaselineType,
    Clause,
    Limit,
    Metric,
    MetricType,
    Notice,
    Persist,
    Row,
    Sense,
    Severity,
    digest,
)

# A gauge needs half an hour of blocks before it can be judged.
GAUGE_DEADLINE_MIN = timedelta(minutes=30)
# Days differ from one another by more than this.
INCREASE_MIN = Decimal("0.5")
# The mixtures of that many looks are kept for each clause.
SETTLE_MAX = timedelta(hours=1)


def rows(
    matrix: RollbackMatrixSpec, path: str, metrics: Mapping[str, BoundMetric], flags: tuple[str, ...]
) -> tuple[Row, ...]:
    """The rows, most severe first; optional clauses on unbound metrics are left out. Raises InvalidPlan."""
    resolved = [_row(row, f"{path}.rows[{i}]", metrics, flags) for i, row in enumerate(matrix.rows)]
    return tuple(sorted(resolved, key=lambda row: row.severity, reverse=True))


def notices(matrix: RollbackMatrixSpec, path: str, metrics: Mapping[str, BoundMetric]) -> Iterator[Notice]:
    """Each of its fields that this version does not act on."""
    for i, row in enumerate(matrix.rows):
        for j, clause in enumerate(row.when):
            if _is_dropped(clause, metrics):
                continue
            if clause.alert is not None:
                yield Notice(f"{path}.rows[{i}].when[{j}].alert", "the clause is not judged")
        if row.action.type is ActionType.ROLL_BACK_DATABASE:
            yield Notice(f"{path}.rows[{i}].action.script", "the flags are disabled, the script is not run")
        if row.action.approval is not None:
            yield Notice(f"{path}.rows[{i}].action.approval", "nobody is asked, since the script is not run")


def alerts(matrix: RollbackMatrixSpec) -> dict[str, Metric]:
    """A metric for each alert that a clause names, so that a guard on it is a guard like any other."""
    names = (clause.alert for row in matrix.rows for clause in row.when if clause.alert is not None)
    return {metric.name: metric for metric in map(_alert_metric, names)}


def check_limit(where: str, limit: LimitText, metric: BoundMetric) -> Limit:
    """The limit as a number, if it fits the metric's type. Raises InvalidPlan."""
    is_ratio = metric.template.type is MetricType.RATIO
    if limit.is_percent == is_ratio:
        return limit.to_core()
    right = 'a percentage such as "0.1%"' if is_ratio else f"a plain number in {metric.template.unit or 'its unit'}"
    raise InvalidPlan(
        reasons.LIMIT_MISMATCH,
        f'{where}: "{limit}" does not fit {metric.binding.name}, which is a {metric.template.type}: write {right}',
    )


def _row(row: models.Row, path: str, metrics: Mapping[str, BoundMetric], flags: tuple[str, ...]) -> Row:
    if row.settle.delta > SETTLE_MAX:
        raise InvalidPlan(reasons.SETTLE_TOO_LONG, f'{path}.settle: "{row.settle}" is too long: write at most 1h')
    unknown = [flag for flag in row.action.flags or () if flag not in flags]
    if unknown:
        raise InvalidPlan(
            reasons.FLAG_UNKNOWN,
            f'{path}.action.flags: no stage names the flag "{unknown[0]}": name some of {", ".join(flags)}',
        )
    clauses: dict[str, Clause] = {}
    for index, clause in enumerate(row.when):
        if _is_dropped(clause, metrics):
            continue
        resolved = _clause(row, clause, f"{path}.when[{index}]", metrics)
        if resolved.key in clauses:
            raise InvalidPlan(
                reasons.DUPLICATE_CLAUSE, f"{path}.when[{index}]: the row has {resolved} twice: write it once"
            )
        clauses[resolved.key] = resolved
    return Row(
        severity=Severity.parse(row.severity),
        clauses=tuple(clauses.values()),
        respond_within=row.respond_within.delta,
        action=_action(row.action),
        settle=row.settle.delta,
    )


def _is_dropped(clause: models.Clause, metrics: Mapping[str, BoundMetric]) -> bool:
    return clause.optional and clause.metric is not None and clause.metric not in metrics


def _clause(row: models.Row, clause: models.Clause, path: str, metrics: Mapping[str, BoundMetric]) -> Clause:
    if clause.metric is None:
        return _alert(row, clause)
    if clause.metric not in metrics:
        raise InvalidPlan(
            reasons.METRIC_UNBOUND,
            f'{path}.metric: the rollout does not bind "{clause.metric}": add it to spec.metrics, '
            "or write optional: true on the clause",
        )
    metric = metrics[clause.metric]
    _check_gauge(row, clause, path, metric)
    _check_change(row, clause, path)
    absolute = clause.above or clause.below
    change = clause.increase or clause.decrease
    if absolute is not None:
        limit = check_limit(f"{path}.{_word(clause)}", absolute, metric)
    else:
        assert change is not None  # noqa: S101 - one word, by the model's rules
        limit = change.to_core()
    return Clause(
        key=_key(row, clause, metric),
        metric=clause.metric,
        sense=Sense.ABOVE if clause.above is not None or clause.increase is not None else Sense.BELOW,
        limit=limit,
        persist=Persist(clause.persist.failures, clause.persist.of) if clause.persist else None,
        baseline=clause.baseline.type if clause.baseline is not None else None,
    )


def _alert(row: models.Row, clause: models.Clause) -> Clause:
    """An alert is a clause on a metric of its own (`alerts`), which nothing measures yet."""
    assert clause.alert is not None  # noqa: S101 - a clause without a metric has one, by the model's rules
    metric = _alert_metric(clause.alert)
    return Clause(
        key=_key(row, clause, None),
        metric=metric.name,
        sense=Sense.ABOVE,
        limit=Limit(0.0, "firing"),
        blocker=metric.blocker,
    )


def _alert_metric(name: str) -> Metric:
    # The slash keeps it apart from every metric that a rollout can bind.
    blocker = f"the alert {name} cannot be judged: this version takes no pushed alerts"
    return Metric(f"alert/{name}", MetricType.GAUGE, timedelta(seconds=30), blocker=blocker)


def _word(clause: models.Clause) -> str:
    words = ("above", "below", "increase", "decrease", "alert")
    return next(word for word in words if getattr(clause, word) is not None)


def _key(row: models.Row, clause: models.Clause, metric: BoundMetric | None) -> str:
    """Names the evidence. The severity is in it, since two rows may have the same clause under different rules."""
    identity = metric.identity if metric is not None else {}
    return digest({"severity": str(row.severity), "clause": canonical(clause), **identity})


def _check_gauge(row: models.Row, clause: models.Clause, path: str, metric: BoundMetric) -> None:
    is_gauge = metric.template.type is MetricType.GAUGE
    if is_gauge and clause.persist is None and row.respond_within.delta < GAUGE_DEADLINE_MIN:
        raise InvalidPlan(
            reasons.GAUGE_TOO_SLOW,
            f"{path}: {clause.metric} is a Gauge, which cannot be judged within {row.respond_within}: "
            "use a Ratio (the share past the limit), respondWithin: 30m or more, or persist",
        )


def _check_change(row: models.Row, clause: models.Clause, path: str) -> None:
    if clause.baseline is None:
        return
    against_control = clause.baseline.type is BaselineType.CONTROL
    if clause.decrease is not None and clause.decrease.number >= 1:
        raise InvalidPlan(
            reasons.DECREASE_TOO_LARGE,
            f'{path}.decrease: nothing can fall by more than "{clause.decrease}": write less than "100%"',
        )
    if clause.increase is None or against_control or not row.action.type.lowers:
        return
    if clause.increase.number < INCREASE_MIN:
        raise InvalidPlan(
            reasons.INCREASE_TOO_SMALL,
            f'{path}.increase: "{clause.increase}" against the past would revert healthy rollouts, because days differ '
            'by more: write at least "50%", or baseline: {type: Control}, or action: {type: Hold}',
        )


def _action(action: models.Action) -> Action:
    return Action(
        type=action.type,
        to=action.to,
        percentage=None if action.percentage is None else Decimal(str(action.percentage)),
        groups=None if action.groups is None else frozenset(action.groups),
        flags=action.flags,
    )
