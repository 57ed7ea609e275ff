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

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from feature_rollout.core.decision import Phase
from feature_rollout.core.election import Role
from simulation import liveness, meddling
from simulation.meddling import NOTHING, OUTAGE_S, Fault, registered
from simulation.traffic import Kind, Spell
from simulation.wire import Armed, Trap

if TYPE_CHECKING:
    from feature_rollout.core.state import Ledger
    from simulation.replica import Replica
    from simulation.world import World

ALL: dict[str, Fault] = {}
PHASES = (*(str(phase) for phase in Phase if phase is not Phase.MIGRATING), "Gone")
RESTART_S = (0.5, 5.0, 20.0)
fault = partial(registered, ALL)


def strike(world: World, name: str, rollout: str, caller: Replica | None = None, *, any_call: bool = False) -> None:
    """Let a fault in, to the process that is about to call if there is one. Those that wait for a call are counted
    when they meet it, be it `any_call`; the others when there was something for them to do.
    """
    world.note("fault", name)
    world.disturbed_s = world.loop.time()
    if name in TRAPS:
        _arm(world, rollout, name, caller, any_call=any_call)
        return
    phase = world.phase(rollout)
    if _EFFECTS[name](world, rollout) is not NOTHING:
        world.witness.met(name, phase)


# Processes.


def _restart(world: World) -> None:
    if world.active and not world.alive:
        world.start()


def restart_later(world: World) -> None:
    world.loop.call_later(world.random.choice(RESTART_S), _restart, world)


def _victim(world: World) -> Replica | None:
    return world.random.choice(world.alive) if world.alive else None


@fault("killed")
def _killed(world: World, rollout: str) -> str | None:
    victim = _victim(world)
    if victim is None:
        return NOTHING
    victim.kill("at any time")
    return None


@fault("two leaders")
def _two_leaders(world: World, rollout: str) -> str | None:
    if len(world.alive) > 1:
        return NOTHING
    other = world.start()
    world.loop.call_later(
        world.random.choice(OUTAGE_S), lambda: len(world.alive) > 1 and other.kill("as it is one too many")
    )
    return None


@fault("paused leader")
def _paused(world: World, rollout: str) -> str | None:
    """It is stopped for long enough that another leads, and wakes."""
    victim = _victim(world)
    if victim is None:
        return NOTHING
    victim.pause()
    world.note(victim.name, "is stopped")
    if world.random.random() < 0.7 and len(world.alive) < 2:
        other = world.start()
        world.loop.call_later(400.0, lambda: len(world.alive) > 1 and other.kill("as it is one too many"))
    world.loop.call_later(world.random.choice(OUTAGE_S), _wake, world, victim)
    return None


def _wake(world: World, victim: Replica) -> None:
    world.note(victim.name, "goes on")
    victim.resume()


@fault("Lease lost")
def _lease_lost(world: World, rollout: str) -> str | None:
    """It does not lead any more; another one does, or nobody is seen to."""
    victim = _victim(world)
    if victim is None:
        return NOTHING
    unled = world.random.random() < 0.5
    victim.take_role(Role.UNLED if unled else Role.STANDBY)
    if not unled and len(world.alive) < 2:
        world.start()
    world.loop.call_later(world.random.choice(OUTAGE_S), _lead, world, victim)
    return None


def _lead(world: World, victim: Replica) -> None:
    """The Lease is free again when whoever held it is gone."""
    for other in world.alive:
        if other is not victim and victim.alive:
            other.kill("as it is one too many")
    victim.take_role(Role.LEADING)


def _skew(world: World, rollout: str, steps: tuple[float, ...]) -> str | None:
    if not world.alive:
        return NOTHING
    world.witness.skewed = True
    for replica in world.alive:
        replica.skew += timedelta(seconds=world.random.choice(steps))
        world.note(replica.name, f"its clock is {replica.skew.total_seconds():g} s fast now")
    return None


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


def _arm(world: World, rollout: str, name: str, caller: Replica | None, *, any_call: bool) -> None:
    """For the next call of one kind; of any kind, where that is asked for, or the process that is about to call."""
    victim = caller or _victim(world)
    if victim is not None:
        trap, calls = TRAPS[name]
        what = calls if caller is not None or any_call else (world.random.choice(calls),)
        victim.armed.append(Armed(trap, what, lambda: world.witness.met(name, world.phase(rollout))))


# Servers.


def _while(world: World, what: str) -> None:
    setattr(world.weather, what, True)
    world.loop.call_later(world.random.choice(OUTAGE_S), setattr, world.weather, what, False)


for _name, _what in (
    ("store unreachable", "store_down"),
    ("store full", "no_room"),
    ("store slow", "slow_reads"),
    ("API server unreachable", "api_down"),
    ("statuses slow", "slow_statuses"),
):
    ALL[_name] = lambda world, rollout, what=_what: _while(world, what)  # type: ignore[misc]


@fault("row locked")
def _locked(world: World, rollout: str) -> None:
    """By a session that the operator may not end."""
    flag = world.random.choice(world.script.flags[rollout])
    world.database.locked.add(flag)
    world.note("database", f"{flag} is locked")
    world.loop.call_later(world.random.choice(OUTAGE_S), world.database.locked.discard, flag)


@fault("failover")
def _failover(world: World, rollout: str) -> str | None:
    """The new primary lacks the last commits; connections break, so that answers under way are lost."""
    if world.late is not None:
        return NOTHING
    before = dict(world.database.tables.ledgers)
    lost = world.database.lose(world.random.choice((0, 1, 1, 2, 3, 5)))
    world.note("database", f"fails over and has lost {lost} commits")
    for key, row in world.database.tables.ledgers.items():
        if row.ledger.latch is None and before[key].ledger.latch is not None:
            _expect_it_again(world, before[key].ledger)
    return None


def _expect_it_again(world: World, lost: Ledger) -> None:
    """Of the one process that leads, if it knows of the revert that was lost, and can reach everything."""
    leading = [replica for replica in world.alive if replica.role is Role.LEADING and not replica.is_stopped]
    if len(world.alive) == 1 and leading and not world.weather.is_bad:
        (who,) = leading
        if world.witness.knows_revert(who.name, lost.uid) == lost.attempt:
            world.watch_over(liveness.restored(world, who, lost.key, lost.attempt))


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


@fault("harm over")
def _harm_over(world: World, rollout: str) -> str | None:
    """Whatever was harmed is well again."""
    return None if world.traffic[rollout].end(world.now(), Kind.HARM) else NOTHING


@fault("checks do not pass")
def _checks(world: World, rollout: str) -> str | None:
    if not world.checks:
        return NOTHING
    for name in world.checks:
        world.checks[name] = world.random.choice(("fails", "errors", "runs", "raises"))
    world.loop.call_later(
        world.random.choice(OUTAGE_S), lambda: world.checks.update(dict.fromkeys(world.checks, "passes"))
    )
    return None


FAULTS = (*TRAPS, *ALL, *meddling.ALL)
_EFFECTS = {**ALL, **meddling.ALL}
