"""The sweeper on a fake API: what it does about objects that it cannot be sure of, and about a watch that is behind."""

import asyncio
from contextlib import suppress
from typing import Any

from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.errors import ApiUnavailable
from feature_rollout.kube.resources import PROVIDERS, RESOURCES, ROLLOUTS
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.sweeper import Sweeper
from support.waiting import wait_for_async

A = ("shop", "a")


class FakeApi(Api):
    """Holds objects; a listing may miss some of them."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(Connection())
        self.objects = {obj["metadata"]["name"]: obj for obj in objects}
        self.unlisted: set[str] = set()
        self.down = False
        self.lists: list[tuple[str, str | None]] = []

    async def get(self, plural: str, namespace: str | None, name: str, *, timeout_s: float = 10) -> Any:
        if self.down:
            raise ApiUnavailable("GET", 503)
        return self.objects.get(name)

    async def list(self, plural: str, namespace: str | None = None) -> Any:
        self.lists.append((plural, namespace))
        if self.down:
            raise ApiUnavailable("GET", 503)
        found = self.objects.items() if plural == ROLLOUTS else ()
        return [obj for name, obj in found if name not in self.unlisted], "1"

    async def list_metadata(self, plural: str, namespace: str | None = None) -> Any:
        return await self.list(plural, namespace)


def rollout(name: str, version: int, uid: str = "u") -> dict[str, Any]:
    versions = {"resourceVersion": str(version), "generation": version}
    return {"metadata": {"namespace": "shop", "name": name, "uid": uid, **versions}}


def sweeper(api: Api, inventory: Inventory, **kwargs: Any) -> tuple[Sweeper, list[Any], list[str]]:
    woken: list[Any] = []
    restarts: list[str] = []
    made = Sweeper(api, inventory, wake=woken.append, restart_watch=restarts.append, **kwargs)
    return made, woken, restarts


async def test_an_object_that_is_only_missing_from_the_list_stays() -> None:
    api, inventory = FakeApi(rollout("a", 1)), Inventory()
    sweep, woken, _ = sweeper(api, inventory)
    await sweep.load()
    woken.clear()
    api.unlisted = {"a"}
    assert await sweep.sweep() == 0
    assert inventory.rollouts() == {A}
    del api.objects["a"]
    assert await sweep.sweep() == 1
    assert inventory.rollouts() == set()
    assert woken == [A]


async def test_another_uid_under_the_name_is_taken() -> None:
    api, inventory = FakeApi(rollout("a", 1, "old")), Inventory()
    sweep, woken, _ = sweeper(api, inventory)
    await sweep.load()
    woken.clear()
    api.objects["a"] = rollout("a", 5, "new")
    assert await sweep.sweep() == 1
    found = inventory.get(ROLLOUTS, *A)
    assert found is not None
    assert found["metadata"]["uid"] == "new"
    assert woken == [A]


async def test_versions_that_went_back_are_taken() -> None:
    api, inventory = FakeApi(rollout("a", 100)), Inventory()
    sweep, _, _ = sweeper(api, inventory)
    await sweep.load()
    api.objects["a"] = rollout("a", 50)
    assert await sweep.sweep() == 1
    assert await sweep.sweep() == 0
    assert inventory.offer(ROLLOUTS, "MODIFIED", rollout("a", 51)) == {A}


async def test_namespaces_are_listed_one_by_one_and_cluster_scoped_kinds_once() -> None:
    api = FakeApi()
    sweep, _, _ = sweeper(api, Inventory(), namespaces=["shop", "billing"])
    await sweep.load()
    assert len(api.lists) == 2 * (len(RESOURCES) - 1) + 1
    assert (PROVIDERS, None) in api.lists
    assert (ROLLOUTS, "billing") in api.lists


async def test_a_watch_that_is_behind_is_restarted_and_an_outage_ends_nothing() -> None:
    api, inventory = FakeApi(rollout("a", 1)), Inventory()
    sweep, _, restarts = sweeper(api, inventory, interval_s=0.01, owed_s_max=0.05)
    await sweep.load()
    inventory.offer(ROLLOUTS, None, rollout("a", 1))
    api.down = True
    task = asyncio.create_task(sweep.run())
    await asyncio.sleep(0.03)
    assert not restarts
    api.down = False
    api.objects["a"] = rollout("a", 2)
    await wait_for_async(lambda: bool(restarts), 2)
    assert inventory.offer(ROLLOUTS, "MODIFIED", rollout("a", 2)) == set()
    seen = len(restarts)
    await asyncio.sleep(0.1)
    assert len(restarts) == seen
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
