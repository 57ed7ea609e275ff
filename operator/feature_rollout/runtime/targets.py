"""From a rollout's key to everything that the reconciler needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_rollout.api.base import InvalidObject
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.resolve import Resolved, references, resolve
from feature_rollout.api.rollbackmatrix import RollbackMatrix
from feature_rollout.core import reasons
from feature_rollout.core.decision import Trouble
from feature_rollout.core.plan import OnDelete
from feature_rollout.kube.resources import MATRICES, ROLLOUTS, STORES, TEMPLATES
from feature_rollout.metrics.sql import SqlMetricSource
from feature_rollout.ports import MetricSource, Problem
from feature_rollout.reconcile import Target
from feature_rollout.runtime.inventory import Inventory, RolloutKey, version_of
from feature_rollout.runtime.stores import Stores


class Gatherer:
    """Follows references through the inventory; asks the API server for nothing but Secrets.

    A plan is resolved once per version of the objects that it is made of.
    """

    def __init__(self, cluster: str, inventory: Inventory, stores: Stores) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._stores = stores
        self._resolved: dict[RolloutKey, tuple[object, Resolved | Trouble]] = {}

    async def target(self, key: RolloutKey) -> Target | None:
        """The rollout of that namespace and name, or None when there is none."""
        rollout = self._inventory.get(ROLLOUTS, *key)
        if rollout is None:
            self._resolved.pop(key, None)
            return None
        resolved = self._resolve(key, rollout)
        trouble = resolved if isinstance(resolved, Trouble) else None
        plan = None if isinstance(resolved, Trouble) else resolved.plan
        spec = rollout.get("spec") or {}
        store, source, store_trouble = await self._store(key[0], spec, resolved)
        return Target(
            rollout=rollout,
            key=f"{self._cluster}/{key[0]}/{key[1]}",
            on_delete=_on_delete(spec),
            plan=plan,
            trouble=store_trouble or trouble,
            suspended=bool(spec.get("suspend")),
            hold_at=spec.get("holdAt"),
            store=store,
            source=source,
        )

    def _resolve(self, key: RolloutKey, rollout: Mapping[str, Any]) -> Resolved | Trouble:
        spec = rollout.get("spec") or {}
        names = [
            (STORES, (spec.get("storeRef") or {}).get("name")),
            (MATRICES, (spec.get("matrixRef") or {}).get("name")),
        ]
        names += [(TEMPLATES, (metric.get("templateRef") or {}).get("name")) for metric in spec.get("metrics") or []]
        objects = [self._inventory.get(plural, key[0], name) if name else None for plural, name in names]
        # A status write changes an object's version, but not its generation.
        made_of = tuple(_generation(obj) for obj in (rollout, *objects))
        known = self._resolved.get(key)
        if known is None or known[0] != made_of:
            self._resolved[key] = known = (made_of, self._resolved_anew(rollout, key[0]))
        return known[1]

    def _resolved_anew(self, rollout: Mapping[str, Any], namespace: str) -> Resolved | Trouble:
        try:
            parsed = FeatureRollout.parse(rollout)
            named = references(parsed)
            matrix = self._inventory.get(MATRICES, namespace, named.matrix) if named.matrix else None
            found = {name: self._inventory.get(TEMPLATES, namespace, name) for name in named.templates}
            store = self._inventory.get(STORES, namespace, named.store)
            return resolve(
                parsed,
                matrix=RollbackMatrix.parse(matrix) if matrix is not None else None,
                templates={name: MetricTemplate.parse(obj) for name, obj in found.items() if obj is not None},
                store=FlagStore.parse(store) if store is not None else None,
            )
        except InvalidPlan as error:
            return Trouble(error.reason, error.message)
        except InvalidObject as error:
            return Trouble(reasons.INVALID_PLAN, str(error))

    async def _store(
        self, namespace: str, spec: Mapping[str, Any], resolved: Resolved | Trouble
    ) -> tuple[Any, MetricSource | None, Trouble | None]:
        name = (spec.get("storeRef") or {}).get("name") or ""
        obj = self._inventory.get(STORES, namespace, name)
        if obj is None:
            message = (
                f"spec.storeRef: there is no FlagStore {name} in namespace {namespace}: create it or correct the name"
            )
            return None, None, Trouble(reasons.STORE_NOT_FOUND, message)
        try:
            handle = await self._stores.get(obj)
        except Problem as problem:
            return None, None, Trouble(problem.reason, problem.message, problem.stalled)
        if isinstance(resolved, Trouble) or not resolved.queries:
            return handle.store, None, None
        if handle.reader is None:
            message = f"FlagStore {name} names no reader, and the plan has SQL metrics: add spec.postgres.reader"
            return handle.store, None, Trouble(reasons.READER_MISSING, message)
        return handle.store, SqlMetricSource(handle.reader, resolved.queries), None


def _generation(obj: Mapping[str, Any] | None) -> tuple[str, int] | None:
    if obj is None:
        return None
    return version_of(obj).uid, obj.get("metadata", {}).get("generation", 0)


def _on_delete(spec: Mapping[str, Any]) -> OnDelete:
    """Read without the model, because what cannot be parsed must still be deletable."""
    try:
        return OnDelete(spec.get("onDelete", OnDelete.KEEP))
    except ValueError:
        return OnDelete.KEEP
