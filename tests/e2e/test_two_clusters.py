"""Two clusters on one database: who owns a flag, and what a rebuilt cluster finds of the old one.

Each cluster has a namespace of the same name and the same manifests; the second is a control plane of its own.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from feature_rollout.demo import stage as demo_stage
from feature_rollout.sandbox.controlplane import ControlPlane
from support.ending import end
from support.manifests import ROLLOUT, A, Object, rollout, stage, store
from support.nursery import Nursery
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World, crds_folder

TEN, OFF_AT_TEN = (True, 10, frozenset()), (False, 10, frozenset())
PLAN = [stage("ten", 10, "60s"), stage("all", 100)]


@pytest.fixture
def second(world: World, own_control_plane: ControlPlane) -> World:
    """The same namespace, Secret and rights in another cluster, on the same database."""
    own_control_plane.install_crds(crds_folder())
    body: Object = {"metadata": {"name": world.namespace}}
    status, answer = own_control_plane.request("POST", "/api/v1/namespaces", body)
    assert status == HTTPStatus.CREATED, answer
    twin = copy.copy(world)
    twin.cluster = own_control_plane
    twin.set_up_rights()
    manifest = world.get("Secret", "supabase-db")
    twin.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "supabase-db"}, "data": manifest["data"]})
    return twin


@pytest.fixture
def second_operator(
    second: World, nursery: Nursery | None, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Operator]:
    folder = tmp_path / "second"
    folder.mkdir()
    operator = Operator(second.cluster, second.namespace, demo_stage.SERVICE_ACCOUNT, folder, nursery=nursery)
    yield operator
    end(operator, second, request)


def release(world: World, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feature_rollout.cli", "store", "release", key, "--reason", "it is gone", *arguments],
        env={**os.environ, "FEATUREROLLOUT_DATABASE_URI": world.database.uri(world.writer)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def be_silent_for(world: World, interval: str) -> None:
    world.database.execute("UPDATE feature_rollout.ledger SET updated_at = now() - %s::interval", interval)


def raised_epochs(world: World) -> list[int]:
    return [entry["epoch"] for entry in world.audit(A) if entry["kind"] == "Raise"]


def test_the_second_cluster_conflicts_until_the_first_ones_key_is_released(
    world: World, second: World, idle_operator: Operator, second_operator: Operator
) -> None:
    idle_operator.start(cluster_name="west")
    world.apply(store(), rollout(stages=PLAN))
    world.wait_row(A, TEN)
    second_operator.start(cluster_name="east")
    second.apply(store(), rollout(stages=[stage("seventy", 70, "60s")]))
    condition = second.wait_condition("Stalled", "True", "Conflict")
    key = f"west/{world.namespace}/{ROLLOUT}"
    assert key in condition["message"]
    idle_operator.wait_looks(2)
    assert world.row(A) == TEN
    assert {entry["ledger_key"] for entry in world.audit()} == {key}
    # The first cluster is gone, with its operator.
    idle_operator.kill()
    refused = release(world, key)
    assert (refused.returncode, "WriterActive" in refused.stderr) == (1, True)
    be_silent_for(world, "3 minutes")
    done = release(world, key)
    assert done.returncode == 0, done.stderr
    second.wait_row(A, (True, 70, frozenset()))
    assert world.owners() == {f"east/{world.namespace}/{ROLLOUT}"}
    epochs = raised_epochs(world)
    assert epochs == sorted(epochs)
    assert epochs[-1] > epochs[0]
    # The first comes back after all, and has nothing to say any more.
    idle_operator.start(cluster_name="west")
    condition = world.wait_condition("Stalled", "True", "Conflict")
    assert f"east/{world.namespace}/{ROLLOUT}" in condition["message"]
    assert world.row(A) == (True, 70, frozenset())


def test_a_rebuilt_cluster_of_the_same_name_goes_on_where_the_old_one_was(
    world: World, second: World, idle_operator: Operator, second_operator: Operator
) -> None:
    idle_operator.start(cluster_name="prod")
    world.apply(store(), rollout(stages=PLAN))
    world.wait_row(A, TEN)
    idle_operator.kill()
    old = world.ledger()
    second_operator.start(cluster_name="prod")
    # Its object has another UID. With another plan nobody knows what it should go on with.
    second.apply(store(), rollout(stages=[stage("seventy", 70, "60s")]))
    condition = second.wait_condition("Stalled", "True", "AdoptionRequired")
    assert "another plan" in condition["message"]
    assert world.row(A) == TEN
    second.edit_spec(stages=PLAN)
    second.soon(lambda: second.conditions()["Ready"][1] == "AdoptionPending", timeout_s=30)
    be_silent_for(world, "3 minutes")
    second.wait_stage("ten", timeout_s=60)
    new = world.ledger()
    assert (new["key"], new["stage"], new["attempt"], new["entered_at"]) == (
        old["key"],
        old["stage"],
        old["attempt"],
        old["entered_at"],
    )
    assert new["uid"] != old["uid"]
    assert new["epoch"] > old["epoch"]
    assert len(raised_epochs(world)) == 1, "nothing was raised a second time"


def test_a_latch_outlives_its_cluster_and_the_object(
    world: World, second: World, idle_operator: Operator, second_operator: Operator
) -> None:
    plan = rollout(stages=PLAN)
    idle_operator.start(cluster_name="west")
    world.apply(store(), plan)
    world.wait_row(A, TEN)
    world.traffic.failed = 0.5
    world.wait_row(A, OFF_AT_TEN, timeout_s=60)
    world.traffic.failed = 0.0
    idle_operator.kill()
    assert release(world, f"west/{world.namespace}/{ROLLOUT}", "--force").returncode == 0
    second_operator.start(cluster_name="east")
    second.apply(store(), plan)
    second.soon(lambda: second.status()["phase"] == "RolledBack", timeout_s=60)
    second.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: second.get("FeatureRollout", ROLLOUT) is None, 60)
    second.apply(plan)
    second.soon(lambda: second.status()["phase"] == "RolledBack", timeout_s=60)
    second_operator.wait_looks(2)
    assert world.row(A) == OFF_AT_TEN
    # Another plan is another matter.
    second.edit_spec(stages=[stage("one", 1, "60s")])
    second.wait_row(A, (True, 1, frozenset()), timeout_s=60)
