"""Several reconcilers on one database and one API server, in virtual time: who does what, by its role.

| subject | cases |
|---|---|
| standing by | no call to the database, no look, no word, while another walks a rollout to its end |
| taking over | after a crash: the epoch once, each stage once, each window counted once |
| nobody leads | guards lower, nothing raises, nothing is stored; told by whoever leads next |
| two see nobody lead | both find the same breach at once: it is told and counted once |
| the lead is lost | measures and lowers until its epoch is taken; raises nothing, not even what it was about to |
| ... and had again | the same epoch; the status tells all that was done meanwhile |
| people, deletion | RollBack is obeyed; everything else is left to who leads |
| two that lead | while they disagree on the number of shards: no raise under an old epoch, and an end of it |
| any order | of roles, crashes and harm: only who leads opens or commits, and nothing is raised after a revert |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_rollout.core.election import Role
from feature_rollout.core.looks import Window
from feature_rollout.core.plan import Plan
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Lowering
from feature_rollout.reconcile import Reconciler
from support.fakes import KEY, NAME, NAMESPACE, T0, FakeObjects, FakeTelemetry, World, exposure, minutes, plan, seconds

PLAN = plan()
GOOD: dict[str, Any] = {"events": 0.0, "units": 200.0}
BAD: dict[str, Any] = {"events": 40.0, "units": 200.0}
# What changes the ledger row under its epoch, or the audit of others.
OF_LEADERS = frozenset({"open", "commit", "observe", "release"})


class Replica:
    """A process, with an API server's view and a role of its own."""

    def __init__(self, world: World, role: Role) -> None:
        self.world = world
        self.role = role
        self.objects = FakeObjects(rollouts=world.objects.rollouts)
        self.telemetry = FakeTelemetry()
        self.start()

    def start(self) -> None:
        """Nothing that was in memory is left."""
        self.reconciler = Reconciler(
            self.objects, self.world.clock, self.telemetry, self._wake, role=lambda _uid: self.role
        )

    def _wake(self, namespace: str, name: str, *, urgent: bool = False) -> None:
        assert (namespace, name) == (NAMESPACE, NAME)

    async def step(self) -> timedelta | None:
        """One reconcile, and everything that it started."""
        self.world.stepping = self
        due = await self.reconciler.reconcile(self.world.target())
        for _ in range(5):
            await asyncio.sleep(0)
        await self.reconciler.checkpoint()
        return due

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.objects.events]

    @property
    def looked(self) -> int:
        return len(self.telemetry.verdicts)


class Cluster(World):
    """A world with two replicas, the first of which leads; `moves` lets them work."""

    def __init__(self, of: Plan = PLAN) -> None:
        super().__init__(of)
        self.stepping: Replica | None = None
        self.store.before = self._called
        self.a, self.b = Replica(self, Role.LEADING), Replica(self, Role.STANDBY)

    def _called(self, name: str) -> None:
        if name in OF_LEADERS:
            assert self.stepping is not None
            assert self.stepping.role is Role.LEADING, f"{name} is for who leads"

    async def moves(self, duration: timedelta, *replicas: Replica) -> None:
        """So much time in steps of five seconds, and at each as many reconciles as are due at once."""
        end = self.clock.time + duration
        while self.clock.time < end:
            for replica in replicas:
                for _ in range(4):
                    if await replica.step() != timedelta(0):
                        break
            self.clock.time += seconds(5)

    async def until_stage(self, index: int) -> None:
        while KEY not in self.store.ledgers or self.ledger.stage < index:
            await self.moves(seconds(5), self.a, self.b)
        await self.moves(seconds(10), self.a, self.b)

    def harm_from_now(self) -> None:
        begun = self.clock.time
        self.source.answer = lambda _, window: BAD if window.start >= begun else GOOD

    @property
    def opened(self) -> int:
        return self.store.calls.count("open")

    @property
    def measured(self) -> Mapping[str, Any]:
        """What is stored of the stage's looks."""
        found: Mapping[str, Any] = json.loads(self.store.checkpoints[KEY][1])["metrics"]["errors"]
        return found


async def test_who_leads_again_audits_what_the_other_has_seen_and_somebody_put_back() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.store.rows["bell"] = exposure(77)
    world.a.role, world.b.role = Role.STANDBY, Role.LEADING
    await world.moves(seconds(10), world.a, world.b)
    world.store.rows["bell"] = exposure(10)
    world.a.role, world.b.role = Role.LEADING, Role.STANDBY
    await world.moves(seconds(10), world.a, world.b)
    changes = [(before, after) for reason, _, before, after in world.store.audit if reason == "ManualChange"]
    assert changes == [(exposure(10), exposure(77)), (exposure(77), exposure(10))]


async def test_one_leads_to_the_end_and_the_other_touches_nothing() -> None:
    world = Cluster()
    standby = Cluster()
    world.b.world = standby
    standby.store = world.store
    await world.moves(minutes(30), world.a)
    calls = list(world.store.calls)
    for _ in range(20):
        assert await world.b.step() is None, "it is woken when its role changes"
    assert world.store.calls == calls
    assert (world.b.objects.statuses, world.b.objects.events, standby.source.asked) == ([], [], [])
    assert world.status["phase"] == "Completed"
    assert (world.opened, world.a.reasons[-1]) == (1, "Completed")
    assert [view.name for view in world.a.reconciler.views()] == [NAME]
    world.a.role = Role.STANDBY
    await world.a.step()
    assert [*world.a.reconciler.views(), *world.b.reconciler.views()] == [], "who stands by says nothing of rollouts"


async def test_another_goes_on_after_a_crash_and_counts_no_look_twice() -> None:
    world = Cluster()
    await world.until_stage(1)
    await world.moves(minutes(2), world.a, world.b)
    stored, checkpoints = world.measured["units"], world.store.calls.count("checkpoint")
    world.b.role = Role.UNLED
    await world.moves(minutes(1), world.b)
    assert world.b.looked > 0
    assert (world.opened, world.measured["units"]) == (1, stored), "nothing is stored without the epoch"
    assert world.store.calls.count("checkpoint") == checkpoints
    epoch = world.ledger.epoch
    world.b.role = Role.LEADING
    await world.moves(minutes(1), world.b)
    assert (world.opened, world.ledger.epoch) == (2, epoch + 1)
    assert world.ledger.stage == 1
    looked_until = world.measured["lookedUntil"]
    begun = min(w.start for _, w in world.source.asked if w.start >= world.ledger.entered_at)
    windows = (T0.fromisoformat(looked_until) - begun) / seconds(30)
    assert world.measured["units"] == 200.0 * windows, "each window once, and none is left out"
    await world.moves(minutes(20), world.b)
    assert [after.percentage for _, _, _, after in world.store.audit] == [10, 50, 100]
    assert world.status["phase"] == "Completed"


async def test_whoever_sees_nobody_lead_lowers_and_raises_nothing() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.b.role = Role.UNLED
    await world.moves(minutes(30), world.b)
    assert world.ledger.stage == 0, "its bake is long over, for who may count it"
    epoch, statuses = world.ledger.epoch, len(world.objects.statuses)
    world.harm_from_now()
    await world.moves(minutes(3), world.b)
    assert world.store.rows["bell"].is_off
    assert world.ledger.latch is not None
    assert (world.ledger.epoch, world.b.reasons, world.b.objects.statuses) == (epoch, ["FlagsDisabled"], [])
    assert len(world.objects.statuses) == statuses
    world.b.role = Role.LEADING
    await world.moves(minutes(3), world.b)
    assert world.status["phase"] == "RolledBack"
    assert world.ledger.epoch == epoch + 1
    assert len(world.store.audit) == 2


async def test_two_that_lower_at_once_tell_of_it_once() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.a.role = world.b.role = Role.UNLED
    await world.moves(minutes(1), world.a, world.b)
    lower = world.store.lower

    async def after_the_other(change: Lowering) -> Ledger:
        world.store.lower = lower  # type: ignore[method-assign]
        world.clock.time += timedelta(milliseconds=1)
        while not world.store.rows["bell"].is_off:
            await world.b.step()
        return await lower(change)

    world.store.lower = after_the_other  # type: ignore[method-assign]
    world.harm_from_now()
    await world.moves(minutes(3), world.a)
    await world.moves(minutes(1), world.b)
    assert (world.a.reasons, world.b.reasons) == (["StageEntered"], ["FlagsDisabled"])
    assert (world.a.telemetry.reverts, len(world.b.telemetry.reverts)) == ([], 1)
    world.a.role = Role.LEADING
    await world.moves(minutes(1), world.a)
    assert world.status["phase"] == "RolledBack"
    assert "FlagsDisabled" not in world.a.reasons


async def test_who_sees_the_lead_again_stops_measuring_and_begins_with_what_is_stored() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.b.role = Role.UNLED
    await world.moves(minutes(1), world.b)
    world.b.role = Role.STANDBY
    await world.moves(minutes(2), world.a, world.b)
    looked = world.b.looked
    await world.moves(minutes(1), world.a, world.b)
    assert world.b.looked == looked
    reads = world.store.calls.count("progress")
    world.b.role = Role.UNLED
    await world.moves(minutes(1), world.b)
    assert world.b.looked > looked
    assert world.store.calls.count("progress") == reads + 1


async def test_a_row_of_another_object_is_not_touched_while_nobody_leads() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.create("uid-2")
    world.b.role = Role.UNLED
    world.harm_from_now()
    await world.moves(minutes(3), world.b)
    assert not world.store.rows["bell"].is_off
    assert world.b.objects.statuses == []


async def test_nothing_is_known_of_a_rollout_that_never_began() -> None:
    world = Cluster()
    world.b.role = Role.UNLED
    await world.moves(minutes(3), world.b)
    assert (world.store.ledgers, world.b.looked, world.b.objects.statuses) == ({}, 0, [])


async def test_who_has_lost_the_lead_measures_and_lowers_until_its_epoch_is_taken() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.a.role = Role.STANDBY
    looked, stored = world.a.looked, world.measured["units"]
    await world.moves(minutes(30), world.a)
    assert world.ledger.stage == 0
    assert world.a.looked > looked
    assert world.measured["units"] > stored, "it has the epoch: what it measures counts"
    world.harm_from_now()
    await world.moves(minutes(3), world.a)
    assert world.store.rows["bell"].is_off
    world.b.role = Role.LEADING
    await world.moves(minutes(1), world.b)
    await world.moves(seconds(10), world.a)
    looked, calls = world.a.looked, len(world.store.calls)
    await world.moves(minutes(2), world.a)
    assert (world.a.looked, len(world.store.calls)) == (looked, calls), "it stands by"
    assert world.status["phase"] == "RolledBack"


async def test_the_lead_is_lost_while_the_api_server_is_asked_for_the_object() -> None:
    world = Cluster()
    await world.until_stage(0)
    fresh = world.a.objects.fresh

    async def and_lost(namespace: str, name: str) -> Mapping[str, Any] | None:
        world.a.role = Role.UNLED
        return await fresh(namespace, name)

    world.a.objects.fresh = and_lost  # type: ignore[method-assign]
    await world.moves(minutes(30), world.a)
    assert world.a.role is Role.UNLED
    assert (world.ledger.stage, len(world.store.audit)) == (0, 1)


async def test_who_has_the_lead_again_keeps_its_epoch_and_tells_what_it_did() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.a.role = Role.UNLED
    world.harm_from_now()
    written = len(world.a.objects.statuses)
    await world.moves(minutes(3), world.a)
    assert world.store.rows["bell"].is_off
    assert len(world.a.objects.statuses) == written
    world.a.role = Role.LEADING
    await world.moves(minutes(3), world.a)
    assert world.opened == 1
    assert len(world.a.objects.statuses) == written + 1
    assert [entry["action"] for entry in world.status["history"]] == ["Advance", "DisableFlags"]
    assert world.a.reasons == ["StageEntered", "FlagsDisabled"], "each once"


async def test_a_pause_is_told_once_however_often_the_lead_is_lost() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.asks("Pause")
    await world.moves(minutes(1), world.a)
    told, written = list(world.a.reasons), len(world.a.objects.statuses)
    for role in (Role.UNLED, Role.LEADING, Role.UNLED, Role.LEADING):
        world.a.role = role
        await world.moves(minutes(1), world.a)
    assert world.a.reasons == told
    assert len(world.a.objects.statuses) == written


async def test_a_roll_back_is_obeyed_without_the_lead_and_answered_with_it() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.a.role = Role.UNLED
    pause, back = world.asks("Pause"), world.asks("RollBack")
    await world.moves(minutes(1), world.a)
    assert world.store.rows["bell"].is_off
    assert list(world.store.actions) == [back.uid]
    assert world.a.objects.answers == {}
    world.a.role = Role.LEADING
    await world.moves(minutes(1), world.a)
    assert sorted(world.store.actions) == sorted([pause.uid, back.uid])
    assert {pause.name, back.name} == set(world.a.objects.answers)


async def test_a_deletion_is_for_who_leads() -> None:
    world = Cluster()
    await world.until_stage(0)
    world.a.role = Role.STANDBY
    world.delete()
    await world.moves(minutes(1), world.a, world.b)
    assert world.rollout["metadata"]["finalizers"]
    world.b.role = Role.LEADING
    await world.moves(minutes(1), world.a, world.b)
    assert world.rollout["metadata"]["finalizers"] == []
    assert KEY in world.store.closed


@pytest.mark.parametrize("harm", [False, True])
async def test_two_that_lead_take_it_from_each_other_until_one_does_not(harm: bool) -> None:
    world = Cluster()
    await world.until_stage(0)
    world.b.role = Role.LEADING
    epochs, commit = list[int](), world.store.commit

    async def committed(change: Commit) -> Ledger:
        done = await commit(change)
        epochs.append(change.ledger.epoch)
        return done

    world.store.commit = committed  # type: ignore[method-assign]
    await world.moves(minutes(4), world.a, world.b)
    assert world.opened > 3, "each opens it again when it finds that the other has"
    if harm:
        world.harm_from_now()
    await world.moves(minutes(4), world.a, world.b)
    world.a.role = Role.STANDBY
    opened = world.opened
    await world.moves(minutes(20), world.a, world.b)
    assert world.opened <= opened + 1, "and then no more"
    assert epochs == sorted(epochs), "no raise under an old epoch"
    raised = [after.percentage for reason, _, _, after in world.store.audit if reason == "StageEntered"]
    assert raised == [10, 50, 100][: len(raised)]
    assert world.status["phase"] == ("RolledBack" if harm else "Completed")


ROLES = st.sampled_from(
    [
        ("Leading", "Standby"),
        ("Unled", "Unled"),
        ("Standby", "Leading"),
        ("Unled", "Leading"),
        # They disagree on how many shards there are.
        ("Leading", "Leading"),
    ]
)


@given(st.lists(st.tuples(ROLES, st.sampled_from(["", "a", "b"]), st.integers(1, 40)), max_size=8), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_any_order_of_roles_and_crashes(moves: list[tuple[tuple[str, str], str, int]], harm_after: int) -> None:
    async def live() -> None:
        world = Cluster()
        harm_at = T0 + seconds(5 * harm_after)

        def answer(_metric: str, window: Window) -> dict[str, Any]:
            return BAD if window.start >= harm_at else GOOD

        world.source.answer = answer
        for (role_a, role_b), crashed, steps in moves:
            world.a.role, world.b.role = Role(role_a), Role(role_b)
            for replica in (replica for name, replica in (("a", world.a), ("b", world.b)) if name == crashed):
                replica.start()
            await world.moves(seconds(5 * steps), world.a, world.b)
        raised = [after.percentage for reason, _, _, after in world.store.audit if reason == "StageEntered"]
        assert raised == [10, 50, 100][: len(raised)], "each stage once, in order"
        reverts = [number for number, (reason, *_) in enumerate(world.store.audit) if reason == "FlagsDisabled"]
        assert reverts in ([], [len(world.store.audit) - 1]), "one revert, and nothing after it"

    asyncio.run(live())
