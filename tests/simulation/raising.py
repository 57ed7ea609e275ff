"""S2, S4, S9, S10, S13, S15, S20: whether a stage could begin now, from what people, metrics and servers have said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import Metric, OnNoTraffic, Plan, Stage
from feature_rollout.core.state import Ledger
from simulation import liveness
from simulation.database import Transaction
from simulation.memory import Past
from simulation.order import plain

if TYPE_CHECKING:
    from simulation.witness import Witness

Wrong = Iterator[tuple[str, str]]
# What passes between a look's answer and the commit that rests on it.
SLACK = timedelta(seconds=20)
# A stage begins when it is decided, and is committed so much later at most.
COMMIT_S = 2.0


def check(witness: Witness, change: Transaction, key: str, plan: Plan, past: Past) -> Wrong:
    old, new = change.before.ledgers[key].ledger, change.after.ledgers[key].ledger
    name, stage = key.rpartition("/")[2], plan.stages[new.stage]
    spec = _spec(witness, change, new)
    if (change.who, new.uid) in witness.deletion_seen:
        yield "S15", f"{change.who} has seen the deletion of {new.uid} and raised"
    yield from _dormant(witness, change, (old, new), spec)
    yield from _people(witness, change, past, stage, spec)
    yield from _approved(witness, change, new, stage, plan)
    if old.stage >= 0 and old.people.promoted is None:
        yield from _baked(witness, name, plan, old, past)
        waited_s = witness.time_s() - past.entered_s if past.entered_s is not None else 0.0
        late = liveness.too_late(witness.world, plan, old.stage, waited_s)
        if late is not None:
            yield "L8", late
        yield from _gated(witness, name, plan, old, past)
    yield from _seen(witness, change, name, plan)


def _spec(witness: Witness, change: Transaction, new: Ledger) -> Any:
    """The spec of the generation that the raise says it was decided on; None when it changed no row."""
    generation = next((entry.why.generation for entry in change.audited if entry.kind == "Raise"), None)
    specs = witness.world.cluster.specs.get(new.uid, {})
    return specs.get(generation) if generation is not None else None


def _dormant(witness: Witness, change: Transaction, ledgers: tuple[Ledger, Ledger], spec: Any) -> Wrong:
    old, new = ledgers
    if witness.is_idle(change.who):
        yield "S20", f"{change.who} raised without the Lease"
    if old.people.paused is not None:
        yield "S20", "raised while a person has paused it"
    if spec is None:
        return
    plan = witness.world.plans.get(spec["plan"])
    if spec.get("suspend"):
        yield "S20", "raised while spec.suspend is true"
    if plan is None:
        yield "S20", "raised by a manifest that cannot be followed"
    elif plan.plan_hash != new.plan_hash:
        yield "S12", f"raised by plan {new.plan_hash}, its generation has {plan.plan_hash}"
    if spec.get("holdAt") is not None and plan is not None:
        names = [one.name for one in plan.stages]
        if spec["holdAt"] not in names or new.stage > names.index(spec["holdAt"]):
            yield "S20", f"raised beyond holdAt {spec['holdAt']}"


def _people(witness: Witness, change: Transaction, past: Past, stage: Stage, spec: Any) -> Wrong:
    if spec is None or spec.get("onDrift") == "Report":
        return
    read_s = witness.read_s.get(change.who, 0.0)
    for flag, left in past.left.items():
        row = change.before.flags.get(flag)
        seen = flag in stage.flags or witness.edited_s.get(flag, math.inf) < read_s
        if row is not None and plain(row) != left and seen:
            yield "S4", f"stage {stage.name} began while {flag} was {row}, which the operator had left at {left}"


def _approved(witness: Witness, change: Transaction, new: Ledger, stage: Stage, plan: Plan) -> Wrong:
    """By the actions themselves, and not by what the ledger says of them."""
    applied = [
        (witness.actions[uid], recorded)
        for uid, (key, recorded) in change.before.actions.items()
        if key == new.key
        and str(recorded.answer.outcome) == "Applied"
        and uid in witness.actions
        and witness.applied.get(uid) == (new.uid, new.attempt)
    ]
    by = {
        action["spec"].get("requestedBy")
        for action, _ in applied
        if action["spec"]["type"] == "Approve"
        and action["spec"].get("stage") == stage.name
        and action["spec"].get("planHash") == plan.plan_hash
    }
    required = stage.approval.required if stage.approval is not None else 0
    if len(by - {None, ""}) < required:
        yield "S13", f"stage {stage.name} began with the approval of {sorted(map(str, by))}, {required} are required"
    confirmed = {
        action["spec"].get("check")
        for action, _ in applied
        if action["spec"]["type"] == "Confirm" and action["spec"].get("planHash") == plan.plan_hash
    }
    missing = [check.name for check in stage.checks if check.confirm is not None and check.name not in confirmed]
    if missing:
        yield "S13", f"stage {stage.name} began without the confirmation of {missing}"


def _sound(look: Look) -> bool:
    """Whether there is something in it that can be judged."""
    numbers = (look.events, look.units, look.value)
    given = [number for number in numbers if number is not None]
    if look.error is not None or not given or not all(math.isfinite(number) and number >= 0 for number in given):
        return False
    return look.value is not None or bool(look.units)


def _empty(look: Look) -> bool:
    return look.error is None and look.value is None and not look.units and not (look.events or 0)


def _in_stage(witness: Witness, rollout: str, metric: str, since: datetime) -> list[Look]:
    return [look for look in witness.looks[rollout].get(metric, ()) if look.window.start >= since]


def _baked(witness: Witness, name: str, plan: Plan, old: Ledger, past: Past) -> Wrong:
    stage, since = plan.stages[old.stage], _since(witness, old, past)
    guarded = sorted({clause.metric for _, clause in plan.guards()})
    if since is None or past.entered_s is None or not stage.bake:
        return
    waited_s = witness.time_s() - past.entered_s
    if not witness.skewed and waited_s < stage.bake.total_seconds() - COMMIT_S:
        yield "S10", f"stage {stage.name} was left after {waited_s:.1f} s, its bake is {stage.bake}"
    if not guarded:
        return
    counts = stage.on_no_traffic is OnNoTraffic.COUNT
    spans = [
        {look.window for look in _in_stage(witness, name, metric, since) if _sound(look) or (counts and _empty(look))}
        for metric in guarded
    ]
    healthy = sum((window.end - window.start for window in _common(spans)), timedelta(0))
    if healthy < stage.bake:
        yield "S10", f"stage {stage.name} was left after {healthy} of sound looks, its bake is {stage.bake}"


def _common(spans: Sequence[set[Window]]) -> set[Window]:
    """All metrics of a plan have one interval here, so that their windows are the same."""
    return set.intersection(*spans) if spans else set()


def _since(witness: Witness, old: Ledger, past: Past) -> datetime | None:
    """When the stage began: by the clock of who began it, or by the true time where that was fast."""
    if old.entered_at is None or past.entered_s is None:
        return old.entered_at
    return min(old.entered_at, witness.world.at(past.entered_s))


def _gated(witness: Witness, name: str, plan: Plan, old: Ledger, past: Past) -> Wrong:
    stage, since = plan.stages[old.stage], _since(witness, old, past)
    for gate in stage.gates if since is not None else ():
        assert since is not None
        looks = [look for look in _in_stage(witness, name, gate.metric, since) if _sound(look)]
        units = sum({look.window: look.units or 0.0 for look in looks}.values())
        if not looks:
            yield "S9", f"the gate on {gate.metric} was passed without a sound look in {stage.name}"
        elif looks[0].units is not None and units < gate.min_units:
            yield "S9", f"the gate on {gate.metric} was passed with {units:g} units, it demands {gate.min_units}"
        elif looks[0].events is not None and len({look.window for look in looks}) == 1:
            rate = (looks[0].events or 0.0) / (looks[0].units or 1.0)
            too_high = gate.at_most is not None and rate > gate.at_most.value
            if too_high or (gate.at_least is not None and rate < gate.at_least.value):
                yield "S9", f"the gate on {gate.metric} was passed at {rate:g}"


def _seen(witness: Witness, change: Transaction, name: str, plan: Plan) -> Wrong:
    """Not knowing is not passing: what was answered last, to whoever raises, is a number, and not an old one."""
    replica = next(replica for replica in witness.world.replicas if replica.name == change.who)
    for metric in sorted({clause.metric for _, clause in plan.guards()}):
        looks = witness.newest(change.who, name, metric)
        if not looks:
            continue  # what a process before it has stored may be fresh enough
        bound: Metric = plan.metrics[metric]
        age = replica.now() - max(look.window.end for look in looks)
        if not any(_sound(look) or _empty(look) for look in looks):
            yield "S9", f"raised on a look of {metric} that says nothing: {looks[-1]}"
        elif age > 3 * bound.interval + bound.delay + SLACK and not witness.skewed:
            yield "S9", f"raised on a look of {metric} that is {age} old"
