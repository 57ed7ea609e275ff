"""L10: one metric source hangs in 200 rollouts; others find a regression within an interval all the same.

On a real socket, real time, with the real scheduler and reconciler: only the database is in memory.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from feature_rollout.api.resolve_metrics import PrometheusQuery
from feature_rollout.core.looks import Window
from feature_rollout.core.plan import MetricType, OnDelete, Plan, Severity
from feature_rollout.metrics.hub import RoutedSource
from feature_rollout.metrics.prometheus import QUERIES_AT_A_TIME, Prometheus, PrometheusMetricSource
from feature_rollout.reconcile import Reconciler, Target
from feature_rollout.runtime.engine import SystemClock
from feature_rollout.runtime.scheduler import Scheduler
from support.fakeprometheus import FakePrometheus
from support.fakes import (
    OFF,
    FakeObjects,
    FakeSource,
    FakeStore,
    FakeTelemetry,
    above,
    minutes,
    plan,
    ratio,
    row,
    stage,
)
from support.waiting import wait_for_async

HUNG = 200
# Long for a machine, however slow; the bound is one of it.
INTERVAL = timedelta(seconds=10)
PLAN: Plan = plan(
    stage("ten", ("bell", 10), bake=minutes(60)),
    metrics=[ratio(interval=INTERVAL)],
    rows=[row(Severity.HIGH, above())],
)


class Cluster:
    """Rollouts on one reconciler and one scheduler, each with its own database."""

    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.scheduler: Scheduler[tuple[str, str]] = Scheduler()
        self.reconciler = Reconciler(
            self.objects, SystemClock(), FakeTelemetry(), lambda *key, urgent=False: self.scheduler.wake(key)
        )
        self.targets: dict[tuple[str, str], tuple[Target, FakeStore]] = {}

    def add(self, name: str, source: Any) -> FakeStore:
        store = FakeStore(SystemClock().now, bell=OFF)
        metadata = {"uid": name, "namespace": "shop", "name": name, "generation": 1, "finalizers": []}
        self.objects.rollouts[name] = {"metadata": metadata}
        target = Target(self.objects.rollouts[name], f"c/shop/{name}", OnDelete.KEEP, PLAN, store=store, source=source)
        self.targets["shop", name] = target, store
        self.scheduler.wake(("shop", name))
        return store

    async def work(self, key: tuple[str, str]) -> float | None:
        due = await self.reconciler.reconcile(self.targets[key][0])
        return due.total_seconds() if due is not None else None


async def test_others_detect_within_an_interval() -> None:
    cluster = Cluster()
    harm: datetime | None = None

    def answer(_metric: str, window: Window) -> dict[str, float]:
        is_bad = harm is not None and window.end > harm
        return {"events": 100.0 if is_bad else 0.0, "units": 200.0}

    async with FakePrometheus() as server:
        server.answer = server.hang
        client = Prometheus(server.url)
        running = asyncio.create_task(cluster.scheduler.run(cluster.work))
        healthy = cluster.add("healthy", FakeSource(answer=answer))
        for number in range(HUNG):
            query = PrometheusQuery("p", MetricType.RATIO, events=f"bad{number}", units=f"all{number}")
            hanging = PrometheusMetricSource(lambda _: client, {"errors": query})
            cluster.add(f"hung-{number}", RoutedSource({"errors": hanging}))
        await wait_for_async(lambda: healthy.rows["bell"].percentage == 10, 60.0)
        await server.wait_calls(QUERIES_AT_A_TIME)
        harm = datetime.now(UTC)
        await wait_for_async(lambda: healthy.rows["bell"].is_off, 60.0)
        acted = datetime.now(UTC)
        # The window in which the harm began ends within one interval; then it takes at most another.
        assert acted - harm <= 2 * INTERVAL
        # Those that hang were neither raised nor lowered.
        assert {store.rows["bell"] for _, store in cluster.targets.values() if store is not healthy} == {OFF}
        await cluster.scheduler.drain(5.0)
        for _, name in cluster.targets:
            cluster.reconciler.forget(name)
        await running
        await client.close()
