"""The control plane of the sandbox, for real.

| given | then |
|---|---|
| it is started | the API server answers, as the administrator |
| a user whom RBAC gives nothing | is refused, and allowed once RBAC says so |
| a token of a service account | is that service account |
| the API server is stopped, killed and started | same address, same objects |
| an owner is deleted | what it owns is garbage collected (controller manager) |
| its owner is killed | its processes end and its folder is removed |
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.errors import SandboxError
from support.waiting import wait_for

START_AND_TELL = """
import signal
from feature_rollout.sandbox.controlplane import ControlPlane
control_plane = ControlPlane()
control_plane.start()
print(control_plane.folder, flush=True)
signal.pause()
"""


def test_the_api_server_answers_as_administrator(control_plane: Cluster) -> None:
    who = control_plane.kubectl("auth", "whoami", "-o", "json").stdout
    assert json.loads(who)["status"]["userInfo"]["groups"] == ["system:masters", "system:authenticated"]


def test_a_failing_kubectl_says_why(control_plane: Cluster) -> None:
    with pytest.raises(SandboxError, match="doesn't have a resource type"):
        control_plane.kubectl("get", "nonsense")
    assert control_plane.kubectl("get", "nonsense", check=False).returncode == 1


def test_an_unknown_user_is_an_error_that_names_the_known(control_plane: Cluster) -> None:
    with pytest.raises(SandboxError, match="there are: admin"):
        control_plane.kubeconfig("mallory")


def test_a_service_account_acts_as_itself_and_may_do_what_rbac_says(control_plane: Cluster, namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", namespace)
    config = control_plane.service_account_kubeconfig(namespace, "operator")

    def can_list_config_maps() -> bool:
        argv = ["auth", "can-i", "list", "configmaps", "-n", namespace, f"--kubeconfig={config}"]
        return control_plane.kubectl(*argv, check=False).stdout.strip() == "yes"

    assert not can_list_config_maps()
    binding = ["--clusterrole=view", f"--serviceaccount={namespace}:operator"]
    control_plane.kubectl("create", "rolebinding", "viewer", *binding, "-n", namespace)
    wait_for(can_list_config_maps, describe="the role binding to have an effect")


def test_no_token_for_a_service_account_that_is_not_there(control_plane: Cluster, namespace: str) -> None:
    with pytest.raises(SandboxError, match="404"):
        control_plane.create_token(namespace, "nobody")


def test_what_an_owner_owned_is_garbage_collected(control_plane: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = control_plane.request("POST", path, {"metadata": {"name": "owner"}})[1]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    control_plane.request("POST", path, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    control_plane.request("DELETE", f"{path}/owner")
    wait_for(lambda: control_plane.request("GET", f"{path}/owned")[0] == 404, describe="the owned object to go")


def test_rbac_denies_a_user_with_a_token() -> None:
    with ControlPlane(users={"dana": ["developers"]}) as control_plane:
        assert control_plane.request("GET", "/api/v1/namespaces/default/secrets", user="dana")[0] == 403
        refused = control_plane.kubectl("get", "secrets", user="dana", check=False)
        assert 'User "dana" cannot list resource "secrets"' in refused.stderr
        # Not `edit` or `view`: these are put together by the controller manager.
        control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=secrets")
        control_plane.kubectl("create", "rolebinding", "developers", "--role=reader", "--group=developers")
        wait_for(lambda: control_plane.request("GET", "/api/v1/namespaces/default/secrets", user="dana")[0] == 200)


def test_a_restart_keeps_address_and_data(own_control_plane: ControlPlane) -> None:
    config = own_control_plane.kubeconfig().read_text()
    own_control_plane.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    own_control_plane.stop_apiserver()
    with pytest.raises(ConnectionRefusedError):
        own_control_plane.request("GET", "/readyz")
    own_control_plane.start_apiserver()
    assert own_control_plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}").stdout == "1"
    assert own_control_plane.kubeconfig().read_text() == config


def test_an_api_server_that_cannot_start_shows_its_log() -> None:
    control_plane = ControlPlane(apiserver_flags=["--no-such-flag"])
    with pytest.raises(SandboxError, match="unknown flag: --no-such-flag"):
        control_plane.start()
    assert not control_plane.folder.exists()


def test_it_does_not_outlive_a_killed_owner() -> None:
    with subprocess.Popen([sys.executable, "-c", START_AND_TELL], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert processes_of(folder)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of(folder) and not folder.exists(), describe="processes and folder to go")


def processes_of(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found
