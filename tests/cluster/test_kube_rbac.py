"""Everything that `kube` and the watch do, as a service account that may do just what the documentation says."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from contract.kube_objects import create
from feature_rollout.core.election import Role, Times
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.leases import KubeLease
from feature_rollout.kube.resources import RESOURCES, ROLLOUTS
from feature_rollout.kube.rollouts import FINALIZER, KubeRollouts
from feature_rollout.runtime.elector import Elector
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.sweeper import Sweeper
from feature_rollout.runtime.watch import Watch
from feature_rollout.sandbox.cluster import Cluster
from support.waiting import wait_for_async

OURS = "featurerollout.dev"
RULES: list[dict[str, Any]] = [
    {"apiGroups": [OURS], "resources": list(RESOURCES), "verbs": ["get", "list", "watch"]},
    {"apiGroups": [OURS], "resources": ["featurerollouts"], "verbs": ["patch"]},
    {"apiGroups": [OURS], "resources": [f"{ROLLOUTS}/status"], "verbs": ["patch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "update"],
        "resourceNames": ["operator"],
    },
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"], "resourceNames": ["kube-system"]},
]


def account(cluster: Cluster, namespace: str) -> Connection:
    """A service account of that name with these rules in the whole cluster."""
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
    role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": namespace}, "rules": RULES}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": namespace},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": namespace},
        "subjects": [subject],
    }
    sa = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": namespace}}
    for thing in (sa, role, binding):
        cluster.kubectl("apply", "-f", "-", input=json.dumps(thing))
    return Connection(kubeconfig=str(cluster.service_account_kubeconfig(namespace, "operator")))


async def test_the_documented_rules_are_enough(control_plane: Cluster, namespace: str, crds_installed: None) -> None:
    connection = account(control_plane, namespace)
    inventory = Inventory()
    async with Api(connection) as api:
        recorder = EventRecorder(api)
        events = asyncio.create_task(recorder.run())
        rollouts = KubeRollouts(api, recorder)
        made = create(control_plane, namespace, "a")
        assert await api.namespace("kube-system") is not None
        assert await api.secret(namespace, "nobody") is None
        elector = Elector(KubeLease(api, namespace, "operator"), Times())
        for _ in range(2):
            await elector.attempt()
        assert elector.role() is Role.LEADING
        await elector.release()
        assert elector.role() is not Role.LEADING
        assert elector.problems() == []
        elsewhere = Elector(KubeLease(api, namespace, "another"), Times())
        await elsewhere.attempt()
        [problem] = elsewhere.problems()
        assert problem.startswith("the Lease another cannot be had: GET ")
        assert problem.endswith("/leases/another: 403")
        sweeper = Sweeper(api, inventory, wake=lambda _: None, restart_watch=lambda _: None)
        await sweeper.load()
        await sweeper.sweep()
        watch = Watch(connection=connection, offer=inventory.offer, served=api.served)
        watch.start()
        try:
            await rollouts.add_finalizer(made)

            def has_finalizer() -> bool:
                seen = inventory.get(ROLLOUTS, namespace, "a") or {"metadata": {}}
                return FINALIZER in seen["metadata"].get("finalizers", [])

            await wait_for_async(has_finalizer, 20)
            now = await rollouts.fresh(namespace, "a")
            assert now is not None
            await rollouts.write_status(now, {"observedGeneration": 1, "phase": "Baking"})
            rollouts.event(now, kind="Normal", reason="Advanced", action="Advance", note="once")
            assert await recorder.drain(5)
            rollouts.event(now, kind="Normal", reason="Advanced", action="Advance", note="once")
            assert await recorder.drain(5)
            await rollouts.remove_finalizer(now)
        finally:
            assert await watch.stop()
            events.cancel()
            with suppress(asyncio.CancelledError):
                await events
    _, answer = control_plane.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    assert [event["series"]["count"] for event in answer["items"]] == [2]
    for kind in ("clusterroles", "clusterrolebindings"):
        control_plane.request("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}/{namespace}")
