"""The chart, installed by Helm, is all that the operator needs, and gives it no more.

It runs as a process, since there is no kubelet: with the token of the chart's ServiceAccount, and the arguments and the
environment of the rendered Deployment. What a process cannot have of it is `NOT_A_PROCESS`'s. Its second replica is
another process with the same.

The API server's audit log says what the operator has used its rights for. That is compared with the rendered roles, in
both directions: it was refused nothing, and there is no right that it did not use.
"""

import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.resources import RESOURCES
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.sweeper import Sweeper
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.store.deliveries import LEASE_S
from support.auditlog import AuditLog
from support.databases import Database
from support.ending import check, end
from support.helm import CHART, RELEASE, RELEASE_NAMESPACE, Helm
from support.jobs import finish
from support.manifests import ERRORS, ROLLOUT, SECRET, STORE, A, disable, manifest, rollout, stage, store, template
from support.operatorprocess import Operator
from support.receiver import SECRET as SIGNING_KEY
from support.receiver import Receiver
from support.waiting import wait_for
from support.world import World, fresh_namespace
from unit.api.test_jobs import text

ACCOUNT = f"system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
TEN, HALF, OFF_AT_HALF = (True, 10, frozenset()), (True, 50, frozenset()), (False, 50, frozenset())
# Of the Pod and its container. Probes are asked by the test; the rest is the kubelet's or the scheduler's.
NOT_A_PROCESS = {
    "automountServiceAccountToken",  # the token comes in a kubeconfig instead of a volume
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",  # a free one of the loopback interface instead of 8080
    "readinessProbe",
    "resources",
    "securityContext",
    "serviceAccountName",  # whose token it is
    "startupProbe",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
}
KINDS = ["Advance", "Advance", "Pause", "Resume", "DisableFlags", "Pause", "Refuse", "Release"]
LEASE = {"DURATION_SECONDS": "6", "RENEW_DEADLINE_SECONDS": "4", "RETRY_SECONDS": "0.5"}
REHEARSED = {"name": "rehearsed", "job": {"configMapKeyRef": {"name": "rollout-jobs", "key": "rehearse.yaml"}}}


class Installed(World):
    """A world whose operator has the chart's rights and no others."""

    def set_up_rights(self) -> None:
        return


@dataclass
class Proof:
    cluster: ControlPlane
    world: World
    operator: Operator
    second: Operator
    audit: AuditLog
    rules: list[dict[str, Any]]
    everywhere: bool
    webhook: Receiver
    shards: int

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> int:
        """The status code that the operator's account gets."""
        return self.cluster.request(method, path, body, user="operator", headers=headers)[0]


@pytest.fixture(params=[False, True], ids=["in-one-namespace", "in-all-namespaces"])
def proof(
    request: pytest.FixtureRequest, built_control_plane: None, database: Database, tmp_path: Path, helm: Helm
) -> Iterator[Proof]:
    audit = AuditLog(tmp_path, ACCOUNT)
    with ControlPlane(controller_manager=True, apiserver_flags=audit.flags) as cluster, Receiver() as webhook:
        namespace = fresh_namespace(cluster)
        values = {
            "watchNamespaces": [] if request.param else [namespace],
            "grants": [{"namespace": namespace, "secrets": [SECRET], "configMaps": ["rollout-jobs"], "jobs": True}],
            # Its database is on this machine.
            "deniedAddresses": ["169.254.0.0/16", "fe80::/10"],
            "driftPollSeconds": 0.5,
            "notifications": {"webhook": {key: from_secret("webhook", key) for key in ("url", "secret")}},
            "shards": 2 if request.param else 1,
            # A test cannot wait for the defaults each time.
            "extraEnv": [{"name": f"FEATUREROLLOUT_LEASE_{name}", "value": value} for name, value in LEASE.items()],
        }
        argv = ("install", RELEASE, CHART, "-n", RELEASE_NAMESPACE, "--create-namespace", "-f", "-")
        Helm(tmp_path, cluster).run(*argv, values=json.dumps(values))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        rendered = helm.template(values)
        with Installed.made(cluster, namespace, database) as world:
            cluster.tokens["operator"] = cluster.create_token(RELEASE_NAMESPACE, RELEASE)
            secret = {"url": f"{webhook.url}/hooks/t0psecret", "secret": SIGNING_KEY}
            cluster.kubectl(
                "create",
                "secret",
                "generic",
                "webhook",
                "-n",
                RELEASE_NAMESPACE,
                *(f"--from-literal={key}={value}" for key, value in secret.items()),
            )
            settings = environment(cluster, next(obj for obj in rendered if obj["kind"] == "Deployment"))
            folders = [tmp_path / name for name in ("first", "second")]
            for folder in folders:
                folder.mkdir()
            replicas = [Operator(cluster, RELEASE_NAMESPACE, RELEASE, folder, settings=settings) for folder in folders]
            rules, shards = operators_rules(rendered), int(settings["SHARDS"])
            yield Proof(
                cluster, world, *replicas, audit, rules, everywhere=request.param, webhook=webhook, shards=shards
            )
            for operator in replicas:
                end(operator, world, request)
            check(world, request)


def from_secret(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


def environment(cluster: ControlPlane, deployment: dict[str, Any]) -> dict[str, str]:
    """The settings of the only container, without their prefix, when a process can have all the rest."""
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["run"]
    assert {*pod, *container} - {"containers", "args", "env"} == NOT_A_PROCESS

    def value(entry: dict[str, Any]) -> str:
        """As the kubelet finds it, which reads Secrets for the container."""
        if "value" in entry:
            return str(entry["value"])
        ref = entry["valueFrom"]["secretKeyRef"]
        path = f"/api/v1/namespaces/{deployment['metadata']['namespace']}/secrets/{ref['name']}"
        return base64.b64decode(cluster.request("GET", path)[1]["data"][ref["key"]]).decode()

    return {entry["name"].removeprefix("FEATUREROLLOUT_"): value(entry) for entry in container["env"]}


def operators_rules(rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules of every role that is bound to the operator's account."""
    subject = {"kind": "ServiceAccount", "name": RELEASE, "namespace": RELEASE_NAMESPACE}
    bound = {
        (obj["roleRef"]["kind"], obj["roleRef"]["name"], obj["metadata"].get("namespace"))
        for obj in rendered
        if obj["kind"] in ("RoleBinding", "ClusterRoleBinding") and subject in obj["subjects"]
    }
    roles = {(obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace")): obj for obj in rendered}
    return [rule for role in bound for rule in roles[role]["rules"]]


Right = tuple[str, str, str, str]


def rights(proof: Proof) -> set[Right]:
    """(group, resource, verb, name), the name where the rule has one."""
    return {
        (group, resource, verb, name)
        for rule in proof.rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def used(proof: Proof) -> set[Right]:
    """What the audit log says, in the same form."""
    by_name = {(group, resource, verb) for group, resource, verb, name in rights(proof) if name}
    return {
        (asked.group, asked.resource, asked.verb, asked.name if asked[:3] in by_name else "")
        for asked in proof.audit.asked()
    }


@pytest.mark.timeout(600)
def test_the_main_job_needs_every_right_and_no_more(proof: Proof) -> None:
    begin(proof)
    walk(proof)
    take_over(proof)
    revert(proof)
    forget_an_old_action(proof)
    asyncio.run(sweep_and_repeat(proof))
    proof.world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: proof.world.get("FeatureRollout", ROLLOUT) is None, 30.0, "the end of the finalizer")
    told_everything(proof)
    assert proof.second.stop()
    assert proof.audit.asked(refused=True) == set()
    assert used(proof) - rights(proof) == set(), "a right that it has by another way than the chart"
    assert rights(proof) - used(proof) == set(), "a right that nothing has needed"


def led(operator: Operator) -> int:
    return int(operator.count("featurerollout_leader"))


def begin(proof: Proof) -> None:
    """One replica leads and the other stands by, or each of them leads a shard."""
    proof.operator.start()
    wait_for(lambda: led(proof.operator) == proof.shards, 30.0, "one that leads")
    proof.second.start()
    wait_for(lambda: (led(proof.operator), led(proof.second)) == (1, proof.shards - 1), 30.0, "even shares")


def take_over(proof: Proof) -> None:
    """The first is killed when it has nothing left to tell; the second leads everything."""
    wait_told(proof, KINDS[:4])
    proof.operator.kill()
    wait_for(lambda: led(proof.second) == proof.shards, 60.0, "the second to lead")
    proof.second.wait_looks(2, verdict="Pass")


def walk(proof: Proof) -> None:
    """A Job passes, two stages are entered, a person pauses and resumes."""
    world = proof.world
    jobs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rollout-jobs"}}
    world.apply(jobs | {"data": {"rehearse.yaml": text()}}, store())
    provider = manifest("MetricProvider", "nobody", {"prometheus": {"address": "http://127.0.0.1:9"}})
    world.apply(provider | {"spec": {**provider["spec"], "allowedNamespaces": [world.namespace]}})
    world.apply(rollout(stages=[stage("ten", 10, "2s"), stage("half", 50, "60s")], preflight=[REHEARSED]))
    wait_for(lambda: len(world.jobs()) == 1, 60.0, "the Job")
    finish(world.cluster, world.jobs()[0], "Complete")
    world.wait_row(A, TEN, 60.0)
    world.wait_row(A, HALF, 60.0)
    world.wait_answer(world.act("Pause"), "Applied", "Paused")
    world.wait_answer(world.act("Resume"), "Applied", "Resumed")


def revert(proof: Proof) -> None:
    """A regression is taken back."""
    world = proof.world
    world.traffic.failed = 0.3
    world.wait_row(A, OFF_AT_HALF)
    world.wait_condition("RolledBack", "True", "RolledBack")
    world.wait_condition("Ready", "True", "StoreUsable", kind="FlagStore", name=STORE)
    world.wait_condition("Ready", "False", "ProviderUnusable", kind="MetricProvider", name="nobody")
    assert "FlagsDisabled" in world.reasons()


def forget_an_old_action(proof: Proof) -> None:
    """One that was answered more than 30 days ago is deleted."""
    world = proof.world
    name = world.act("Pause")
    world.wait_answer(name, "Applied", "Paused")
    action = world.get("RolloutAction", name)
    action["status"]["finishedAt"] = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    status, answer = proof.cluster.request("PUT", f"{world.path('RolloutAction', name)}/status", action)
    assert status == HTTPStatus.OK, answer
    wait_for(lambda: world.get("RolloutAction", name) is None, 30.0, "the end of an old action")


def wait_told(proof: Proof, kinds: Sequence[str]) -> None:
    """Until the webhook was told just these. Of a replica that is killed it may hear twice, and from the other when the
    lease of the delivery has ended.
    """

    def told() -> bool:
        events = proof.webhook.events(f"{proof.world.namespace}/{ROLLOUT}")
        once = {event["id"]: event["type"].removeprefix("dev.featurerollout.") for event in events}
        assert list(once.values()) == list(kinds)
        return True

    wait_for(told, LEASE_S + 30.0, "the events of the webhook")


def told_everything(proof: Proof) -> None:
    """The webhook of the chart's values, whose address and key are in a Secret that the operator may not read."""
    wait_told(proof, KINDS)
    said = proof.operator.log_text + proof.world.everything_said()
    assert "t0psecret" not in said
    assert SIGNING_KEY not in said


async def sweep_and_repeat(proof: Proof) -> None:
    """What the operator does within minutes only: a sweep that finds what the watch had missed; an Event again."""
    world = proof.world
    world.apply(manifest("RollbackMatrix", "shared", {"rows": [disable()]}))
    world.apply(manifest("MetricTemplate", "shared", template(ERRORS)))
    world.act("Pause", "noted")
    names = {"FlagStore": STORE, "FeatureRollout": ROLLOUT, "MetricProvider": "nobody", "RolloutAction": "noted"}
    inventory = Inventory()
    connection = Connection(str(proof.cluster.service_account_kubeconfig(RELEASE_NAMESPACE, RELEASE)))
    async with Api(connection) as api:
        namespaces = [] if proof.everywhere else [world.namespace]
        sweeper = Sweeper(api, inventory, namespaces=namespaces, wake=lambda _: None, restart_watch=lambda _: None)
        await sweeper.load()
        for resource in RESOURCES.values():
            name = names.get(resource.kind, "shared")
            world.edit(resource.kind, name, lambda obj: obj["metadata"].update(annotations={"edited": "yes"}))
        assert await sweeper.sweep()
        recorder = EventRecorder(api)
        running = asyncio.create_task(recorder.run())
        for _ in range(2):
            recorder.record(world.rollout(), kind="Normal", reason="Noted", action="Hold", note="twice")
            assert await recorder.drain(10)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def test_what_it_has_no_business_with_is_refused(proof: Proof) -> None:
    world, rbac = proof.world, "/apis/rbac.authorization.k8s.io/v1"
    world.apply(store(), rollout(stages=[stage("ten", 10)], suspend=True))
    world.secret("somebody-elses", {"token": "x"})
    elsewhere = fresh_namespace(proof.cluster)
    core, there = f"/api/v1/namespaces/{world.namespace}", f"/api/v1/namespaces/{elsewhere}"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}}
    status, answer = proof.cluster.request("POST", f"{there}/secrets", secret)
    assert status == HTTPStatus.CREATED, answer
    admin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    me = [{"kind": "ServiceAccount", "name": RELEASE, "namespace": RELEASE_NAMESPACE}]
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    mine = world.path("FeatureRollout", ROLLOUT)
    assert proof.ask("GET", world.path("Secret", SECRET)) == HTTPStatus.OK
    requests: list[tuple[str, str, object]] = [
        ("GET", f"{there}/secrets/{SECRET}", None),
        ("GET", f"{core}/secrets/somebody-elses", None),
        ("GET", f"/api/v1/namespaces/{RELEASE_NAMESPACE}/secrets/webhook", None),
        ("GET", f"{core}/secrets", None),
        ("GET", f"{core}/secrets?watch=1", None),
        ("GET", "/api/v1/secrets", None),
        ("PUT", f"{core}/secrets/{SECRET}", secret),
        ("GET", f"{core}/configmaps", None),
        ("POST", f"{core}/pods", {"metadata": {"name": "p"}}),
        ("GET", f"{core}/pods", None),
        ("POST", f"{core}/pods/p/exec?command=sh", None),
        ("DELETE", f"/apis/batch/v1/namespaces/{world.namespace}/jobs/j", None),
        ("POST", f"{core}/serviceaccounts/default/token", {"spec": {}}),
        # escalate and bind
        ("POST", f"{rbac}/clusterroles", {"metadata": {"name": "mine"}, "rules": everything}),
        ("PUT", f"{rbac}/clusterroles/{RELEASE}", {"metadata": {"name": RELEASE}, "rules": everything}),
        ("POST", f"{rbac}/clusterrolebindings", {"metadata": {"name": "mine"}, "roleRef": admin, "subjects": me}),
        ("POST", f"{rbac}/namespaces/{world.namespace}/rolebindings", {"metadata": {"name": "m"}, "roleRef": admin}),
        # what people write
        ("PUT", mine, world.rollout()),
        ("DELETE", mine, None),
        ("POST", world.path("FeatureRollout"), rollout("mine", stages=[stage("ten", 10)])),
        ("POST", world.path("RolloutAction"), {"metadata": {"name": "mine"}}),
        ("PUT", world.path("FlagStore", STORE), world.get("FlagStore", STORE)),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None),
        ("GET", "/api/v1/nodes", None),
    ]
    if not proof.everywhere:
        requests.append(("GET", f"/apis/featurerollout.dev/v1alpha1/namespaces/{elsewhere}/flagstores", None))
    assert {(method, path): proof.ask(method, path, body) for method, path, body in requests} == {
        (method, path): HTTPStatus.FORBIDDEN for method, path, _ in requests
    }
    as_admin = {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"}
    assert proof.ask("GET", f"{core}/secrets", **as_admin) == HTTPStatus.FORBIDDEN


def test_it_may_patch_a_rollouts_finalizers_and_not_its_spec(proof: Proof) -> None:
    world = proof.world
    world.apply(store(), rollout(stages=[stage("ten", 10)], suspend=True))
    mine = world.path("FeatureRollout", ROLLOUT)
    merge = {"Content-Type": "application/merge-patch+json"}

    def refused() -> bool:
        code = proof.ask("PATCH", mine, {"spec": {"suspend": False}}, **merge)
        # Put back what went through while the policy was not in effect yet.
        world.edit_spec(suspend=True)
        return code == HTTPStatus.FORBIDDEN

    wait_for(refused, 60.0, "the policy on the operator's writes")
    assert proof.ask("PATCH", mine, {"metadata": {"finalizers": ["featurerollout.dev/finalizer"]}}, **merge) == 200
    assert world.rollout()["spec"]["suspend"] is True
    proof.ask("PATCH", mine, {"metadata": {"finalizers": None}}, **merge)
