"""The plan is edited, suspended or held while the rollout is under way."""

from support.manifests import A, rollout, stage, store
from support.operatorprocess import Operator
from support.world import World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())


def test_an_edit_of_a_later_stage_in_mid_bake_goes_on(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "6s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    operator.wait_looks(3, verdict="Pass")
    world.edit_spec(stages=[stage("ten", 10, "6s"), stage("half", 60)])
    world.soon(lambda: world.status()["observedGeneration"] == 2)
    world.wait_row(A, (True, 60, frozenset()))
    entered = [entry["at"] for entry in world.audit(A)]
    # Neither begun again nor cut short.
    assert 6.0 <= (entered[1] - entered[0]).total_seconds() <= 10.0
    world.wait_condition("Completed", "True", "Completed")


def test_an_edit_of_an_entered_stage_holds_until_it_is_put_back(world: World, operator: Operator) -> None:
    stages = [stage("ten", 10), stage("half", 50, "4s"), stage("everyone", 100)]
    world.apply(store(), rollout(stages=stages))
    world.wait_row(A, HALF)
    edited = [stage("ten", 20), *stages[1:]]
    world.edit_spec(stages=edited)
    condition = world.wait_condition("Stalled", "True", "PlanChanged")
    assert "stages[0] (ten)" in condition["message"]
    world.soon(lambda: world.status()["observedGeneration"] == 2)
    world.soon(lambda: "PlanChanged" in world.reasons())
    operator.wait_looks(6)
    assert world.row(A) == HALF
    world.edit_spec(stages=stages)
    world.wait_row(A, (True, 100, frozenset()))
    world.wait_condition("Stalled", "False", "Completed")


def test_a_stage_that_is_added_at_the_end_is_entered_after_completion(world: World, operator: Operator) -> None:
    stages = [stage("ten", 10)]
    world.apply(store(), rollout(stages=stages))
    world.wait_condition("Completed", "True", "Completed")
    world.edit_spec(stages=[*stages, stage("half", 50)])
    world.wait_row(A, HALF)
    world.wait_condition("Completed", "True", "Completed")


def test_suspend_raises_nothing_and_resume_goes_on(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.edit_spec(suspend=True)
    world.soon(lambda: world.status()["phase"] == "Paused")
    world.soon(lambda: "Suspended" in world.reasons())
    operator.wait_looks(5)
    assert world.row(A) == TEN
    world.edit_spec(suspend=False)
    world.wait_row(A, HALF)


def test_guards_revert_a_suspended_rollout(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "30s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.edit_spec(suspend=True)
    world.soon(lambda: world.status()["phase"] == "Paused")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))
    world.soon(lambda: world.status()["phase"] == "RolledBack")


def test_hold_at_stops_at_its_stage(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10), stage("half", 50)], holdAt="ten"))
    world.wait_row(A, TEN)
    world.soon(lambda: (world.status()["phase"], world.conditions()["Ready"][1]) == ("Held", "HoldAt"), 10.0)
    operator.wait_looks(4)
    assert world.row(A) == TEN
    world.edit("FeatureRollout", "enhanced", lambda rollout: rollout["spec"].pop("holdAt"))
    world.wait_row(A, HALF)


def test_drift_pauses_until_the_row_is_put_back(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 33)
    world.soon(lambda: world.conditions()["FlagsInSync"] == ("False", "ManualChange"))
    world.soon(lambda: world.status()["phase"] == "Paused")
    message = world.condition("Ready")["message"]
    assert A in message
    operator.wait_looks(5)
    assert world.row(A) == (True, 33, frozenset())
    world.set_row(A, True, 10)
    world.wait_row(A, HALF)
    world.wait_condition("FlagsInSync", "True", "AsPlanned")


def test_guards_lower_a_row_that_somebody_changed(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "30s")]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 33)
    world.soon(lambda: world.status()["phase"] == "Paused")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 33, frozenset()))
