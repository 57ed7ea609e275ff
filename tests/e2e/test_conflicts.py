"""Two rollouts on one flag, and two stores on one table."""

from support.manifests import ROLLOUT, A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN = (True, 10, frozenset())


def test_two_rollouts_on_one_flag(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    second = [{"name": "mine", "flags": [{"names": [B], "percentage": 70}]}]
    world.apply(rollout("second", stages=second))
    condition = world.wait_condition("Stalled", "True", "Conflict", name="second")
    assert B in condition["message"]
    assert f"{world.namespace}/{ROLLOUT}" in condition["message"]
    world.soon(lambda: "Conflict" in world.reasons("second"))
    operator.wait_looks(3)
    assert world.row(B) == TEN
    assert {entry["ledger_key"].rpartition("/")[2] for entry in world.audit()} == {ROLLOUT}
    assert world.conditions()["Ready"][0] == "True"
    world.delete("FeatureRollout", ROLLOUT)
    world.wait_row(B, (True, 70, frozenset()))
    world.wait_condition("Completed", "True", "Completed", name="second")
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)


def test_two_stores_on_one_table_do_not_get_around_ownership(world: World, operator: Operator) -> None:
    world.apply(store(), store("again"), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    world.apply(rollout("second", stages=[stage("all", 100)], storeRef={"name": "again"}))
    world.wait_condition("Stalled", "True", "Conflict", name="second")
    assert world.row(A) == TEN


def test_two_rollouts_that_share_nothing_do_not_wait_for_each_other(world: World, operator: Operator) -> None:
    world.apply(store())
    for name, flag in (("first", A), ("second", B)):
        stages = [{"name": "all", "flags": [{"names": [flag], "percentage": 100}], "bake": "1s"}]
        world.apply(rollout(name, stages=stages))
    for name in ("first", "second"):
        world.wait_condition("Completed", "True", "Completed", name=name)
