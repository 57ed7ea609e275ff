"""What must come about, and how soon by the virtual time.

| id | when | what |
|---|---|---|
| L1 | faults are over, a rate is far past its limit | the revert is committed within twice the looks of a settling |
| S5 | at rest | the audit leaves each row as it is |
| L7 | completed, and nobody does anything | no write for ten intervals |
| L8 | nothing was wrong but that processes died | a stage begins within bake, two intervals, and what deaths cost |
| L9 | deleted, and faults are over | the object is gone within a minute, and its flags are nobody's |
| rest | faults are over, and people do what is asked of them | the rollout completes |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from feature_rollout.core.plan import MetricType, Plan, Row
from simulation.memory import Memory
from simulation.order import plain, within
from simulation.traffic import Kind, Spell

if TYPE_CHECKING:
    from simulation.world import World

STEP_S = 5.0
# Between the answer of a look and the commit, with all that a process does in between.
SLACK_S = 40.0
DELETED_S = 60.0
QUIET_S = 300.0


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
    found = _guarded(world, name)
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
    if not done and _guarded(world, name) == found and world.witness.violation is None:
        world.witness.report("L1", f"every unit of errors failed for {bound_s:g} s, and {name} was not reverted")


def _guarded(world: World, name: str) -> tuple[Plan, Row] | None:
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


def too_late(world: World, plan: Plan, stage: int, waited_s: float) -> str | None:
    """L8: why a stage should have begun before, or None."""
    left = plan.stages[stage]
    coming = plan.stages[stage + 1] if stage + 1 < len(plan.stages) else None
    struck = {fault for fault, _ in world.witness.pairs}
    waits_for_more = left.gates or coming is None or coming.approval or coming.checks or plan.calendar is not None
    waits_for_more = waits_for_more or any("holdAt" in spec for spec in world.script.specs.values())
    if waits_for_more or not struck <= HARMLESS or len(world.script.specs) > 1 or not plan.guards():
        return None
    interval_s = max(metric.interval + metric.delay for metric in plan.metrics.values()).total_seconds()
    bound_s = left.bake.total_seconds() + 2 * interval_s + 10.0
    bound_s += world.witness.deaths * (2 * interval_s + SLACK_S)
    if waited_s <= bound_s:
        return None
    return f"stage {left.name} took {waited_s:.1f} s, at most {bound_s:g} s was allowed"


# With nothing but these a rollout goes on as it should.
HARMLESS = {
    "killed",
    "killed before a write",
    "killed after a write",
    "killed around an API call",
    "answer lost, made",
    "answer lost, not made",
    "answer lost, made later",
    "watch event duplicated",
    "applied again",
    "status forged",
}
