"""The engine: from an event of the watch to a reconcile, and what runs beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from feature_rollout.kube.resources import ACTIONS, PROVIDERS, ROLLOUTS, STORES
from feature_rollout.reconcile import Reconciler
from feature_rollout.runtime.answers import Answers
from feature_rollout.runtime.inventory import Inventory, RolloutKey
from feature_rollout.runtime.providers import Providers
from feature_rollout.runtime.scheduler import Scheduler
from feature_rollout.runtime.stores import Stores
from feature_rollout.runtime.targets import Targets
from feature_rollout.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

# A crash forgets at most this much of what was measured; the windows are then asked for again.
CHECKPOINT_S = 5.0


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Counts:
    """`reconcile.Telemetry` on Prometheus metrics."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def looked(self, verdict: str) -> None:
        self._telemetry.looks.labels(verdict).inc()

    def reverted(self, severity: str, seconds: float, look_to_commit_s: float | None, *, late: bool) -> None:
        self._telemetry.reverts.labels(severity).inc()
        if late:
            self._telemetry.reverts_late.labels(severity).inc()
        self._telemetry.time_to_revert_seconds.observe(max(seconds, 0.0))
        if look_to_commit_s is not None:
            self._telemetry.look_to_revert_seconds.observe(look_to_commit_s)
            log.info("a %s revert was committed %.1f ms after its look was answered", severity, look_to_commit_s * 1000)

    def violated(self, invariant: str) -> None:
        self._telemetry.invariant_violations.labels(invariant).inc()


class Engine:
    """Hands objects to the inventory, wakes rollouts, and reconciles them."""

    def __init__(
        self,
        *,
        inventory: Inventory,
        scheduler: Scheduler[RolloutKey],
        targets: Targets,
        reconciler: Reconciler,
        answers: Answers,
        stores: Stores,
        providers: Providers,
        telemetry: Telemetry,
    ) -> None:
        self._inventory = inventory
        self._scheduler = scheduler
        self._targets = targets
        self._reconciler = reconciler
        self._answers = answers
        self._stores = stores
        self._providers = providers
        self._telemetry = telemetry
        self._uids: dict[RolloutKey, str] = {}

    def offer(self, plural: str, event_type: str | None, obj: Mapping[str, Any]) -> None:
        """Take an event of the watch; quick, and never raises."""
        for key in self._inventory.offer(plural, event_type, obj):
            self.wake(key, asked=plural == ACTIONS)
        if plural == STORES:
            self._stores.wake()
        elif plural == PROVIDERS:
            self._providers.wake()
        if event_type == "DELETED":
            self._answers.forget(obj)

    def wake(self, key: RolloutKey, *, asked: bool = False) -> None:
        """Deletions and what people ask for go first: what is to be switched off must not wait."""
        rollout = self._inventory.get(ROLLOUTS, *key)
        urgent = asked or (rollout is not None and "deletionTimestamp" in (rollout.get("metadata") or {}))
        self._scheduler.wake(key, urgent=urgent)

    async def work(self, key: RolloutKey) -> float | None:
        """One reconcile; returns in how many seconds the next is due."""
        with self._telemetry.reconcile_seconds.time():
            target = await self._targets.target(key)
            uid = target.uid if target is not None else None
            old = self._uids.get(key)
            if old is not None and old != uid:
                self._reconciler.forget(old)
                del self._uids[key]
            if target is None:
                self._scheduler.forget(key)
                return None
            self._uids[key] = target.uid
            due = await self._reconciler.reconcile(target)
        return due.total_seconds() if due is not None else None

    async def checkpoint_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self._reconciler.checkpoint()
            self._telemetry.count(map(self._inventory.status, self._inventory.rollouts()))
