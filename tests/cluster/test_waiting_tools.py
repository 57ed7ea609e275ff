"""What tools that wait make of our objects, on a real API server, in every situation of docs/reference.md.

| tool | how |
|---|---|
| kubectl | `wait --for=condition=Ready`, and `=Completed` |
| Helm 4 | `upgrade --wait`, which asks kstatus |
| Flux | the expressions of gitops/flux, which the API server's CEL evaluates as those of a policy |
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import situated
import yaml

from feature_rollout.core.health import KStatus, kstatus
from feature_rollout.kube.resources import GROUP, GROUP_PATH, RESOURCES
from feature_rollout.sandbox.cluster import Cluster
from support.helm import Helm, write_chart
from support.waiting import wait_for
from support.world import fresh_namespace

Object = dict[str, Any]
Key = tuple[str, str]

GITOPS = Path(__file__).parents[2] / "gitops"
# A MetricProvider is of the whole cluster, where operators of other tests would answer it.
KINDS = ("FeatureRollout", "FlagStore", "RolloutAction")
PLURALS = {resource.kind: resource.plural for resource in RESOURCES.values()}


class Situations:
    """An object for each situation, by kind and name, in a namespace of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.charts: dict[str, Path] = {}
        self.wanted: dict[Key, Object] = {}
        rollouts = (("FeatureRollout", name, obj) for name, obj in situated.rollouts().items())
        for kind, situation, obj in (*rollouts, *situated.others()):
            if kind in KINDS:
                self.wanted[kind, situation.replace("_", "-").lower()] = obj

    def manifest(self, kind: str, name: str) -> Object:
        metadata: Object = {"name": name, "namespace": self.namespace}
        wanted = self.wanted[kind, name]
        if "deletionTimestamp" in wanted["metadata"]:
            metadata["finalizers"] = [f"{GROUP}/test"]
        return {"apiVersion": wanted["apiVersion"], "kind": kind, "metadata": metadata, "spec": wanted["spec"]}

    def path(self, kind: str, name: str) -> str:
        return f"{GROUP_PATH}/namespaces/{self.namespace}/{PLURALS[kind]}/{name}"

    def send(self, method: str, path: str, body: object = None, **headers: str) -> Object:
        code, answer = self.cluster.request(method, path, body, headers=headers)
        assert code == 200, answer
        return dict(answer)

    def get(self, key: Key) -> Object:
        return self.send("GET", self.path(*key))

    def come_about(self) -> None:
        """Give each object its status; then edit or delete what was edited or deleted since."""
        for key, wanted in self.wanted.items():
            path = self.path(*key)
            if wanted["status"]["observedGeneration"] != -1:
                self.send("PUT", f"{path}/status", {**self.get(key), "status": wanted["status"]})
            if wanted["metadata"]["generation"] > 1:
                edit = {"spec": {"holdAt": "first"}}
                self.send("PATCH", path, edit, **{"Content-Type": "application/merge-patch+json"})
            if "deletionTimestamp" in wanted["metadata"]:
                self.send("DELETE", path)

    def expected(self) -> dict[Key, KStatus]:
        """What kstatus says of each, by the program's own account of it."""
        found = {key: kstatus(self.get(key)) for key in self.wanted}
        assert found == {key: kstatus(obj) for key, obj in self.wanted.items()}
        return found

    def releases(self) -> dict[str, list[Key]]:
        """The objects by what Helm shall do: be content with them, give up at once, or wait in vain."""
        found: dict[str, list[Key]] = {"content": [], "gives-up": [], "waits": []}
        of = {KStatus.CURRENT: "content", KStatus.FAILED: "gives-up"}
        for key, obj in self.wanted.items():
            found[of.get(kstatus(obj), "waits")].append(key)
        return found


@pytest.fixture(scope="module")
def helm(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"), control_plane)


@pytest.fixture(scope="module")
def situations(
    control_plane: Cluster, crds_installed: None, helm: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Situations:
    """All of them, as releases of charts."""
    made = Situations(control_plane, fresh_namespace(control_plane))
    for release, keys in made.releases().items():
        objects = [made.manifest(*key) for key in keys]
        if release == "content":
            objects += situated.without_status()
        made.charts[release] = write_chart(tmp_path_factory.mktemp(release), release, objects)
        helm.run("install", release, made.charts[release], f"--namespace={made.namespace}")
    made.come_about()
    return made


# kubectl asks five times a second, but for the first of it.
AT_ONCE = 10


def met(situations: Situations, condition: str, keys: Sequence[Key]) -> set[Key]:
    """Those whose condition kubectl need not wait for."""
    names = [f"{PLURALS[kind]}/{name}" for kind, name in keys]
    options = (f"--for=condition={condition}", "--timeout=0s", f"--namespace={situations.namespace}")
    waited = situations.cluster.kubectl("wait", *options, *names, check=False)
    found = re.findall(rf"^(\w+)\.{GROUP}/(\S+) condition met$", waited.stdout, re.MULTILINE)
    assert len(found) + waited.stderr.count("condition not met") == len(keys), waited
    return {(next(kind for kind in KINDS if kind.lower() == word), name) for word, name in found}


def test_kubectl_waits_as_kstatus_says(situations: Situations) -> None:
    keys = list(situations.wanted)
    parts = [keys[i : i + AT_ONCE] for i in range(0, len(keys), AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        ready = set[Key]().union(*pool.map(lambda part: met(situations, "Ready", part), parts))
    assert ready == {key for key, status in situations.expected().items() if status is KStatus.CURRENT}
    names = ("healthy-completed", "healthy-baking", "progressing-edited", "degraded-rolledback", "progressing-unseen")
    ended = met(situations, "Completed", [("FeatureRollout", name) for name in names])
    assert ended == {("FeatureRollout", "healthy-completed")}


def not_ready(helm: Helm, situations: Situations, release: str, timeout: str) -> tuple[dict[Key, str], str]:
    """What `helm upgrade --wait` says of those that keep it from being content, and all of its words."""
    options = (f"--namespace={situations.namespace}", "--wait", f"--timeout={timeout}")
    done = helm.run("upgrade", release, situations.charts[release], *options, check=False)
    found = re.findall(r"resource (\w+)/[\w-]*/([\w-]+) not ready\. status: (\w+)", done.stderr)
    assert (done.returncode == 0) is not found, done.stderr
    return {(kind, name): status for kind, name, status in found}, done.stderr


def test_helm_waits_as_kstatus_says(helm: Helm, situations: Situations) -> None:
    expected = {key: str(status) for key, status in situations.expected().items()}
    of = {release: {key: expected[key] for key in keys} for release, keys in situations.releases().items()}
    assert not_ready(helm, situations, "content", "60s")[0] == {}
    failed, words = not_ready(helm, situations, "gives-up", "60s")
    assert failed == of["gives-up"]
    assert "deadline exceeded" not in words, "what needs a person is not waited for"
    # It waits until the end of its time, which has to be enough for it to have seen all of them.
    for timeout in ("2s", "10s", "60s"):
        waiting, words = not_ready(helm, situations, "waits", timeout)
        if "Unknown" not in waiting.values():
            break
    assert waiting == of["waits"]
    assert "deadline exceeded" in words


def expressions(cluster: Cluster, folder: Path, labels: dict[str, str]) -> dict[str, dict[str, str]]:
    """Those that the component gives to a Kustomization of Flux, by kind."""
    flux = {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": "shop", "labels": labels},
        "spec": {"wait": True, "path": "./shop", "prune": True, "interval": "10m"},
    }
    overlay = {"resources": ["shop.yaml"], "components": [os.path.relpath(GITOPS / "flux", folder)]}
    (folder / "shop.yaml").write_text(json.dumps(flux))
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))
    (built,) = yaml.safe_load_all(cluster.kubectl("kustomize", folder).stdout)
    checks = built["spec"].pop("healthCheckExprs")
    assert built == flux, "nothing else is changed"
    assert {check.pop("apiVersion") for check in checks} == {f"{GROUP}/v1alpha1"}
    return {check.pop("kind"): check for check in checks}


def policy(namespace: str, cel: Mapping[str, str]) -> list[Object]:
    """One that refuses every status in the namespace, and says what each expression is of the object."""
    # The fields have the names by which Flux knows them.
    named = "[object.metadata].map(metadata, [object.status].map(status, {})[0])[0]"
    words = " + ' ' + ".join(f"'{key}=' + string({named.format(text)})" for key, text in cel.items())
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": [f"{PLURALS[kind]}/status" for kind in KINDS],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    constraints = {"resourceRules": [rule], "namespaceSelector": here}
    spec = {"matchConstraints": constraints, "validations": [{"expression": "false", "messageExpression": words}]}
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    common = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    kind = "ValidatingAdmissionPolicy"
    return [{**common, "kind": kind, "spec": spec}, {**common, "kind": f"{kind}Binding", "spec": binding}]


Evaluated = Callable[[Key], dict[str, bool]]


@pytest.fixture
def evaluated(situations: Situations, control_plane: Cluster, tmp_path: Path) -> Iterator[Evaluated]:
    """A function that says what each expression is of the object of that kind and name."""
    checks = expressions(control_plane, tmp_path, {})
    assert set(checks) == {*KINDS, "MetricProvider"}
    ours = checks["FeatureRollout"]
    assert all(check == ours for check in checks.values())
    to_the_end = expressions(control_plane, tmp_path, {"featurerollout.dev/wait-for": "Completed"})
    completed = to_the_end["FeatureRollout"]["current"]
    assert to_the_end == {**checks, "FeatureRollout": {**ours, "current": completed}}
    text = yaml.safe_dump_all(policy(situations.namespace, {**ours, "completed": completed}))
    control_plane.kubectl("apply", "-f", "-", input=text)

    def ask(key: Key) -> dict[str, bool]:
        path = f"{situations.path(*key)}/status?dryRun=All"
        code, answer = control_plane.request("PUT", path, situations.get(key))
        assert code == 422, answer
        return {name: value == "true" for name, value in re.findall(r"(\w+)=(true|false)", answer["message"])}

    wait_for(lambda: ask(("FlagStore", "healthy-usable")), 60, "the policy to take effect")
    yield ask
    control_plane.kubectl("delete", "-f", "-", input=text)


def by_flux(obj: Object, said: Mapping[str, bool], current: str) -> KStatus:
    """The rules of Flux: the generation first, then its expressions in this order."""
    if obj["status"]["observedGeneration"] != obj["metadata"]["generation"] or said["inProgress"]:
        return KStatus.IN_PROGRESS
    if said["failed"]:
        return KStatus.FAILED
    return KStatus.CURRENT if said[current] else KStatus.IN_PROGRESS


def test_flux_waits_as_kstatus_says_or_until_it_is_completed(situations: Situations, evaluated: Evaluated) -> None:
    completed = set()
    for key, status in situations.expected().items():
        obj = situations.get(key)
        # Flux asks none of an object whose generation was not observed, which may have no conditions.
        said = evaluated(key) if "conditions" in obj["status"] else {}
        expected = KStatus.IN_PROGRESS if status is KStatus.TERMINATING else status
        assert by_flux(obj, said, "current") is expected, key
        if by_flux(obj, said, "completed") is KStatus.CURRENT:
            completed.add(key)
    assert completed == {("FeatureRollout", "healthy-completed")}
