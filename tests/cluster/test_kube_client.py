"""Our calls on the real API server.

| what | when | then |
|---|---|---|
| status | the object changed since | Stale, nothing written |
| | the same again | the resourceVersion stays |
| | the object is gone | Gone, nothing created |
| | another object has the name | Stale |
| finalizer | added or removed twice | once |
| | the object changed since | done all the same |
| | another object has the name | left alone |
| lists | more objects than a page | all of them; metadata only where asked |
| Secret | there, missing, forbidden | values, None, PermissionDenied |
"""

import base64
from collections.abc import AsyncIterator

import pytest

from contract.kube_objects import connection, create, path
from feature_rollout.kube import client as client_module
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiUnavailable, Gone, PermissionDenied, Refused, Stale
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.resources import ROLLOUTS
from feature_rollout.kube.rollouts import FINALIZER, FRESH_S, KubeRollouts
from feature_rollout.sandbox.cluster import Cluster

STATUS = {"observedGeneration": 1, "phase": "Baking"}


@pytest.fixture
def calls() -> list[str]:
    """The verbs of the calls that were made."""
    return []


@pytest.fixture
async def api(crds_installed: None, control_plane: Cluster, calls: list[str]) -> AsyncIterator[Api]:
    async with Api(connection(control_plane), on_request=lambda verb, *_: calls.append(verb)) as api:
        yield api


@pytest.fixture
def rollouts(api: Api) -> KubeRollouts:
    return KubeRollouts(api, EventRecorder(api))


class TestStatus:
    async def test_it_is_written(self, api: Api, control_plane: Cluster, namespace: str) -> None:
        made = create(control_plane, namespace, "a")
        written = await api.apply_status(ROLLOUTS, made, STATUS)
        assert written["status"]["phase"] == "Baking"
        assert written["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
        assert written["metadata"]["generation"] == made["metadata"]["generation"]

    async def test_a_field_that_is_left_out_is_removed(self, api: Api, control_plane: Cluster, namespace: str) -> None:
        made = create(control_plane, namespace, "a")
        written = await api.apply_status(ROLLOUTS, made, {**STATUS, "attempt": 2})
        assert written["status"]["attempt"] == 2
        written = await api.apply_status(ROLLOUTS, written, STATUS)
        assert "attempt" not in written["status"]

    async def test_one_that_was_decided_on_an_older_object_is_refused(
        self, api: Api, control_plane: Cluster, namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        newer = await api.apply_status(ROLLOUTS, made, STATUS)
        with pytest.raises(Stale):
            await api.apply_status(ROLLOUTS, made, {**STATUS, "phase": "Held"})
        now = await api.get(ROLLOUTS, namespace, "a")
        assert now is not None
        assert now["status"] == newer["status"]

    async def test_the_same_again_leaves_the_resource_version(
        self, api: Api, control_plane: Cluster, namespace: str
    ) -> None:
        first = await api.apply_status(ROLLOUTS, create(control_plane, namespace, "a"), STATUS)
        second = await api.apply_status(ROLLOUTS, first, STATUS)
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_a_vanished_object_is_not_created(self, api: Api, control_plane: Cluster, namespace: str) -> None:
        made = create(control_plane, namespace, "a")
        await api.delete(ROLLOUTS, made)
        with pytest.raises(Gone):
            await api.apply_status(ROLLOUTS, made, STATUS)
        assert await api.get(ROLLOUTS, namespace, "a") is None

    async def test_a_recreated_object_is_not_touched(self, api: Api, control_plane: Cluster, namespace: str) -> None:
        old = create(control_plane, namespace, "a")
        await api.delete(ROLLOUTS, old)
        new = create(control_plane, namespace, "a")
        with pytest.raises(Stale):
            await api.apply_status(ROLLOUTS, old, STATUS)
        assert await api.get(ROLLOUTS, namespace, "a") == new


class TestFinalizer:
    async def test_adding_and_removing_are_idempotent(
        self, rollouts: KubeRollouts, control_plane: Cluster, namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        await rollouts.add_finalizer(made)
        # The same, old view again: it sees that the finalizer is there meanwhile.
        await rollouts.add_finalizer(made)
        one = await rollouts.fresh(namespace, "a")
        assert one is not None
        assert one["metadata"]["finalizers"] == [FINALIZER]
        await rollouts.remove_finalizer(one)
        await rollouts.remove_finalizer(one)
        none = await rollouts.fresh(namespace, "a")
        assert none is not None
        assert "finalizers" not in none["metadata"]

    async def test_before_the_first_raise_the_answer_to_it_is_fresh_enough_and_counts_once(
        self, rollouts: KubeRollouts, control_plane: Cluster, calls: list[str], namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        await rollouts.add_finalizer(made)
        patched = await rollouts.fresh(namespace, "a")
        assert calls == ["PATCH"]
        again = await rollouts.fresh(namespace, "a")
        assert calls == ["PATCH", "GET"]
        assert patched == again
        assert patched is not None
        await rollouts.remove_finalizer(patched)

    async def test_an_answer_of_more_than_two_seconds_ago_is_not_fresh(
        self, rollouts: KubeRollouts, control_plane: Cluster, calls: list[str], namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        await rollouts.add_finalizer(made)
        for place, (asked_s, answer) in rollouts._answers.items():
            rollouts._answers[place] = asked_s - FRESH_S, answer
        found = await rollouts.fresh(namespace, "a")
        assert calls == ["PATCH", "GET"]
        assert rollouts._answers == {}
        assert found is not None
        await rollouts.remove_finalizer(found)

    async def test_the_finalizers_of_others_stay(
        self, rollouts: KubeRollouts, control_plane: Cluster, api: Api, namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        theirs = "example.com/theirs"
        await api.json_patch(ROLLOUTS, made, [{"op": "add", "path": "/metadata/finalizers", "value": [theirs]}])
        await rollouts.add_finalizer(made)
        now = await rollouts.fresh(namespace, "a")
        assert now is not None
        assert now["metadata"]["finalizers"] == [theirs, FINALIZER]
        await rollouts.remove_finalizer(now)
        now = await rollouts.fresh(namespace, "a")
        assert now is not None
        assert now["metadata"]["finalizers"] == [theirs]
        await api.json_patch(ROLLOUTS, now, [{"op": "remove", "path": "/metadata/finalizers"}])

    async def test_deletion_waits_for_it_and_none_is_added_then(
        self, rollouts: KubeRollouts, control_plane: Cluster, api: Api, namespace: str
    ) -> None:
        await rollouts.add_finalizer(create(control_plane, namespace, "a"))
        held = await rollouts.fresh(namespace, "a")
        assert held is not None
        await api.delete(ROLLOUTS, held)
        deleted = await rollouts.fresh(namespace, "a")
        assert deleted is not None
        assert deleted["metadata"]["deletionTimestamp"]
        await rollouts.remove_finalizer(deleted)
        assert await rollouts.fresh(namespace, "a") is None
        await rollouts.remove_finalizer(deleted)

    async def test_a_recreated_object_is_left_alone(
        self, rollouts: KubeRollouts, control_plane: Cluster, api: Api, namespace: str
    ) -> None:
        old = create(control_plane, namespace, "a")
        await api.delete(ROLLOUTS, old)
        new = create(control_plane, namespace, "a")
        with pytest.raises(Gone):
            await rollouts.add_finalizer(old)
        assert await rollouts.fresh(namespace, "a") == new
        await rollouts.add_finalizer(new)
        await rollouts.remove_finalizer({**old, "metadata": {**old["metadata"], "finalizers": [FINALIZER]}})
        now = await rollouts.fresh(namespace, "a")
        assert now is not None
        assert now["metadata"]["finalizers"] == [FINALIZER]
        await rollouts.remove_finalizer(now)


class TestReading:
    async def test_lists_are_put_together_from_their_pages(
        self, api: Api, control_plane: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
        for name in "abcde":
            create(control_plane, namespace, name)
        items, version = await api.list(ROLLOUTS, namespace)
        assert [item["metadata"]["name"] for item in items] == list("abcde")
        assert items[0]["kind"] == "FeatureRollout"
        assert int(version) > 0
        metadata, _ = await api.list_metadata(ROLLOUTS, namespace)
        assert [item["metadata"]["uid"] for item in metadata] == [item["metadata"]["uid"] for item in items]
        assert all("spec" not in item for item in metadata)

    async def test_what_is_missing_is_none(self, api: Api, namespace: str) -> None:
        assert await api.get(ROLLOUTS, namespace, "nobody") is None
        assert await api.secret(namespace, "nobody") is None
        assert await api.config_map(namespace, "nobody") is None
        assert await api.namespace("nobody") is None

    async def test_a_secret_is_decoded_and_does_not_show(
        self, api: Api, control_plane: Cluster, namespace: str
    ) -> None:
        encoded = {"uri": base64.b64encode("postgresql://ü".encode()).decode(), "binary": "/w=="}
        secret = {"metadata": {"name": "db"}, "data": encoded}
        control_plane.request("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        values = await api.secret(namespace, "db")
        assert dict(values or {}) == {"uri": "postgresql://ü"}
        assert "postgresql" not in f"{values} {values!r} {[values]}"

    async def test_our_resources_are_served(self, api: Api) -> None:
        assert ROLLOUTS in await api.served()

    async def test_the_cluster_has_a_name(self, api: Api) -> None:
        found = await api.namespace("kube-system")
        assert found is not None
        assert found["metadata"]["uid"]


class TestErrors:
    async def test_a_wrong_object_is_refused_by_a_reason_only(
        self, api: Api, control_plane: Cluster, namespace: str
    ) -> None:
        made = create(control_plane, namespace, "a")
        patch = [{"op": "replace", "path": "/metadata/finalizers", "value": "s3cr3t"}]
        with pytest.raises(Refused) as caught:
            await api.json_patch(ROLLOUTS, made, patch)
        assert "s3cr3t" not in str(caught.value)

    async def test_a_patch_of_something_older_is_stale(self, api: Api, control_plane: Cluster, namespace: str) -> None:
        made = create(control_plane, namespace, "a")
        await api.apply_status(ROLLOUTS, made, STATUS)
        with pytest.raises(Stale):
            await api.json_patch(ROLLOUTS, made, [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}])

    async def test_an_api_server_that_is_away_is_unavailable(self, control_plane: Cluster, tmp_path: object) -> None:
        away = Cluster("https://127.0.0.1:1", control_plane.ca_file, control_plane.folder, {"away": "s3cr3t-token"})
        calls: list[tuple[str, str]] = []
        async with Api(connection(away, "away"), on_request=lambda *call: calls.append(call[:2])) as api:
            with pytest.raises(ApiUnavailable) as caught:
                await api.get(ROLLOUTS, "default", "a")
        assert caught.value.code is None
        assert calls == [("GET", "error")]

    async def test_forbidden_is_an_error_of_its_own(
        self, control_plane: Cluster, namespace: str, crds_installed: None
    ) -> None:
        account = {"metadata": {"name": "nobody"}}
        control_plane.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        kubeconfig = control_plane.service_account_kubeconfig(namespace, "nobody")
        async with Api(client_module.Connection(kubeconfig=str(kubeconfig))) as api:
            with pytest.raises(PermissionDenied) as caught:
                await api.secret(namespace, "db")
            assert caught.value.code == 403
            with pytest.raises(PermissionDenied):
                await api.get(ROLLOUTS, namespace, "a")

    async def test_a_token_that_was_changed_is_read_again(
        self, control_plane: Cluster, namespace: str, crds_installed: None
    ) -> None:
        there = Cluster(control_plane.url, control_plane.ca_file, control_plane.folder, {namespace: "expired"})
        async with Api(connection(there, namespace)) as api:
            there.tokens[namespace] = control_plane.tokens["admin"]
            there.kubeconfig(namespace)
            assert await api.get(ROLLOUTS, namespace, "a") is None
            assert path(namespace)
