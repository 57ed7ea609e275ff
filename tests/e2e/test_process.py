"""The operator as a process: its HTTP server, its logs, its end, its start without CRDs; its rights; its idleness."""

from http import HTTPStatus
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_rollout.demo import stage as demo
from feature_rollout.sandbox.controlplane import ControlPlane
from support.databases import Database
from support.manifests import ROLLOUT, SECRET, STORE, A, rollout, stage, store
from support.operatorprocess import Operator, json_lines
from support.waiting import wait_for
from support.world import World, crds_folder, fresh_namespace

TEN = (True, 10, frozenset())


@pytest.fixture
def nursery() -> None:
    """Here each is started as in production."""


def test_it_answers_and_ends_cleanly(world: World, idle_operator: Operator) -> None:
    operator = idle_operator
    operator.start(log_format="json")
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    assert operator.get("/livez") == (200, "ok\n")
    assert operator.get("/readyz") == (200, "ok\n")
    code, text = operator.get("/metrics")
    assert code == 200
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"featurerollout_looks", "featurerollout_reverts", "featurerollout_invariant_violations"} <= names
    assert operator.get("/nothing")[0] == 404
    assert operator.stop()
    entries = json_lines(operator.log_text)
    assert {"featurerollout", "ended"} <= {word for entry in entries for word in entry["message"].split()}
    entered = next(entry for entry in entries if entry["message"].startswith("Stage ten"))
    assert entered["rollout"].endswith(f"{world.namespace}/{ROLLOUT}")
    assert entered["stage"] == "ten"


def test_a_wrong_setting_is_told_by_name(world: World, idle_operator: Operator) -> None:
    idle_operator.start(ready=False, http_port="many")
    wait_for(lambda: not idle_operator.running, 60.0)
    assert "FEATUREROLLOUT_HTTP_PORT" in idle_operator.log_text


def test_a_start_without_crds_waits_for_them(
    own_control_plane: ControlPlane, database: Database, tmp_path: Path
) -> None:
    namespace = fresh_namespace(own_control_plane)
    with World.made(own_control_plane, namespace, database) as world:
        operator = Operator(own_control_plane, namespace, demo.SERVICE_ACCOUNT, tmp_path)
        try:
            operator.start(ready=False)
            wait_for(lambda: "CRDs are missing" in operator.log_text, 20.0)
            assert "featurerollout crds" in operator.log_text
            assert operator.get("/livez")[0] == 200
            assert operator.get("/readyz")[0] == 503
            own_control_plane.install_crds(crds_folder())
            operator.wait_ready()
            world.apply(store(), rollout(stages=[stage("ten", 10)]))
            world.wait_row(A, TEN)
            assert operator.stop()
        finally:
            operator.kill()


def test_its_service_account_may_do_its_work_and_no_more(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    world.secret("somebody-elses", {"token": "x"})
    token = world.cluster.create_token(world.namespace, demo.SERVICE_ACCOUNT)
    world.cluster.tokens["operator"] = token

    def code(method: str, path: str, body: object = None) -> int:
        return world.cluster.request(method, path, body, user="operator")[0]

    mine = world.path("FeatureRollout", ROLLOUT)
    assert code("GET", world.path("Secret", SECRET)) == HTTPStatus.OK
    assert code("GET", mine) == HTTPStatus.OK
    forbidden = [
        ("GET", world.path("Secret", "somebody-elses"), None),
        ("GET", world.path("Secret"), None),
        ("GET", "/api/v1/secrets", None),
        ("PUT", world.path("Secret", SECRET), {"metadata": {"name": SECRET}}),
        ("DELETE", world.path("Secret", SECRET), None),
        ("PUT", mine, world.rollout()),
        ("DELETE", mine, None),
        ("POST", world.path("FeatureRollout"), rollout("mine", stages=[stage("ten", 10)])),
        ("POST", world.path("RolloutAction"), {"metadata": {"name": "mine"}}),
        ("PUT", world.path("FlagStore", STORE), world.get("FlagStore", STORE)),
        ("GET", "/apis/featurerollout.dev/v1alpha1/featurerollouts", None),
        ("GET", f"/api/v1/namespaces/{world.namespace}/configmaps", None),
        ("GET", f"/api/v1/namespaces/{world.namespace}/pods", None),
        ("GET", "/api/v1/namespaces/default", None),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None),
        ("POST", f"/api/v1/namespaces/{world.namespace}/serviceaccounts/default/token", {"spec": {}}),
    ]
    assert {(method, path): code(method, path, body) for method, path, body in forbidden} == {
        (method, path): HTTPStatus.FORBIDDEN for method, path, _ in forbidden
    }
    world.cluster.tokens.pop("operator")


def test_a_healthy_bake_makes_no_api_write(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.wait_condition("Ready", "True", "Baking")
    operator.wait_looks(2, verdict="Pass")
    before = versions(world)
    operator.wait_looks(6, verdict="Pass")
    assert versions(world) == before


def test_a_completed_rollout_makes_no_api_write(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10)]))
    world.wait_condition("Completed", "True", "Completed")
    world.soon(lambda: "Completed" in world.reasons())
    # It is looked at again for whatever reason, and nothing is written.
    for number in range(3):
        annotations = {"looked-at": str(number)}
        reconciles = operator.count("featurerollout_reconcile_seconds_count")
        edited = world.edit("FeatureRollout", ROLLOUT, lambda obj, a=annotations: obj["metadata"].update(annotations=a))
        before = versions(world)[1:]
        wait_for(lambda n=reconciles: operator.count("featurerollout_reconcile_seconds_count") > n)
        assert versions(world) == [edited["metadata"]["resourceVersion"], *before]


def versions(world: World) -> list[str]:
    """Of everything that the operator could have written to."""
    objects = [world.rollout(), world.get("FlagStore", STORE), *world.events()]
    return [obj["metadata"]["resourceVersion"] for obj in objects]
