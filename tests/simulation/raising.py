"""S2, S4, S9, S10, S13, S15, S20: whether a stage could begin now, from what people, metrics and servers have said."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feature_rollout.core.plan import After, Metric, Plan, Stage
from feature_rollout.core.state import Ledger
from simulation import liveness, observed
from simulation.database import LedgerRow, Transaction
from simulation.memory import Past
from simulation.order import plain

if TYPE_CHECKING:
    from simulation.witness import Witness

Wrong = Iterator[tuple[str, str]]
# What passes between a look's answer and the commit that rests on it.
SLACK = timedelta(seconds=20)
# Between taking in what was read and the commit that rests on it.
DECIDING_S = 2.0
# What was read of another rollout counts for so long, and is decided on and committed then.
READ_S = 20.0
# A stage begins when it is decided, and is committed so much later at most.
COMMIT_S = 2.0


def check(witness: Witness, change: Transaction, key: str, plan: Plan, past: Past) -> Wrong:
    old, new = change.before.ledgers[key].ledger, change.after.ledgers[key].ledger
    name, stage = key.rpartition("/")[2], plan.stages[new.stage]
    spec = _spec(witness, change, new)
    if witness.has_seen_deletion(change.who, new.uid):
        yield "S15", f"{change.who} has seen the deletion of {new.uid} and raised"
    yield from _dormant(witness, change, (old, new), spec)
    yield from _outdated(witness, change, new)
    yield from _people(witness, change, past, stage, spec)
    yield from _approved(witness, change, new, stage, plan)
    yield from _in_order(witness, change, stage)
    if old.stage >= 0 and old.people.promoted is None:
        yield from _baked(witness, name, plan, old, past)
        late = liveness.too_late(witness.world, plan, old, past)
        if late is not None:
            yield "L8", late
        yield from _gated(witness, name, plan, old, past)
    yield from _seen(witness, change, name, plan)


def _spec(witness: Witness, change: Transaction, new: Ledger) -> Any:
    """The spec of the generation that the raise says it was decided on; None when it changed no row."""
    generation = next((entry.why.generation for entry in change.audited if entry.kind == "Raise"), None)
    specs = witness.world.cluster.specs.get(new.uid, {})
    return specs.get(generation) if generation is not None else None


def _outdated(witness: Witness, change: Transaction, new: Ledger) -> Wrong:
    """The object is looked at once more before a raise, whatever the watch has said of it."""
    generation = next((entry.why.generation for entry in change.audited if entry.kind == "Raise"), None)
    since_s = witness.replaced_s(new.uid, generation) if generation is not None else math.inf
    if since_s < witness.time_s() - DECIDING_S and not (
        witness.was_stopped(change.who) or witness.was_misled(change.who)
    ):
        yield "S12", f"raised by generation {generation} of {new.uid}, which was replaced at {since_s:.3f}"


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
    read = witness.read_rows.get(change.who, {}) if len(witness.world.script.specs) == 1 else {}
    for flag in stage.flags:
        if flag in read and change.before.flags[flag] != read[flag]:
            yield "S4", f"stage {stage.name} began while {flag} was {change.before.flags[flag]}, read as {read[flag]}"
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


def _in_order(witness: Witness, change: Transaction, stage: Stage) -> Wrong:
    """A stage that waits for another rollout's: that was passed, by its ledger as it is or was a moment ago."""
    lately_s = math.inf if witness.skewed or witness.was_stopped(change.who) else READ_S
    for one in stage.after:
        rows = witness.lately(witness.world.key(one.rollout), lately_s)
        if not any(_is_passed(witness, row, one) for row in rows):
            yield "S9", f"stage {stage.name} began, and {one} was not passed in the last {lately_s:g} s"


def _is_passed(witness: Witness, row: LedgerRow, one: After) -> bool:
    ledger = row.ledger
    if ledger.latch is not None or row.closed_at is not None or ledger.stage < 0:
        return False
    plan = witness.plan(ledger.plan_hash)
    index = [stage.name for stage in plan.stages].index(one.stage)
    stage = plan.stages[index]
    if ledger.stage != index or ledger.completed_at is not None or ledger.people.promoted is not None:
        return ledger.stage > index or ledger.completed_at is not None or ledger.people.promoted is not None
    if ledger.entered_at is None or not plan.guards() or ledger.attempt > 1:
        return True  # where a bake is counted from is another matter
    return observed.length(observed.baked(witness, one.rollout, plan, stage, ledger.entered_at)) >= stage.bake


def _baked(witness: Witness, name: str, plan: Plan, old: Ledger, past: Past) -> Wrong:
    stage, since = plan.stages[old.stage], observed.since(witness, old, past)
    if since is None or past.entered_s is None or not stage.bake:
        return
    waited_s = witness.time_s() - past.entered_s
    if not witness.skewed and waited_s < stage.bake.total_seconds() - COMMIT_S:
        yield "S10", f"stage {stage.name} was left after {waited_s:.1f} s, its bake is {stage.bake}"
    if not plan.guards():
        return
    healthy = observed.length(observed.baked(witness, name, plan, stage, since))
    if healthy < stage.bake:
        yield "S10", f"stage {stage.name} was left after {healthy} of sound looks, its bake is {stage.bake}"


def _gated(witness: Witness, name: str, plan: Plan, old: Ledger, past: Past) -> Wrong:
    stage, since = plan.stages[old.stage], observed.since(witness, old, past)
    for gate in stage.gates if since is not None else ():
        assert since is not None
        looks = observed.sound_of(observed.in_stage(witness, name, gate.metric, since))
        units = sum(look.units or 0.0 for look in looks)
        if not looks:
            yield "S9", f"the gate on {gate.metric} was passed without a sound look in {stage.name}"
        elif looks[0].units is not None and units < gate.min_units:
            yield "S9", f"the gate on {gate.metric} was passed with {units:g} units, it demands {gate.min_units}"
        elif all(observed.is_beyond(gate, look) for look in looks):
            yield "S9", f"the gate on {gate.metric} was passed, and every look in {stage.name} is beyond it"


def _seen(witness: Witness, change: Transaction, name: str, plan: Plan) -> Wrong:
    """Not knowing is not passing: what was answered last, to whoever raises, is a number, and not an old one."""
    replica = next(replica for replica in witness.world.replicas if replica.name == change.who)
    for metric in sorted({clause.metric for _, clause in plan.guards()}):
        looks = witness.newest(change.who, name, metric)
        if not looks:
            continue  # what a process before it has stored may be fresh enough
        bound: Metric = plan.metrics[metric]
        age = replica.now() - max(look.window.end for look in looks)
        if not any(observed.is_sound(look) or observed.is_empty(look) for look in looks):
            yield "S9", f"raised on a look of {metric} that says nothing: {looks[-1]}"
        elif age > 3 * bound.interval + bound.delay + SLACK and not (witness.skewed or witness.was_stopped(change.who)):
            yield "S9", f"raised on a look of {metric} that is {age} old"
