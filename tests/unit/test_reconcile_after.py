"""Stages that wait for other rollouts, through the reconciler, over in-memory stand-ins in virtual time.

| subject | cases |
|---|---|
| waits | until the other has passed the stage, and goes on by itself then; what is told meanwhile |
| level | nothing is kept: what counts is what the other's ledger says when the stage is next |
| away | the other's database is slow, broken or gone, and no guard waits for it |
| quiet | a wait of an hour is one status and one Event |
"""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.intake import aligned
from feature_rollout.core.people import Pause, People
from feature_rollout.core.plan import After, Plan, Stage
from feature_rollout.ports import Problem
from feature_rollout.reconcile import Reconciler
from feature_rollout.reconcile.others import Other
from support.fakes import KEY, OFF, T0, FakeStore, World, exposure, ledger, ledger_in, minutes, plan, seconds, stage

OTHER_KEY = "cluster/shop/door"
OTHER = plan(
    stage("ten", ("door", 10), bake=seconds(0)), stage("all", ("door", 100), bake=seconds(0)), metrics=(), rows=()
)
AFTER = (After("door", "ten"),)
PLAN = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), after=AFTER))
BAD: dict[str, Any] = {"events": 40.0, "units": 200.0}


class Neighbours:
    """Another rollout on a database of its own; `find` gives it, or the words in `missing`."""

    def __init__(self) -> None:
        self.store = FakeStore(lambda: T0)
        self.other = Other(OTHER_KEY, "uid-door", OTHER, self.store)
        self.missing = ""
        self.hanging = False
        self.at(-1)

    def at(self, index: int, **changes: Any) -> None:
        """The other has entered the stage of that index, and no other."""
        row = ledger_in(OTHER, index) if index >= 0 else ledger()
        self.store.ledgers[OTHER_KEY] = replace(row, **{"key": OTHER_KEY, "uid": "uid-door", **changes})
        self.store.rows.update(dict(self.store.ledgers[OTHER_KEY].written) or {"door": OFF})

    async def find(self, name: str) -> Other | str:
        assert name == "door"
        if self.hanging:
            await asyncio.Event().wait()
        return self.missing or self.other


def neighbourly(of: Plan = PLAN) -> tuple[World, Neighbours]:
    world, door = World(of, bell=OFF), Neighbours()
    world.target_changes |= {"others": door, "order": {"door": OTHER.stages}}
    return world, door


async def waited(world: World, duration: timedelta = timedelta(hours=1)) -> tuple[str, str]:
    await world.run(duration)
    return world.status["phase"], next(c["reason"] for c in world.status["conditions"] if c["type"] == "Stalled")


async def test_it_waits_quietly_and_goes_on_by_itself() -> None:
    world, door = neighbourly()
    assert await waited(world) == ("Held", "AwaitingRollout")
    assert world.ledger.stage == 0
    assert world.status["next"]["waitingFor"] == ["rollout door to pass stage ten: it has not begun"]
    assert [world.condition(kind) for kind in ("Ready", "Stalled", "Reconciling")] == ["True", "False", "False"]
    assert world.reasons == ["StageEntered", "AwaitingRollout"]
    written = len(world.objects.statuses)
    await world.run(timedelta(hours=1))
    assert (len(world.objects.statuses), len(world.reasons)) == (written, 2)
    door.at(0)
    await world.run(minutes(1))
    assert (world.ledger.stage, world.reasons[2:]) == (1, ["StageEntered"])
    assert world.store.rows["bell"] == exposure(50)


async def test_the_first_stage_waits_too() -> None:
    world, door = neighbourly(plan(stage("ten", ("bell", 10), after=AFTER)))
    assert await waited(world) == ("Held", "AwaitingRollout")
    assert world.store.rows["bell"] == OFF
    door.at(1)
    await world.run(minutes(1))
    assert world.ledger.stage == 0


@pytest.mark.parametrize(
    ("sentence", "changes", "words"),
    [
        ("it is paused", {"people": People(paused=Pause("alice", T0))}, "it stands still (Paused)"),
        ("it is another object's", {"uid": "uid-of-another"}, "it has not begun"),
    ],
)
async def test_a_stage_that_was_passed_does_not_count_while(sentence: str, changes: dict[str, Any], words: str) -> None:
    world, door = neighbourly()
    door.at(1, **changes)
    await waited(world)
    assert world.ledger.stage == 0, sentence
    assert words in world.status["next"]["waitingFor"][0]
    door.at(1)
    await world.run(minutes(1))
    assert world.ledger.stage == 1, sentence


async def test_rows_that_are_seldom_read_make_it_no_louder() -> None:
    world, _ = neighbourly()
    world.reconciler = Reconciler(world.objects, world.clock, world.telemetry, world._wake, poll=minutes(1))
    assert await waited(world) == ("Held", "AwaitingRollout")
    assert world.reasons == ["StageEntered", "AwaitingRollout"]


async def test_what_the_other_has_baked_in_an_earlier_stage_does_not_count() -> None:
    world, door = neighbourly()
    slow = plan(stage("zero", ("door", 5)), stage("ten", ("door", 10)), metrics=(), rows=())
    door.other = replace(door.other, plan=slow)
    before, now = ledger_in(slow, 0), ledger_in(slow, 1, entered_at=T0 + timedelta(hours=1))
    baked = replace(aligned(None, slow, before, T0), baked=timedelta(hours=1))
    door.store.ledgers[OTHER_KEY] = replace(now, key=OTHER_KEY, uid="uid-door")
    door.store.rows.update(now.written)
    door.store.checkpoints[OTHER_KEY] = (1, json.dumps(baked.to_json()))
    world.clock.time = T0 + timedelta(hours=1)
    await world.run(minutes(30), until=lambda: "it is in that stage" in str(world.status.get("next")))
    assert world.ledger.stage == 0


async def test_a_rollout_that_is_not_there_or_not_begun_is_waited_for() -> None:
    world, door = neighbourly()
    door.missing = "there is no such FeatureRollout"
    assert await waited(world) == ("Held", "AwaitingRollout")
    assert door.missing in world.status["next"]["waitingFor"][0]
    door.missing = ""
    del door.store.ledgers[OTHER_KEY]
    await waited(world)
    assert "it has not begun" in world.status["next"]["waitingFor"][0]


async def test_what_becomes_of_the_other_later_does_not_matter() -> None:
    world, door = neighbourly()
    door.at(1)
    await world.run(timedelta(hours=1), until=lambda: KEY in world.store.ledgers and world.ledger.stage == 1)
    door.missing = "it is being deleted"
    assert (await waited(world))[0] == "Completed"


@pytest.mark.parametrize("how", ["down", "broken", "hanging"])
async def test_a_database_that_is_away_holds_and_does_not_keep_a_guard(how: str) -> None:
    world, door = neighbourly()
    door.at(1)
    door.store.down = Problem("StoreUnreachable", "away", stalled=False) if how == "down" else None
    door.store.checkpoints[OTHER_KEY] = (1, '{"metrics": 5}' if how == "broken" else "{}")
    door.hanging = how == "hanging"
    await waited(world)
    assert world.ledger.stage == 0
    said = {"down": "StoreUnreachable", "broken": "it failed with", "hanging": "where rollout door is"}[how]
    assert said in world.status["next"]["waitingFor"][0]
    world.source.answer = lambda _metric, _window: BAD
    await world.run(minutes(5))
    assert world.condition("RolledBack") == "True"
    world.reconciler.forget(world.uid)


async def test_a_cycle_is_stalled_from_the_beginning() -> None:
    world, _ = neighbourly()
    back: tuple[Stage, ...] = (stage("ten", after=(After("bell", "half"),)),)
    world.target_changes |= {"order": {"door": back}}
    assert await waited(world) == ("Stalled", "DependencyCycle")
    assert "bell/half -> door/ten -> bell/half" in world.status["conditions"][2]["message"]
    assert (world.ledger.stage, world.store.rows["bell"]) == (-1, Exposure(False, OFF.percentage))
