"""Who may create which RolloutAction, on a real API server with RBAC and the policies of `crds/`.

| who | may |
|---|---|
| one with a single verb | its types, and none of the others |
| one with every right on every kind, but no verb | nothing |
| one with a verb on one rollout by name | that one |
| one with the verb in another namespace | nothing here |
| a service account with the verb | its types; it is named as such |

`requestedBy` is always the name of who asked: forged, left out, created or applied.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api.policies import CHECK, VERBS
from feature_rollout.api.rolloutaction import RolloutActionType
from feature_rollout.cli.crds import command as crds_command
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane
from support.people import (
    CREATED,
    ELSEWHERE,
    FORBIDDEN,
    HERE,
    OURS,
    ROLLOUT,
    USERS,
    VERB_NAMES,
    action,
    allow,
    offer,
    set_up,
    wait_for_policies,
)
from support.waiting import wait_for

CRDS = Path(__file__).parents[2] / "crds"
PAGE = Path(__file__).parents[2] / "docs" / "people.md"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def cluster(built_control_plane: None) -> Iterator[ControlPlane]:
    with ControlPlane(users=USERS, controller_manager=True) as cluster:
        cluster.install_crds(CRDS)
        set_up(cluster)
        wait_for_policies(cluster, stamped=True)
        yield cluster


@pytest.mark.parametrize("kind", RolloutActionType)
@pytest.mark.parametrize("verb", VERB_NAMES)
def test_a_verb_allows_its_types_and_no_other(cluster: Cluster, verb: str, kind: RolloutActionType) -> None:
    user = f"{verb}-only"
    status, answer = offer(cluster, action(kind), user)
    if VERBS[kind] == verb:
        assert status == CREATED, answer
        assert answer["spec"]["requestedBy"] == user
        return
    assert status == FORBIDDEN
    wanted = f'{kind} needs the verb "{VERBS[kind]}" on the FeatureRollout {ROLLOUT} of namespace {HERE}, which {user}'
    assert wanted in answer["message"]


@pytest.mark.parametrize("kind", RolloutActionType)
def test_every_right_to_edit_is_no_right_to_act(cluster: Cluster, kind: RolloutActionType) -> None:
    status, answer = offer(cluster, action(kind), "editor")
    assert status == FORBIDDEN
    assert f'needs the verb "{VERBS[kind]}"' in answer["message"]


def test_a_verb_on_a_rollout_by_name_is_for_that_one(cluster: Cluster) -> None:
    assert offer(cluster, action("Pause"), "by-name")[0] == CREATED
    assert offer(cluster, action("Pause", "another"), "by-name")[0] == FORBIDDEN


def test_the_role_of_the_page_allows_what_it_says(cluster: Cluster) -> None:
    role = yaml.safe_load(_manifests()[0])
    assert role["metadata"]["namespace"] == HERE
    allow(cluster, "reader-of-the-page", role["rules"])
    assert offer(cluster, action("Approve", "new-checkout"), "reader-of-the-page")[0] == CREATED
    assert offer(cluster, action("Approve", "another"), "reader-of-the-page")[0] == FORBIDDEN
    assert offer(cluster, action("RollBack", "new-checkout"), "reader-of-the-page")[0] == FORBIDDEN


def test_the_documented_roles_reach_those_who_view_and_edit(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", input=_manifests()[1])
    for user, role in (("viewer", "view"), ("worker", "edit")):
        cluster.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", HERE)

    def pauses() -> bool:
        status, answer = offer(cluster, action("Pause"), "worker")
        assert status == CREATED, answer
        return True

    wait_for(pauses, 60.0, "the aggregation of the roles")
    assert offer(cluster, action("RollBack"), "worker")[0] == CREATED
    for kind in ("Approve", "Confirm", "Promote", "Retry"):
        assert offer(cluster, action(kind), "worker")[0] == FORBIDDEN, kind
    assert offer(cluster, action("Pause"), "worker", ELSEWHERE)[0] == FORBIDDEN

    def sees() -> bool:
        path = f"/apis/{OURS}/v1alpha1/namespaces/{HERE}/rolloutactions"
        assert cluster.request("GET", path, user="viewer")[0] == 200
        return True

    wait_for(sees, 60.0, "the aggregation of the roles")
    assert offer(cluster, action("Pause"), "viewer")[0] == FORBIDDEN


def _manifests() -> list[str]:
    """The YAML blocks of the page: a Role, and the roles for everybody."""
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 2
    return found


def test_the_table_of_the_page_is_that_of_the_policy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {kind: verb for verb, kinds in rows for kind in kinds.split(", ")} == VERBS


def test_a_verb_in_another_namespace_is_none_here(cluster: Cluster) -> None:
    assert offer(cluster, action("Pause"), "other", ELSEWHERE)[0] == CREATED
    assert offer(cluster, action("Pause"), "other")[0] == FORBIDDEN


def test_a_forged_name_is_overwritten(cluster: Cluster) -> None:
    status, answer = offer(cluster, action("Approve", requestedBy="the-boss"), "approve-only")
    assert status == CREATED, answer
    assert answer["spec"]["requestedBy"] == "approve-only"


def test_a_service_account_is_seen_to_be_one(cluster: Cluster) -> None:
    cluster.tokens["robot"] = cluster.create_token(HERE, "robot")
    status, answer = offer(cluster, action("Approve"), "robot")
    assert status == CREATED, answer
    assert answer["spec"]["requestedBy"] == f"system:serviceaccount:{HERE}:robot"
    assert offer(cluster, action("Promote"), "robot")[0] == FORBIDDEN


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_an_action_may_be_applied_twice(cluster: Cluster, how: tuple[str, ...]) -> None:
    """As a GitOps tool does: what the API server wrote into it is no difference."""
    obj = action("Pause")
    obj["metadata"] = {"name": f"applied{''.join(how)}", "namespace": HERE}
    for _ in range(2):
        cluster.kubectl("apply", *how, "-f", "-", input=json.dumps(obj), user="pause-only")
    _, made = cluster.request(
        "GET", f"/apis/{OURS}/v1alpha1/namespaces/{HERE}/rolloutactions/{obj['metadata']['name']}"
    )
    assert made["spec"]["requestedBy"] == "pause-only"


def test_nobody_writes_a_status_without_the_right_to(cluster: Cluster) -> None:
    obj = action("Pause") | {"status": {"phase": "Applied"}}
    status, made = offer(cluster, obj, "pause-only")
    assert status == CREATED
    assert "phase" not in made["status"], "a status that comes with the object is dropped"
    path = f"/apis/{OURS}/v1alpha1/namespaces/{HERE}/rolloutactions/{made['metadata']['name']}/status"
    status, answer = cluster.request("PUT", path, made | {"status": {"phase": "Applied"}}, user="pause-only")
    assert status == FORBIDDEN
    assert "rolloutactions/status" in answer["message"]


@pytest.fixture(scope="module")
def older_cluster(built_control_plane: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """As one that has no MutatingAdmissionPolicy."""
    folder = tmp_path_factory.mktemp("crds")
    crds_command.main(["--without-mutating-policy", "--output", str(folder)], standalone_mode=False)
    assert not any(
        obj["kind"].startswith("Mutating") for file in folder.iterdir() for obj in yaml.safe_load_all(file.read_text())
    )
    with ControlPlane(users=USERS) as cluster:
        cluster.install_crds(folder)
        set_up(cluster)
        wait_for_policies(cluster, stamped=False)
        yield cluster


@pytest.mark.parametrize("given", [{}, {"requestedBy": "the-boss"}], ids=["none", "forged"])
def test_without_the_stamp_a_wrong_name_is_refused(older_cluster: Cluster, given: dict[str, str]) -> None:
    status, answer = offer(older_cluster, action("Approve", **given), "approve-only")
    assert status == FORBIDDEN
    assert f'"{given.get("requestedBy", "")}" is not who asks' in answer["message"]
    assert 'write "approve-only"' in answer["message"]


def test_without_the_stamp_the_true_name_is_taken(older_cluster: Cluster) -> None:
    status, answer = offer(older_cluster, action("Approve", requestedBy="approve-only"), "approve-only")
    assert status == CREATED, answer
    assert offer(older_cluster, action("Promote", requestedBy="approve-only"), "approve-only")[0] == FORBIDDEN


def test_the_api_server_has_no_complaint_about_the_expressions(cluster: Cluster) -> None:
    def checked() -> Any:
        status, policy = cluster.request("GET", f"{ADMISSION}/validatingadmissionpolicies/{CHECK}")
        assert status == 200
        return policy.get("status")

    assert wait_for(checked, 60, "the type check of the policy")["typeChecking"] == {}
