"""One process of the operator: its inventory, its reconciler, its clock, and what drives them.

It is woken and due as the scheduler has it, without the scheduler: one rollout after the
other. A crash ends everything in it between two awaits; a pause stops it there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from feature_rollout.core.decision import Trouble
from feature_rollout.core.election import Role
from feature_rollout.core.people import Outcome, Request, RequestType, RollBackTo
from feature_rollout.core.plan import OnDelete, OnDrift, Plan, Stage
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.ports import Problem
from feature_rollout.reconcile import Reconciler, Target
from feature_rollout.runtime.inventory import Inventory
from simulation.cluster import NAMESPACE, Object
from simulation.faults import restart_later
from simulation.objects import MemoryObjects
from simulation.sources import MemoryChecks, MemoryOthers, MemorySource
from simulation.store import MemoryFlagStore
from simulation.wire import LATENCY_S, ApiWire, Armed, DatabaseWire, Dead, Trap

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")
POLL = timedelta(seconds=15)
CHECKPOINT_S = 5.0
SWEEP_S = 60.0
SLOW_S = 6.0


class Replica:
    """`start` it; `crash`, `pause`, `resume` it; it is a `Clock` and a `Telemetry` too."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.skew = timedelta(0)
        self.armed: list[Armed] = []
        self.inventory = Inventory()
        self.store = MemoryFlagStore(world.database, DatabaseWire(self))
        self.role = Role.LEADING
        self.reconciler = Reconciler(
            MemoryObjects(self), self, self, self._woken, poll=POLL, role=lambda _uid: self.role
        )
        self._api = ApiWire(self)
        self._sources: dict[str, tuple[MemorySource, MemoryChecks]] = {}
        self._good: dict[str, str] = {}
        self._uids: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._paused: asyncio.Future[None] | None = None
        # What the watch has sent while it was stopped.
        self._undelivered: list[tuple[str, str, Object]] = []
        self.woken_s = -math.inf
        self._sleeping: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        self.note("starts")
        self.sweep()
        self.spawn(self._work())
        self.spawn(self._checkpoint())
        self.spawn(self._sweep())

    def crash(self, why: str) -> None:
        """Raises Dead where it was called from; everything else is cancelled."""
        self.kill(why)
        raise Dead(why)

    def kill(self, why: str) -> None:
        if not self.alive:
            return
        self.note(f"dies {why}")
        self.alive = False
        self.resume()
        self.world.witness.died(self)
        if self.world.active:
            restart_later(self.world)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for uid in list(self._uids.values()):
            self.reconciler.forget(uid)

    def pause(self) -> None:
        if self._paused is None:
            self._paused = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        if self._paused is not None:
            self._paused.set_result(None)
            self._paused = None
            self.woken_s = self.world.loop.time()
            undelivered, self._undelivered = self._undelivered, []
            for plural, event, obj in undelivered:
                self.deliver(plural, event, obj)

    @property
    def is_stopped(self) -> bool:
        return self._paused is not None

    def take_role(self, role: Role) -> None:
        if self.alive and role is not self.role:
            self.note(f"is {role}")
            self.role = role
            self.world.witness.idle_since_s.pop(self.name, None)
            self.world.witness.forgets(self)
            if role is not Role.LEADING:
                self.world.witness.idle_since_s[self.name] = self.world.loop.time()
            for _, name in sorted(self.inventory.rollouts()):
                self.wake(name)

    # Clock and Telemetry.

    def now(self) -> datetime:
        return self.world.now() + self.skew

    def looked(self, verdict: str) -> None:
        pass

    def reverted(self, severity: str, seconds: float, look_to_commit_s: float | None, *, late: bool = False) -> None:
        self.note(f"counts a revert, {severity}")

    def violated(self, invariant: str) -> None:
        self.world.witness.report(invariant, f"{self.name}: the operator's own check of {invariant} has failed")

    # What the ports are made of.

    def note(self, what: str) -> None:
        self.world.trace.note(self.name, what)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def travel(self, *, slow: bool = False) -> None:
        """A message is on its way. One that is dead gets no further, and one that is paused not now."""
        await asyncio.sleep(SLOW_S if slow else self.world.network.choice(LATENCY_S))
        while self._paused is not None:
            await self._paused
        if not self.alive:
            raise Dead(self.name)

    def trapped(self, what: str, traps: frozenset[Trap]) -> Trap | None:
        """The trap of these that a call falls into, if one is set for it."""
        for armed in self.armed:
            if armed.trap in traps and what.startswith(armed.what):
                self.armed.remove(armed)
                self.world.disturbed_s = self.world.loop.time()
                armed.sprung()
                return armed.trap
        return None

    async def ask_api(self, what: str, work: Callable[[bool], T]) -> T:
        return await self._api.ask(what, work)

    async def tell_api(self, what: str, work: Callable[[], T]) -> T:
        return await self._api.tell(what, work)

    def status_lost(self, uid: str, name: str) -> None:
        self.reconciler.status_lost(uid)
        self.wake(name)

    # The watch, and what it has missed.

    def deliver(self, plural: str, event: str, obj: Object) -> None:
        if self._paused is not None:
            self._undelivered.append((plural, event, obj))
        elif self.alive:
            self.world.witness.delivered(self, obj)
            for _, name in sorted(self.inventory.offer(plural, event, obj)):
                self.wake(name)

    def sweep(self) -> None:
        for plural in (ROLLOUTS, ACTIONS):
            listed = self.world.cluster.objects[plural]
            for obj in listed.values():
                for _, name in sorted(self.inventory.adopt(plural, obj, 0.0)):
                    self.wake(name)
            for known in self.inventory.all(plural):
                metadata = known["metadata"]
                if listed.get(metadata["name"], {"metadata": {"uid": ""}})["metadata"]["uid"] != metadata["uid"]:
                    gone = self.inventory.forget(plural, (NAMESPACE, metadata["name"]), metadata["uid"])
                    for _, name in sorted(gone):
                        self.wake(name)

    # What drives it.

    def wake(self, name: str) -> None:
        self._wake_at(name, self.world.loop.time())

    def _woken(self, _namespace: str, name: str, *, urgent: bool = False) -> None:
        self.wake(name)

    def _wake_at(self, name: str, at_s: float) -> None:
        if not self.alive:
            return
        self._due[name] = min(at_s, self._due.get(name, at_s))
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    async def _work(self) -> None:
        loop = self.world.loop
        while True:
            ready = [name for name, at_s in self._due.items() if at_s <= loop.time()]
            if not ready:
                await self._sleep(min(self._due.values(), default=loop.time() + SWEEP_S))
            for name in ready:
                del self._due[name]
                await self.travel()
                due = await self._reconcile(name)
                if due is not None:
                    self._wake_at(name, loop.time() + due.total_seconds())

    async def _sleep(self, until_s: float) -> None:
        sleeping = self._sleeping = self.world.loop.create_future()
        timer = self.world.loop.call_at(until_s, lambda: sleeping.done() or sleeping.set_result(None))
        await sleeping
        timer.cancel()

    async def _reconcile(self, name: str) -> timedelta | None:
        try:
            target = await self.target(name)
            old = self._uids.get(name)
            if old is not None and (target is None or old != target.uid):
                self.reconciler.forget(old)
                self.world.witness.forgets(self)
                del self._uids[name]
            if target is None:
                return None
            self._uids[name] = target.uid
            return await self.reconciler.reconcile(target)
        except Exception as error:  # noqa: BLE001 - the scheduler takes everything, and so must this
            self.world.witness.report("S21", f"{self.name}: reconciling {name} raised {error!r}")
            return timedelta(seconds=1)

    async def target(self, name: str) -> Target | None:
        """A rollout with its references followed, as this process knows it."""
        rollout = self.inventory.get(ROLLOUTS, NAMESPACE, name)
        if rollout is None:
            return None
        uid, spec = rollout["metadata"]["uid"], rollout["spec"]
        plan, trouble = self.world.plans.get(spec["plan"]), None
        key = self.world.key(name)
        if plan is not None:
            self._good[uid] = spec["plan"]
        else:
            trouble = Trouble("InvalidPlan", f"spec.plan is {spec['plan']}: it cannot be followed.")
            if uid not in self._good:
                await self._recall(key, uid)
        good = self._good.get(uid)
        source, checks = self._asked(name)
        return Target(
            rollout,
            key,
            OnDelete(spec.get("onDelete", "Keep")),
            self.world.plans[good] if good is not None else None,
            trouble,
            bool(spec.get("suspend")),
            spec.get("holdAt"),
            self.store,
            source,
            OnDrift(spec.get("onDrift", "Respect")),
            checks,
            self._requests(name),
            {"plan": spec["plan"]} if plan is not None else None,
            MemoryOthers(self),
            self._order(good),
        )

    def _order(self, good: str | None) -> dict[str, tuple[Stage, ...]]:
        """The stages of the rollouts that this plan waits for; those wait for none here."""
        plan = self.world.plans[good] if good is not None else None
        named = {one.rollout for stage in plan.stages for one in stage.after} if plan is not None else set()
        found = {name: self.inventory.get(ROLLOUTS, NAMESPACE, name) for name in sorted(named)}
        plans = {name: self.world.plans.get(obj["spec"]["plan"]) for name, obj in found.items() if obj is not None}
        return {name: other.stages for name, other in plans.items() if other is not None}

    async def _recall(self, key: str, uid: str) -> None:
        """The last good plan, which the database has kept."""
        try:
            kept = await self.store.last_plan(key, uid)
        except Problem:
            return
        if kept is not None:
            self._good[uid] = kept["plan"]

    def _asked(self, name: str) -> tuple[MemorySource, MemoryChecks]:
        if name not in self._sources:
            self._sources[name] = MemorySource(self, name), MemoryChecks(self, name)
        return self._sources[name]

    def _requests(self, name: str) -> tuple[Request, ...]:
        found = self.inventory.actions((NAMESPACE, name))
        over = {str(Outcome.APPLIED), str(Outcome.REFUSED), str(Outcome.EXPIRED)}
        return tuple(request_of(obj) for obj in found if obj["status"].get("phase") not in over)

    async def _checkpoint(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self.travel()
            try:
                await self.reconciler.checkpoint()
            except Exception as error:  # noqa: BLE001 - as above
                self.world.witness.report("S21", f"{self.name}: the checkpoint raised {error!r}")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.travel()
            if not self.world.weather.api_down:
                self.sweep()


def request_of(obj: Mapping[str, Any]) -> Request:
    metadata, spec = obj["metadata"], obj["spec"]
    return Request(
        metadata["uid"],
        RequestType(spec["type"]),
        datetime.fromisoformat(metadata["creationTimestamp"]),
        metadata["name"],
        spec.get("stage"),
        spec.get("check"),
        spec.get("planHash"),
        RollBackTo(spec.get("to", "Off")),
        spec.get("reason", ""),
        spec.get("requestedBy", ""),
    )


__all__ = ["Plan", "Replica", "request_of"]
