"""The watch on the real API server: what it delivers, what it survives, how it stops, and that it never writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from contract.kube_objects import CRDS, connection, create, path, provider
from feature_rollout.kube.client import Api
from feature_rollout.kube.resources import PROVIDERS, ROLLOUTS
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.sweeper import Sweeper
from feature_rollout.runtime.watch import Watch
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane
from support.waiting import wait_for_async

PROVIDERS_PATH = "/apis/featurerollout.dev/v1alpha1/metricproviders"


class Seen:
    """The events that were delivered, as (plural, type, namespace/name)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None, str]] = []
        self.restarts = 0

    def offer(self, plural: str, event_type: str | None, obj: Mapping[str, Any]) -> None:
        metadata = obj["metadata"]
        self.events.append((plural, event_type, f"{metadata.get('namespace', '')}/{metadata['name']}"))

    def restarted(self) -> None:
        self.restarts += 1

    async def wait_for(self, plural: str, event_type: str | None, name: str, seconds: float = 20) -> None:
        await wait_for_async(lambda: (plural, event_type, name) in self.events, seconds)


@asynccontextmanager
async def watching(cluster: Cluster, namespaces: Sequence[str] = ()) -> AsyncIterator[tuple[Watch, Seen]]:
    seen = Seen()
    async with Api(connection(cluster)) as api:
        watch = Watch(
            connection=connection(cluster),
            offer=seen.offer,
            served=api.served,
            namespaces=namespaces,
            on_restart=seen.restarted,
        )
        watch.start()
        try:
            yield watch, seen
        finally:
            began = time.monotonic()
            assert await watch.stop(5)
            assert time.monotonic() - began < 5
            assert not watch.problems()


async def test_it_delivers_everything_and_writes_nothing(
    control_plane: Cluster, namespace: str, crds_installed: None
) -> None:
    before = create(control_plane, namespace, "before")
    async with watching(control_plane, [namespace]) as (watch, seen):
        await seen.wait_for(ROLLOUTS, None, f"{namespace}/before")
        assert watch.crds_seen
        assert watch.problems() == []
        during = create(control_plane, namespace, "during")
        await seen.wait_for(ROLLOUTS, "ADDED", f"{namespace}/during")
        during["metadata"]["labels"] = {"changed": "yes"}
        status, changed = control_plane.request("PUT", path(namespace, "during"), during)
        assert status == 200, changed
        await seen.wait_for(ROLLOUTS, "MODIFIED", f"{namespace}/during")
        _, now = control_plane.request("GET", path(namespace, "before"))
        assert now == before, "an object that we only watched has changed"
        _, now = control_plane.request("GET", path(namespace, "during"))
        assert now == changed, "an object that we only watched has changed"
        control_plane.request("DELETE", path(namespace, "during"))
        await seen.wait_for(ROLLOUTS, "DELETED", f"{namespace}/during")
    _, events = control_plane.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    assert events["items"] == []


async def test_a_list_of_namespaces_excludes_others_and_still_includes_cluster_scoped_objects(
    control_plane: Cluster, namespace: str, crds_installed: None
) -> None:
    create(control_plane, "default", f"not-{namespace}")
    create(control_plane, namespace, "a")
    control_plane.request("POST", PROVIDERS_PATH, provider(namespace))
    try:
        async with watching(control_plane, [namespace, "does-not-exist"]) as (_, seen):
            await seen.wait_for(ROLLOUTS, None, f"{namespace}/a")
            await seen.wait_for(PROVIDERS, None, f"/{namespace}")
            assert (ROLLOUTS, None, f"default/not-{namespace}") not in seen.events
    finally:
        control_plane.request("DELETE", path("default", f"not-{namespace}"))
        control_plane.request("DELETE", f"{PROVIDERS_PATH}/{namespace}")


async def test_it_waits_for_the_crds_and_survives_an_outage(own_control_plane: ControlPlane) -> None:
    async with watching(own_control_plane) as (watch, seen):
        await asyncio.sleep(1)
        assert not watch.crds_seen
        await asyncio.to_thread(own_control_plane.install_crds, CRDS)
        await wait_for_async(lambda: watch.crds_seen)
        create(own_control_plane, "default", "one")
        # Before the restart: listed or added, as it comes.
        await wait_for_async(lambda: "default/one" in {name for _, _, name in seen.events})
        await asyncio.to_thread(own_control_plane.restart_apiserver, 1.0)
        create(own_control_plane, "default", "two")
        await wait_for_async(lambda: "default/two" in {name for _, _, name in seen.events}, 40)
        assert watch.problems() == []


async def test_it_stops_while_the_api_server_is_away(own_control_plane: ControlPlane) -> None:
    await asyncio.to_thread(own_control_plane.install_crds, CRDS)
    async with watching(own_control_plane) as (watch, _):
        await wait_for_async(lambda: watch.crds_seen)
        own_control_plane.stop_apiserver()
        await asyncio.sleep(1)


async def test_a_restart_lists_everything_again(control_plane: Cluster, namespace: str, crds_installed: None) -> None:
    create(control_plane, namespace, "a")
    async with watching(control_plane, [namespace]) as (watch, seen):
        await seen.wait_for(ROLLOUTS, None, f"{namespace}/a")
        seen.events.clear()
        watch.restart("the test wants it")
        await seen.wait_for(ROLLOUTS, None, f"{namespace}/a")
        assert seen.restarts == 1


async def test_the_sweeper_finds_what_the_watch_did_not_deliver(
    control_plane: Cluster, namespace: str, crds_installed: None
) -> None:
    inventory, woken = Inventory(), []
    for name in ("stays", "goes", "changes"):
        create(control_plane, namespace, name)
    async with Api(connection(control_plane)) as api:
        sweeper = Sweeper(api, inventory, namespaces=[namespace], wake=woken.append, restart_watch=lambda _: None)
        await sweeper.load()
        assert inventory.synced
        assert sorted(woken) == [(namespace, "changes"), (namespace, "goes"), (namespace, "stays")]
        woken.clear()
        assert await sweeper.sweep() == 0
        control_plane.request("DELETE", path(namespace, "goes"))
        create(control_plane, namespace, "comes")
        changed = dict(inventory.get(ROLLOUTS, namespace, "changes") or {})
        changed["metadata"] = {**changed["metadata"], "labels": {"a": "b"}}
        control_plane.request("PUT", path(namespace, "changes"), changed)
        assert await sweeper.sweep() == 3
        assert sorted(woken) == [(namespace, "changes"), (namespace, "comes"), (namespace, "goes")]
        assert await sweeper.sweep() == 0
