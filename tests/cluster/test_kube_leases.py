"""The Lease on the real API server.

| what | when | then |
|---|---|---|
| read | there is none | None |
| created | there is one already | Stale, nothing written |
| renewed | it is as it was read | the new resourceVersion is known: the next renewal needs no reading |
| | somebody else wrote it since | Stale, nothing written |
| given up | | no holder; the next one counts a transition |
| labels | of others | stay |
| asked for | by another replica | its holder's renewal is Stale; it reads who has asked |
| shards | more than one | said by an annotation, which goes when there is only one; nonsense says one |
| no right, no namespace | | PermissionDenied, Gone |
| an answer that is late | | ApiUnavailable after the time that was given |
"""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.kube_objects import connection
from feature_rollout.core.election import Lease, Standing, Times
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.errors import ApiUnavailable, Gone, PermissionDenied, Stale
from feature_rollout.kube.leases import KubeLease, micro_time
from feature_rollout.sandbox.cluster import Cluster
from support import network
from support.network import Network

NAME = "feature-rollout-operator"


@pytest.fixture
async def api(control_plane: Cluster) -> AsyncIterator[Api]:
    async with Api(connection(control_plane)) as api:
        yield api


@pytest.fixture
def lease(api: Api, namespace: str) -> KubeLease:
    return KubeLease(api, namespace, NAME)


def now() -> str:
    return micro_time(datetime.now(UTC))


def standing(me: str, lease: Lease | None = None) -> Standing:
    return Standing(me, Times(), 0.0, lease)


def stored(control_plane: Cluster, namespace: str) -> Any:
    return control_plane.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}")[1]


async def test_it_is_created_once(lease: KubeLease, control_plane: Cluster, namespace: str) -> None:
    assert await lease.get(5) is None
    at = now()
    made = await lease.write(standing("a").wanted(at), 5)
    assert made == Lease("a", 15, at, at, 0)
    assert await lease.get(5) == made
    with pytest.raises(Stale):
        await lease.write(standing("b").wanted(now()), 5)
    assert stored(control_plane, namespace)["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": at,
        "renewTime": at,
        "leaseTransitions": 0,
    }


async def test_it_is_renewed_without_being_read(lease: KubeLease) -> None:
    made = await lease.write(standing("a").wanted(now()), 5)
    for _ in range(3):
        made = await lease.write(standing("a", made).wanted(now()), 5)
    assert (await lease.get(5), made.transitions) == (made, 0)


async def test_only_one_of_two_takes_it(lease: KubeLease) -> None:
    made = await lease.write(standing("a").wanted(now()), 5)
    taken = await lease.write(standing("b", made).wanted(now()), 5)
    assert (taken.holder, taken.transitions) == ("b", 1)
    for late in ("a", "c"):
        with pytest.raises(Stale):
            await lease.write(standing(late, made).wanted(now()), 5)
    assert await lease.get(5) == taken


async def test_it_is_given_up(lease: KubeLease) -> None:
    made = await lease.write(standing("a").wanted(now()), 5)
    released = await lease.write(standing("a", made).wanted(now(), released=True), 5)
    assert (released.holder, released.duration_s) == ("", 1)
    taken = await lease.write(standing("b", await lease.get(5)).wanted(now()), 5)
    assert (taken.holder, taken.transitions, taken.duration_s) == ("b", 1, 15)


async def test_what_others_have_written_stays(lease: KubeLease, control_plane: Cluster, namespace: str) -> None:
    made = await lease.write(standing("a").wanted(now()), 5)
    control_plane.kubectl("label", "lease", NAME, "-n", namespace, "team=checkout")
    with pytest.raises(Stale):
        await lease.write(standing("a", made).wanted(now()), 5)
    seen = await lease.get(5)
    assert seen == made, "a label says nothing about who leads"
    await lease.write(standing("a", seen).wanted(now()), 5)
    assert stored(control_plane, namespace)["metadata"]["labels"] == {"team": "checkout"}


async def test_who_has_asked_for_it_and_how_many_shards_there_are(
    lease: KubeLease, control_plane: Cluster, namespace: str
) -> None:
    def annotations() -> Any:
        return stored(control_plane, namespace)["metadata"].get("annotations", {})

    made = await lease.write(replace(standing("a"), shards=3).wanted(now()), 5)
    assert (made.shards, annotations()) == (3, {"featurerollout.dev/shards": "3"})
    control_plane.kubectl("annotate", "lease", NAME, "-n", namespace, "team=")
    seen = await lease.get(5)
    asked = await lease.write(standing("b", seen).asking(), 5)
    assert (asked, asked.wanted_by) == (made, "b"), "its holder and its times are as they were"
    with pytest.raises(Stale):
        await lease.write(standing("a", seen).wanted(now()), 5)
    released = await lease.write(standing("a", await lease.get(5)).wanted(now(), released=True), 5)
    assert (released.holder, released.wanted_by, released.shards) == ("", "b", 3)
    taken = await lease.write(standing("b", await lease.get(5)).wanted(now()), 5)
    assert (taken.holder, taken.wanted_by, taken.shards) == ("b", "", 1)
    assert annotations() == {"team": ""}, "what others have written stays"
    control_plane.kubectl("annotate", "lease", NAME, "-n", namespace, "featurerollout.dev/shards=many")
    nonsense = await lease.get(5)
    assert nonsense is not None
    assert nonsense.shards == 1


async def test_one_without_any_time_can_be_read_and_taken(
    lease: KubeLease, control_plane: Cluster, namespace: str
) -> None:
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    assert control_plane.request("POST", path, body)[0] == 201
    seen = await lease.get(5)
    assert seen == Lease("", 0.0)
    assert (await lease.write(standing("a", seen).wanted(now()), 5)).holder == "a"


async def test_no_right_and_no_namespace(api: Api, control_plane: Cluster, namespace: str) -> None:
    with pytest.raises(Gone):
        await KubeLease(api, f"{namespace}-not", NAME).write(standing("a").wanted(now()), 5)
    control_plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    nobody = control_plane.service_account_kubeconfig(namespace, "nobody")
    async with Api(replace(connection(control_plane), kubeconfig=str(nobody))) as other:
        with pytest.raises(PermissionDenied):
            await KubeLease(other, namespace, NAME).get(5)
        with pytest.raises(PermissionDenied):
            await KubeLease(other, namespace, NAME).write(standing("a").wanted(now()), 5)


async def test_an_answer_that_is_late_is_none(
    lease: KubeLease, control_plane: Cluster, namespace: str, tmp_path: Path
) -> None:
    made = await lease.write(standing("a").wanted(now()), 5)
    async with Network.to(network.port_of(control_plane)) as net:
        behind = network.through(net.port, control_plane.kubeconfig(), control_plane, tmp_path)
        async with Api(Connection(kubeconfig=str(behind))) as api:
            far = KubeLease(api, namespace, NAME)
            assert await far.get(5) == made
            net.arm("idle", "deaf")
            begun_s = time.monotonic()
            with pytest.raises(ApiUnavailable):
                await far.write(standing("a", made).wanted(now()), 0.2)
            assert time.monotonic() - begun_s < 5.0
            net.heal()
            # It was written all the same: whoever holds it learns that by reading it.
            with pytest.raises(Stale):
                await far.write(standing("a", made).wanted(now()), 5)
            assert (await far.get(5)) != made
