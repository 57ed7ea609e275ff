"""Traces and logs: what is done is told by its rollout, stage and operation, to a collector and as JSON."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support.collector import Collector
from support.manifests import A, disable, rollout, stage, store
from support.operatorprocess import Operator, json_lines
from support.waiting import wait_for
from support.world import World


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-test")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        yield collector


def test_a_raise_and_a_revert(collector: Collector, world: World, idle_operator: Operator) -> None:
    idle_operator.start(log_format="json")
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], rows=[disable()]))
    world.wait_row(A, (True, 10, frozenset()))
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))
    assert idle_operator.stop(), "the spans that are left hold nothing up"
    (raised,), (lowered,) = wait_for(lambda: both(collector), 30.0, "both spans")
    key = raised.attributes["rollout"]
    assert key == f"{world.namespace}/enhanced"
    audit = {entry["kind"]: entry["operation_id"] for entry in world.audit(A)}
    ours = {"rollout": key, "stage": "ten"}
    assert raised.attributes == ours | {"verb": "Advance", "operation": audit["Raise"]}
    assert lowered.attributes == ours | {"verb": "DisableFlags", "operation": audit["Lower"]}
    reconciles = {span.id: span for span in collector.spans("reconcile")}
    for span in (raised, lowered):
        around = reconciles[span.parent]
        assert (around.trace, around.attributes["rollout"], around.service) == (
            span.trace,
            key,
            "feature-rollout-operator",
        )
        assert around.is_over
    looks = collector.spans("look")
    assert ours | {"metric": "error-rate"} in [span.attributes for span in looks]
    assert {span.parent for span in looks} <= reconciles.keys(), "a look is of the reconcile that has asked for it"
    assert {header["authorization"] for header in collector.headers} == {"Bearer of-the-test"}
    for kind, level in (("Raise", "INFO"), ("Lower", "WARNING")):
        told = [line for line in json_lines(idle_operator.log_text) if line.get("operation") == audit[kind]]
        assert {(line["rollout"], line["stage"]) for line in told} == {(key, "ten")}
        assert [line["level"] for line in told if line["logger"].endswith(".tell")] == [level]
    passwords = [urlsplit(uri).password for uri in world.uris().values()]
    assert not [body for body in collector.bodies for word in passwords if word and word.encode() in body]


def both(collector: Collector) -> tuple[list, list] | None:
    found = collector.spans("transaction"), collector.spans("revert")
    return found if all(found) else None
