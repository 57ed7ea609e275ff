"""The operator is killed with -9, anywhere: another one goes on where it was, nothing skipped, nothing doubled."""

from datetime import UTC, datetime

import pytest

from support.databases import all_postgres
from support.manifests import ROLLOUT, A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN, HALF, ALL = (True, 10, frozenset()), (True, 50, frozenset()), (True, 100, frozenset())
STAGES = [stage("ten", 10), stage("half", 50), stage("everyone", 100)]


def raises(world: World) -> list[tuple[str, str]]:
    return [(entry["stage"], entry["flag"]) for entry in world.audit()]


EACH_ONCE = [(name, flag) for name in ("ten", "half", "everyone") for flag in (A, B)]


@all_postgres
def test_killed_between_stages(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=STAGES))
    for row in (TEN, HALF):
        world.wait_row(A, row)
        operator.kill()
        operator.start()
    world.wait_condition("Completed", "True", "Completed")
    assert raises(world) == EACH_ONCE
    # Every process took the rollout over under an epoch of its own.
    epochs = [entry["epoch"] for entry in world.audit(A)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 3
    assert [entry["action"] for entry in world.status()["history"]][-1] == "Complete"


def test_killed_in_a_bake(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "12s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    wait_for(lambda: world.ledger()["baked_s"] >= 3.0, 15.0, "a checkpoint of the progress")
    operator.kill()
    killed_at = datetime.now(UTC)
    operator.start()
    world.wait_row(A, HALF)
    entered = [entry["at"] for entry in world.audit(A)]
    assert (entered[1] - entered[0]).total_seconds() >= 12.0
    # From zero it would be twelve seconds after the restart.
    assert (entered[1] - killed_at).total_seconds() < 12.0
    world.wait_condition("Completed", "True", "Completed")
    assert raises(world) == EACH_ONCE[:4]


@pytest.mark.parametrize("place", ["before-raise-commit", "after-raise-commit"])
def test_killed_at_the_commit_of_a_raise(world: World, idle_operator: Operator, place: str) -> None:
    operator = idle_operator
    operator.start(failpoints=[place])
    world.apply(store(), rollout(stages=STAGES))
    operator.wait_until_dead()
    committed = place == "after-raise-commit"
    # What the dead process did not commit is rolled back when the server notices.
    wait_for(lambda: world.row(A) == (TEN if committed else (False, 0, frozenset())))
    assert world.row(B) == world.row(A)
    assert raises(world) == (EACH_ONCE[:2] if committed else [])
    operator.start()
    world.wait_condition("Completed", "True", "Completed")
    assert raises(world) == EACH_ONCE
    assert world.row(A) == ALL


@pytest.mark.parametrize("place", ["before-revert-commit", "after-revert-commit"])
def test_killed_at_the_commit_of_a_revert(world: World, idle_operator: Operator, place: str) -> None:
    operator = idle_operator
    operator.start(failpoints=[place])
    world.traffic.harm_at(A, 50)
    world.traffic.failed = 0.3
    world.apply(store(), rollout(stages=[STAGES[0], stage("half", 50, "30s"), STAGES[2]]))
    operator.wait_until_dead()
    committed = place == "after-revert-commit"
    off = (False, 50, frozenset())
    wait_for(lambda: world.row(A) == (off if committed else HALF))
    assert world.row(B) == world.row(A)
    operator.start()
    world.wait_row(A, off)
    world.wait_condition("RolledBack", "True", "RolledBack")
    assert [entry["flag"] for entry in world.audit() if entry["kind"] == "Lower"] == [A, B]
    assert world.ledger()["acted"] == ["High"]
    assert world.status()["rollback"]["severity"] == "High"


def test_killed_at_the_commit_of_a_deletion(world: World, idle_operator: Operator) -> None:
    operator = idle_operator
    operator.start(failpoints=["after-release-commit"])
    world.apply(store(), rollout(stages=[stage("ten", 10, "30s")], onDelete="Disable"))
    world.wait_row(A, TEN)
    world.delete("FeatureRollout", ROLLOUT)
    operator.wait_until_dead()
    assert world.row(A) == (False, 10, frozenset())
    assert world.get("FeatureRollout", ROLLOUT) is not None
    operator.start()
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)


def test_stopped_and_started_again_in_a_bake(world: World, operator: Operator) -> None:
    """A clean stop stores what was measured: nothing of the bake is lost."""
    world.apply(store(), rollout(stages=[stage("ten", 10, "8s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    operator.wait_looks(4, verdict="Pass")
    assert operator.stop()
    assert world.ledger()["baked_s"] >= 3.0
    operator.start()
    world.wait_row(A, HALF)
    entered = [entry["at"] for entry in world.audit(A)]
    assert 8.0 <= (entered[1] - entered[0]).total_seconds() < 16.0
