"""The CustomResourceDefinitions on a real API server.

| what | then |
|---|---|
| the definitions | established, with no complaint about names or schema |
| every example | accepted by a strict apply |
| each refusal of `unit.api.cases` | refused, with words that say what would be right |
| a field that cannot change | refused; its neighbours can |
| defaults | none in lists, since Argo CD would find a difference for ever |
| status | observedGeneration -1 until somebody has looked |
| `kubectl get` | columns, short names, category, field selectors |
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.kinds import KINDS
from feature_rollout.api.status import FeatureRolloutStatus
from feature_rollout.sandbox.cluster import Cluster
from unit.api.cases import REFUSALS, SCRIPT, VALID, Case, manifest, put

pytestmark = pytest.mark.usefixtures("crds_installed")
GROUP_PATH = "/apis/featurerollout.dev/v1alpha1"
FOLDER = Path(__file__).parents[2] / "examples"
# What is for Kustomize, Argo CD and Flux is tried by test_promotion.py.
EXAMPLES = sorted(file for file in FOLDER.rglob("*.yaml") if FOLDER / "promotion" not in file.parents)
OK, CREATED, UNPROCESSABLE, BAD_REQUEST = 200, 201, 422, 400


def collection(namespace: str, kind: str) -> str:
    model = KINDS[kind]
    place = GROUP_PATH if model.scope == "Cluster" else f"{GROUP_PATH}/namespaces/{namespace}"
    return f"{place}/{model.plural}"


def offer(cluster: Cluster, namespace: str, obj: dict[str, Any], *, dry_run: bool = True) -> tuple[int, dict[str, Any]]:
    """Create the object under strict field validation, or only ask whether it could be."""
    query = "fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    return cluster.request("POST", f"{collection(namespace, obj['kind'])}?{query}", obj)


def replace(cluster: Cluster, obj: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    metadata = obj["metadata"]
    return cluster.request("PUT", f"{collection(metadata['namespace'], obj['kind'])}/{metadata['name']}", obj)


@pytest.fixture
def created(control_plane: Cluster, namespace: str) -> Callable[[str], dict[str, Any]]:
    def create(kind: str) -> dict[str, Any]:
        status, answer = offer(control_plane, namespace, manifest(kind), dry_run=False)
        assert status == CREATED, answer
        return answer

    return create


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_is_established_without_complaint(control_plane: Cluster, kind: str) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{KINDS[kind].plural}.featurerollout.dev"
    _, definition = control_plane.request("GET", path)
    conditions = {item["type"]: item["status"] for item in definition["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_accepted_by_a_strict_apply(control_plane: Cluster, file: Path) -> None:
    namespaces = {item["metadata"].get("namespace") for item in yaml.safe_load_all(file.read_text()) if item}
    for name in sorted(namespaces - {None}):
        control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    done = control_plane.kubectl("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", file)
    assert "serverside-applied" in done.stdout


@pytest.mark.parametrize("kind", VALID)
def test_what_the_cases_start_from_is_accepted(control_plane: Cluster, namespace: str, kind: str) -> None:
    status, answer = offer(control_plane, namespace, manifest(kind))
    assert status == CREATED, answer


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_it_is_refused_and_says_what_would_be_right(control_plane: Cluster, namespace: str, case: Case) -> None:
    status, answer = offer(control_plane, namespace, case.manifest())
    assert status in {UNPROCESSABLE, BAD_REQUEST}, answer
    assert (case.server or case.words) in answer["message"]
    assert "must match" not in answer["message"], "an expression is no explanation"


IMMUTABLE = [
    (
        "FeatureRollout",
        put("storeRef.name", "other"),
        "storeRef cannot be changed: delete the object and create it again",
    ),
    (
        "FlagStore",
        put("postgres.writer.secretKeyRef.name", "other"),
        "the writer, which is the database, cannot be changed",
    ),
    ("FlagStore", put("table.name", "other"), "the table cannot be changed"),
    ("FlagStore", put("table.columns.enabled", "is_on"), "the table cannot be changed"),
    ("RolloutAction", put("stage", "everyone"), "an action cannot be changed"),
    ("RolloutAction", put("reason", "Now I know."), "an action cannot be changed"),
]


@pytest.mark.parametrize(("kind", "change", "words"), IMMUTABLE, ids=[f"{k} {w}" for k, _, w in IMMUTABLE])
def test_it_cannot_be_changed(
    control_plane: Cluster, created: Callable[..., dict[str, Any]], kind: str, change: Any, words: str
) -> None:
    obj = created(kind)
    change(obj["spec"])
    status, answer = replace(control_plane, obj)
    assert status == UNPROCESSABLE, answer
    assert words in answer["message"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("FeatureRollout", put("suspend", True)),
        ("FeatureRollout", put("stages.0.bake", "2d")),
        ("FlagStore", put("postgres.reader", {"secretKeyRef": {"name": "db", "key": "reader"}})),
    ],
    ids=["suspend", "a stage", "the reader"],
)
def test_it_can_be_changed(
    control_plane: Cluster, created: Callable[..., dict[str, Any]], kind: str, change: Any
) -> None:
    obj = created(kind)
    change(obj["spec"])
    status, answer = replace(control_plane, obj)
    assert status == OK, answer


def test_everything_at_its_bounds_is_accepted(control_plane: Cluster, namespace: str) -> None:
    """The rules' cost at run time has a budget as well; 32 stages that each name 96 flags are within it."""
    obj = manifest("FeatureRollout")
    names = [f"flag-{number:02}-{'x' * 90}" for number in range(6)]
    obj["spec"]["metrics"] += [
        {"name": f"m-{number:02}-{'x' * 50}", "templateRef": {"name": "t"}} for number in range(30)
    ]
    gates = [{"metric": f"m-{number:02}-{'x' * 50}", "atMost": "1%"} for number in range(14, 30)]
    entry = {"percentage": 5, "groups": [f"group-{number}" for number in range(16)]}
    obj["spec"]["stages"] = [
        {
            "name": f"stage-{number:02}-{'x' * 50}",
            "flags": [{"names": [f"{place:02}-{name}"[:100] for name in names], **entry} for place in range(16)],
            "gates": gates,
        }
        for number in range(32)
    ]
    clauses = [{"metric": f"m-{number:02}-{'x' * 50}", "above": "1%"} for number in range(14, 30)]
    row = {"when": clauses, "respondWithin": "1h", "action": {"type": "DisableFlags"}}
    obj["spec"]["matrix"]["rows"] = [{"severity": name, **row} for name in ("Critical", "High", "Medium", "Low")]
    status, answer = offer(control_plane, namespace, obj)
    assert status == CREATED, answer
    obj["spec"]["stages"][-1]["flags"][-1]["names"][-1] = obj["spec"]["stages"][-1]["flags"][0]["names"][-1]
    status, answer = offer(control_plane, namespace, obj)
    assert status == UNPROCESSABLE
    assert "twice: name it in one entry" in answer["message"]


def test_there_are_no_defaults_in_lists(created: Callable[[str], dict[str, Any]]) -> None:
    spec = created("FeatureRollout")["spec"]
    assert spec["stages"] == manifest("FeatureRollout")["spec"]["stages"]
    assert spec["matrix"]["rows"] == manifest("FeatureRollout")["spec"]["matrix"]["rows"]
    assert spec["metrics"] == manifest("FeatureRollout")["spec"]["metrics"]
    assert (spec["suspend"], spec["onDelete"], spec["onBlind"]) == (False, "Keep", "Hold")


def test_a_new_object_was_seen_by_nobody(created: Callable[[str], dict[str, Any]]) -> None:
    for kind in ("FeatureRollout", "FlagStore", "RolloutAction"):
        assert created(kind)["status"] == {"observedGeneration": -1}
    for kind in ("RollbackMatrix", "MetricTemplate"):
        assert "status" not in created(kind), "nobody would ever write it, and tools would wait for that"


STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "planHash": "v1:" + "0" * 64,
    "attempt": 1,
    "phase": "RolledBack",
    "stage": {
        "name": "canary",
        "index": 1,
        "of": 2,
        "since": "2026-01-05T09:00:00Z",
        "bakeEndsAt": "2026-01-06T09:00:00Z",
    },
    "exposure": [{"flag": "new_cart", "enabled": True, "percentage": 12.5, "groups": []}],
    "metrics": [
        {
            "name": "errors",
            "value": "1.2%",
            "events": 6.0,
            "units": 500.0,
            "verdict": "Fail",
            "limit": "above 1%",
            "evidence": 4.2,
            "at": "2026-01-05T10:00:00Z",
            "message": "It is past its limit.",
        }
    ],
    "next": {"action": "Retry", "waitingFor": ["a person"]},
    "rollback": {
        "severity": "High",
        "metric": "errors",
        "value": "1.2%",
        "limit": "1%",
        "onsetAt": "2026-01-05T09:59:00Z",
        "actedAt": "2026-01-05T10:00:01Z",
        "respondWithin": "15m",
        "respondedIn": "1m1s",
        "action": "DisableFlags",
    },
    "history": [
        {"at": "2026-01-05T09:00:00Z", "action": "Advance", "stage": "canary", "reason": "Started", "message": "x"}
    ],
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-05T09:00:00Z",
            "reason": "RolledBack",
            "message": "errors was 1.2%",
        }
    ],
    "summary": {"stage": "1/2 canary", "exposure": "off", "health": "Breached: errors", "next": "Retry"},
}


def test_the_whole_status_is_kept_and_shown(
    control_plane: Cluster, namespace: str, created: Callable[[str], dict[str, Any]]
) -> None:
    obj = created("FeatureRollout")
    obj["status"] = FeatureRolloutStatus.model_validate(STATUS).to_json()
    path = f"{collection(namespace, 'FeatureRollout')}/checkout/status?fieldValidation=Strict"
    status, answer = control_plane.request("PUT", path, obj)
    assert status == OK, answer
    assert answer["status"] == STATUS
    lines = control_plane.kubectl("get", "fro", "-n", namespace).stdout.splitlines()
    assert lines[0].split() == ["NAME", "STAGE", "EXPOSURE", "HEALTH", "READY", "NEXT", "AGE"]
    assert lines[1].split("  ")[0] == "checkout"
    assert "1/2 canary" in lines[1]
    wide = control_plane.kubectl("get", "featurerollout", "-n", namespace, "-o", "wide").stdout
    assert "errors was 1.2%" in wide
    for selector in (
        "status.phase=RolledBack",
        "status.stage.name=canary",
        "spec.storeRef.name=shop",
        "spec.suspend=false",
    ):
        assert "checkout" in control_plane.kubectl("get", "fro", "-n", namespace, f"--field-selector={selector}").stdout
    assert FeatureRollout.model_validate(answer).status == FeatureRolloutStatus.model_validate(STATUS)


def test_short_names_and_the_category_find_everything(
    control_plane: Cluster, namespace: str, created: Callable[[str], dict[str, Any]]
) -> None:
    for kind in VALID:
        if kind != "MetricProvider":
            created(kind)
    for short in ("fro", "rbm", "mt", "fs", "fra"):
        assert control_plane.kubectl("get", short, "-n", namespace, "-o", "name").stdout.strip()
    found = control_plane.kubectl("get", "featurerollout", "-n", namespace, "-o", "name").stdout
    assert "featurerollout.featurerollout.dev/checkout" in found
    assert "checkout" not in control_plane.kubectl("get", "all", "-n", namespace, "-o", "name").stdout


def test_explain_tells_what_the_docstrings_say(control_plane: Cluster) -> None:
    text = control_plane.kubectl("explain", "featurerollout.spec.stages.bake").stdout
    assert "How long the stage must be healthy before the next." in text
    assert "Default: 0s." in text


def test_a_rollback_script_is_accepted(control_plane: Cluster, namespace: str) -> None:
    obj = manifest("RollbackMatrix")
    action = {"type": "RollBackDatabase", "script": SCRIPT, "sha256": "0" * 64, "acknowledgeDataLoss": True}
    obj["spec"]["rows"][0]["action"] = action
    status, answer = offer(control_plane, namespace, json.loads(json.dumps(obj)))
    assert status == CREATED, answer
