"""What is known, in which order it counts, and which rollouts an event concerns."""

from typing import Any

import pytest

from feature_rollout.kube.resources import ACTIONS, MATRICES, PROVIDERS, RESOURCES, ROLLOUTS, STORES, TEMPLATES
from feature_rollout.kube.rollouts import FINALIZER
from feature_rollout.runtime.inventory import Inventory

SHOP = ("shop", "checkout")


def obj(
    name: str, version: int, spec: object = None, *, namespace: str | None = "shop", uid: str = ""
) -> dict[str, Any]:
    """Another generation at each version, which is another spec."""
    metadata = {"name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version), "generation": version}
    return {"metadata": metadata | ({"namespace": namespace} if namespace else {}), "spec": spec or {}}


def rollout(version: int = 1, **spec: object) -> dict[str, Any]:
    return obj("checkout", version, spec)


@pytest.fixture
def inventory() -> Inventory:
    return Inventory()


class TestReferences:
    @pytest.mark.parametrize(
        ("plural", "spec"),
        [
            (STORES, {"storeRef": {"name": "x"}}),
            (MATRICES, {"matrixRef": {"name": "x"}}),
            (TEMPLATES, {"metrics": [{"templateRef": {"name": "x"}}]}),
        ],
    )
    def test_what_a_rollout_names_concerns_it(self, inventory: Inventory, plural: str, spec: dict[str, Any]) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(1, **spec))
        assert inventory.offer(plural, "ADDED", obj("x", 2)) == {SHOP}
        assert inventory.offer(plural, "MODIFIED", obj("x", 3)) == {SHOP}
        assert inventory.offer(plural, "ADDED", obj("y", 4)) == set()
        assert inventory.offer(plural, "ADDED", obj("x", 5, namespace="other")) == set()
        assert inventory.offer(plural, "DELETED", obj("x", 6)) == {SHOP}

    def test_a_rollout_concerns_those_that_wait_for_it(self, inventory: Inventory) -> None:
        stages = [{"name": "a"}, {"after": [{"rollout": "x", "stage": "all"}, {"rollout": 5}, None]}, "nonsense"]
        inventory.offer(ROLLOUTS, "ADDED", rollout(1, stages=stages))
        other = ("shop", "x")
        assert inventory.offer(ROLLOUTS, "ADDED", obj("x", 2)) == {other, SHOP}
        assert inventory.offer(ROLLOUTS, "MODIFIED", obj("x", 3)) == {other, SHOP}
        assert inventory.offer(ROLLOUTS, "ADDED", obj("x", 4, namespace="other")) == {("other", "x")}
        assert inventory.offer(ROLLOUTS, "DELETED", obj("x", 5)) == {other, SHOP}
        inventory.offer(ROLLOUTS, "MODIFIED", rollout(6))
        assert inventory.offer(ROLLOUTS, "ADDED", obj("x", 7, uid="another")) == {other}

    def test_a_provider_concerns_rollouts_through_templates(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, None, rollout(1, metrics=[{"templateRef": {"name": "t"}}]))
        inventory.offer(TEMPLATES, None, obj("t", 2, {"prometheus": {"providerRef": {"name": "p"}}}))
        assert inventory.offer(PROVIDERS, None, obj("p", 3, namespace=None)) == {SHOP}
        inventory.offer(TEMPLATES, None, obj("t", 4, {"prometheus": {"providerRef": {"name": "q"}}}))
        assert inventory.offer(PROVIDERS, None, obj("p", 5, namespace=None)) == set()
        assert inventory.offer(PROVIDERS, None, obj("q", 6, namespace=None)) == {SHOP}

    def test_a_provider_concerns_rollouts_with_inline_templates(self, inventory: Inventory) -> None:
        inline = {"template": {"datadog": {"providerRef": {"name": "p"}}}}
        inventory.offer(ROLLOUTS, None, rollout(1, metrics=[inline]))
        assert inventory.offer(PROVIDERS, None, obj("p", 3, namespace=None)) == {SHOP}

    def test_what_a_rollout_named_before_does_not_concern_it_any_more(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(1, matrixRef={"name": "old"}))
        inventory.offer(ROLLOUTS, "MODIFIED", rollout(2, matrixRef={"name": "new"}))
        assert inventory.offer(MATRICES, "ADDED", obj("old", 3)) == set()
        assert inventory.offer(MATRICES, "ADDED", obj("new", 4)) == {SHOP}
        inventory.offer(ROLLOUTS, "DELETED", rollout(5))
        assert inventory.offer(MATRICES, "MODIFIED", obj("new", 6)) == set()
        assert not inventory._referrers
        assert not inventory._references

    def test_what_the_operator_writes_itself_concerns_nobody(self, inventory: Inventory) -> None:
        known = rollout(1, storeRef={"name": "x"})
        inventory.offer(ROLLOUTS, "ADDED", known)
        inventory.offer(STORES, "ADDED", obj("x", 2))

        def changed(obj: dict[str, Any], version: int, status: object = None, **metadata: object) -> dict[str, Any]:
            return {
                **obj,
                "metadata": obj["metadata"] | {"resourceVersion": str(version), **metadata},
                "status": status,
            }

        told = changed(obj("x", 2), 3, {"conditions": []}, managedFields=[{"manager": "m"}])
        assert inventory.offer(STORES, "MODIFIED", told) == set()
        assert inventory.offer(STORES, "MODIFIED", changed(told, 4, annotations={"a": "b"})) == {SHOP}

        assert inventory.offer(ROLLOUTS, "MODIFIED", changed(known, 5, finalizers=["theirs"])) == {SHOP}
        ours = changed(known, 6, finalizers=["theirs", FINALIZER])
        assert inventory.offer(ROLLOUTS, "MODIFIED", ours) == set()
        ours = changed(ours, 7, {"phase": "Baking"})
        assert inventory.offer(ROLLOUTS, "MODIFIED", ours) == set()
        assert inventory.get(ROLLOUTS, *SHOP) == ours
        assert inventory.offer(ROLLOUTS, "MODIFIED", changed(ours, 8, finalizers=["theirs"])) == {SHOP}
        assert inventory.offer(ROLLOUTS, "MODIFIED", changed(ours, 9, deletionTimestamp="2026-01-05")) == {SHOP}

    def test_those_that_wait_for_a_rollout_are_concerned_by_its_status(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(1, stages=[{"after": [{"rollout": "x", "stage": "all"}]}]))
        other = obj("x", 2)
        inventory.offer(ROLLOUTS, "ADDED", other)
        other = {**other, "metadata": other["metadata"] | {"resourceVersion": "3"}, "status": {"phase": "Completed"}}
        assert inventory.offer(ROLLOUTS, "MODIFIED", other) == {SHOP}

    def test_an_action_concerns_its_rollout(self, inventory: Inventory) -> None:
        assert inventory.offer(ACTIONS, "ADDED", obj("b", 1, {"rolloutRef": {"name": "checkout"}})) == {SHOP}
        inventory.offer(ACTIONS, "ADDED", obj("a", 2, {"rolloutRef": {"name": "checkout"}}))
        assert [action["metadata"]["name"] for action in inventory.actions(SHOP)] == ["a", "b"]
        assert inventory.offer(ACTIONS, "DELETED", obj("b", 3)) == {SHOP}
        assert [action["metadata"]["name"] for action in inventory.actions(SHOP)] == ["a"]


class TestOrder:
    def test_an_older_object_is_ignored(self, inventory: Inventory) -> None:
        assert inventory.offer(ROLLOUTS, "ADDED", rollout(10)) == {SHOP}
        assert inventory.offer(ROLLOUTS, "MODIFIED", rollout(9)) == set()
        assert inventory.offer(ROLLOUTS, None, rollout(10)) == set()
        # As numbers: "9" would sort after "10".
        assert inventory.offer(ROLLOUTS, "MODIFIED", rollout(100)) == {SHOP}

    def test_a_late_answer_does_not_bring_a_deleted_object_back(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(1))
        assert inventory.offer(ROLLOUTS, "DELETED", rollout(5)) == {SHOP}
        assert inventory.adopt(ROLLOUTS, rollout(4), 0.0) == set()
        assert inventory.rollouts() == set()

    def test_a_late_deletion_does_not_take_a_recreated_object(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", obj("checkout", 1, uid="old"))
        assert inventory.offer(ROLLOUTS, "ADDED", obj("checkout", 7, uid="new")) == {SHOP}
        assert inventory.offer(ROLLOUTS, "DELETED", obj("checkout", 5, uid="old")) == set()
        found = inventory.get(ROLLOUTS, "shop", "checkout")
        assert found is not None
        assert found["metadata"]["uid"] == "new"

    def test_a_recreated_object_is_taken_after_a_deletion(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", obj("checkout", 1, uid="old"))
        inventory.offer(ROLLOUTS, "DELETED", obj("checkout", 5, uid="old"))
        assert inventory.offer(ROLLOUTS, "ADDED", obj("checkout", 6, uid="new")) == {SHOP}

    def test_only_the_uid_that_is_gone_is_forgotten(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", obj("checkout", 7, uid="new"))
        assert inventory.forget(ROLLOUTS, SHOP, "old") == set()
        assert inventory.forget(ROLLOUTS, SHOP, "new") == {SHOP}
        assert inventory.rollouts() == set()

    def test_after_a_restored_backup_older_versions_are_taken(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(100))
        assert inventory.adopt(ROLLOUTS, rollout(50), 0.0, force=True) == {SHOP}


class TestDebts:
    def test_the_watch_owes_what_the_sweeper_saw_first(self, inventory: Inventory) -> None:
        inventory.offer(ROLLOUTS, "ADDED", rollout(1))
        assert inventory.owed_s(10.0) == 0.0
        inventory.adopt(ROLLOUTS, rollout(5), 10.0)
        assert inventory.owed_s(40.0) == 30.0
        inventory.offer(ROLLOUTS, "MODIFIED", rollout(4))
        assert inventory.owed_s(40.0) == 30.0
        inventory.owe_from(40.0)
        assert inventory.owed_s(45.0) == 5.0
        assert inventory.offer(ROLLOUTS, "MODIFIED", rollout(5)) == set()
        assert inventory.owed_s(100.0) == 0.0

    def test_what_is_gone_is_not_owed(self, inventory: Inventory) -> None:
        inventory.adopt(ROLLOUTS, rollout(5), 10.0)
        inventory.forget(ROLLOUTS, SHOP, "uid-checkout")
        assert inventory.owed_s(40.0) == 0.0


NONSENSE: list[Any] = [
    None,
    1,
    "x",
    [],
    {},
    [None],
    {"name": None},
    {"name": []},
    [{"templateRef": 3}],
    {"x": {"y": []}},
]


@pytest.mark.parametrize("plural", RESOURCES)
@pytest.mark.parametrize("garbage", NONSENSE, ids=repr)
def test_nonsense_raises_nothing(inventory: Inventory, plural: str, garbage: Any) -> None:
    fields = ("storeRef", "matrixRef", "rolloutRef", "metrics", "prometheus")
    for number, spec in enumerate([garbage, dict.fromkeys(fields, garbage), {"metrics": [{"template": garbage}]}]):
        thing = obj("x", number + 1)
        thing["spec"] = spec
        for event_type in ("ADDED", "MODIFIED", None):
            inventory.offer(plural, event_type, thing)
    inventory.offer(plural, "DELETED", obj("x", 9))
    inventory.offer(plural, "ADDED", {"metadata": garbage})
    inventory.offer(plural, "ADDED", {"metadata": {"name": "n", "uid": garbage, "resourceVersion": garbage}})
    inventory.offer(plural, "ADDED", {"metadata": {"name": "n", "resourceVersion": "9" * 5000}})
    inventory.offer(plural, "ADDED", {})
    inventory.offer("pods", "ADDED", obj("x", 1))
    assert inventory.actions(SHOP) == []
