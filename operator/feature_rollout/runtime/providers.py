"""The metric back ends in use: one client per MetricProvider, kept for as long as its address is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feature_rollout.api import reasons as api_reasons
from feature_rollout.api.base import InvalidObject
from feature_rollout.api.metricprovider import MetricProvider, MetricProviderSpec
from feature_rollout.api.resolve_metrics import not_allowed
from feature_rollout.core import reasons
from feature_rollout.core.decision import Trouble
from feature_rollout.kube.resources import PROVIDERS
from feature_rollout.metrics.prometheus import Prometheus, PrometheusError
from feature_rollout.ports import Problem
from feature_rollout.runtime.inventory import Inventory

# How often each provider is asked whether it answers, so that a broken one shows without a rollout.
CHECK_S = 30.0


@dataclass(frozen=True, slots=True)
class _Known:
    """A provider as it was last read, and the client for it."""

    version: tuple[str, int]
    spec: MetricProviderSpec
    client: Prometheus


class Providers:
    """`client` for each look, `check_forever` as a task.

    `tell(MetricProvider, trouble or None)` is called after each check.
    """

    def __init__(self, inventory: Inventory, tell: Callable[[Mapping[str, Any], Trouble | None], None]) -> None:
        self._inventory = inventory
        self._tell = tell
        self._known: dict[str, _Known] = {}
        self._replaced: list[Prometheus] = []
        self._changed = asyncio.Event()

    def client(self, name: str, namespace: str) -> Prometheus:
        """The client of this provider as it is now; raises Problem when there is none, or none for this namespace."""
        obj = self._inventory.get(PROVIDERS, None, name)
        if obj is None:
            raise Problem(api_reasons.PROVIDER_NOT_FOUND, f"there is no MetricProvider {name}")
        known = self._read(name, obj)
        if not known.spec.allows(namespace):
            raise Problem(api_reasons.PROVIDER_NOT_ALLOWED, not_allowed(name, namespace))
        return known.client

    def wake(self) -> None:
        """Check soon: a MetricProvider is new, has changed or is gone."""
        self._changed.set()

    async def check_forever(self) -> None:
        """Look after every MetricProvider, until cancelled."""
        while True:
            self._changed.clear()
            await asyncio.gather(*(self._check(obj) for obj in self._inventory.all(PROVIDERS)))
            await self._close_unused()
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        self._replaced += [known.client for known in self._known.values()]
        self._known.clear()
        await self._close_unused()

    def _read(self, name: str, obj: Mapping[str, Any]) -> _Known:
        metadata = obj["metadata"]
        version = (metadata["uid"], int(metadata.get("generation", 0)))
        known = self._known.get(name)
        if known is not None and known.version == version:
            return known
        try:
            spec = MetricProvider.parse(obj).spec
        except InvalidObject as error:
            raise Problem(reasons.INVALID_PLAN, f"MetricProvider {name}: {error}") from None
        if known is not None and known.spec.prometheus == spec.prometheus:
            client = known.client
        else:
            client = Prometheus(spec.prometheus.address)
            self._replaced += [known.client] if known is not None else []
        self._known[name] = known = _Known(version, spec, client)
        return known

    async def _check(self, obj: Mapping[str, Any]) -> None:
        try:
            await self._read(obj["metadata"]["name"], obj).client.check(datetime.now(UTC))
        except Problem as problem:
            self._tell(obj, Trouble(problem.reason, problem.message, problem.stalled))
        except PrometheusError as error:
            self._tell(obj, Trouble(reasons.PROVIDER_UNUSABLE, str(error), stalled=not error.transient))
        else:
            self._tell(obj, None)

    async def _close_unused(self) -> None:
        for name in [name for name in self._known if self._inventory.get(PROVIDERS, None, name) is None]:
            self._replaced.append(self._known.pop(name).client)
        while self._replaced:
            await self._replaced.pop().close()
