"""The chart on a real API server, by Helm 4: dry runs, Pod Security, upgrade, uninstall, the documented command."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.sandbox.controlplane import ControlPlane
from support.helm import CHART, RELEASE, RELEASE_NAMESPACE, Helm
from support.manifests import manifest

ROOT = Path(__file__).parents[2]
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
SYSTEM = f"namespace/{RELEASE_NAMESPACE}"
RESTRICTED = "restricted"
MONITORING = "monitoring.coreos.com"
MADE = "deployment,service,networkpolicy,poddisruptionbudget,servicemonitor,prometheusrule"
KINDS = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
STORE = manifest(
    "FlagStore", "shop", {"postgres": {"writer": {"secretKeyRef": {"name": "shop-db", "key": "writer-uri"}}}}
)


@pytest.fixture
def cluster(built_control_plane: None) -> Iterator[ControlPlane]:
    """One for each test: an API server may take minutes to let go of CRDs that were made and deleted before."""
    with ControlPlane(controller_manager=True) as cluster:
        for name in ("ci-shop", "ci-billing", "shop", RESTRICTED, RELEASE_NAMESPACE):
            cluster.kubectl("create", "namespace", name)
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(stand_ins()))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        cluster.kubectl("label", "namespace", RESTRICTED, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster


@pytest.fixture
def installer(cluster: ControlPlane, tmp_path: Path) -> Helm:
    return Helm(tmp_path, cluster)


def stand_ins() -> list[dict[str, Any]]:
    """Kinds of the Prometheus operator, which take everything."""
    made = []
    for kind in KINDS:
        names = {"kind": kind, "plural": f"{kind.lower()}s"}
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        spec = {"group": MONITORING, "names": names, "scope": "Namespaced", "versions": [version]}
        metadata = {"name": f"{names['plural']}.{MONITORING}"}
        api = "apiextensions.k8s.io/v1"
        made.append({"apiVersion": api, "kind": "CustomResourceDefinition", "metadata": metadata, "spec": spec})
    return made


def install(helm: Helm, values: dict[str, Any] | None = None, *, verb: str = "install") -> None:
    helm.run(verb, RELEASE, CHART, "-n", RELEASE_NAMESPACE, "-f", "-", values=json.dumps(values or {}))


def names(cluster: ControlPlane, what: str, namespace: str = RELEASE_NAMESPACE) -> set[str]:
    return set(cluster.kubectl("get", what, "-n", namespace, "-o", "name").stdout.split())


def our_crds(cluster: ControlPlane) -> set[str]:
    """Those that nobody has deleted."""
    found = json.loads(cluster.kubectl("get", "crd", "-o", "json").stdout)["items"]
    left = {obj["metadata"]["name"] for obj in found if "deletionTimestamp" not in obj["metadata"]}
    return {name for name in left if name.endswith(".featurerollout.dev")}


def identity(cluster: ControlPlane, what: str, namespace: str = "shop") -> str:
    return cluster.kubectl("get", what, "-n", namespace, "-o", "jsonpath={.metadata.uid}").stdout


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_api_server_takes_what_is_rendered(cluster: ControlPlane, helm: Helm, values: Path) -> None:
    objects = helm.template(yaml.safe_load(values.read_text()))
    # Hooks too, which Helm does not apply on install. A Pod is refused while its account is not there.
    (account,) = [obj for obj in objects if obj["kind"] == "ServiceAccount" and is_hook(obj)]
    cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(account))
    told = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=yaml.safe_dump_all(objects),
    )
    assert told.stdout.count("(server dry run)") == len(objects)


def is_hook(obj: dict[str, Any]) -> bool:
    return "helm.sh/hook" in obj["metadata"].get("annotations", {})


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_its_pods_fit_pod_security_restricted(cluster: ControlPlane, helm: Helm, values: Path) -> None:
    objects = helm.template(yaml.safe_load(values.read_text()))
    pods = [obj["spec"]["template"]["spec"] for obj in objects if obj["kind"] == "Deployment"]
    pods += [obj["spec"] for obj in objects if obj["kind"] == "Pod"]
    assert len(pods) == 2
    for spec in pods:
        # Pod Security does not look at it, and the namespace of this test does not have it.
        del spec["serviceAccountName"]
        assert dry_run(cluster, spec)[0] == 201
        spec["containers"][0].pop("securityContext")
        status, answer = dry_run(cluster, spec)
        assert (status, "restricted" in answer["message"]) == (403, True)


def dry_run(cluster: ControlPlane, spec: dict[str, Any]) -> tuple[int, Any]:
    """Offer a Pod to the namespace that enforces Pod Security `restricted`."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "offered"}, "spec": spec}
    return cluster.request("POST", f"/api/v1/namespaces/{RESTRICTED}/pods?dryRun=All", pod)


def test_an_upgrade_keeps_objects_and_an_uninstall_too(cluster: ControlPlane, installer: Helm) -> None:
    install(installer, {"watchNamespaces": ["shop"], "grants": [{"namespace": "shop", "secrets": ["a"]}]})
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    cluster.kubectl("apply", "-n", "shop", "-f", "-", input=yaml.safe_dump(STORE))
    before = identity(cluster, "flagstore/shop"), identity(cluster, "crd/flagstores.featurerollout.dev")
    assert names(cluster, "role", "shop") == {
        f"role.rbac.authorization.k8s.io/{RELEASE}",
        f"role.rbac.authorization.k8s.io/{RELEASE}-grant",
    }

    install(installer, {"workers": 4}, verb="upgrade")
    assert (identity(cluster, "flagstore/shop"), identity(cluster, "crd/flagstores.featurerollout.dev")) == before
    # Rights that are not wanted any more are gone.
    assert names(cluster, "role", "shop") == set()

    installer.run("uninstall", RELEASE, "-n", RELEASE_NAMESPACE, "--wait")
    assert (identity(cluster, "flagstore/shop"), identity(cluster, "crd/flagstores.featurerollout.dev")) == before
    assert names(cluster, MADE) == set()
    status, policies = cluster.request("GET", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies")
    assert (status, policies["items"]) == (200, [])

    # And again, over the CRDs that were kept.
    install(installer)
    assert identity(cluster, "flagstore/shop") == before[0]
    # The kinds of the Prometheus operator are there, and so are the objects: nobody had to say Always.
    assert len(names(cluster, MADE)) == len(MADE.split(","))


def test_crds_that_are_not_to_be_kept_go_with_their_objects(cluster: ControlPlane, installer: Helm) -> None:
    install(installer, {"crds": {"keep": False}})
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    cluster.kubectl("apply", "-n", "shop", "-f", "-", input=yaml.safe_dump(STORE))
    # Without --wait: an API server with much to do may take minutes over the end of a CRD.
    installer.run("uninstall", RELEASE, "-n", RELEASE_NAMESPACE)
    assert not our_crds(cluster)


def test_crds_that_were_applied_are_taken_over_when_told_so(cluster: ControlPlane, installer: Helm) -> None:
    cluster.install_crds(ROOT / "crds")
    cluster.kubectl("apply", "-n", "shop", "-f", "-", input=yaml.safe_dump(STORE))
    before = identity(cluster, "flagstore/shop")
    refused = installer.run("install", RELEASE, CHART, "-n", RELEASE_NAMESPACE, check=False)
    assert refused.returncode != 0
    page = (CHART / "README.md").read_text(encoding="utf-8")
    (flags,) = re.findall(r"^`helm install (--take-ownership [^`]*)`", page, re.MULTILINE)
    installer.run("install", RELEASE, CHART, "-n", RELEASE_NAMESPACE, *flags.split())
    assert identity(cluster, "flagstore/shop") == before


@pytest.mark.parametrize("page", ["README.md", "charts/feature-rollout-operator/README.md"])
def test_the_command_of_the_page_installs_it(cluster: ControlPlane, installer: Helm, tmp_path: Path, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^helm (install .*)$", text, re.MULTILINE)
    for block in re.findall(r"^```yaml\n# my-values.yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / "my-values.yaml").write_text(block)
    argv = [str(CHART) if part.startswith("charts/") else part for part in shlex.split(command)]
    argv = [str(tmp_path / part) if part == "my-values.yaml" else part for part in argv]
    told = installer.run(*argv).stdout
    assert "serves shop" in told
    assert "may read no Secret yet" not in told
    role = f"rolebinding/{RELEASE}-grant"
    assert identity(cluster, role)
    who = f"--as=system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
    assert cluster.kubectl("auth", "can-i", "get", "secret/shop-db", "-n", "shop", who).stdout == "yes\n"
    assert cluster.kubectl("auth", "can-i", "list", "secrets", "-n", "shop", who, check=False).stdout == "no\n"
