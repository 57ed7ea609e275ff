"""gitops/argocd on a real API server: its ConfigMap is patched; its service account asks for what its scripts make."""

from pathlib import Path

import pytest
import situated
import yaml

from feature_rollout.kube.resources import ACTIONS, GROUP_PATH, ROLLOUTS
from feature_rollout.sandbox.cluster import Cluster
from support import lua
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("crds_installed")
ARGOCD = Path(__file__).parents[2] / "gitops" / "argocd"
ACCOUNT = "system:serviceaccount:argocd:argocd-server"
OTHERS = {"url": "https://argocd.example.com"}


@pytest.fixture(scope="module")
def argocd(control_plane: Cluster) -> Cluster:
    """With Argo CD's namespace, service account and settings."""
    objects = (
        {"kind": "Namespace", "metadata": {"name": "argocd"}},
        {"kind": "ServiceAccount", "metadata": {"name": "argocd-server", "namespace": "argocd"}},
        {"kind": "ConfigMap", "metadata": {"name": "argocd-cm", "namespace": "argocd"}, "data": OTHERS},
    )
    text = yaml.safe_dump_all({"apiVersion": "v1", **obj} for obj in objects)
    control_plane.kubectl("apply", "-f", "-", input=text)
    control_plane.tokens[ACCOUNT] = control_plane.create_token("argocd", "argocd-server")
    return control_plane


def installed(argocd: Cluster) -> dict[str, str]:
    """What Argo CD's ConfigMap holds after the documented patch."""
    argocd.kubectl("patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", ARGOCD / "argocd-cm.yaml")
    code, found = argocd.request("GET", "/api/v1/namespaces/argocd/configmaps/argocd-cm")
    assert code == 200, found
    assert found["data"].items() > OTHERS.items()
    return dict(found["data"])


def test_what_the_scripts_make_is_taken_from_argo_cd_s_service_account(argocd: Cluster, namespace: str) -> None:
    config = installed(argocd)
    actions = yaml.safe_load(config["resource.customizations.actions.featurerollout.dev_FeatureRollout"])
    wanted = dict(situated.rollouts())["healthy_awaitingApproval"]
    wanted["metadata"] = {"name": situated.NAME}
    path = f"{GROUP_PATH}/namespaces/{namespace}"
    code, made = argocd.request("POST", f"{path}/{ROLLOUTS}", wanted)
    assert code == 201, made
    code, live = argocd.request(
        "PUT", f"{path}/{ROLLOUTS}/{situated.NAME}/status", {**made, "status": wanted["status"]}
    )
    assert code == 200, live
    assert (
        lua.run(config["resource.customizations.health.featurerollout.dev_FeatureRollout"], live)["status"] == "Healthy"
    )

    asked = {one["name"]: lua.run(one["action.lua"], live)[0]["resource"] for one in actions["definitions"]}
    code, answer = argocd.request("POST", f"{path}/{ACTIONS}", asked["pause"], user=ACCOUNT)
    assert code == 403, answer

    argocd.kubectl("apply", "-f", ARGOCD / "rbac.yaml")

    def taken() -> bool:
        code, answer = argocd.request("POST", f"{path}/{ACTIONS}?dryRun=All", asked["pause"], user=ACCOUNT)
        assert code == 201, answer
        return bool(answer["spec"]["requestedBy"] == ACCOUNT)

    wait_for(taken, 60, "the role and the policies to take effect")
    for name, action in asked.items():
        code, answer = argocd.request("POST", f"{path}/{ACTIONS}", action, user=ACCOUNT)
        assert code == 201, (name, answer)
        assert answer["spec"] == {**action["spec"], "requestedBy": ACCOUNT}
        assert answer["metadata"]["ownerReferences"][0]["uid"] == live["metadata"]["uid"]
