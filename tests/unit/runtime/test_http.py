import asyncio
import time
from contextlib import suppress

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_rollout.runtime import http as module
from feature_rollout.runtime.figures import FAMILIES, PREFIX
from feature_rollout.runtime.http import Heartbeat, HttpServer
from feature_rollout.runtime.telemetry import Telemetry
from support.waiting import wait_for_async

NAMES = {
    "featurerollout_looks",
    "featurerollout_reconcile_seconds",
    "featurerollout_queue_depth",
    "featurerollout_queue_wait_seconds",
    "featurerollout_loop_lag_seconds",
    "featurerollout_reverts_late",
    "featurerollout_rollouts_exposed",
    "featurerollout_rollout_conditions",
    "featurerollout_reverts",
    "featurerollout_time_to_revert_seconds",
    "featurerollout_look_to_revert_seconds",
    "featurerollout_rollouts",
    "featurerollout_api_requests",
    "featurerollout_api_request_seconds",
    "featurerollout_database_seconds",
    "featurerollout_invariant_violations",
    "featurerollout_watch_restarts",
    "featurerollout_events_dropped",
    "featurerollout_leader",
    "featurerollout_shards",
    "featurerollout_role_changes",
    "featurerollout_notifications",
    "featurerollout_notifications_waiting",
    "featurerollout_outbox_age_seconds",
}
NAMES |= {PREFIX + name for name, *_ in FAMILIES}


async def test_it_answers_what_is_wrong() -> None:
    telemetry, live, ready = Telemetry(), list[str](), ["the CRDs are missing"]
    telemetry.api_request("GET", "200", 0.02)
    server = HttpServer(host="127.0.0.1", port=0, registry=telemetry.registry, live=lambda: live, ready=lambda: ready)
    await server.start()
    base = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/livez") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(f"{base}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "the CRDs are missing\n")
        ready.clear()
        async with session.get(f"{base}/readyz") as answer:
            assert answer.status == 200
        async with session.get(f"{base}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            found = text_string_to_metric_families(await answer.text())
    await server.stop()
    families = {family.name: family for family in found if not family.name.endswith("_created")}
    assert set(families) == NAMES
    calls = [sample for sample in families["featurerollout_api_requests"].samples if sample.name.endswith("_total")]
    assert [(sample.labels, sample.value) for sample in calls] == [({"verb": "GET", "code": "200"}, 1.0)]


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind() -> None:
    first = HttpServer(host="127.0.0.1", port=0, registry=Telemetry().registry, live=list, ready=list)
    await first.start()
    second = HttpServer(host="127.0.0.1", port=first.port, registry=Telemetry().registry, live=list, ready=list)
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await first.stop()
    await second.stop()


async def test_two_telemetries_share_nothing() -> None:
    one, other = Telemetry(), Telemetry()
    one.watch_restarts.inc()
    assert other.registry.get_sample_value("featurerollout_watch_restarts_total") == 0.0


async def test_the_heartbeat_measures_how_late_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    lags: list[float] = []
    task = asyncio.create_task(Heartbeat(lags.append).run())
    await wait_for_async(lambda: lags)
    # Nothing else has its turn meanwhile.
    time.sleep(0.5)  # noqa: ASYNC251 - that is what is measured
    await wait_for_async(lambda: max(lags) >= 0.4)
    assert min(lags) >= 0
    task.cancel()


async def test_the_heartbeat_tells_of_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat(lambda _: None)
    assert heartbeat.problems()
    task = asyncio.create_task(heartbeat.run())
    await asyncio.sleep(0.01)
    assert heartbeat.problems() == []
    monkeypatch.setattr(module, "SILENCE_S_MAX", 0.005)
    await asyncio.sleep(0.02)
    assert heartbeat.problems() != []
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
