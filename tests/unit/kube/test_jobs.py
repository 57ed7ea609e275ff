"""The Job of a check, as it is made: the same again, and another for everything that its answer belongs to."""

import re
from typing import Any

import pytest
import yaml

from feature_rollout.api.jobs import parse
from feature_rollout.kube.jobs import TTL_S, job
from unit.api.test_jobs import JOB, text

ROLLOUT: dict[str, Any] = {"metadata": {"uid": "uid-1", "namespace": "shop", "name": "new-checkout"}}
TEXT = text()


def made(given: str = TEXT, **changes: Any) -> dict[str, Any]:
    of = {"check": "preflight/rehearsed", "attempt": 1, "rollout": ROLLOUT, "plan_hash": "v1:a", **changes}
    return job(parse(given, "shop"), given, **of)


def test_it_is_the_manifest_with_the_operators_name_namespace_and_owner() -> None:
    found = made()
    metadata = found["metadata"]
    assert re.fullmatch(r"rehearsal-[0-9a-f]{12}", metadata["name"])
    assert metadata["namespace"] == "shop"
    assert metadata["labels"] == {
        "app.kubernetes.io/managed-by": "feature-rollout-operator",
        "featurerollout.dev/rollout": "new-checkout",
    }
    assert metadata["annotations"] == {
        "featurerollout.dev/check": "preflight/rehearsed",
        "featurerollout.dev/attempt": "1",
        "featurerollout.dev/plan-hash": "v1:a",
        "featurerollout.dev/manifest-sha256": metadata["annotations"]["featurerollout.dev/manifest-sha256"],
    }
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "featurerollout.dev/v1alpha1",
            "kind": "FeatureRollout",
            "name": "new-checkout",
            "uid": "uid-1",
            "controller": True,
        }
    ]
    assert found["spec"] == JOB["spec"] | {"ttlSecondsAfterFinished": TTL_S}


def test_a_manifest_cannot_take_the_operators_labels_and_annotations_nor_lose_its_own() -> None:
    metadata = {
        "labels": {"featurerollout.dev/rollout": "another", "team": "a"},
        "annotations": {"featurerollout.dev/check": "another", "note": "b"},
    }
    found = made(text(metadata=metadata))["metadata"]
    assert found["labels"]["featurerollout.dev/rollout"] == "new-checkout"
    assert found["annotations"]["featurerollout.dev/check"] == "preflight/rehearsed"
    assert (found["labels"]["team"], found["annotations"]["note"]) == ("a", "b")


OTHERS = [
    ("another object of the name", {"rollout": {"metadata": ROLLOUT["metadata"] | {"uid": "uid-2"}}}),
    ("another attempt", {"attempt": 2}),
    ("another check", {"check": "stages/ten/rehearsed"}),
    ("another plan", {"plan_hash": "v1:b"}),
    ("another manifest", {"given": TEXT + "\n# changed"}),
]


@pytest.mark.parametrize("change", [i[1] for i in OTHERS], ids=[i[0] for i in OTHERS])
def test_the_name_says_what_the_answer_belongs_to(change: dict[str, Any]) -> None:
    assert made() == made()
    assert made(**change)["metadata"]["name"] != made()["metadata"]["name"]


def test_a_job_without_a_name_is_called_as_its_check() -> None:
    assert made(text(metadata={}))["metadata"]["name"].startswith("rehearsed-")


@pytest.mark.parametrize("name", ["a" * 63, "a" * 49 + "-" + "b" * 13])
def test_a_name_fits_the_label_that_its_pods_get(name: str) -> None:
    found = made(text(metadata={"name": name}))["metadata"]["name"]
    assert len(found) <= 63
    assert re.fullmatch(r"[a-z0-9]+-[0-9a-f]{12}", found)


def test_a_rollouts_name_that_is_no_label_is_left_out_of_them() -> None:
    long = {"metadata": ROLLOUT["metadata"] | {"name": "a" * 64}}
    assert "featurerollout.dev/rollout" not in made(rollout=long)["metadata"]["labels"]


def test_a_time_to_live_of_its_own_is_kept() -> None:
    own = yaml.safe_dump(JOB | {"spec": JOB["spec"] | {"ttlSecondsAfterFinished": 7200}})
    assert made(own)["spec"]["ttlSecondsAfterFinished"] == 7200
