"""From a rollout's key to everything that the reconciler needs to know of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feature_rollout.api import reasons as api_reasons
from feature_rollout.api.base import InvalidObject
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.parts import Parts
from feature_rollout.api.resolve import Resolved, references
from feature_rollout.core import reasons
from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.decision import Trouble
from feature_rollout.core.plan import OnDelete, OnDrift, Stage
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError
from feature_rollout.kube.jobs import JobChecks
from feature_rollout.kube.resources import MATRICES, PROVIDERS, ROLLOUTS, STORES, TEMPLATES
from feature_rollout.metrics.checks import SqlCheck, SqlChecks
from feature_rollout.metrics.hub import RoutedSource
from feature_rollout.metrics.prometheus import PrometheusMetricSource
from feature_rollout.metrics.sql import SqlMetricSource
from feature_rollout.ports import CheckSource, MetricSource, Problem
from feature_rollout.reconcile import Target
from feature_rollout.reconcile.others import Other
from feature_rollout.runtime import inventory
from feature_rollout.runtime.actions import Actions
from feature_rollout.runtime.inventory import Inventory, ObjectKey, Reference, RolloutKey, version_of
from feature_rollout.runtime.logs import report
from feature_rollout.runtime.providers import Providers
from feature_rollout.runtime.stores import Handle, Stores

log = logging.getLogger(__name__)

NOT_FOUND = frozenset(
    {
        reasons.STORE_NOT_FOUND,
        reasons.SECRET_NOT_FOUND,
        reasons.CONFIG_MAP_NOT_FOUND,
        api_reasons.MATRIX_NOT_FOUND,
        api_reasons.TEMPLATE_NOT_FOUND,
        api_reasons.PROVIDER_NOT_FOUND,
    }
)
GRACE_S = 3.0
# The API server answers in milliseconds or it does not: guards shall not wait for the second.
LOOK_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Good:
    """A plan that could be resolved, what it was made of as JSON, and the uid of the object whose plan it is."""

    uid: str
    resolved: Resolved
    made_of: Mapping[str, Any]


class Targets:
    """Follows references through the inventory; asks the API server for what is not there, and for Secrets.

    A plan is resolved once per version of the objects that it is made of. While they make
    none, the last good one stays, so that its guards go on: the one that this process knew,
    or after a start the one that the database has kept. `wake(key)` is called when what a
    rollout misses was found after all.
    """

    def __init__(
        self,
        cluster: str,
        *,
        inventory: Inventory,
        stores: Stores,
        providers: Providers,
        api: Api,
        actions: Actions,
        wake: Callable[[RolloutKey], None],
    ) -> None:
        self._api = api
        self._providers = providers
        self._wake = wake
        self._looking_up: dict[Reference, asyncio.Task[None]] = {}
        self._cluster = cluster
        self._inventory = inventory
        self._stores = stores
        self._actions = actions
        self._resolved: dict[RolloutKey, tuple[object, Good | Trouble]] = {}
        self._good: dict[RolloutKey, Good] = {}
        self._missing_since_s: dict[RolloutKey, float] = {}

    async def target(self, key: RolloutKey) -> Target | None:
        """The rollout of that namespace and name, or None when there is none."""
        rollout = self._inventory.get(ROLLOUTS, *key)
        if rollout is None:
            self._resolved.pop(key, None)
            self._good.pop(key, None)
            self._missing_since_s.pop(key, None)
            return None
        await self._look_up_missing(self._references(key[0], rollout))
        trouble = self._resolve(key, rollout)
        spec = rollout.get("spec") or {}
        handle, store_trouble = await self._handle(key[0], spec)
        told = self._patient(key, store_trouble or trouble)
        good = self._good.get(key)
        if good is None and handle is not None and told is not None and told.reason != reasons.PENDING:
            good = await self._kept(key, rollout, handle)
        source, checks, missing = self._sources(rollout, handle, good.resolved if good is not None else None)
        return Target(
            rollout=rollout,
            key=self._ledger_key(key),
            on_delete=_on_delete(spec),
            plan=good.resolved.plan if good is not None else None,
            made_of=good.made_of if good is not None else None,
            trouble=told or missing,
            suspended=bool(spec.get("suspend")),
            hold_at=spec.get("holdAt"),
            store=handle.store if handle is not None else None,
            source=source,
            checks=checks,
            requests=self._actions.requests(key),
            on_drift=self._on_drift(key[0], spec),
            others=_Others(self, key[0]),
            order=self._order(key),
        )

    async def other(self, key: RolloutKey) -> Other | str:
        """A rollout that another one waits for, or why there is nothing to read of it. Raises Problem."""
        rollout = self._inventory.get(ROLLOUTS, *key)
        if rollout is None:
            return "there is no such FeatureRollout"
        if "deletionTimestamp" in rollout["metadata"]:
            return "it is being deleted"
        spec = rollout.get("spec") or {}
        trouble = self._resolve(key, rollout)
        good = self._good.get(key)
        if good is None:
            return trouble.reason if trouble is not None else reasons.INVALID_PLAN
        handle, store_trouble = await self._handle(key[0], spec)
        if handle is None:
            return store_trouble.reason if store_trouble is not None else reasons.STORE_NOT_FOUND
        return Other(
            key=self._ledger_key(key),
            uid=version_of(rollout).uid,
            plan=good.resolved.plan,
            store=handle.store,
            suspended=bool(spec.get("suspend")),
            on_drift=self._on_drift(key[0], spec),
            trouble=trouble,
        )

    def _order(self, key: RolloutKey) -> dict[str, tuple[Stage, ...]]:
        """The stages of every rollout that this one depends on, also through others."""
        order: dict[str, tuple[Stage, ...]] = {}
        ahead = [key]
        while ahead:
            one = ahead.pop()
            rollout = self._inventory.get(ROLLOUTS, *one)
            if rollout is None:
                continue
            if one != key:
                self._resolve(one, rollout)
            good = self._good.get(one)
            order[one[1]] = good.resolved.plan.stages if good is not None else ()
            named = (after.rollout for stage in order[one[1]] for after in stage.after)
            ahead += [(key[0], name) for name in named if name not in order]
        del order[key[1]]
        return order

    def owners(self, store: ObjectKey, flag: str) -> list[RolloutKey]:
        """The rollouts on a FlagStore whose plan names this flag."""
        return [
            key
            for key, good in self._good.items()
            if (key[0], good.resolved.store_name) == store
            and any(flag in stage.flags for stage in good.resolved.plan.stages)
        ]

    def _patient(self, key: RolloutKey, trouble: Trouble | None) -> Trouble | None:
        """What is missing may be applied in the next moment: a rollout must not be seen to fail for that."""
        if trouble is None or trouble.reason not in NOT_FOUND:
            self._missing_since_s.pop(key, None)
            return trouble
        now_s = asyncio.get_running_loop().time()
        if now_s - self._missing_since_s.setdefault(key, now_s) >= GRACE_S:
            return trouble
        return Trouble(reasons.PENDING, trouble.message, stalled=False)

    def _references(self, namespace: str, rollout: Mapping[str, Any]) -> list[Reference]:
        """All that the rollout names, and the providers that its templates name."""
        named = list(dict.fromkeys(inventory.references(namespace, rollout)))
        templates = [self._inventory.get(*reference) for reference in named if reference[0] == TEMPLATES]
        through = [name for template in templates for name in inventory.providers((template or {}).get("spec"))]
        return list(dict.fromkeys([*named, *((PROVIDERS, "", name) for name in through)]))

    async def _look_up_missing(self, named: list[Reference]) -> None:
        """Each kind has a watch of its own, and they race: only the API server can say that something is missing.

        What it does not say at once is waited for in the background.
        """
        missing = [reference for reference in named if self._inventory.get(*reference) is None]
        new = [reference for reference in missing if reference not in self._looking_up]
        for reference in new:
            self._looking_up[reference] = asyncio.create_task(self._look_up(reference))
        if new:
            await asyncio.wait([self._looking_up[reference] for reference in new], timeout=LOOK_UP_S)

    async def _look_up(self, reference: Reference) -> None:
        plural, where, name = reference
        try:
            obj = await self._api.get(plural, where or None, name)
            if obj is not None:
                for key in self._inventory.adopt(plural, obj, asyncio.get_running_loop().time()):
                    self._wake(key)
        except ApiError:
            # The next reconcile asks again.
            return
        finally:
            self._looking_up.pop(reference, None)

    async def close(self) -> None:
        """Give up what is still being looked up."""
        for task in list(self._looking_up.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _resolve(self, key: RolloutKey, rollout: Mapping[str, Any]) -> Trouble | None:
        """Resolve the plan, unless that was done of just these objects; why there is none."""
        objects = [self._inventory.get(*reference) for reference in self._references(key[0], rollout)]
        # A status write changes an object's version, but not its generation.
        made_of = tuple(_generation(obj) for obj in (rollout, *objects))
        known = self._resolved.get(key)
        if known is None or known[0] != made_of:
            self._resolved[key] = known = (made_of, self._resolved_anew(rollout, key[0]))
        if isinstance(known[1], Good):
            self._good[key] = known[1]
            return None
        if key in self._good and self._good[key].uid != version_of(rollout).uid:
            del self._good[key]
        return known[1]

    def _resolved_anew(self, rollout: Mapping[str, Any], namespace: str) -> Good | Trouble:
        try:
            parts = self._parts(rollout, namespace)
            return Good(version_of(rollout).uid, parts.resolve(), parts.to_json())
        except InvalidPlan as error:
            return Trouble(error.reason, error.message)
        except InvalidObject as error:
            return Trouble(reasons.INVALID_PLAN, str(error))

    def _parts(self, rollout: Mapping[str, Any], namespace: str) -> Parts:
        """What is there of all that the rollout names. Raises InvalidObject for one that says not what it names."""
        named = references(FeatureRollout.parse(rollout))
        found = {name: self._inventory.get(TEMPLATES, namespace, name) for name in named.templates}
        providers = [
            obj
            for kind, *key in self._references(namespace, rollout)
            if kind == PROVIDERS and (obj := self._inventory.get(kind, *key)) is not None
        ]
        return Parts(
            rollout=rollout,
            matrix=self._inventory.get(MATRICES, namespace, named.matrix) if named.matrix else None,
            store=self._inventory.get(STORES, namespace, named.store),
            templates={name: obj for name, obj in found.items() if obj is not None},
            providers={obj["metadata"]["name"]: obj for obj in providers},
        )

    async def _kept(self, key: RolloutKey, rollout: Mapping[str, Any], handle: Handle) -> Good | None:
        """The plan that the database has kept of this object; None when there is none, or it cannot be read now."""
        uid = version_of(rollout).uid
        try:
            made_of = await handle.store.last_plan(self._ledger_key(key), uid)
            if made_of is None:
                return None
            good = Good(uid, Parts.from_json(made_of).resolve(), made_of)
        except Problem:
            # It is told of anyway, and the next reconcile asks again.
            return None
        except (InvalidObject, InvalidPlan, LookupError, TypeError, AttributeError) as error:
            report(log, "the plan that was kept cannot be read", error, rollout=self._ledger_key(key))
            return None
        return self._good.setdefault(key, good)

    def _ledger_key(self, key: RolloutKey) -> str:
        return f"{self._cluster}/{key[0]}/{key[1]}"

    async def _handle(self, namespace: str, spec: Mapping[str, Any]) -> tuple[Handle | None, Trouble | None]:
        """The open FlagStore, or why there is none."""
        name = (spec.get("storeRef") or {}).get("name") or ""
        obj = self._inventory.get(STORES, namespace, name)
        if obj is None:
            message = (
                f"spec.storeRef: there is no FlagStore {name} in namespace {namespace}: create it or correct the name"
            )
            return None, Trouble(reasons.STORE_NOT_FOUND, message)
        try:
            return await self._stores.get(obj), None
        except Problem as problem:
            return None, Trouble(problem.reason, problem.message, problem.stalled)

    def _on_drift(self, namespace: str, spec: Mapping[str, Any]) -> OnDrift:
        """Read without the model, because a store that is broken meanwhile must not change what becomes of its rows."""
        store = self._inventory.get(STORES, namespace, (spec.get("storeRef") or {}).get("name") or "")
        try:
            return OnDrift(((store or {}).get("spec") or {}).get("onDrift", OnDrift.RESPECT))
        except (AttributeError, ValueError):
            return OnDrift.RESPECT

    def _sources(
        self, rollout: Mapping[str, Any], handle: Handle | None, resolved: Resolved | None
    ) -> tuple[MetricSource | None, CheckSource | None, Trouble | None]:
        """Who answers the rollout's metrics and its checks."""
        if handle is None or resolved is None:
            return None, None, None
        namespace, name = rollout["metadata"]["namespace"], rollout["metadata"]["name"]
        routes: dict[str, MetricSource] = {}
        if resolved.prometheus:
            prometheus = PrometheusMetricSource(lambda one: self._providers.client(one, namespace), resolved.prometheus)
            routes |= dict.fromkeys(resolved.prometheus, prometheus)
        trouble = None
        if handle.reader is None and (resolved.queries or resolved.checks):
            message = (
                f"FlagStore {resolved.store_name} names no reader, and the plan has SQL metrics or checks: "
                "add spec.postgres.reader"
            )
            trouble = Trouble(reasons.READER_MISSING, message)
        sql = None
        if handle.reader is not None:
            of = f"{namespace}/{name}"
            routes |= dict.fromkeys(resolved.queries, SqlMetricSource(handle.reader, resolved.queries, of))
            asked = {key: SqlCheck(query.text, query.expect) for key, query in resolved.checks.items()}
            sql = SqlChecks(handle.reader, asked, of)
        jobs = JobChecks(self._api, rollout, resolved.plan.plan_hash, resolved.jobs)
        checks = Checks(sql, jobs) if resolved.checks or resolved.jobs else None
        return RoutedSource(routes) if routes else None, checks, trouble


class _Others:
    """`reconcile.others.Others` of a namespace."""

    def __init__(self, targets: Targets, namespace: str) -> None:
        self._targets = targets
        self._namespace = namespace

    async def find(self, name: str) -> Other | str:
        return await self._targets.other((self._namespace, name))


class Checks:
    """`ports.CheckSource` of one rollout: the database is asked what no Job answers."""

    def __init__(self, sql: SqlChecks | None, jobs: JobChecks) -> None:
        self._sql = sql
        self._jobs = jobs

    async def ask(self, name: str, attempt: int) -> CheckAnswer:
        # What it says is true of when it was asked, however long the answer took.
        asked_at = datetime.now(UTC)
        if name in self._jobs.manifests:
            answer = await self._jobs.ask(name, attempt)
            return CheckAnswer(name, answer.passed, answer.message, asked_at, answer.running)
        if self._sql is None:
            return CheckAnswer(name, None, "there is nothing to ask it with", asked_at)
        passed, message = await self._sql.ask(name)
        return CheckAnswer(name, passed, message, asked_at)


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
