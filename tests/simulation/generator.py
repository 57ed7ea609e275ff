"""What a seed draws: plans, rows, traffic, people, and which faults come when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any

from feature_rollout.core.calendar import Calendar, DailyWindow
from feature_rollout.core.checks import Check, preflight_key, stage_key
from feature_rollout.core.exposure import Exposure, FlagChange
from feature_rollout.core.plan import (
    Action,
    ActionType,
    After,
    Approval,
    BaselineType,
    Clause,
    FlagEntry,
    Gate,
    Limit,
    Metric,
    MetricType,
    OnBlind,
    OnNoTraffic,
    Persist,
    Plan,
    Row,
    Sense,
    Severity,
    Stage,
    Target,
    digest,
)
from simulation import schedule
from simulation.schedule import Planned
from simulation.traffic import Kind, Level, Spell, Traffic
from support.fakes import T0, above, below, exposure, gauge, percent, ratio, relative

MAIN = "bell"
GROUPS = ("staff", "beta", "eu", "us")
# How long things go wrong.
ACTIVE_S = (240.0, 500.0, 900.0)


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that is drawn before the first moment. Mappings are by the rollout's name, `plans` by the plan's."""

    seed: int
    specs: Mapping[str, Mapping[str, Any]]
    plans: Mapping[str, Plan | None]
    metrics: Mapping[str, Mapping[str, Metric]]
    flags: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Exposure]
    traffic: Mapping[str, Traffic]
    checks: Mapping[str, str] = field(default_factory=dict)
    planned: tuple[Planned, ...] = ()
    active_s: float = 900.0
    watched: bool = True
    has_past: bool = False
    prompt: bool = True
    harms_at_the_end: int = 0
    deleted_at_the_end: bool = False


def draw(seed: int) -> Script:
    random = Random(f"{seed}/script")
    phase, faults = schedule.aim(seed)
    base = _digested(schedule.leading_to(phase, faults, _plan(random, MAIN, (MAIN,))))
    second = _second(random, base.flags) if random.random() < 0.25 else None
    if second is not None and second[0] == "door":
        base = _waiting_for(random, base, *second)
    drawn = {MAIN: base} | ({} if second is None else {second[0]: second[1]})
    plans: dict[str, Plan | None] = {}
    rows, traffic = {"frame": exposure(30)}, {}
    for number, (name, plan) in enumerate(drawn.items()):
        plans |= _versions(random, name, plan)
        rows = {flag: _row(random) for flag in plan.flags} | rows
        traffic[name] = Traffic(seed + number, _levels(random, plan))
    specs = {name: _spec(random, name, plan) for name, plan in drawn.items()}
    if "door" in traffic and random.random() < 0.5:
        start = T0 + timedelta(seconds=random.uniform(0.0, 200.0))
        traffic["door"].spells.append(Spell(Kind.HARM, start, start + timedelta(minutes=2), None, 30.0))
    active_s = random.choice(ACTIVE_S)
    checks = {check.key: "passes" for plan in plans.values() if plan for check in _checks(plan)}
    return Script(
        seed,
        specs,
        plans,
        {name: plan.metrics for name, plan in drawn.items()},
        {name: plan.flags for name, plan in drawn.items()},
        rows,
        traffic,
        checks,
        schedule.planned(random, base, active_s, schedule.aimed(random, phase, faults)),
        active_s,
        watched=random.random() < 0.6,
        # Without a past a relative clause would keep it from ever beginning.
        has_past=random.random() < 0.4 or any(_is_of_the_past(plan) for plan in plans.values() if plan),
        prompt=random.random() < 0.8,
        harms_at_the_end=random.choice((0, 0, 0, 1, 1, 2)),
        deleted_at_the_end=random.random() < 0.3,
    )


def _second(random: Random, flags: tuple[str, ...]) -> tuple[str, Plan]:
    """Another rollout: of flags of its own, of one that is taken, or one that is waited for."""
    name = random.choice(("rival", "other", "door", "door"))
    prefixes = (flags[0].removesuffix("-a"),) if name == "rival" else (name,)
    return name, _plan(random, name, prefixes)


def _waiting_for(random: Random, plan: Plan, name: str, other: Plan) -> Plan:
    """A stage of the plan waits for one of another rollout."""
    at = random.randrange(len(plan.stages))
    waiting = replace(plan.stages[at], after=(After(name, random.choice(other.stages).name),))
    return _digested(replace(plan, stages=(*plan.stages[:at], waiting, *plan.stages[at + 1 :])))


def _is_of_the_past(plan: Plan) -> bool:
    return any(clause.baseline is BaselineType.BEFORE_ROLLOUT for row in plan.rows for clause in row.clauses)


def _checks(plan: Plan) -> tuple[Check, ...]:
    return (*plan.preflight, *(check for stage in plan.stages for check in stage.checks))


def _row(random: Random) -> Exposure:
    return random.choice((exposure(0, enabled=False), exposure(100, enabled=False), exposure(5, "staff"), exposure(1)))


def _spec(random: Random, name: str, plan: Plan) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "plan": f"{name}-1",
        "onDelete": random.choice(("Keep", "Restore", "Disable")),
        "onDrift": random.choice(("Respect", "Respect", "LowerOnly", "Report")),
    }
    if random.random() < 0.1:
        spec["holdAt"] = random.choice(plan.stages).name
    return spec


def _plan(random: Random, name: str, prefixes: tuple[str, ...]) -> Plan:
    flags = tuple(f"{prefixes[0]}-{letter}" for letter in "abc"[: random.choice((1, 1, 2, 3))])
    metrics = _metrics(random)
    rows = _rows(random, metrics, flags)
    stages = _stages(random, name, flags, metrics)
    preflight = ()
    if random.random() < 0.15:
        preflight = (Check(preflight_key("backup"), random.choice((None, "is there a backup"))),)
    return Plan(
        {metric.name: metric for metric in metrics},
        rows,
        stages,
        digest([name, "plan", 1]),
        digest([name, "spec", 1]),
        on_blind=random.choice((OnBlind.HOLD, OnBlind.HOLD, OnBlind.REVERT)),
        calendar=_calendar(random) if random.random() < 0.15 else None,
        preflight=preflight,
    )


def _calendar(random: Random) -> Calendar:
    """Open for some minutes of each quarter of an hour."""
    length, every = random.choice(((3, 6), (5, 15), (2, 4)))
    days = frozenset(range(7))
    return Calendar("UTC", tuple(DailyWindow(days, at, at + length) for at in range(0, 1440 - length, every)))


def _metrics(random: Random) -> tuple[Metric, ...]:
    interval, delay = random.choice((20.0, 30.0)), random.choice((0.0, 0.0, 5.0))
    shape = {"interval": timedelta(seconds=interval), "delay": timedelta(seconds=delay)}
    found = []
    if random.random() < 0.92:
        found.append(ratio(key="errors-1", **shape))
    if random.random() < 0.35:
        found.append(gauge(key="latency-1", **shape))
    if random.random() < 0.2:
        found.append(ratio("hits", key="hits-1", **shape))
    return tuple(found)


def _levels(random: Random, plan: Plan) -> dict[str, Level]:
    """Healthy is far enough from the limits for no chance to be taken for harm."""
    arms = any(c.baseline is BaselineType.CONTROL for row in plan.rows for c in row.clauses)
    units = random.choice((300, 1000, 3000))
    found = {}
    for metric in plan.metrics.values():
        if metric.type is MetricType.GAUGE:
            found[metric.name] = Level(0.2, 0.5, 1)
        elif metric.name == "hits":
            found[metric.name] = Level(0.97, 0.8, units, falls=True, control=arms)
        else:
            found[metric.name] = Level(random.choice((0.0, 0.001, 0.003)), 0.01, units, control=arms)
    return found


def _rows(random: Random, metrics: tuple[Metric, ...], flags: tuple[str, ...]) -> tuple[Row, ...]:
    if not metrics:
        return ()
    severities = random.sample(list(Severity), random.choice((1, 2, 2, 3, 4)))
    return tuple(_matrix_row(random, severity, metrics, flags) for severity in sorted(severities, reverse=True))


def _matrix_row(random: Random, severity: Severity, metrics: tuple[Metric, ...], flags: tuple[str, ...]) -> Row:
    named = random.sample(metrics, min(len(metrics), random.choice((1, 1, 2))))
    clauses = tuple(_clause(random, metric, severity) for metric in named)
    settle = timedelta(seconds=random.choice((0, 0, 60)))
    within = timedelta(minutes=random.choice((5, 10, 30)))
    return Row(severity, clauses, within, _action(random, flags), settle)


def _clause(random: Random, metric: Metric, severity: Severity) -> Clause:
    """The same limits as in `_levels`, or wider ones for graver rows."""
    worse = int(severity) - 1
    if metric.type is MetricType.GAUGE:
        persist = random.choice((Persist(2, 3), Persist(3, 3), None))
        return above(metric.name, f"{0.5 + 0.5 * worse:g}", key=f"latency/{severity}", persist=persist)
    if metric.name == "hits":
        return below("hits", f"{80 - 10 * worse}%", key=f"hits/{severity}")
    if random.random() < 0.12:
        against = random.choice((BaselineType.BEFORE_ROLLOUT, BaselineType.CONTROL))
        change = Limit(2.0 + worse, f"{200 + 100 * worse}%")
        return replace(relative(metric.name), key=f"errors+/{severity}", limit=change, baseline=against)
    return above("errors", f"{1 + worse}%", key=f"errors/{severity}")


def _action(random: Random, flags: tuple[str, ...]) -> Action:
    kind = random.choice(list(ActionType))
    named = (random.choice(flags),) if random.random() < 0.15 else None
    if kind is ActionType.RESTRICT_TO_GROUPS:
        return Action(kind, groups=frozenset(random.sample(GROUPS, 2)), flags=named)
    if kind is ActionType.REDUCE_PERCENTAGE:
        to = random.choice((Target.PREVIOUS_STAGE, Target.BASELINE, None))
        return Action(kind, to=to, percentage=None if to else exposure(7).percentage, flags=named)
    return Action(kind, flags=None if kind is ActionType.HOLD else named)


def _stages(random: Random, name: str, flags: tuple[str, ...], metrics: tuple[Metric, ...]) -> tuple[Stage, ...]:
    count = random.choice((1, 2, 3, 3, 4, 5))
    steps = [*sorted(random.sample((1, 5, 10, 20, 25, 40, 50, 75, 90), count - 1)), 100]
    return tuple(_stage(random, f"s{index}", flags, metrics, percentage) for index, percentage in enumerate(steps))


def _stage(random: Random, name: str, flags: tuple[str, ...], metrics: tuple[Metric, ...], percentage: int) -> Stage:
    named = tuple(sorted(random.sample(flags, random.randint(1, len(flags)))))
    if random.random() < 0.08 and percentage < 100:
        named = ()
    groups = frozenset(random.sample(GROUPS, random.choice((1, 2)))) if random.random() < 0.2 else None
    if groups is None and random.random() < 0.4:
        groups = frozenset()
    change = FlagChange(exposure(percentage).percentage if random.random() < 0.95 else None, groups)
    interval = metrics[0].interval if metrics else timedelta(seconds=30)
    checks = ()
    if random.random() < 0.12:
        checks = (Check(stage_key(name, "on-call"), random.choice((None, "is somebody on call"))),)
    stage = Stage(
        name,
        (FlagEntry(named, change),) if named else (),
        random.choice((0, 1, 2, 2, 3, 4)) * interval,
        _gates(random, metrics),
        random.choice((OnNoTraffic.WAIT, OnNoTraffic.WAIT, OnNoTraffic.COUNT)),
        timedelta(minutes=5) if random.random() < 0.1 else None,
        approval=Approval(random.choice((1, 1, 2))) if random.random() < 0.12 else None,
        checks=checks,
    )
    return replace(stage, digest=stage_digest(stage))


def _gates(random: Random, metrics: tuple[Metric, ...]) -> tuple[Gate, ...]:
    if not metrics or random.random() > 0.3:
        return ()
    metric = random.choice(metrics)
    if metric.type is MetricType.GAUGE:
        return (Gate(metric.name, at_most=Limit(0.5, "0.5")),)
    if metric.name == "hits":
        return (Gate("hits", at_least=percent("90%"), min_units=random.choice((1, 500))),)
    return (Gate("errors", at_most=percent("1%"), min_units=random.choice((1, 500, 2000))),)


def _digested(plan: Plan) -> Plan:
    return replace(plan, stages=tuple(replace(stage, digest=stage_digest(stage)) for stage in plan.stages))


def stage_digest(stage: Stage) -> str:
    """Of what a stage does; sets are sorted, so that it is the same in every process."""
    flags = [
        [
            entry.names,
            str(entry.change.percentage),
            None if entry.change.groups is None else sorted(entry.change.groups),
        ]
        for entry in stage.entries
    ]
    return digest(
        [stage.name, flags, stage.bake.total_seconds(), [gate.metric for gate in stage.gates], [*map(str, stage.after)]]
    )


def _versions(random: Random, name: str, base: Plan) -> dict[str, Plan | None]:
    """Edits of a plan: -2 of its last stage, -3 of its matrix, -4 of its first stage; -bad cannot be followed."""
    last = replace(base.stages[-1], bake=base.stages[-1].bake + timedelta(seconds=30))
    first = replace(base.stages[0], bake=base.stages[0].bake + timedelta(seconds=30))
    stages = [
        (*base.stages[:-1], replace(last, digest=stage_digest(last))),
        base.stages,
        (replace(first, digest=stage_digest(first)), *base.stages[1:]),
    ]
    rows = tuple(replace(row, respond_within=row.respond_within * 2) for row in base.rows)
    found: dict[str, Plan | None] = {f"{name}-1": base, f"{name}-bad": None}
    for number, edited in zip((2, 3, 4), stages, strict=True):
        found[f"{name}-{number}"] = replace(
            base,
            stages=edited,
            rows=rows if number == 3 else base.rows,
            plan_hash=digest([name, "plan", number]),
            spec_hash=digest([name, "spec", 1 if number == 3 else number]),
        )
    return found


__all__ = ["MAIN", "Clause", "Script", "Sense", "draw"]
