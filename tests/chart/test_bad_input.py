"""What is missing in a cluster is said, with what to do, by the operator's log and by `doctor --cluster`.

| missing | log | doctor |
|---|---|---|
| nothing | | no warning, as `helm test` runs it |
| CRDs | yes | error |
| fields in older CRDs | yes, by name | warning; by name to those who may not read CRDs |
| roles | yes | error, with every right that is lacking |
| any one rule | | error, with just that right |
| admission policies, or their bindings | yes | warning |
| the database | yes | error |
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api import crd
from feature_rollout.cli import doctor_cluster
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.sandbox.controlplane import ControlPlane
from support.helm import CHART, RELEASE, RELEASE_NAMESPACE, Helm
from support.manifests import SECRET, STORE, manifest
from support.manifests import store as store_manifest
from support.operatorprocess import Operator
from support.waiting import wait_for

HERE = "shop"
ACCOUNT = f"system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
VALUES: dict[str, Any] = {"watchNamespaces": [HERE], "grants": [{"namespace": HERE, "secrets": [SECRET]}]}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="module")
def cluster(built_control_plane: None) -> Iterator[ControlPlane]:
    """With everything that the chart installs."""
    with ControlPlane() as cluster:
        cluster.kubectl("create", "namespace", HERE)
        yield cluster


@pytest.fixture(scope="module")
def whole(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    install(cluster, tmp_path_factory.mktemp("helm"))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return cluster


@pytest.fixture
def bare(built_control_plane: None) -> Iterator[ControlPlane]:
    with ControlPlane() as cluster:
        cluster.kubectl("create", "namespace", HERE)
        yield cluster


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[list[Operator]]:
    """Those that a test starts; killed at its end."""
    started: list[Operator] = []
    yield started
    for operator in started:
        operator.kill()


def install(cluster: ControlPlane, folder: Path, **values: Any) -> None:
    argv = ("install", RELEASE, CHART, "-n", RELEASE_NAMESPACE, "--create-namespace", "-f", "-")
    Helm(folder, cluster).run(*argv, values=json.dumps(VALUES | values))


def started(cluster: ControlPlane, folder: Path, operators: list[Operator]) -> Operator:
    operator = Operator(cluster, RELEASE_NAMESPACE, RELEASE, folder, settings={"WATCH_NAMESPACES": HERE})
    operators.append(operator)
    operator.start(ready=False)
    return operator


def doctor(
    cluster: ControlPlane, kubeconfig: Path | None = None, *, named: bool = False, leases: Sequence[str] = (RELEASE,)
) -> dict[str, tuple[str, str]]:
    """Result and message of each check."""

    async def ask() -> dict[str, tuple[str, str]]:
        async with Api(Connection(str(kubeconfig or cluster.kubeconfig()))) as api:
            found = await doctor_cluster.examine(
                api, HERE, ACCOUNT if kubeconfig is None else None, named=named, leases=leases
            )
        return {finding.check: (str(finding.result), finding.message) for finding in found}

    return asyncio.run(ask())


def rights(found: dict[str, tuple[str, str]]) -> tuple[str, str]:
    return found[f"cluster: rights of {ACCOUNT}"]


def wait_log(operator: Operator, words: str) -> None:
    wait_for(lambda: words in operator.log_text, 60.0, f"{words!r} in the log")


def test_nothing_is_missing_to_what_helm_test_runs(whole: ControlPlane, tmp_path: Path, helm: Helm) -> None:
    hooks = [obj for obj in helm.template(VALUES) if "helm.sh/hook" in obj["metadata"].get("annotations", {})]
    *others, pod = hooks
    whole.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(others))
    kubeconfig = whole.service_account_kubeconfig(RELEASE_NAMESPACE, pod["spec"]["serviceAccountName"])
    (container,) = pod["spec"]["containers"]
    argv = [sys.executable, "-m", "feature_rollout.cli", *container["args"], "--kubeconfig", kubeconfig, "-o", "json"]
    env = {**os.environ, **{entry["name"]: entry["value"] for entry in container["env"]}}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {finding["check"]: finding["result"] for finding in json.loads(done.stdout)}
    assert results == {"cluster: CRDs": "ok", f"cluster: rights of {ACCOUNT}": "ok", "cluster: admission": "ok"}


def test_no_crds(bare: ControlPlane, tmp_path: Path, operators: list[Operator]) -> None:
    install(bare, tmp_path, crds={"enabled": False})
    operator = started(bare, tmp_path, operators)
    wait_log(operator, "CRDs are missing (featurerollouts, ")
    wait_log(operator, "featurerollout crds | kubectl apply")
    assert operator.get("/readyz")[0] == 503
    result, message = doctor(bare)["cluster: CRDs"]
    assert result == "error"
    assert "featurerollouts, " in message
    assert "helm upgrade, or featurerollout crds | kubectl apply" in message


def test_older_crds(bare: ControlPlane, tmp_path: Path, operators: list[Operator]) -> None:
    older = [obj for text in crd.files().values() for obj in yaml.safe_load_all(text)]
    schema = next(obj for obj in older if obj["metadata"]["name"].startswith("featurerollouts."))
    fields = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del fields["spec"]["properties"]["contacts"]
    del fields["spec"]["properties"]["stages"]["items"]["properties"]["deadline"]
    bare.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(older))
    bare.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    install(bare, tmp_path, crds={"enabled": False}, admissionPolicies={"enabled": False})
    wanted = {"FeatureRollout.spec.contacts", "FeatureRollout.spec.stages[].deadline"}
    mine = bare.service_account_kubeconfig(RELEASE_NAMESPACE, RELEASE)

    def named() -> bool:
        result, message = doctor(bare, mine)["cluster: CRDs"]
        # A schema is published a moment after its CRD is established.
        assert (result, {word for word in wanted if word in message}) == ("warning", wanted), message
        return True

    wait_for(named, 60.0, "the schemas that are served")
    result, message = doctor(bare)["cluster: CRDs"]
    assert (result, message.split()[0]) == ("warning", "featurerollouts")
    operator = started(bare, tmp_path, operators)
    operator.wait_ready()
    assert "the CRDs are older than this program, and the API server drops" in operator.log_text
    assert all(word in operator.log_text for word in wanted)


def test_no_roles(bare: ControlPlane, tmp_path: Path, operators: list[Operator]) -> None:
    install(bare, tmp_path, rbac={"create": False}, clusterName="eu-1")
    bare.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    operator = started(bare, tmp_path, operators)
    wait_log(operator, "featurerollout doctor --cluster --as says what it has to allow")
    assert operator.get("/readyz")[0] == 503
    result, message = rights(doctor(bare))
    assert result == "error"
    for lacking in (
        "get and list and patch and watch on featurerollouts.",
        "patch on flagstores/status.",
        "create and patch on events",
    ):
        assert lacking in message
    assert "namespaces/kube-system" in message
    assert "namespaces/kube-system" not in rights(doctor(bare, named=True))[1]


def test_any_rule_that_is_missing_is_named(whole: ControlPlane) -> None:
    roles = [f"{RBAC}/clusterroles/{RELEASE}", f"{RBAC}/namespaces/{HERE}/roles/{RELEASE}"]
    roles.append(f"{RBAC}/namespaces/{RELEASE_NAMESPACE}/roles/{RELEASE}-lease")
    assert rights(doctor(whole))[0] == "ok"
    second_shard = f"lacks get and update on leases.coordination.k8s.io/{RELEASE}-1 in namespace {RELEASE_NAMESPACE}: "
    assert second_shard in rights(doctor(whole, leases=[RELEASE, f"{RELEASE}-1"]))[1]
    named = 0
    for path in roles:
        _, role = whole.request("GET", path)
        for rule in role["rules"]:
            put(whole, path, role["rules"], without=rule)

            def tells(rule: Any = rule) -> bool:
                result, message = rights(doctor(whole))
                assert result == "error", message
                assert message.count(" on ") == len(rule["resources"]), message
                for resource in rule["resources"]:
                    name, _, subresource = resource.partition("/")
                    assert name in message
                    assert subresource in message
                assert " and ".join(sorted(rule["verbs"])) in message
                return True

            wait_for(tells, 30.0, f"the end of {rule}")
            put(whole, path, role["rules"])
            wait_for(lambda: rights(doctor(whole))[0] == "ok", 30.0, "the rule's return")
            named += 1
    assert named == 11


def put(cluster: ControlPlane, path: str, rules: list[Any], without: Any = None) -> None:
    _, role = cluster.request("GET", path)
    status, answer = cluster.request("PUT", path, role | {"rules": [rule for rule in rules if rule is not without]})
    assert status == 200, answer


def test_no_admission_policies(bare: ControlPlane, tmp_path: Path, operators: list[Operator]) -> None:
    install(bare, tmp_path, admissionPolicies={"enabled": False})
    bare.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    result, message = doctor(bare)["cluster: admission"]
    assert result == "warning"
    assert message.startswith("no admission policy guards rolloutactions: they may claim to be requested by anybody")
    operator = started(bare, tmp_path, operators)
    wait_log(operator, "nobody checks who asks for a RolloutAction: there is no ValidatingAdmissionPolicy may-request.")
    assert "helm upgrade, or featurerollout crds | kubectl apply" in operator.log_text
    Helm(tmp_path, bare).run("upgrade", RELEASE, CHART, "-n", RELEASE_NAMESPACE, "-f", "-", values=json.dumps(VALUES))
    assert doctor(bare)["cluster: admission"][0] == "ok"
    bare.kubectl("delete", "validatingadmissionpolicybinding", "may-request.featurerollout.dev")
    result, message = doctor(bare)["cluster: admission"]
    assert result == "warning"
    assert message.startswith("no binding puts may-request.featurerollout.dev into effect")
    operator.kill()
    operator.start()
    wait_log(operator, "there is no ValidatingAdmissionPolicyBinding may-request.featurerollout.dev")


def test_no_database(whole: ControlPlane, tmp_path: Path, operators: list[Operator]) -> None:
    nobody = {f"{role}-uri": "postgresql://u:hunter2@127.0.0.1:9/app" for role in ("writer", "reader", "owner")}
    secret = manifest("Secret", SECRET, {}) | {"apiVersion": "v1", "stringData": nobody}
    del secret["spec"]
    whole.kubectl("apply", "-n", HERE, "-f", "-", input=yaml.safe_dump_all([secret, store_manifest()]))
    check = f"cluster: flagstores/{STORE}"
    result, message = doctor(whole)[check]
    assert (result, message.split(":")[0]) == ("warning", "no operator has looked at it")
    operator = Operator(whole, RELEASE_NAMESPACE, RELEASE, tmp_path)
    operators.append(operator)
    operator.start(watch_namespaces=HERE)
    wait_log(operator, f"FlagStore {HERE}/{STORE}: StoreUnreachable: ")
    assert "hunter2" not in operator.log_text

    def told() -> bool:
        result, message = doctor(whole)[check]
        assert (result, message.split(":")[0]) == ("error", "StoreUnreachable"), message
        return True

    wait_for(told, 30.0, "what the operator says of its store")
    whole.kubectl("delete", "flagstore", STORE, "-n", HERE)
