"""From a rollout's stages to the plan's, with what this version cannot do in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from feature_rollout.api import reasons
from feature_rollout.api.canonical import canonical
from feature_rollout.api.featurerollout import FeatureRolloutSpec
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.resolve_matrix import check_limit
from feature_rollout.api.resolve_metrics import BoundMetric
from feature_rollout.api.stages import Check as CheckModel
from feature_rollout.api.stages import FlagEntry as FlagEntryModel
from feature_rollout.api.stages import Gate as GateModel
from feature_rollout.api.stages import Stage as StageModel
from feature_rollout.api.values import KeyReference
from feature_rollout.core.checks import Check, preflight_key, stage_key
from feature_rollout.core.exposure import FlagChange
from feature_rollout.core.plan import After, Approval, FlagEntry, Gate, Notice, Stage, digest

FLAGS_MAX = 100


@dataclass(frozen=True, slots=True)
class CheckQuery:
    """A check that the database is asked: the text, and what it must answer; None is `true`."""

    text: str
    expect: str | None


def stages(spec: FeatureRolloutSpec, metrics: Mapping[str, BoundMetric]) -> tuple[Stage, ...]:
    """The stages in order. Raises InvalidPlan."""
    resolved = tuple(_stage(index, stage, metrics) for index, stage in enumerate(spec.stages))
    flags = {name for stage in resolved for name in stage.flags}
    if len(flags) > FLAGS_MAX:
        raise InvalidPlan(
            reasons.TOO_MANY_FLAGS,
            f"spec.stages: the plan names {len(flags)} flags, and {FLAGS_MAX} is the most: split it into two rollouts",
        )
    return resolved


def notices(spec: FeatureRolloutSpec) -> Iterator[Notice]:
    """Each field of the stages that this version does not act on."""
    for index, stage in enumerate(spec.stages):
        path = f"spec.stages[{index}]"
        if stage.migrations:
            yield Notice(f"{path}.migrations", f"the stage {stage.name} does not start")
    # One for all: a list of ten such lines would hide the others.
    if any(stage.risk is not None for stage in spec.stages):
        yield Notice("spec.stages[*].risk", "for people only")


def _stage(index: int, stage: StageModel, metrics: Mapping[str, BoundMetric]) -> Stage:
    return Stage(
        name=stage.name,
        entries=tuple(_entry(entry) for entry in stage.flags),
        bake=stage.bake.delta,
        gates=tuple(_gate(gate, f"spec.stages[{index}].gates[{i}]", metrics) for i, gate in enumerate(stage.gates)),
        on_no_traffic=stage.on_no_traffic,
        deadline=stage.deadline.delta if stage.deadline is not None else None,
        blockers=_blockers(index, stage),
        digest=digest(canonical(stage)),
        approval=Approval(stage.approval.required, stage.approval.allow_service_accounts) if stage.approval else None,
        checks=checks(stage.checks, partial(stage_key, stage.name)),
        after=tuple(After(one.rollout, one.stage) for one in stage.after),
    )


def checks(given: tuple[CheckModel, ...], key: Callable[[str], str]) -> tuple[Check, ...]:
    """The checks under their full names."""
    return tuple(Check(key(check.name), check.confirm) for check in given)


def queries(spec: FeatureRolloutSpec) -> dict[str, CheckQuery]:
    """What the database is asked, by the full name of the check."""
    return {key: CheckQuery(check.sql, check.expect) for key, check in _named(spec) if check.sql is not None}


def jobs(spec: FeatureRolloutSpec) -> dict[str, KeyReference]:
    """Where the manifest of each check's Job is, by the full name of the check."""
    return {key: check.job.config_map_key_ref for key, check in _named(spec) if check.job is not None}


def _named(spec: FeatureRolloutSpec) -> Iterator[tuple[str, CheckModel]]:
    """Every check with its full name."""
    yield from ((preflight_key(check.name), check) for check in spec.preflight)
    yield from ((stage_key(stage.name, check.name), check) for stage in spec.stages for check in stage.checks)


def _entry(entry: FlagEntryModel) -> FlagEntry:
    change = FlagChange(
        percentage=None if entry.percentage is None else Decimal(str(entry.percentage)),
        groups=None if entry.groups is None else frozenset(entry.groups),
    )
    return FlagEntry(entry.names, change)


def _gate(gate: GateModel, path: str, metrics: Mapping[str, BoundMetric]) -> Gate:
    if gate.metric not in metrics:
        raise InvalidPlan(
            reasons.METRIC_UNBOUND,
            f'{path}.metric: the rollout does not bind "{gate.metric}": add it to spec.metrics or correct the name',
        )
    metric = metrics[gate.metric]
    return Gate(
        metric=gate.metric,
        at_most=check_limit(f"{path}.atMost", gate.at_most, metric) if gate.at_most else None,
        at_least=check_limit(f"{path}.atLeast", gate.at_least, metric) if gate.at_least else None,
        min_units=gate.min_units,
    )


def _blockers(index: int, stage: StageModel) -> tuple[str, ...]:
    """A stage must not start without what it demands, and this version cannot do."""
    if not stage.migrations:
        return ()
    path = f"spec.stages[{index}].migrations"
    return (f"{path} is not in effect yet: do it by hand and remove it, or wait for a version with it",)
