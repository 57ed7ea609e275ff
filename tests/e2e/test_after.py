"""Two rollouts, of which one waits for a stage of the other; on the real API server, database and operator."""

from support.manifests import A, B, Object, rollout, store
from support.operatorprocess import Operator
from support.world import World

FIRST, SECOND = "index", "search"
OFF, TEN, HALF = (False, 0, frozenset()), (True, 10, frozenset()), (True, 50, frozenset())
LONG = "10m"


def stage(name: str, flag: str, percentage: int, bake: str = "1s", **more: object) -> Object:
    return {"name": name, "flags": [{"names": [flag], "percentage": percentage}], "bake": bake, **more}


def after(rollout: str, stage: str) -> list[Object]:
    return [{"rollout": rollout, "stage": stage}]


def waiting(world: World, name: str = SECOND) -> str:
    return str(world.status(name)["next"]["waitingFor"][0])


def test_a_stage_begins_when_the_other_rollout_has_passed_its_own(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(SECOND, stages=[stage("ten", B, 10, after=after(FIRST, "ten"))]))
    world.wait_condition("Stalled", "False", "AwaitingRollout", name=SECOND)
    assert waiting(world) == f"rollout {FIRST} to pass stage ten: there is no such FeatureRollout"
    conditions = world.conditions(SECOND)
    assert (conditions["Ready"][0], conditions["Reconciling"][0]) == ("True", "False")

    world.apply(rollout(FIRST, stages=[stage("ten", A, 10, LONG), stage("half", A, 50, approval={"required": 1})]))
    world.wait_row(A, TEN)
    world.soon(lambda: "it is in that stage (Baking)" in waiting(world), 10.0)
    operator.kill()
    operator.start()
    operator.wait_looks(4)
    assert world.row(B) == OFF

    # Passed is what was baked and gated, also where the next stage has not begun.
    world.act("Promote", rolloutRef={"name": FIRST})
    world.wait_row(B, TEN)
    assert world.row(A) == TEN
    assert world.audit(B)[-1]["evidence"] == {"after": [f"{FIRST}/ten"]}
    world.wait_condition("Completed", "True", "Completed", name=SECOND)


def test_a_rollout_that_was_rolled_back_has_passed_nothing(world: World, operator: Operator) -> None:
    first = rollout(FIRST, stages=[stage("ten", A, 10), stage("half", A, 50, LONG)])
    second = rollout(SECOND, stages=[stage("ten", B, 10, LONG), stage("half", B, 50, after=after(FIRST, "ten"))])
    world.apply(store(), first, second)
    world.wait_row(A, HALF)
    world.act("RollBack", rolloutRef={"name": FIRST})
    world.wait_condition("RolledBack", "True", "RolledBack", name=FIRST)
    world.wait_row(B, TEN)
    world.act("Promote", rolloutRef={"name": SECOND})
    world.wait_condition("Stalled", "False", "AwaitingRollout", name=SECOND)
    assert "it stands still (RolledBack)" in waiting(world)
    world.delete("FeatureRollout", FIRST)
    world.soon(lambda: "there is no such FeatureRollout" in waiting(world), 30.0)
    assert world.row(B) == TEN
    # Guards wait for nobody.
    world.traffic.failed = 0.4
    world.wait_condition("RolledBack", "True", "RolledBack", name=SECOND)
    assert world.row(B) == (False, 10, frozenset())


def test_rollouts_that_wait_for_each_other_are_stalled_until_one_is_edited(world: World, operator: Operator) -> None:
    world.apply(
        store(),
        rollout(FIRST, stages=[stage("ten", A, 10), stage("half", A, 50, after=after(SECOND, "ten"))]),
        rollout(SECOND, stages=[stage("ten", B, 10, after=after(FIRST, "half"))]),
    )
    world.wait_condition("Stalled", "True", "DependencyCycle", name=FIRST)
    world.wait_condition("Stalled", "True", "DependencyCycle", name=SECOND)
    way = f"{SECOND}/ten -> {FIRST}/half -> {SECOND}/ten"
    assert way in world.condition("Stalled", name=SECOND)["message"]
    world.edit_spec(SECOND, stages=[stage("ten", B, 10, after=after(FIRST, "ten"))])
    world.wait_row(B, TEN)
    world.wait_row(A, HALF)
    world.wait_condition("Completed", "True", "Completed", name=FIRST)
