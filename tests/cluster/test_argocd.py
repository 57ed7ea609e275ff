"""gitops/argocd on a real API server: its ConfigMap is patched; its service account asks for what its scripts make."""

import pytest
import situated
import yaml

from feature_rollout.kube.resources import ACTIONS, GROUP_PATH, ROLLOUTS
from feature_rollout.sandbox.cluster import Cluster
from support.argocd import ACCOUNT, CONFIG, FOLDER, action_scripts, created, health
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("crds_installed")
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


def test_the_config_map_is_patched_and_keeps_what_it_had(argocd: Cluster) -> None:
    argocd.kubectl("patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", FOLDER / "argocd-cm.yaml")
    code, found = argocd.request("GET", "/api/v1/namespaces/argocd/configmaps/argocd-cm")
    assert code == 200, found
    assert found["data"] == {**OTHERS, **CONFIG}


def test_what_the_scripts_make_is_taken_from_argo_cd_s_service_account(argocd: Cluster, namespace: str) -> None:
    wanted = situated.rollouts()["healthy_awaitingApproval"]
    wanted["metadata"] = {"name": situated.NAME}
    rollouts = f"{GROUP_PATH}/namespaces/{namespace}/{ROLLOUTS}"
    actions = f"{GROUP_PATH}/namespaces/{namespace}/{ACTIONS}"
    code, made = argocd.request("POST", rollouts, wanted)
    assert code == 201, made
    told = {**made, "status": wanted["status"]}
    code, live = argocd.request("PUT", f"{rollouts}/{situated.NAME}/status", told)
    assert code == 200, live
    assert health(live)[0] == "Healthy"

    pause = created("pause", live)
    code, answer = argocd.request("POST", actions, pause, user=ACCOUNT)
    assert code == 403, answer
    argocd.kubectl("apply", "-f", FOLDER / "rbac.yaml")

    def taken() -> bool:
        code, answer = argocd.request("POST", f"{actions}?dryRun=All", pause, user=ACCOUNT)
        assert code == 201, answer
        return bool(answer["spec"]["requestedBy"] == ACCOUNT)

    wait_for(taken, 60, "the role and the policies to take effect")
    for name in action_scripts().keys() - {"discovery"}:
        action = created(name, live)
        code, answer = argocd.request("POST", actions, action, user=ACCOUNT)
        assert code == 201, (name, answer)
        assert answer["spec"] == {**action["spec"], "requestedBy": ACCOUNT}
        assert answer["metadata"]["ownerReferences"][0]["uid"] == live["metadata"]["uid"]
