"""The two API servers that one suite is run on, with a process's `RolloutObjects`: the simulation's, and a real one.

A `Side` is what people do to the objects there, and what the watch has said of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Protocol

from contract.kube_objects import create, path
from feature_rollout.kube.client import Api
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.resources import ROLLOUTS
from feature_rollout.kube.rollouts import KubeRollouts
from feature_rollout.ports import RolloutObjects
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.objects import BackgroundObjects
from feature_rollout.sandbox.cluster import Cluster
from simulation.cluster import NAMESPACE
from simulation.cluster import Cluster as MemoryCluster
from simulation.objects import MemoryObjects
from support.waiting import wait_for

NAME = "bell"
Object = Mapping[str, Any]


class Side(Protocol):
    """`lost` are the UIDs of objects whose status could not be written, because they had changed."""

    objects: RolloutObjects
    lost: list[str]
    namespace: str

    def create(self) -> Object: ...

    def get(self) -> Object | None: ...

    def edit(self) -> Object:
        """Another spec."""

    def annotate(self) -> Object: ...

    def delete(self) -> None: ...

    def recreate(self) -> Object:
        """Another object of the same name; that there was one is not waited for."""

    async def settle(self) -> None:
        """Until every status is written."""

    def watched(self) -> list[tuple[str, Object]]:
        """Every event since the first object was made, with the object as it was then."""

    async def close(self) -> None: ...


class Memory:
    """`Side` in memory. It stands for the replica that `MemoryObjects` belongs to: nothing is ever in its way."""

    def __init__(self) -> None:
        self.namespace = NAMESPACE
        self.lost: list[str] = []
        self.inventory = Inventory()
        self._cluster = MemoryCluster(lambda: datetime(2026, 1, 5, 9, tzinfo=UTC))
        self._cluster.watch = lambda _plural, event, obj: self._events.append((event, obj))
        self._events: list[tuple[str, Object]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        witness = SimpleNamespace(read_object=lambda *_: None, said=lambda _: None)
        self.world = SimpleNamespace(cluster=self._cluster, witness=witness)
        replica: Any = self
        self.objects = MemoryObjects(replica)

    def note(self, what: str) -> None:
        pass

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def status_lost(self, uid: str, _name: str) -> None:
        self.lost.append(uid)

    async def ask_api(self, _what: str, work: Callable[[bool], Any]) -> Any:
        return work(False)

    async def tell_api(self, _what: str, work: Callable[[], Any]) -> Any:
        return work()

    def create(self) -> Object:
        return self._cluster.apply(NAME, {"plan": "bell-1"})

    def get(self) -> Object | None:
        return self._cluster.get(ROLLOUTS, NAME)

    def edit(self) -> Object:
        return self._cluster.apply(NAME, {"plan": "bell-1", "suspend": True})

    def annotate(self) -> Object:
        found = self._cluster.objects[ROLLOUTS][NAME]
        return self._cluster.apply(NAME, found["spec"], note="again")

    def delete(self) -> None:
        self._cluster.delete(NAME)

    def recreate(self) -> Object:
        self._cluster.rebuild(NAME)
        return self._cluster.objects[ROLLOUTS][NAME]

    async def settle(self) -> None:
        while self._tasks:
            await self._tasks.pop()

    def watched(self) -> list[tuple[str, Object]]:
        return list(self._events)

    async def close(self) -> None:
        pass


class Kubernetes:
    """`Side` on a real API server."""

    def __init__(self, cluster: Cluster, namespace: str, api: Api) -> None:
        self.namespace = namespace
        self.lost: list[str] = []
        self._cluster = cluster
        self._since = ""
        rollouts = KubeRollouts(api, EventRecorder(api))
        self.objects = BackgroundObjects(rollouts, self._lost, lambda *_: None, self._at_once)
        self._writing = asyncio.get_running_loop().create_task(self.objects.run())

    def _lost(self, uid: str, _namespace: str, _name: str) -> None:
        self.lost.append(uid)

    async def _at_once(self, _waited_s: float) -> None:
        """No row has to be written first."""

    def create(self) -> Object:
        # A server that has just been given the CRDs may not serve them yet.
        listed = wait_for(self._listed, 30.0, "a listing")
        self._since = self._since or listed["metadata"]["resourceVersion"]
        return create(self._cluster, self.namespace, NAME)

    def _listed(self) -> Object | None:
        status, listed = self._cluster.request("GET", path(self.namespace))
        return listed if status == 200 else None

    def get(self) -> Object | None:
        status, found = self._cluster.request("GET", path(self.namespace, NAME))
        return found if status == 200 else None

    def edit(self) -> Object:
        return self._merged({"spec": {"suspend": True}})

    def annotate(self) -> Object:
        return self._merged({"metadata": {"annotations": {"applied": "again"}}})

    def delete(self) -> None:
        status, answer = self._cluster.request("DELETE", path(self.namespace, NAME))
        assert status == 200, answer

    def recreate(self) -> Object:
        self._merged({"metadata": {"finalizers": None}})
        self.delete()
        return self.create()

    async def settle(self) -> None:
        assert await self.objects.drain(30)

    def watched(self) -> list[tuple[str, Object]]:
        """The server ends the watch after a second, in which it sends all that has been."""
        connection = self._cluster._connection()
        query = f"watch=true&resourceVersion={self._since}&timeoutSeconds=1"
        token = {"Authorization": f"Bearer {self._cluster._token('admin')}"}
        connection.request("GET", f"{path(self.namespace)}?{query}", headers=token)
        lines = connection.getresponse().read().splitlines()
        connection.close()
        return [(event["type"], event["object"]) for event in map(json.loads, lines)]

    async def close(self) -> None:
        self._writing.cancel()

    def _merged(self, patch: Mapping[str, Any]) -> Object:
        headers = {"Content-Type": "application/merge-patch+json"}
        status, answer = self._cluster.request("PATCH", path(self.namespace, NAME), patch, headers=headers)
        assert status == 200, answer
        return dict(answer)
