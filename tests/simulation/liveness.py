"""What must come about, and how soon by the virtual time.

| id | when | what |
|---|---|---|
| L1 | faults are over, a rate is far past its limit | the revert is committed within twice the looks of a settling |
| L1 | faults are over | a revert that was begun, and not made or not answered, is made |
| L4 | a failover has lost a revert, and nothing else goes wrong | who knows of it makes it again within 40 s |
| S5 | at rest | the audit leaves each row as it is |
| L7 | completed, and nobody does anything | no write for ten intervals |
| L8 | nothing was wrong but that processes died | a stage begins within two intervals of the look that ends the bake |
| L8 | faults are over, and all that was looked at passes the gates | nobody waits at them |
| L9 | deleted, and faults are over | the object is gone within a minute, and its flags are nobody's |
| rest | faults are over, and people do what is asked of them | the rollout completes |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_rollout.core.plan import MetricType, Plan, Row, Stage
from simulation import observed
from simulation.memory import Memory, Past
from simulation.order import plain, within
from simulation.traffic import Kind, Spell

if TYPE_CHECKING:
    from feature_rollout.core.state import Ledger
    from simulation.replica import Replica
    from simulation.world import World

STEP_S = 5.0
# Between the answer of a look and the commit, with all that a process does in between.
SLACK_S = 40.0
DELETED_S = 60.0
QUIET_S = 300.0
# A process looks at the rows this often at least, and writes what it has measured this often.
RESTORED_S = 40.0
CHECKPOINT_S = 5.0


# Whatever holds, guards go on.
_WATCHED = frozenset({"Baking", "Paused", "AwaitingApproval", "AwaitingWindow", "Gating"})


async def wait(world: World, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Let the time go by; whether it came about. A violation ends it too."""
    end_s = world.loop.time() + seconds
    while world.loop.time() < end_s and world.witness.violation is None:
        if until():
            return True
        await asyncio.wait([world.stopped], timeout=min(STEP_S, end_s - world.loop.time()))
    return until()


async def harm(world: World, name: str) -> None:
    """L1: let harm in, where a guard must see it."""
    found = guarded(world, name)
    if found is None:
        return
    plan, row = found
    interval_s = plan.metrics["errors"].interval.total_seconds()
    looks = round(row.settle.total_seconds() / interval_s) + 1
    bound_s = (2 * looks + 4) * interval_s + SLACK_S
    now, before = world.now(), world.witness.lowered[world.key(name)]
    world.note("traffic", "harm, and nothing else is wrong")
    world.traffic[name].spells.append(Spell(Kind.HARM, now, now + timedelta(seconds=bound_s), "errors", 100.0))
    done = await wait(world, bound_s, lambda: world.witness.lowered[world.key(name)] > before)
    world.traffic[name].end(world.now())
    if not done and guarded(world, name) == found and world.witness.violation is None:
        world.witness.report("L1", f"every unit of errors failed for {bound_s:g} s, and {name} was not reverted")


def guarded(world: World, name: str) -> tuple[Plan, Row] | None:
    """The plan in force, and a row that must act on errors now; None when there is none."""
    held = world.database.tables.ledgers.get(world.key(name))
    rollout = world.rollout(name)
    if held is None or rollout is None or held.closed_at is not None or world.traffic[name].levels_control:
        return None
    plan, ledger = world.plans.get(rollout["spec"]["plan"]), held.ledger
    usable = (
        plan is not None and ledger.uid == rollout["metadata"]["uid"] and "deletionTimestamp" not in rollout["metadata"]
    )
    if not usable or plan is None or ledger.latch is not None or world.phase(name) not in _WATCHED:
        return None
    if ledger.completed_at is not None:
        return None  # the guards have ended, also where a row was changed since
    past = (world.database.tables.memory or Memory()).of(ledger.key)
    raised = {flag for flag, row in past.left.items() if not within(row, past.baseline.get(flag, row))}
    for row in plan.rows:
        named = raised & set(row.action.flags if row.action.flags is not None else raised)
        # Without a latch no row has acted in this attempt.
        if (
            row.action.type.lowers
            and named
            and any(_is_plain(plan, clause.metric) and clause.baseline is None for clause in row.clauses)
        ):
            return plan, row
    return None


def _is_plain(plan: Plan, metric: str) -> bool:
    return metric == "errors" and plan.metrics[metric].type is MetricType.RATIO


async def quiet(world: World, name: str) -> None:
    """L7, and S5 at rest."""
    if world.phase(name) != "Completed" or len(world.script.specs) > 1:
        return
    await wait(world, SLACK_S)
    before, since_s = world.witness.writes, world.loop.time()
    await wait(world, QUIET_S)
    if world.witness.writes != before:
        world.witness.report("L7", f"{world.witness.writes - before} writes after {since_s:g} s, at rest")
    past = (world.database.tables.memory or Memory()).of(world.key(name))
    for flag, row in world.database.tables.flags.items():
        known = past.audited.get(flag)
        if known is not None and known != plain(row) and flag not in past.unsure and flag in past.left:
            world.witness.report("S5", f"the audit leaves {flag} at {known}, the row is {row}")


async def deletion(world: World, name: str) -> None:
    """L9."""
    if world.rollout(name) is None:
        return
    world.note("alice", f"deletes {name} for good")
    world.cluster.delete(name)
    if not await wait(world, DELETED_S, lambda: world.rollout(name) is None) and world.witness.violation is None:
        world.witness.report("L9", f"{name} is still there {DELETED_S:g} s after its deletion")
    owned = [flag for flag, owner in world.database.tables.ownership.items() if owner.key == world.key(name)]
    held = world.database.tables.ledgers.get(world.key(name))
    if owned and held is not None and held.ledger.uid in world.witness.opened and world.witness.violation is None:
        world.witness.report("L9", f"{name} is gone and owns {owned}")


def too_late(world: World, plan: Plan, old: Ledger, past: Past) -> str | None:
    """L8: why a stage should have begun before, or None. What was looked at counts, whoever has died since."""
    left, witness = plan.stages[old.stage], world.witness
    coming = plan.stages[old.stage + 1] if old.stage + 1 < len(plan.stages) else None
    struck = {fault for fault, _ in witness.pairs}
    waits_for_more = left.gates or plan.calendar is not None or (coming and (coming.approval or coming.checks))
    waits_for_more = waits_for_more or any("holdAt" in spec for spec in world.script.specs.values())
    if waits_for_more or not struck <= HARMLESS or len(world.script.specs) > 1 or not plan.guards():
        return None
    since = observed.since(witness, old, past)
    if since is None or past.entered_s is None:
        return None
    name = old.key.rpartition("/")[2]
    baked_s = observed.baked_s(witness, name, plan, left, since) if left.bake else past.entered_s
    interval_s = max(metric.interval + metric.delay for metric in plan.metrics.values()).total_seconds()
    bound_s = (baked_s or past.entered_s) + 2 * interval_s + 10.0
    deaths = sum(at_s > bound_s - 2 * interval_s - 2 * CHECKPOINT_S - 10.0 for at_s in witness.deaths_s)
    bound_s += deaths * (2 * interval_s + SLACK_S)
    if baked_s is None or world.loop.time() <= bound_s:
        return None
    return f"stage {left.name} was left {world.loop.time() - baked_s:.1f} s after its bake had been seen"


def gating(world: World, name: str) -> None:
    """L8: who waits at gates that are passed."""
    witness, rollout = world.witness, world.rollout(name)
    held = world.database.tables.ledgers.get(world.key(name))
    plan = world.plans.get(rollout["spec"]["plan"]) if rollout is not None else None
    if world.phase(name) != "Gating" or held is None or plan is None or witness.skewed or held.ledger.stage < 0:
        witness.passing_s.pop(name, None)
        return
    past = (world.database.tables.memory or Memory()).of(held.ledger.key)
    since = observed.since(witness, held.ledger, past)
    if since is None or not _all_passed(world, name, plan.stages[held.ledger.stage], since):
        witness.passing_s.pop(name, None)
        return
    interval_s = max(metric.interval + metric.delay for metric in plan.metrics.values()).total_seconds()
    since_s = witness.passing_s.setdefault(name, world.loop.time())
    if world.loop.time() > since_s + 3 * interval_s + SLACK_S:
        witness.report("L8", f"{name} waits at gates that have been passed since {since_s:.1f} s")


def _all_passed(world: World, name: str, stage: Stage, since: datetime) -> bool:
    """By all that was looked at, and by what was since the faults were over, of which no process has missed any."""
    for gate in stage.gates:
        looks = observed.sound_of(observed.in_stage(world.witness, name, gate.metric, since))
        clean = [look for look in looks if look.window.start >= world.at(world.healed_s)]
        if not (observed.is_passed(gate, looks) and observed.is_passed(gate, clean)):
            return False
    return True


def forgotten(world: World) -> None:
    """L1: a revert that a process has begun is made, also when its reason is over."""
    for replica in world.alive:
        if world.witness.has_pending(replica.name) and len(world.script.specs) == 1:
            world.witness.report("L1", f"{replica.name} has begun a revert, and has not made it")


async def restored(world: World, who: Replica, key: str, attempt: int) -> None:
    """L4: a revert that a failover has lost is made again by who knows of it, if nothing else goes wrong."""
    since_s, uid = world.loop.time(), world.database.tables.ledgers[key].ledger.uid

    def is_over() -> bool:
        held, rollout = world.database.tables.ledgers.get(key), world.rollout(key.rpartition("/")[2])
        if held is None or held.ledger.attempt != attempt or held.ledger.latch is not None:
            return True
        gone = rollout is None or rollout["metadata"]["uid"] != uid or "deletionTimestamp" in rollout["metadata"]
        return gone or world.disturbed_s > since_s or not who.alive or world.weather.is_bad

    if not await wait(world, RESTORED_S, is_over) and world.witness.violation is None:
        world.witness.report("L4", f"a failover has lost the revert of {key}, and {who.name} has not made it again")


# With nothing but these a rollout goes on as it should.
HARMLESS = {
    "killed",
    "killed before a write",
    "killed after a write",
    "killed around an API call",
    "answer lost, made",
    "answer lost, not made",
    "answer lost, made later",
    "harm over",
    "watch event duplicated",
    "applied again",
    "status forged",
}
