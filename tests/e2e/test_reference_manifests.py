"""The notification system's own manifests: all is answered, nothing is silently ignored or skipped."""

from pathlib import Path
from typing import Any

import yaml

from support.manifests import A, Object
from support.operatorprocess import Operator
from support.world import World

FOLDER = Path(__file__).parents[2] / "examples" / "notifications"
NAME = "enhanced-notifications"
ACTION = "approve-performance-features"


def manifests(world: World) -> list[Object]:
    """In the test's namespace; the provider belongs to the whole cluster and gets a name of its own."""
    objects: list[Any] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        text = path.read_text(encoding="utf-8").replace("providerRef: {name: prometheus}", "providerRef: {name: ours}")
        objects += yaml.safe_load_all(text.replace("name: ours", f"name: prometheus-{world.namespace}"))
    for obj in objects:
        if obj["kind"] == "MetricProvider":
            obj["metadata"]["name"] = f"prometheus-{world.namespace}"
            obj["spec"]["allowedNamespaces"] = [world.namespace]
        else:
            obj["metadata"].pop("namespace")
    return objects


def test_the_reference_manifests_are_answered(world: World, operator: Operator) -> None:
    world.apply(*manifests(world))
    fields = world.wait_condition("FieldsInEffect", "False", "NotInEffect", name=NAME)
    assert "migrations" in fields["message"]
    for field in ("spec.contacts", "spec.preflight", "].approval (", "].checks"):
        assert field not in fields["message"]
    world.wait_condition("Stalled", "False", "CheckUnanswered", name=NAME)
    world.soon(lambda: world.status(NAME)["phase"] == "Preflight")
    world.soon(lambda: "CheckUnanswered" in world.reasons(NAME))
    waiting = " ".join(world.status(NAME)["next"]["waitingFor"])
    for check in ("backup-is-recent", "rehearsed-on-staging", "on-call-available"):
        assert f"preflight/{check}" in waiting
    assert f"featurerollout confirm {NAME} on-call-available" in waiting
    store = world.wait_condition("Ready", "True", "StoreUsable", name="supabase", kind="FlagStore")
    assert store["message"]
    unused = world.wait_condition("FieldsInEffect", "False", "NotInEffect", name="supabase", kind="FlagStore")
    assert "spec.allow (Migrations, RollbackScripts" in unused["message"]
    provider = f"prometheus-{world.namespace}"
    world.wait_condition("Ready", "False", "ProviderUnusable", name=provider, kind="MetricProvider")
    refused = world.wait_answer(ACTION, "Refused", "PlanHashMismatch")
    assert world.status(NAME)["planHash"] in refused["message"]
    world.wait_condition("Stalled", "True", "PlanHashMismatch", name=ACTION, kind="RolloutAction")
    assert world.audit() == []
    # The watches of the kinds race; none of these was ever missing once the API server had it.
    assert not {"StoreNotFound", "MatrixNotFound", "TemplateNotFound"} & set(world.reasons(NAME))

    # Without the preflight the guards whose Prometheus does not answer hold it, by name.
    world.edit("FeatureRollout", NAME, lambda obj: obj["spec"].pop("preflight"))
    message = world.wait_condition("Ready", "False", "GuardsBlind", name=NAME)["message"]
    for metric in ("websocket-drop-rate", "cache-hit-rate", "p95-latency"):
        assert metric in message

    # Without those, and at any time of the week, it is the first stage, whose migrations are not skipped.
    world.edit("FeatureRollout", NAME, lambda obj: obj["spec"].pop("calendar"))
    world.edit("RollbackMatrix", "notification-system", without_prometheus)
    ready = world.wait_condition("Ready", "False", "NotInEffect", name=NAME)
    assert "spec.stages[0].migrations" in ready["message"]
    assert world.row(A) == (False, 0, frozenset())
    assert world.audit() == []
    world.delete("MetricProvider", provider)


def without_prometheus(matrix: Any) -> None:
    for row in matrix["spec"]["rows"]:
        row["when"] = [clause for clause in row["when"] if clause["metric"] in {"error-rate", "slow-deliveries"}]
    matrix["spec"]["rows"] = [row for row in matrix["spec"]["rows"] if row["when"]]
