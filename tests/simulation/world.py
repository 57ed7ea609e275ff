"""One simulated world: its servers, its replicas, its people, and the time that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
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
    from simulation.generator import Planned, Script

# How late the watch may be, and no harm done.
WATCH_LATENCY_S = (0.001, 0.01, 0.05, 0.4)


@dataclass
class Weather:
    """What is broken for everybody at the moment."""

    store_down: bool = False
    api_down: bool = False
    no_room: bool = False
    slow_reads: bool = False
    # What becomes of the next events of the watch, one each: lost, twice, late.
    watch: list[str] = field(default_factory=list)


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
        self.stopped = self.loop.create_future()
        # Faults that wait for a phase of the main rollout.
        self.waiting: dict[str, list[Planned]] = {}
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

    def stop(self) -> None:
        """A violation ends the run."""
        if not self.stopped.done():
            self.stopped.set_result(None)

    def heal(self) -> None:
        """Faults end: one process leads, with the true time, and everything answers."""
        self.active = False
        self.note("fault", "all faults end")
        self.weather = Weather()
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
            traffic.spells[:] = [replace(spell, end=min(spell.end, self.now())) for spell in traffic.spells]

    def is_settled(self, name: str) -> bool:
        """Whether nothing more will come of it: it is done, or its flags are another's."""
        owners = (self.database.tables.ownership.get(flag, Owner()).key for flag in self.script.flags[name])
        return self.phase(name) in ("Completed", "Gone") or any(owner not in (None, self.key(name)) for owner in owners)

    def _enter_phase(self) -> None:
        """Let in what has waited for the phase that the main rollout is in now."""
        name = next(iter(self.script.specs))
        phase = self.phase(name)
        if phase == self._phases.get(name):
            return
        self._phases[name] = phase
        for planned in self.waiting.pop(phase, ()):
            self.loop.call_later(planned.after_s, self._strike, planned.fault, name)

    def _strike(self, fault: str, name: str) -> None:
        if self.active:
            strike(self, fault, name)

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
