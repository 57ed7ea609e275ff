"""People on a cluster with the policies of `crds/`: who they are, what RBAC gives them, and what they ask for."""

from typing import Any

from feature_rollout.api.policies import VERBS
from feature_rollout.api.rolloutaction import RolloutActionType
from feature_rollout.sandbox.cluster import Cluster
from support.waiting import wait_for

OURS = "featurerollout.dev"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
HERE, ELSEWHERE = "shop", "other"
ROLLOUT = "checkout"
HASH = "v1:" + "0" * 64
VERB_NAMES = sorted(set(VERBS.values()))
USERS = {
    **{f"{verb}-only": () for verb in VERB_NAMES},
    "editor": (),
    "by-name": (),
    "other": (),
    "reader-of-the-page": (),
    "viewer": (),
    "worker": (),
}
CREATED, FORBIDDEN = 201, 403

FIELDS: dict[RolloutActionType, dict[str, Any]] = {
    RolloutActionType.APPROVE: {"stage": "canary", "planHash": HASH},
    RolloutActionType.CONFIRM: {"check": "rehearsed", "planHash": HASH},
}


def action(kind: RolloutActionType | str, rollout: str = ROLLOUT, **fields: Any) -> dict[str, Any]:
    spec = {"rolloutRef": {"name": rollout}, "type": str(kind), **FIELDS.get(RolloutActionType(kind), {}), **fields}
    return {
        "apiVersion": f"{OURS}/v1alpha1",
        "kind": "RolloutAction",
        "metadata": {"generateName": "test-"},
        "spec": spec,
    }


def offer(
    cluster: Cluster, obj: dict[str, Any], user: str, namespace: str = HERE, *, dry_run: bool = False
) -> tuple[int, Any]:
    path = f"/apis/{OURS}/v1alpha1/namespaces/{namespace}/rolloutactions"
    return cluster.request("POST", f"{path}?dryRun=All" if dry_run else path, obj, user=user)


def allow(cluster: Cluster, user: str, rules: list[dict[str, Any]], namespace: str = HERE, kind: str = "User") -> None:
    """Give a user, or a service account of the namespace, a Role of its own."""
    subject = {"kind": kind, "name": user} | ({"namespace": namespace} if kind == "ServiceAccount" else {})
    role = {"metadata": {"name": user}, "rules": rules}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}
    binding = {"metadata": {"name": user}, "roleRef": ref, "subjects": [subject]}
    for plural, obj in (("roles", role), ("rolebindings", binding)):
        status, answer = cluster.request("POST", f"{RBAC}/namespaces/{namespace}/{plural}", obj)
        assert status == CREATED, answer


def may(verb: str, **more: Any) -> list[dict[str, Any]]:
    """Rights to create actions, to see rollouts, and one verb on them."""
    return [
        {"apiGroups": [OURS], "resources": ["rolloutactions"], "verbs": ["create", "get", "patch"]},
        {"apiGroups": [OURS], "resources": ["featurerollouts"], "verbs": ["get"]},
        {"apiGroups": [OURS], "resources": ["featurerollouts"], "verbs": [verb], **more},
    ]


EDIT = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]


def set_up(cluster: Cluster) -> None:
    for namespace in (HERE, ELSEWHERE):
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for verb in VERB_NAMES:
        allow(cluster, f"{verb}-only", may(verb))
    allow(cluster, "editor", [{"apiGroups": [OURS], "resources": ["*"], "verbs": EDIT}])
    allow(cluster, "by-name", may("pause", resourceNames=[ROLLOUT]))
    allow(cluster, "other", may("pause"), ELSEWHERE)
    allow(cluster, "other-create", may("get"), HERE)
    cluster.request("POST", f"/api/v1/namespaces/{HERE}/serviceaccounts", {"metadata": {"name": "robot"}})
    allow(cluster, "robot", may("approve"), kind="ServiceAccount")


def wait_for_policies(cluster: Cluster, *, stamped: bool) -> None:
    """A policy takes effect a moment after it was created."""

    def in_effect() -> bool:
        status, answer = offer(cluster, action("Pause", requestedBy="pause-only"), "editor")
        assert status == FORBIDDEN, answer
        status, answer = offer(cluster, action("Pause"), "pause-only")
        assert (status == CREATED) is stamped, answer
        return True

    wait_for(in_effect, 60, "the policies to take effect")
