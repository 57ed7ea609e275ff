"""Run seeds: `run(range(500))` gives an `Outcome`, `run_one(7)` all of one run.

To try the simulation on changed source, start `python -m simulation` in a process of its
own; it ends with 1 and says which seed broke which invariant.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from simulation import liveness, loop
from simulation.generator import MAIN, Script, draw
from simulation.people import LOOK_S, Helper
from simulation.trace import Trace
from simulation.world import World

SETTLING_S = 1500.0
# How long at most something is waited for that can be harmed.
HARMED_S = 600.0
# After a clock was an hour fast, or with a calendar that opens now and then.
SETTLING_S_MAX = 5000.0


@dataclass(frozen=True, slots=True)
class Run:
    """One seed. `violation` is (invariant, what happened), or None."""

    seed: int
    digest: str
    violation: tuple[str, str] | None
    pairs: Counter[tuple[str, str]]
    trace: Trace


@dataclass(slots=True)
class Outcome:
    """Many seeds. `failed` is the first that broke something: (seed, invariant, what happened)."""

    runs: int = 0
    failed: tuple[int, str, str] | None = None
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    digests: dict[int, str] = field(default_factory=dict)


def run(seeds: Iterable[int], *, stop: bool = True) -> Outcome:
    """Run these seeds, up to the first that breaks an invariant, or all."""
    outcome = Outcome()
    for seed in seeds:
        one = run_one(seed)
        outcome.runs += 1
        outcome.pairs += one.pairs
        outcome.digests[seed] = one.digest
        if one.violation is not None and outcome.failed is None:
            outcome.failed = (seed, *one.violation)
            if stop:
                break
    return outcome


def run_one(seed: int) -> Run:
    return play(draw(seed))


def play(script: Script) -> Run:
    """What a script comes to; the log of the operator is switched off meanwhile."""
    logging.disable(logging.CRITICAL)
    try:
        world = loop.run(_play(script))
    finally:
        logging.disable(logging.NOTSET)
    return Run(script.seed, world.trace.digest, world.witness.violation, world.witness.pairs, world.trace)


async def _play(script: Script) -> World:
    world = World(script)
    helpers = {name: Helper(world, name) for name in script.specs}
    world.plan_faults(MAIN)
    for name, spec in script.specs.items():
        world.cluster.apply(name, spec)
    world.start()
    await _until(world, script.active_s, helpers, thorough=False)
    world.heal()
    await liveness.wait(world, liveness.SLACK_S)
    liveness.forgotten(world)
    for _ in range(script.harms_at_the_end):
        # One that is held or paused is harmed as it is: people come when there is nothing to be seen.
        if not _is_guarded(world):
            await _until(world, HARMED_S, helpers, thorough=True, until=partial(_is_guarded, world))
        await liveness.harm(world, MAIN)
    settling_s = SETTLING_S_MAX if world.witness.skewed or _has_calendar(script) else SETTLING_S
    await _until(world, settling_s, helpers, thorough=True)
    await _end(world)
    return world


def _is_guarded(world: World) -> bool:
    return liveness.guarded(world, MAIN) is not None


def _has_calendar(script: Script) -> bool:
    return any(plan is not None and plan.calendar is not None for plan in script.plans.values())


async def _end(world: World) -> None:
    if not world.is_settled(MAIN) and world.witness.violation is None:
        told = world.rollout(MAIN) or {"status": {}}
        waiting = told["status"].get("next")
        world.witness.report("rest", f"{MAIN} is {world.phase(MAIN)}, and all faults are long over: {waiting}")
    await liveness.quiet(world, MAIN)
    if world.script.deleted_at_the_end:
        for name in world.script.specs:
            await liveness.deletion(world, name)


async def _until(
    world: World,
    seconds: float,
    helpers: dict[str, Helper],
    *,
    thorough: bool,
    until: Callable[[], bool] = lambda: False,
) -> None:
    end_s = world.loop.time() + seconds
    while world.loop.time() < end_s and world.witness.violation is None:
        await asyncio.wait([world.stopped], timeout=min(LOOK_S, end_s - world.loop.time()))
        for helper in helpers.values():
            if thorough or world.script.prompt:
                helper.help(thorough=thorough)
        if thorough:
            liveness.gating(world, MAIN)
            if until() or all(world.is_settled(name) for name in helpers):
                return


__all__ = ["Outcome", "Run", "draw", "play", "run", "run_one"]
