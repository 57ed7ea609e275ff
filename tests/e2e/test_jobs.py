"""Jobs as checks: a stage begins when its Job has completed, and no Job is run twice without a reason."""

from http import HTTPStatus
from typing import Any

import yaml

from support.jobs import finish
from support.manifests import ROLLOUT, A, Object, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World
from unit.api.test_jobs import text

OFF, TEN, HALF = (False, 0, frozenset()), (True, 10, frozenset()), (True, 50, frozenset())
REHEARSED = {"name": "rehearsed", "job": {"configMapKeyRef": {"name": "rollout-jobs", "key": "rehearse.yaml"}}}
BATCH = "batch"


def manifests() -> Object:
    metadata = {"name": "rollout-jobs"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"rehearse.yaml": text()}}


def wait_job(world: World, number: int = 1) -> dict[str, Any]:
    """The newest Job, when there are so many."""
    wait_for(lambda: len(world.jobs()) == number, 60.0, lambda: f"{number} Jobs; status: {world.brief()}")
    return world.jobs()[-1]


def message(world: World, reason: str) -> str:
    return str(world.wait_condition("Reconciling", "False", reason)["message"])


def test_a_preflight_by_a_job_and_a_restart_while_it_runs(world: World, operator: Operator) -> None:
    world.apply(manifests(), store(), rollout(stages=[stage("ten", 10)], preflight=[REHEARSED], suspend=True))
    world.wait_condition("Reconciling", "False", "Suspended")
    operator.wait_looks(3)
    assert world.jobs() == [], "nothing is begun while it is suspended"

    world.edit_spec(suspend=False)
    job = wait_job(world)
    name = job["metadata"]["name"]
    wait_for(lambda: f"preflight/rehearsed: Job {name} " in message(world, "CheckUnanswered"), 30.0, "its name")
    assert world.status()["phase"] == "Preflight"
    assert not [c for c in world.status()["conditions"] if c["type"] == "FieldsInEffect" and c["status"] != "True"]
    assert job["metadata"]["ownerReferences"][0]["uid"] == world.rollout()["metadata"]["uid"]
    assert job["metadata"]["annotations"]["featurerollout.dev/plan-hash"] == world.status()["planHash"]

    operator.kill()
    operator.start()
    operator.wait_looks(6)
    assert [one["metadata"]["uid"] for one in world.jobs()] == [job["metadata"]["uid"]]
    assert world.row(A) == OFF
    finish(world.cluster, job, "Complete")
    world.wait_row(A, TEN, 60.0)
    world.wait_condition("Completed", "True", "Completed")
    assert len(world.jobs()) == 1


def test_a_failed_job_holds_its_stage_until_it_is_repeated(world: World, operator: Operator) -> None:
    stages = [stage("ten", 10), stage("half", 50, checks=[REHEARSED])]
    world.apply(manifests(), store(), rollout(stages=stages))
    world.wait_row(A, TEN)
    job = wait_job(world)
    name = job["metadata"]["name"]
    finish(world.cluster, job, "Failed")
    world.wait_condition("Reconciling", "False", "CheckFailed", timeout_s=60.0)
    failed = world.status()["next"]["waitingFor"][0]
    assert f"stages/half/rehearsed has not passed: Job {name} " in failed
    assert "has failed (BackoffLimitExceeded)" in failed
    asked = operator.count("featurerollout_api_requests_total", verb="GET")
    wait_for(lambda: operator.count("featurerollout_api_requests_total", verb="GET") >= asked + 4, 60.0, "more looks")
    assert (len(world.jobs()), world.row(A)) == (1, TEN)

    world.cluster.kubectl("delete", "job", name, "-n", world.namespace)
    wait_for(lambda: [j for j in world.jobs() if j["metadata"]["uid"] != job["metadata"]["uid"]], 60.0, "the repeat")
    finish(world.cluster, wait_job(world), "Complete")
    world.wait_row(A, HALF, 60.0)


def test_without_the_rights_the_check_says_what_to_grant(world: World, operator: Operator) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/feature-rollout-operator"
    _, role = world.cluster.request("GET", path)
    without = role | {"rules": [rule for rule in role["rules"] if rule["apiGroups"] != [BATCH]]}
    assert len(without["rules"]) == len(role["rules"]) - 1
    _set_role(world, path, without)
    world.apply(manifests(), store(), rollout(stages=[stage("ten", 10)], preflight=[REHEARSED]))
    lacking = "grant it create and get on jobs of the group batch"
    wait_for(lambda: lacking in message(world, "CheckUnanswered"), 60.0, "what is missing")
    assert (world.jobs(), world.row(A)) == ([], OFF)
    _set_role(world, path, role)
    finish(world.cluster, wait_job(world), "Complete")
    world.wait_row(A, TEN, 60.0)


def test_the_manifest_is_repaired_and_runs_by_itself(world: World, operator: Operator) -> None:
    broken = manifests() | {"data": {"rehearse.yaml": text(kind="Pod")}}
    world.apply(broken, store(), rollout(stages=[stage("ten", 10)], preflight=[REHEARSED]))
    wait_for(lambda: "write batch/v1, Job" in message(world, "CheckUnanswered"), 60.0, "what is wrong")
    world.apply(manifests())
    job = wait_job(world)
    assert job["metadata"]["name"].startswith(yaml.safe_load(text())["metadata"]["name"])
    finish(world.cluster, job, "Complete")
    world.wait_row(A, TEN, 60.0)
    world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: world.jobs() == [], 60.0, "the garbage collector")


def _set_role(world: World, path: str, role: dict[str, Any]) -> None:
    metadata = {key: value for key, value in role["metadata"].items() if key != "resourceVersion"}
    status, answer = world.cluster.request("PUT", path, role | {"metadata": metadata})
    assert status == HTTPStatus.OK, answer
