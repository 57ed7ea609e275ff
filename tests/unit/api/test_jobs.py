"""The manifest of a Job: what a check may run, and what is refused with what would be right."""

from typing import Any

import pytest
import yaml

from feature_rollout.api.jobs import SIZE_MAX, InvalidJob, parse

CONTAINER = {"name": "main", "image": "busybox", "command": ["true"]}
JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "rehearsal"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}},
}


def text(**changes: Any) -> str:
    """The manifest with other top-level fields."""
    return yaml.safe_dump(JOB | changes)


def spec(**changes: Any) -> dict[str, Any]:
    return JOB["spec"] | changes


def test_what_kubectl_create_job_prints_is_taken() -> None:
    found = parse(text(metadata={"name": "rehearsal", "creationTimestamp": None}, status={}), "shop")
    assert (found.name, found.labels, found.annotations, found.spec) == ("rehearsal", {}, {}, JOB["spec"])


def test_labels_annotations_and_the_rollouts_own_namespace_are_taken() -> None:
    metadata = {"namespace": "shop", "labels": {"team": "a"}, "annotations": {"b": "c"}}
    found = parse(text(metadata=metadata), "shop")
    assert (found.name, found.labels, found.annotations) == ("", {"team": "a"}, {"b": "c"})


def test_a_date_stays_a_text() -> None:
    assert parse(text(spec=JOB["spec"]).replace("busybox", "2026-01-05"), "shop").spec["template"]["spec"][
        "containers"
    ] == [CONTAINER | {"image": "2026-01-05"}]


# Without its end, so that who reads on for longer finds something else that is wrong.
DEEP = "a: " + "[" * (SIZE_MAX - 3)
REFUSED = [
    ("another kind", text(kind="Pod"), 'apiVersion, kind: "batch/v1", "Pod": write batch/v1, Job'),
    ("another group", text(apiVersion="v1"), 'apiVersion, kind: "v1", "Job": write batch/v1, Job'),
    ("no kind", "a: 1", "apiVersion, kind: nothing, nothing: write"),
    ("a CronJob's kind", text(kind=["Job"]), "this list: write batch/v1, Job"),
    ("an unknown field", text(data={}), '"data": is not a field of a Job'),
    ("generateName", text(metadata={"generateName": "a-"}), "metadata.generateName: the operator makes the name"),
    ("another namespace", text(metadata={"namespace": "kube-system"}), 'metadata.namespace: "kube-system": a Job runs'),
    ("an owner", text(metadata={"ownerReferences": []}), 'metadata."ownerReferences": is not taken over'),
    ("a finalizer", text(metadata={"finalizers": ["a/b"]}), 'metadata."finalizers": is not taken over'),
    ("a name that is none", text(metadata={"name": "A_b"}), 'metadata.name: "A_b": write at most 63'),
    ("a name over two lines", text(metadata={"name": "a\nb"}), "metadata.name: this str: write"),
    ("a name that is a number", text(metadata={"name": 7}), "metadata.name: 7: write"),
    ("a long name", text(metadata={"name": "a" * 64}), "metadata.name: this str: write"),
    ("a label that is no text", text(metadata={"labels": {"a": 1}}), 'metadata.labels: "a" is not a text'),
    ("metadata that is a list", text(metadata=[]), "metadata: this list: write an object"),
    ("a spec that is a text", text(spec="a"), 'spec: "a": write an object'),
    ("Pods of others", text(spec=spec(manualSelector=True)), "spec.manualSelector: a Job has no Pods but its own"),
    ("a selector", text(spec=spec(selector={})), "spec.selector: a Job has no Pods but its own"),
    ("gone at once", text(spec=spec(ttlSecondsAfterFinished=0)), "spec.ttlSecondsAfterFinished: 0: the Job must stay"),
    ("a time as a text", text(spec=spec(ttlSecondsAfterFinished="9999")), 'ttlSecondsAfterFinished: "9999": the Job'),
    ("nothing", "", "the text has 0 documents"),
    ("two documents", f"{text()}---\n{text()}", "the text has 2 documents: write one Job"),
    ("no YAML", "a: [", "the text is not YAML of plain values"),
    ("no object", "[]", "the text is not YAML of plain values"),
    ("a key twice", "kind: Job\nkind: Job", "the text is not YAML of plain values"),
    ("not a number", text(spec=spec(a=float("nan"))), "the text is not YAML of plain values"),
    ("a date by its tag", text() + "\nx: !!timestamp 2026-01-05", "the text is not YAML of plain values"),
    ("an object by its tag", "a: !!python/object:os.system {}", "the text is not YAML of plain values"),
    ("a list as a key", "? [a]\n: b", "the text is not YAML of plain values"),
    ("a number without an end", "a: " + "9" * 5000, "the text is not YAML of plain values"),
    ("depth", DEEP, "the text has more than 64 levels"),
    ("depth by blocks", "".join(" " * level + "a:\n" for level in range(66)), "the text has more than 64 levels"),
    ("aliases", "a: &a [x]\nb: *a", "the text has a YAML alias"),
    ("aliases of aliases", "a: &a {x: y}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}", "the text has a YAML alias"),
    ("size", "#" * (SIZE_MAX + 1), "65536 is the most"),
]


@pytest.mark.parametrize(("given", "words"), [i[1:] for i in REFUSED], ids=[i[0] for i in REFUSED])
def test_what_is_refused(given: str, words: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        parse(given, "shop")
    assert words in str(raised.value)


def test_the_text_of_what_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(InvalidJob) as raised:
        parse("password: [hunter2", "shop")
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None
