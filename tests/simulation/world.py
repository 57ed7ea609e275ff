"""One simulated world: its servers, its replicas, its people, and the time that they share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from feature_rollout.core.election import Role
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import Metric, Plan
from feature_rollout.kube.resources import ROLLOUTS
from simulation.cluster import NAMESPACE, Cluster, Object
from simulation.database import Database, Owner
from simulation.faults import strike
from simulation.replica import Replica
from simulation.trace import Trace
from simulation.traffic import Traffic
from simulation.witness import Witness
from support.fakes import T0

if TYPE_CHECKING:
    from simulation.generator import Script
    from simulation.schedule import Planned

# How late the watch may be, and no harm done.
WATCH_LATENCY_S = (0.001, 0.01, 0.05, 0.4)


@dataclass
class Weather:
    """What is broken for everybody at the moment."""

    store_down: bool = False
    api_down: bool = False
    no_room: bool = False
    slow_reads: bool = False
    slow_statuses: bool = False
    # What becomes of the next events of the watch, one each: lost, twice, late.
    watch: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return any((self.store_down, self.api_down, self.no_room, self.slow_reads, self.slow_statuses))


class World:
    """`script` says what there is; what happens in it is for `run` and the faults."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.loop = asyncio.get_running_loop()
        self.random = Random(f"{script.seed}/world")
        self.network = Random(f"{script.seed}/network")
        self.trace = Trace(self.loop.time)
        self.weather = Weather()
        self.plans: Mapping[str, Plan | None] = script.plans
        self.traffic: dict[str, Traffic] = dict(script.traffic)
        self.has_past = script.has_past
        self.checks: dict[str, str] = dict(script.checks)
        self.late: asyncio.Future[None] | None = None
        self.cluster = Cluster(self.now)
        self.cluster.watch = self._watched
        self.database = Database(self.now, script.rows, watched=script.watched)
        self.witness = Witness(self)
        self.database.committed = self.witness.committed
        self.database.changed_by_others = self._changed_by_others
        self.replicas: list[Replica] = []
        self._started = 0
        # While it is true things go wrong.
        self.active = True
        self.healed_s = math.inf
        # When something went wrong for the last time.
        self.disturbed_s = -math.inf
        self.stopped = self.loop.create_future()
        self._watched_over: set[asyncio.Task[None]] = set()
        # Faults that wait for a phase of the main rollout, or for a call.
        self._waiting: dict[str, list[Planned]] = {}
        self._called: list[Planned] = []
        self._phases: dict[str, str] = {}

    def now(self) -> datetime:
        """The true time, which is the servers' too."""
        return self.at(self.loop.time())

    def at(self, time_s: float) -> datetime:
        return T0 + timedelta(seconds=time_s)

    def key(self, name: str) -> str:
        return f"cluster/{NAMESPACE}/{name}"

    def metric(self, rollout: str, name: str) -> Metric:
        return self.script.metrics[rollout][name]

    def start(self) -> Replica:
        """Another process of the operator."""
        self._started += 1
        replica = Replica(self, f"op-{self._started}")
        self.replicas.append(replica)
        replica.start()
        return replica

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.alive]

    def note(self, who: str, what: str) -> None:
        self.trace.note(who, what)

    def rollout(self, name: str) -> Object | None:
        return self.cluster.get(ROLLOUTS, name)

    def phase(self, name: str) -> str:
        """As its status has it; one that is being deleted, or is not there, has a name too."""
        found = self.rollout(name)
        if found is None:
            return "Gone"
        if "deletionTimestamp" in found["metadata"]:
            return "Terminating"
        return str(found["status"].get("phase", "Pending"))

    def watch_over(self, expectation: Coroutine[Any, Any, None]) -> None:
        """Have something watched that must come about, beside all else."""
        task = self.loop.create_task(expectation)
        self._watched_over.add(task)
        task.add_done_callback(self._watched_over.discard)

    def stop(self) -> None:
        """A violation ends the run."""
        if not self.stopped.done():
            self.stopped.set_result(None)

    def heal(self) -> None:
        """Faults end: one process leads, with the true time, and everything answers."""
        self.active = False
        self.healed_s = self.disturbed_s = self.loop.time()
        self.note("fault", "all faults end")
        self.weather = Weather()
        self.database.locked.clear()
        for replica in self.replicas:
            replica.armed.clear()
            replica.resume()
        for replica in self.alive[1:]:
            replica.kill("as it is one too many")
        for replica in self.alive:
            replica.skew = timedelta(0)
            replica.take_role(Role.LEADING)
        if any(fault == "status forged" for fault, _ in self.witness.pairs):
            # A process tells what is new to it; only the next one sees what somebody else has written there.
            for replica in self.alive:
                replica.kill("to look at every status again")
        if not self.alive:
            self.start()
        for name in self.checks:
            self.checks[name] = "passes"
        for traffic in self.traffic.values():
            traffic.end(self.now())

    def is_settled(self, name: str) -> bool:
        """Whether nothing more will come of it: it is done, or its flags are another's."""
        owners = (self.database.tables.ownership.get(flag, Owner()).key for flag in self.script.flags[name])
        return self.phase(name) in ("Completed", "Gone") or any(owner not in (None, self.key(name)) for owner in owners)

    def plan_faults(self, name: str) -> None:
        """Have all faults of the script come to this rollout, each in its time."""
        for planned in self.script.planned:
            if planned.call is not None:
                self._called.append(planned)
            elif planned.phase is not None:
                self._waiting.setdefault(planned.phase, []).append(planned)
            else:
                self.loop.call_later(planned.after_s, self._strike, planned.fault, name)

    def calls(self, replica: Replica, what: str) -> None:
        """A replica is about to call: let in what has waited for that."""
        due = [planned for planned in self._called if planned.call and what.startswith(planned.call)]
        for planned in due:
            self._called.remove(planned)
            self._strike(planned.fault, next(iter(self.script.specs)), replica)

    def _enter_phase(self) -> None:
        """Let in what has waited for the phase that the main rollout is in now."""
        name = next(iter(self.script.specs))
        phase = self.phase(name)
        if phase == self._phases.get(name):
            return
        self._phases[name] = phase
        for planned in self._waiting.pop(phase, ()):
            self.loop.call_later(planned.after_s, partial(self._strike, planned.fault, name, any_call=True))

    def _strike(self, fault: str, name: str, caller: Replica | None = None, *, any_call: bool = False) -> None:
        if self.active:
            strike(self, fault, name, caller, any_call=any_call)

    def edit(self, who: str, flag: str, row: Exposure | None) -> None:
        self.note(who, f"edits {flag}: {self.database.tables.flags.get(flag)} -> {row}")
        self.database.edit(who, flag, row)

    def _changed_by_others(self, flag: str) -> None:
        """The trigger notifies whoever listens."""
        for name, flags in self.script.flags.items():
            if flag in flags:
                for replica in self.alive:
                    self.loop.call_later(self.network.choice(WATCH_LATENCY_S), replica.wake, name)

    def _watched(self, plural: str, event: str, obj: Object) -> None:
        metadata = obj["metadata"]
        said = obj["status"].get("phase", "-")
        self.note("api", f"{event} {metadata['name']} {metadata['uid']} v{metadata['resourceVersion']} {said}")
        self.witness.stored(plural, event, obj)
        self._enter_phase()
        for replica in self.alive:
            self._deliver(replica, plural, event, obj)

    def _deliver(self, replica: Replica, plural: str, event: str, obj: Object) -> None:
        fate = self.weather.watch.pop() if self.weather.watch else ""
        delay_s: Any = self.network.choice(WATCH_LATENCY_S)
        if fate:
            self.note("watch", f"{fate}: {event} {obj['metadata']['name']} for {replica.name}")
        if fate != "missed":
            self.loop.call_later(delay_s + (20.0 if fate == "late" else 0.0), replica.deliver, plural, event, obj)
        if fate == "duplicated":
            self.loop.call_later(delay_s + 3.0, replica.deliver, plural, event, obj)
