"""Events on the real API server: one for what is said once, a series for what is repeated, none lost in an outage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from contract.kube_objects import connection, create
from feature_rollout.kube.client import Api
from feature_rollout.kube.events import EventRecorder
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane


@asynccontextmanager
async def recording(cluster: Cluster) -> AsyncIterator[EventRecorder]:
    async with Api(connection(cluster)) as api:
        recorder = EventRecorder(api, instance="test-1")
        task = asyncio.create_task(recorder.run())
        yield recorder
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def events(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    _, answer = cluster.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    return list(answer["items"])


def say(recorder: EventRecorder, obj: dict[str, Any], note: str) -> None:
    recorder.record(obj, kind="Warning", reason="RolledBack", action="DisableFlags", note=note)


async def test_repeats_become_a_series(control_plane: Cluster, namespace: str, crds_installed: None) -> None:
    made = create(control_plane, namespace, "a")
    async with recording(control_plane) as recorder:
        say(recorder, made, "error-rate is 4 %")
        assert await recorder.drain(5)
        for _ in range(4):
            say(recorder, made, "error-rate is 4 %")
        say(recorder, made, "something else")
        assert await recorder.drain(5)
    first, second = sorted(events(control_plane, namespace), key=lambda event: str(event["note"]))
    assert first["note"] == "error-rate is 4 %"
    assert first["series"]["count"] == 5
    assert first["regarding"]["uid"] == made["metadata"]["uid"]
    assert first["regarding"]["kind"] == "FeatureRollout"
    assert first["reportingController"] == "featurerollout.dev/operator"
    assert first["type"] == "Warning"
    assert second["note"] == "something else"
    assert "series" not in second


async def test_an_outage_delays_them_and_loses_none(own_control_plane: ControlPlane) -> None:
    about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": "u-1"}}
    async with recording(own_control_plane) as recorder:
        own_control_plane.stop_apiserver()
        for number in range(5):
            say(recorder, about, f"number {number}")
        assert not await recorder.drain(1)
        await asyncio.to_thread(own_control_plane.start_apiserver)
        assert await recorder.drain(15)
    notes = sorted(event["note"] for event in events(own_control_plane, "default"))
    assert [note for note in notes if note.startswith("number")] == [f"number {number}" for number in range(5)]
