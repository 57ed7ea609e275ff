"""What every API server does to rollouts, and `RolloutObjects` with it: one suite, on the simulation's and a real one.

| subject | cases |
|---|---|
| finalizer | added and removed once, over changes by others; another object's, with a deletion, when all is gone |
| status | the whole of it, under the resourceVersion; the same again; changed, recreated and gone objects |
| objects | what makes a generation, what makes a resourceVersion; deletion waits for the finalizer |
| watch | every change once, in order |
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contract.api_servers import NAME, Kubernetes, Memory, Object, Side
from contract.kube_objects import CRDS, connection
from feature_rollout.kube.client import Api
from feature_rollout.kube.rollouts import FINALIZER
from feature_rollout.ports import Problem
from feature_rollout.sandbox.cluster import Cluster

STATUS = {"observedGeneration": 1, "phase": "Baking"}


@pytest.fixture(params=["memory", "kubernetes"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    if request.param == "memory":
        yield Memory()
        return
    cluster: Cluster = request.getfixturevalue("control_plane")
    cluster.install_crds(CRDS)
    async with Api(connection(cluster)) as api:
        side = Kubernetes(cluster, request.getfixturevalue("namespace"), api)
        yield side
        await side.close()


def version(obj: Object | None) -> int:
    assert obj is not None
    return int(obj["metadata"]["resourceVersion"])


def finalizers(obj: Object | None) -> list[str]:
    assert obj is not None
    return obj["metadata"].get("finalizers") or []


async def refused(side: Side, what: Object, *, add: bool) -> str:
    with pytest.raises(Problem) as caught:
        await (side.objects.add_finalizer(what) if add else side.objects.remove_finalizer(what))
    assert not caught.value.stalled
    return caught.value.reason


async def test_an_object_is_read_as_it_is(side: Side) -> None:
    assert await side.objects.fresh(side.namespace, NAME) is None
    made = side.create()
    assert await side.objects.fresh(side.namespace, NAME) == made
    assert await side.objects.fresh(side.namespace, NAME) == side.get() != side.annotate()


async def test_a_finalizer_is_added_and_removed_once_whatever_others_do(side: Side) -> None:
    made = side.create()
    side.annotate()
    await side.objects.add_finalizer(made)
    held = side.get()
    assert finalizers(held) == [FINALIZER]
    await side.objects.add_finalizer(made)
    assert held is not None
    await side.objects.add_finalizer(held)
    assert version(side.get()) == version(held)
    await side.objects.remove_finalizer(made)
    assert finalizers(side.get()) == [FINALIZER], "it had none when that was decided"
    side.edit()
    await side.objects.remove_finalizer(held)
    await side.objects.remove_finalizer(held)
    assert finalizers(side.get()) == []


async def test_another_objects_finalizer_is_its_own(side: Side) -> None:
    made = side.create()
    await side.objects.add_finalizer(made)
    held = side.get()
    other = side.recreate()
    assert held is not None
    assert other["metadata"]["uid"] != made["metadata"]["uid"]
    assert await refused(side, made, add=True) == "ApiServerUnavailable"
    await side.objects.add_finalizer(other)
    await side.objects.remove_finalizer(held)
    assert finalizers(side.get()) == [FINALIZER]


async def test_an_object_goes_with_its_finalizer(side: Side) -> None:
    made = side.create()
    await side.objects.add_finalizer(made)
    side.delete()
    deleted = side.get()
    assert deleted is not None
    assert deleted["metadata"]["deletionTimestamp"]
    assert deleted["metadata"]["generation"] == made["metadata"]["generation"] + 1
    side.delete()
    assert version(side.get()) == version(deleted)
    await side.objects.remove_finalizer(deleted)
    assert side.get() is None
    await side.objects.remove_finalizer(deleted)
    assert await refused(side, made, add=True) == "ApiServerUnavailable"
    assert side.get() is None


async def test_an_object_without_a_finalizer_goes_at_once(side: Side) -> None:
    side.create()
    side.delete()
    assert side.get() is None


async def test_a_status_is_the_whole_of_it_and_makes_no_generation(side: Side) -> None:
    made = side.create()
    await side.objects.write_status(made, {**STATUS, "attempt": 2})
    await side.settle()
    first = side.get()
    assert first is not None
    assert (first["status"], first["metadata"]["generation"]) == ({**STATUS, "attempt": 2}, 1)
    assert version(first) > version(made)
    await side.objects.write_status(first, STATUS)
    await side.settle()
    second = side.get()
    assert second is not None
    assert second["status"] == STATUS
    await side.objects.write_status(second, STATUS)
    await side.settle()
    assert (version(side.get()), side.lost) == (version(second), [])


async def test_a_status_of_what_has_changed_since_is_lost(side: Side) -> None:
    made = side.create()
    side.annotate()
    await side.objects.write_status(made, STATUS)
    await side.settle()
    found = side.get()
    assert found is not None
    assert (found["status"], side.lost) == ({"observedGeneration": -1}, [made["metadata"]["uid"]])


async def test_a_status_is_not_written_to_another_object_of_the_name(side: Side) -> None:
    made = side.create()
    other = side.recreate()
    await side.objects.write_status(made, STATUS)
    await side.settle()
    assert (version(side.get()), side.lost) == (version(other), [made["metadata"]["uid"]])


async def test_a_status_of_what_is_gone_makes_nothing(side: Side) -> None:
    made = side.create()
    side.delete()
    await side.objects.write_status(made, STATUS)
    await side.settle()
    assert (side.get(), side.lost) == (None, [])


async def test_the_newest_status_is_written_last(side: Side) -> None:
    made = side.create()
    for phase in ("Preflight", "Baking", "Completed"):
        await side.objects.write_status(made, {**STATUS, "phase": phase})
    await side.settle()
    found = side.get()
    assert found is not None
    assert found["status"]["phase"] == "Completed" or side.lost == [made["metadata"]["uid"]]


async def test_the_watch_says_everything_once_and_in_order(side: Side) -> None:
    made = side.create()
    await side.objects.add_finalizer(made)
    edited = side.edit()
    side.edit()
    await side.objects.write_status(edited, STATUS)
    await side.settle()
    noted = side.annotate()
    side.delete()
    await side.objects.remove_finalizer(noted)
    other = side.create()
    events = side.watched()
    assert [event for event, _ in events] == ["ADDED", *["MODIFIED"] * 5, "DELETED", "ADDED"]
    versions = [version(obj) for _, obj in events]
    assert versions == sorted(set(versions))
    assert [obj["metadata"]["generation"] for _, obj in events] == [1, 1, 2, 2, 2, 3, 3, 1]
    assert events[-1][1]["metadata"]["uid"] == other["metadata"]["uid"] != made["metadata"]["uid"]
    assert [(obj.get("status") or {}).get("phase") for _, obj in events[2:5]] == [None, "Baking", "Baking"]
