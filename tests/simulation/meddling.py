"""What people and their tools do to a rollout: rows edited, manifests applied, objects deleted, actions made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from feature_rollout.core.decision import Phase
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.people import RequestType
from feature_rollout.kube.resources import ACTIONS
from support.fakes import exposure

if TYPE_CHECKING:
    from simulation.world import World

# What a fault returns when there was nothing for it to do.
NOTHING = "nothing"
Fault = Callable[["World", str], str | None]
ALL: dict[str, Fault] = {}
OUTAGE_S = (3.0, 20.0, 70.0, 200.0)
PEOPLE = ("alice", "bob", "carol")


def registered(faults: dict[str, Fault], name: str) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        faults[name] = function
        return function

    return register


fault = partial(registered, ALL)


def _edit(world: World, rollout: str, rows: tuple[Exposure | None, ...]) -> str | None:
    flag = world.random.choice(world.script.flags[rollout])
    row = world.random.choice(rows)
    if world.database.tables.flags.get(flag) == row:
        return NOTHING
    world.edit(world.random.choice(PEOPLE), flag, row)
    return None


ALL["row raised by hand"] = partial(_edit, rows=(exposure(100), exposure(60, "staff"), exposure(99, "eu", "us")))
ALL["row lowered by hand"] = partial(_edit, rows=(exposure(0, enabled=False), exposure(1, "staff"), exposure(2)))
ALL["row deleted"] = partial(_edit, rows=(None,))


@fault("row edited and put back")
def _there_and_back(world: World, rollout: str) -> str | None:
    flag = world.random.choice(world.script.flags[rollout])
    row = world.database.tables.flags.get(flag)
    if row is None:
        return NOTHING
    world.edit("dave", flag, exposure(33, "beta"))
    world.loop.call_later(world.random.choice((0.05, 8.0, 40.0)), _put_back, world, flag, row)
    return None


def _put_back(world: World, flag: str, row: Exposure) -> None:
    if world.database.tables.flags.get(flag) == exposure(33, "beta"):
        world.edit("dave", flag, row)


def spec_of(world: World, rollout: str) -> dict[str, Any]:
    """What GitOps has for it: what is there, or what was there at first."""
    found = world.rollout(rollout)
    return dict(found["spec"] if found is not None else world.script.specs[rollout])


def _apply(world: World, rollout: str, changes: dict[str, Any], note: str = "") -> None:
    spec = spec_of(world, rollout) | {key: value for key, value in changes.items() if value is not None}
    world.note("gitops", f"applies {rollout} {spec}")
    world.cluster.apply(rollout, spec, note)


@fault("applied again")
def _again(world: World, rollout: str) -> None:
    _apply(world, rollout, {}, note=f"{world.loop.time():g}")


for _name, _version in (
    ("edits taken back", "1"),
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
    world.loop.call_later(delay_s, _go_on, world, rollout)


def _go_on(world: World, rollout: str) -> None:
    if world.active and world.rollout(rollout) is not None:
        _apply(world, rollout, {"suspend": False})


@fault("settings edited")
def _settings(world: World, rollout: str) -> None:
    on_drift = world.random.choice(("Respect", "LowerOnly", "Report"))
    _apply(world, rollout, {"onDrift": on_drift, "onDelete": world.random.choice(("Keep", "Restore", "Disable"))})


@fault("deleted")
def _deleted(world: World, rollout: str) -> str | None:
    if world.phase(rollout) in ("Terminating", "Gone"):
        return NOTHING
    world.note("alice", f"deletes {rollout}")
    world.cluster.delete(rollout)
    # GitOps brings it back.
    world.loop.call_later(world.random.choice((1.0, 30.0, 150.0)), _recreate, world, rollout)
    return None


def _recreate(world: World, rollout: str) -> None:
    if not world.active and world.script.deleted_at_the_end:
        return
    if world.rollout(rollout) is None:
        _apply(world, rollout, dict(world.script.specs[rollout]))
    else:
        world.loop.call_later(30.0, _recreate, world, rollout)


@fault("cluster rebuilt")
def _rebuilt(world: World, rollout: str) -> str | None:
    if world.rollout(rollout) is None:
        return NOTHING
    world.note("cluster", "is rebuilt from the same manifests")
    world.cluster.rebuild(rollout)
    return None


@fault("status forged")
def _forged(world: World, rollout: str) -> str | None:
    if world.rollout(rollout) is None:
        return NOTHING
    phase = str(world.random.choice(list(Phase)))
    conditions = [{"type": "Completed", "status": "True", "reason": "Completed"}]
    world.cluster.forge(rollout, {"phase": phase, "planHash": "v1:forged", "attempt": 99, "conditions": conditions})
    return None


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
def _forgotten(world: World, rollout: str) -> str | None:
    """The status of an action is emptied, as if its answer had never been written: it must not count again."""
    answered = [o for o in world.cluster.objects[ACTIONS].values() if o["status"]]
    if not answered:
        return NOTHING
    world.cluster.status(ACTIONS, world.random.choice(answered), {})
    return None
