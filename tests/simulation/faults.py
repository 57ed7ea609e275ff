"""Everything that goes wrong, by name. A fault is met when it takes effect, in the phase that the rollout is in then.

| kind | faults |
|---|---|
| processes | killed, killed around a write, paused and woken, two at a time, clocks that go wrong |
| the database | answers to a COMMIT lost, unreachable, slow, full, failed over without its last commits |
| the API server | unreachable, old versions read, events of the watch missed, late, twice |
| metrics and checks | harm, nonsense, nothing, errors; checks that do not pass |
| people and tools | rows edited, manifests applied, deleted, recreated, rebuilt; statuses forged; all actions |
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from feature_rollout.core.decision import Phase
from feature_rollout.core.election import Role
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.people import RequestType
from feature_rollout.kube.resources import ACTIONS
from simulation.traffic import Kind, Spell
from simulation.wire import Armed, Trap
from support.fakes import exposure

if TYPE_CHECKING:
    from simulation.replica import Replica
    from simulation.world import World

Fault = Callable[["World", str], None]
ALL: dict[str, Fault] = {}
PHASES = (*(str(phase) for phase in Phase if phase is not Phase.MIGRATING), "Gone")
RESTART_S = (0.5, 5.0, 20.0)
OUTAGE_S = (3.0, 20.0, 70.0, 200.0)
PEOPLE = ("alice", "bob", "carol")


def fault(name: str) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        ALL[name] = function
        return function

    return register


def strike(world: World, name: str, rollout: str) -> None:
    """Let a fault in. Those that wait for a call are counted when they meet it."""
    world.note("fault", name)
    if name not in TRAPS:
        world.witness.met(name, rollout)
    ALL[name](world, rollout)


# Processes.


def _restart(world: World) -> None:
    if world.active and not world.alive:
        world.start()


def restart_later(world: World) -> None:
    world.loop.call_later(world.random.choice(RESTART_S), _restart, world)


def _victim(world: World) -> Replica | None:
    return world.random.choice(world.alive) if world.alive else None


@fault("killed")
def _killed(world: World, rollout: str) -> None:
    victim = _victim(world)
    if victim is not None:
        victim.kill("at any time")


@fault("two leaders")
def _two_leaders(world: World, rollout: str) -> None:
    if len(world.alive) < 2:
        other = world.start()
        world.loop.call_later(
            world.random.choice(OUTAGE_S), lambda: len(world.alive) > 1 and other.kill("as it is one too many")
        )


@fault("paused leader")
def _paused(world: World, rollout: str) -> None:
    """It is stopped for long enough that another leads, and wakes."""
    victim = _victim(world)
    if victim is None:
        return
    victim.pause()
    world.note(victim.name, "is stopped")
    if world.random.random() < 0.7 and len(world.alive) < 2:
        other = world.start()
        world.loop.call_later(400.0, lambda: len(world.alive) > 1 and other.kill("as it is one too many"))
    world.loop.call_later(world.random.choice(OUTAGE_S), _wake, world, victim)


def _wake(world: World, victim: Replica) -> None:
    world.note(victim.name, "goes on")
    victim.resume()


@fault("Lease lost")
def _lease_lost(world: World, rollout: str) -> None:
    """It does not lead any more; another one does, or nobody is seen to."""
    victim = _victim(world)
    if victim is None:
        return
    unled = world.random.random() < 0.5
    victim.take_role(Role.UNLED if unled else Role.STANDBY)
    if not unled and len(world.alive) < 2:
        world.start()
    world.loop.call_later(world.random.choice(OUTAGE_S), _lead, world, victim)


def _lead(world: World, victim: Replica) -> None:
    """The Lease is free again when whoever held it is gone."""
    for other in world.alive:
        if other is not victim and victim.alive:
            other.kill("as it is one too many")
    victim.take_role(Role.LEADING)


def _skew(world: World, rollout: str, steps: tuple[float, ...]) -> None:
    world.witness.skewed = True
    for replica in world.alive:
        replica.skew += timedelta(seconds=world.random.choice(steps))
        world.note(replica.name, f"its clock is {replica.skew.total_seconds():g} s fast now")


ALL["clock forward"] = partial(_skew, steps=(0.5, 5.0, 90.0, 3600.0))
ALL["clock back"] = partial(_skew, steps=(-0.5, -5.0, -90.0, -3600.0))


# Traps: the next call of a kind.

TRAPS: dict[str, tuple[Trap, tuple[str, ...]]] = {
    "killed before a write": (Trap.CRASH_BEFORE, ("raise", "lower", "ledger", "answer", "open", "release", "")),
    "killed after a write": (Trap.CRASH_AFTER, ("raise", "lower", "ledger", "answer", "open", "release", "")),
    "answer lost, made": (Trap.LOST_MADE, ("raise", "lower", "ledger", "answer", "open", "release", "")),
    "answer lost, not made": (Trap.LOST_UNMADE, ("raise", "lower", "ledger", "answer", "open", "release", "observe")),
    "answer lost, made later": (Trap.LATE, ("raise", "lower", "ledger", "answer", "open", "release", "observe")),
    "killed around an API call": (Trap.CRASH_AFTER, ("status", "add finalizer", "remove finalizer", "answer action")),
    "stale get": (Trap.STALE_GET, ("get",)),
}


def _arm(world: World, rollout: str, name: str) -> None:
    victim = _victim(world)
    if victim is not None:
        trap, calls = TRAPS[name]
        what = world.random.choice(calls)
        victim.armed.append(Armed(trap, what, lambda: world.witness.met(name, rollout)))


for _name in TRAPS:
    ALL[_name] = partial(_arm, name=_name)


# Servers.


def _while(world: World, what: str) -> None:
    setattr(world.weather, what, True)
    world.loop.call_later(world.random.choice(OUTAGE_S), setattr, world.weather, what, False)


for _name, _what in (
    ("store unreachable", "store_down"),
    ("store full", "no_room"),
    ("store slow", "slow_reads"),
    ("API server unreachable", "api_down"),
):
    ALL[_name] = lambda world, rollout, what=_what: _while(world, what)  # type: ignore[misc]


@fault("failover")
def _failover(world: World, rollout: str) -> None:
    """The new primary lacks the last commits; connections break, so that answers under way are lost."""
    if world.late is not None:
        return
    lost = world.database.lose(world.random.choice((0, 1, 1, 2, 3, 5)))
    world.note("database", f"fails over and has lost {lost} commits")


def _watch(world: World, rollout: str, fate: str) -> None:
    world.weather.watch.extend([fate] * world.random.choice((1, 1, 3)))


for _name in ("missed", "late", "duplicated"):
    ALL[f"watch event {_name}"] = partial(_watch, fate=_name)


# Metrics and checks.


def _spell(world: World, rollout: str, kind: Kind, times: tuple[float, ...] = (0.0,)) -> None:
    traffic, random = world.traffic[rollout], world.random
    metric = random.choice([None, *traffic.levels])
    length = timedelta(seconds=random.choice((30.0, 70.0, 200.0, 600.0)))
    start = world.now() - timedelta(seconds=random.choice((0.0, 10.0)))
    traffic.spells.append(Spell(kind, start, start + length, metric, random.choice(times)))
    world.note("traffic", f"{kind} of {metric or 'all metrics'} for {length}")


ALL["harm"] = partial(_spell, kind=Kind.HARM, times=(1.5, 3.0, 8.0, 30.0, 100.0))
for _kind in Kind:
    if _kind is not Kind.HARM:
        ALL[f"metrics: {_kind}"] = partial(_spell, kind=_kind)


@fault("checks do not pass")
def _checks(world: World, rollout: str) -> None:
    for name in world.checks:
        world.checks[name] = world.random.choice(("fails", "errors", "runs", "raises"))
    world.loop.call_later(
        world.random.choice(OUTAGE_S), lambda: world.checks.update(dict.fromkeys(world.checks, "passes"))
    )


# People and their tools.


def _edit(world: World, rollout: str, rows: tuple[Exposure | None, ...]) -> None:
    flag = world.random.choice(world.script.flags[rollout])
    row = world.random.choice(rows)
    if world.database.tables.flags.get(flag) != row:
        world.edit(world.random.choice(PEOPLE), flag, row)


ALL["row raised by hand"] = partial(_edit, rows=(exposure(100), exposure(60, "staff"), exposure(99, "eu", "us")))
ALL["row lowered by hand"] = partial(_edit, rows=(exposure(0, enabled=False), exposure(1, "staff"), exposure(2)))
ALL["row deleted"] = partial(_edit, rows=(None,))


@fault("row edited and put back")
def _there_and_back(world: World, rollout: str) -> None:
    flag = world.random.choice(world.script.flags[rollout])
    row = world.database.tables.flags.get(flag)
    if row is not None:
        world.edit("dave", flag, exposure(33, "beta"))
        world.loop.call_later(world.random.choice((0.05, 8.0, 40.0)), _put_back, world, flag, row)


def _put_back(world: World, flag: str, row: Exposure) -> None:
    if world.database.tables.flags.get(flag) == exposure(33, "beta"):
        world.edit("dave", flag, row)


def spec_of(world: World, rollout: str) -> dict[str, Any]:
    """What GitOps has for it: what is there, or what was there at first."""
    found = world.rollout(rollout)
    return dict(found["spec"] if found is not None else world.script.specs[rollout])


def _apply(world: World, rollout: str, changes: dict[str, Any], note: str = "") -> None:
    spec = spec_of(world, rollout) | {key: value for key, value in changes.items() if value is not None}
    if world.rollout(rollout) is None or "deletionTimestamp" not in world.rollout(rollout)["metadata"]:  # type: ignore[index]
        world.note("gitops", f"applies {rollout} {spec}")
        world.cluster.apply(rollout, spec, note)


@fault("applied again")
def _again(world: World, rollout: str) -> None:
    _apply(world, rollout, {}, note=f"{world.loop.time():g}")


for _name, _version in (
    ("last stage edited", "2"),
    ("matrix edited", "3"),
    ("first stage edited", "4"),
    ("manifest broken", "bad"),
):
    ALL[_name] = lambda world, rollout, to=_version: _apply(world, rollout, {"plan": f"{rollout}-{to}"})  # type: ignore[misc]


@fault("suspended")
def _suspended(world: World, rollout: str) -> None:
    _apply(world, rollout, {"suspend": True})
    delay_s = world.random.choice(OUTAGE_S)
    world.loop.call_later(delay_s, lambda: world.rollout(rollout) and _apply(world, rollout, {"suspend": False}))


@fault("settings edited")
def _settings(world: World, rollout: str) -> None:
    on_drift = world.random.choice(("Respect", "LowerOnly", "Report"))
    _apply(world, rollout, {"onDrift": on_drift, "onDelete": world.random.choice(("Keep", "Restore", "Disable"))})


@fault("deleted")
def _deleted(world: World, rollout: str) -> None:
    world.note("alice", f"deletes {rollout}")
    world.cluster.delete(rollout)
    # GitOps brings it back.
    world.loop.call_later(world.random.choice((1.0, 30.0, 150.0)), _recreate, world, rollout)


def _recreate(world: World, rollout: str) -> None:
    if not world.active and world.script.deleted_at_the_end:
        return
    if world.rollout(rollout) is None:
        _apply(world, rollout, dict(world.script.specs[rollout]))
    else:
        world.loop.call_later(30.0, _recreate, world, rollout)


@fault("cluster rebuilt")
def _rebuilt(world: World, rollout: str) -> None:
    world.note("cluster", "is rebuilt from the same manifests")
    world.cluster.rebuild(rollout)


@fault("status forged")
def _forged(world: World, rollout: str) -> None:
    phase = world.random.choice(PHASES)
    conditions = [{"type": "Completed", "status": "True", "reason": "Completed"}]
    world.cluster.forge(rollout, {"phase": phase, "planHash": "v1:forged", "attempt": 99, "conditions": conditions})


def _act(world: World, rollout: str, kind: RequestType) -> None:
    """An action with whatever fields may or may not fit."""
    random, plan = world.random, world.plans.get(spec_of(world, rollout)["plan"])
    plan = plan or world.plans[f"{rollout}-1"]
    assert plan is not None
    spec: dict[str, Any] = {
        "type": str(kind),
        "requestedBy": random.choice((*PEOPLE, "system:serviceaccount:ci:bot", "")),
    }
    if kind in (RequestType.APPROVE, RequestType.CONFIRM) or random.random() < 0.2:
        spec["planHash"] = plan.plan_hash if random.random() < 0.7 else "v1:" + "0" * 64
    if kind is RequestType.APPROVE:
        spec["stage"] = random.choice(plan.stages).name
    if kind is RequestType.CONFIRM:
        spec["check"] = random.choice(("backup", "on-call", "guards-quiet"))
    if kind is RequestType.ROLL_BACK:
        spec["to"] = random.choice(("Off", "PreviousStage", "Baseline"))
    act(world, rollout, spec)


def act(world: World, rollout: str, spec: dict[str, Any]) -> None:
    made = world.cluster.act(rollout, spec)
    world.note(spec.get("requestedBy") or "somebody", f"{made['metadata']['name']}: {spec}")
    world.witness.asked(rollout, made)


for _kind_of_action in RequestType:
    ALL[f"action {_kind_of_action}"] = partial(_act, kind=_kind_of_action)


@fault("answer to an action forgotten")
def _forgotten(world: World, rollout: str) -> None:
    """The status of an action is emptied, as if its answer had never been written: it must not count again."""
    answered = [o for o in world.cluster.objects[ACTIONS].values() if o["status"]]
    if answered:
        found = world.random.choice(answered)
        world.cluster.status(ACTIONS, found, {})


FAULTS = tuple(ALL)
