"""A rollout is deleted: rows are what `onDelete` says, the flags are free again, the object goes."""

import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from support.manifests import ROLLOUT, A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import Row, World

BEFORE = (True, 5, frozenset({"admin"}))
ON_DELETE = [
    ("Keep", (True, 50, frozenset({"admin"}))),
    ("Restore", BEFORE),
    ("Disable", (False, 50, frozenset({"admin"}))),
]


@pytest.mark.parametrize(("on_delete", "after"), ON_DELETE, ids=[name for name, _ in ON_DELETE])
def test_deletion_in_mid_stage(world: World, operator: Operator, on_delete: str, after: Row) -> None:
    world.set_row(A, True, 5, ["admin"])
    world.baseline = world.rows()
    world.changed_by_hand.clear()
    world.apply(store(), rollout(stages=[stage("half", 50, "30s")], onDelete=on_delete))
    world.wait_row(A, (True, 50, frozenset({"admin"})))
    world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)
    assert world.row(A) == after
    assert world.row(B)[0] is (on_delete == "Keep")
    assert world.owners() == {None}
    assert world.ledger()["closed_at"] is not None
    world.soon(lambda: "Released" in world.reasons())


def test_deletion_before_anything_was_raised(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10)], suspend=True))
    world.wait_condition("Ready", "True", "Suspended")
    world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)
    assert world.audit() == []


def test_deletion_while_the_operator_is_down(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "30s")], onDelete="Restore"))
    world.wait_row(A, (True, 10, frozenset()))
    operator.kill()
    world.delete("FeatureRollout", ROLLOUT)
    assert world.get("FeatureRollout", ROLLOUT) is not None
    operator.start()
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None, 20.0)
    assert world.row(A) == (False, 0, frozenset())


def test_deletion_of_a_rollout_whose_store_never_was(world: World, operator: Operator) -> None:
    world.apply(rollout(stages=[stage("ten", 10)]))
    world.wait_condition("Ready", "False", "StoreNotFound")
    world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)


def test_deletion_while_the_database_is_down(
    own_world: World, own_postgres: PostgresServer, operator: Operator
) -> None:
    world = own_world
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")], onDelete="Disable"))
    world.wait_row(A, (True, 10, frozenset()))
    world.wait_stage("ten")
    world.database.disconnect()
    own_postgres.kill()
    world.delete("FeatureRollout", ROLLOUT)
    condition = world.wait_condition("Stalled", "True", "StoreUnreachable", timeout_s=20.0)
    assert "featurerollout.dev/abandon" in condition["message"]
    annotations = {"featurerollout.dev/abandon": "the database was given up"}
    world.edit("FeatureRollout", ROLLOUT, lambda obj: obj["metadata"].update(annotations=annotations))
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)
    world.soon(lambda: "Abandoned" in world.reasons())
    own_postgres.start()
    assert world.row(A) == (True, 10, frozenset())


def test_deletion_goes_on_when_the_database_is_back(
    own_world: World, own_postgres: PostgresServer, operator: Operator
) -> None:
    world = own_world
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")], onDelete="Disable"))
    world.wait_row(A, (True, 10, frozenset()))
    world.database.disconnect()
    own_postgres.stop()
    world.delete("FeatureRollout", ROLLOUT)
    world.wait_condition("Stalled", "True", "StoreUnreachable", timeout_s=20.0)
    own_postgres.start()
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None, 20.0)
    assert world.row(A) == (False, 10, frozenset())
