"""`featurerollout plan`: what a plan will do, without a cluster: dates, exposure, SQL, and what its guards can tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from feature_rollout.cli.files import files_argument, load, moment

if TYPE_CHECKING:
    from feature_rollout.api.lint import Finding, Resolved
    from feature_rollout.core.forecast import Schedule
    from feature_rollout.core.plan import Clause, Gate, Row

ALL = ""
# The rates, in limits, at which it is said how often a gate passes.
EDGES = (0.8, 1.2)


def _start(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime:
    return moment(context, parameter, value) or datetime.now(UTC).replace(microsecond=0)


def _units(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Units of a look by metric; those of ALL are for the metrics that are not named."""
    units = {}
    for value in values:
        metric, _, number = value.rpartition("=")
        try:
            units[metric] = float(number)
        except ValueError:
            units[metric] = 0.0
        if not 0 < units[metric] <= 1e9:
            raise click.BadParameter(f'"{value}" is not a number of units: write 50, or error-rate=50')
    return units


@click.command("plan")
@files_argument
@click.option("--start", callback=_start, metavar="TIME", help="When it starts, with its offset; by default now.")
@click.option(
    "--units-per-look",
    multiple=True,
    default=("50",),
    show_default=True,
    callback=_units,
    metavar="[METRIC=]NUMBER",
    help="The traffic: so many units (users, requests) in a look of each metric, or of this one.",
)
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def command(files: tuple[Path, ...], *, start: datetime, units_per_look: dict[str, float], output: str) -> None:
    """Say what the rollouts in FILES will do, without a cluster or a database.

    When each stage begins if all is healthy and nobody has to be waited for; who has
    which flag in it; the UPDATEs, from rows that are disabled, at 0 % and without groups;
    how soon each guard would find harm; how often a gate passes at the edge of its limit;
    and what is to be looked at twice. Give all files together, as for lint. Exit code 1
    when a manifest is wrong.
    """
    from feature_rollout.api.lint import Level, lint, plans

    documents = load(files)
    findings = lint(documents)
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    for finding in errors:
        click.echo(str(finding), err=True)
    if errors:
        raise SystemExit(1)
    found = plans(documents)
    if not found:
        raise click.UsageError("there is no FeatureRollout in these files")
    _known(units_per_look, found)
    pictures = [picture(one, start, units_per_look, findings) for one in found]
    click.echo(json.dumps(pictures, indent=2) if output == "json" else "\n\n".join(map(text, pictures)))


def _known(units: Mapping[str, float], found: list[Resolved]) -> None:
    """A metric that no rollout binds is a slip of the pen, whose traffic would be asked for in vain."""
    names = sorted({name for one in found for name in one.plan.metrics})
    unknown = next((name for name in units if name not in (ALL, *names)), None)
    if unknown is not None:
        message = f'there is no metric "{unknown}" in these files: name one of {", ".join(names) or "none"}'
        raise click.BadParameter(message, param_hint="--units-per-look")


def picture(resolved: Resolved, start: datetime, units: Mapping[str, float], findings: list[Finding]) -> dict[str, Any]:
    """Everything that is printed of a rollout, as JSON data."""
    from feature_rollout.api.lint import Level
    from feature_rollout.core.forecast import schedule

    plan, metadata = resolved.plan, resolved.rollout.metadata
    dates = schedule(plan, start, plan.calendar.next_open if plan.calendar else None)
    linted = [f.text for f in findings if f.where == resolved.where and f.level is Level.WARNING]
    guards = [_guard(resolved, row, clause, units) for row, clause in plan.guards()]
    return {
        "rollout": f"{metadata.namespace or 'default'}/{metadata.name}",
        "planHash": plan.plan_hash,
        "startsAt": start.isoformat(),
        "endsAt": _time(dates.ends_at, start),
        "stages": list(_stages(resolved, dates, start)),
        "guards": guards,
        "warnings": [*_needed(resolved), *_blind_bakes(resolved, guards), *_luck(resolved), *linted],
    }


def _time(at: datetime | None, start: datetime) -> str | None:
    return at.astimezone(start.tzinfo).isoformat() if at is not None else None


def _stages(resolved: Resolved, dates: Schedule, start: datetime) -> Iterator[dict[str, Any]]:
    from feature_rollout.core.exposure import OFF
    from feature_rollout.core.plan import format_duration
    from feature_rollout.core.status import exposure_json
    from feature_rollout.store import flags
    from feature_rollout.store.mapping import mapping_of

    assert resolved.store is not None  # noqa: S101 - lint has refused a plan without one
    table = mapping_of(resolved.store.spec.table)
    rows = dict.fromkeys(resolved.plan.flags, OFF)
    for index, (stage, begins_at) in enumerate(zip(resolved.plan.stages, dates.begins_at, strict=True)):
        after = stage.applied_to(rows)
        statements = [flags.shown(table, flag, rows[flag], after[flag]) for flag in sorted(stage.flags)]
        approval = resolved.rollout.spec.stages[index].approval
        yield {
            "name": stage.name,
            "index": index + 1,
            "beginsAt": _time(begins_at, start),
            "bake": format_duration(stage.bake),
            "approvals": approval.required if approval is not None else 0,
            "after": [str(one) for one in stage.after],
            "exposure": [{"flag": flag, **exposure_json(row)} for flag, row in after.items()],
            "changes": {flag: f"{rows[flag]} -> {after[flag]}" for flag in stage.flags if rows[flag] != after[flag]},
            "sql": [statement for statement in statements if statement is not None],
            "gates": [_gate(gate) for gate in stage.gates],
        }
        rows = after


def _limit(gate: Gate) -> str:
    return f"at most {gate.at_most}" if gate.at_most is not None else f"at least {gate.at_least}"


def _gate(gate: Gate) -> dict[str, Any]:
    from feature_rollout.core.forecast import gate_chance

    is_ratio = "%" in _limit(gate)
    chances = {f"{times:g}": gate_chance(gate, times) if is_ratio else None for times in EDGES}
    return {"metric": gate.metric, "limit": _limit(gate), "minUnits": gate.min_units, "passesAtTimesLimit": chances}


def _guard(resolved: Resolved, row: Row, clause: Clause, units: Mapping[str, float]) -> dict[str, Any]:
    from feature_rollout.core.forecast import detections
    from feature_rollout.core.plan import MetricType, format_duration
    from feature_rollout.core.progress import Progress

    metric = resolved.plan.metrics[clause.metric]
    guard = {"severity": str(row.severity), "action": str(row.action.type), "clause": str(clause)}
    guard |= {"metric": metric.name, "interval": format_duration(metric.interval)}
    blocker = clause.blocker or metric.blocker
    if blocker is not None:
        return guard | {"detects": [], "note": f"cannot be judged: {blocker}"}
    if metric.type is MetricType.GAUGE:
        how = f"{clause.persist.failures} of {clause.persist.of} looks" if clause.persist else "30 to 60 minutes"
        return guard | {"detects": [], "note": f"a Gauge: past its limit for {how}, whatever the traffic"}
    if clause.baseline is not None:
        return guard | {"detects": [], "note": f"compared with {clause.baseline}: its limit is known once that is"}
    per_look = units.get(metric.name, units.get(ALL, 50.0))
    found = [
        {"times": one.times, "looksAtStart": one.at_start, "looksMidStage": one.mid_stage}
        for one in detections(Progress().test_of(resolved.plan, row, clause), per_look)
    ]
    return guard | {"unitsPerLook": per_look, "detects": found}


def _needed(resolved: Resolved) -> Iterator[str]:
    """What waits for people, for Jobs, and for other rollouts."""
    spec = resolved.rollout.spec
    for check in spec.preflight:
        if check.confirm is not None:
            yield f"before the first stage somebody must confirm {check.name}: {check.confirm}"
        if check.job is not None:
            yield f"before the first stage the Job of {check.name} must complete"
    for planned in resolved.plan.stages:
        for blocker in planned.blockers:
            yield f"stage {planned.name} does not begin: {blocker}"
    for stage in spec.stages:
        if stage.approval is not None:
            people = "person" if stage.approval.required == 1 else "people"
            yield f"stage {stage.name} waits for the approval of {stage.approval.required} {people}"
        for one in stage.after:
            yield f"stage {stage.name} waits until rollout {one.rollout} has passed its stage {one.stage}"


def _blind_bakes(resolved: Resolved, guards: list[dict[str, Any]]) -> Iterator[str]:
    """Stages that are over before a guard could find even the greatest harm that is looked for."""
    plan = resolved.plan
    for stage in plan.stages:
        if not stage.entries:
            continue
        if not stage.bake:
            yield f"stage {stage.name} has no bake: the next begins before a guard can find anything"
            continue
        late = []
        for guard in guards:
            needed = [one["looksAtStart"] for one in guard["detects"] if one["looksAtStart"] is not None]
            looks = stage.bake // plan.metrics[guard["metric"]].interval
            if needed and min(needed) > looks:
                late.append(f"{guard['clause']} needs {min(needed)} looks and has {looks}")
        if late:
            yield f"the bake of stage {stage.name} is too short to find even gross harm: {'; '.join(late)}"


def _luck(resolved: Resolved) -> Iterator[str]:
    from feature_rollout.core.forecast import passes_by_luck

    for stage in resolved.plan.stages:
        for gate in stage.gates:
            if "%" in _limit(gate) and passes_by_luck(gate):
                yield (
                    f"the gate {gate.metric} {_limit(gate)} of stage {stage.name} passes by luck: at {gate.min_units} "
                    "units a rate a fifth on the wrong side of the limit often passes; raise minUnits"
                )


def text(picture: Mapping[str, Any]) -> str:
    """The picture for people."""
    lines = [
        f"{picture['rollout']}, from {picture['startsAt']} to {picture['endsAt'] or 'never'} if all is healthy",
        f"plan hash {picture['planHash']}",
        "",
    ]
    for stage in picture["stages"]:
        lines.append(f"{stage['index']}. {stage['name']}: {stage['beginsAt'] or 'never'}, bakes {stage['bake']}")
        lines += [f"   {flag}: {change}" for flag, change in stage["changes"].items()]
        lines += [f"   {statement};" for statement in stage["sql"]]
        lines += [f"   gate {_gate_text(gate)}" for gate in stage["gates"]]
    lines += ["", "Looks until harm is found, from the start of a stage / in the middle of it:"]
    lines += [f"   {_guard_text(guard)}" for guard in picture["guards"]]
    lines += [f"warning: {warning}" for warning in picture["warnings"]]
    return "\n".join(lines)


def _gate_text(gate: Mapping[str, Any]) -> str:
    chances = (
        f"at {times} times it passes {chance:.0%}"
        for times, chance in gate["passesAtTimesLimit"].items()
        if chance is not None
    )
    return f"{gate['metric']} {gate['limit']}, {gate['minUnits']} units: {', '.join(chances) or 'no test'}"


def _guard_text(guard: Mapping[str, Any]) -> str:
    head = f"{guard['severity']}: {guard['clause']}"
    if not guard["detects"]:
        return f"{head}: {guard['note']}"
    found = (
        f"{one['times']:g}x {one['looksAtStart']} / {one['looksMidStage']}"
        for one in guard["detects"]
        if one["looksAtStart"] is not None
    )
    return f"{head} ({guard['unitsPerLook']:g} units every {guard['interval']}): {', '.join(found) or 'never'}"
