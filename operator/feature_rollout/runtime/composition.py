"""The composition root: every part is made here, and told of the others that it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feature_rollout.connectionstring import Access
from feature_rollout.core.election import Role, Times
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.leases import KubeLease, pod_namespace
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.kube.rollouts import KubeRollouts
from feature_rollout.reconcile import Reconciler
from feature_rollout.runtime.actions import Actions, rollout_of
from feature_rollout.runtime.answers import Answers
from feature_rollout.runtime.engine import Counts, Engine, SystemClock
from feature_rollout.runtime.inventory import Inventory, ObjectKey, RolloutKey
from feature_rollout.runtime.notifier import Notifier
from feature_rollout.runtime.objects import BackgroundObjects
from feature_rollout.runtime.providers import Providers
from feature_rollout.runtime.scheduler import Scheduler
from feature_rollout.runtime.settings import Settings
from feature_rollout.runtime.shards import Shards
from feature_rollout.runtime.stores import Stores
from feature_rollout.runtime.sweeper import Sweeper
from feature_rollout.runtime.targets import Targets
from feature_rollout.runtime.telemetry import Telemetry
from feature_rollout.runtime.watch import Watch

log = logging.getLogger(__name__)

# After a status that was decided on an old version of its object: the watch brings the new one meanwhile.
STATUS_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs, wired; nothing of it has begun."""

    recorder: EventRecorder
    objects: BackgroundObjects
    answers: Answers
    actions: Actions
    stores: Stores
    providers: Providers
    targets: Targets
    scheduler: Scheduler[RolloutKey]
    reconciler: Reconciler
    engine: Engine
    watch: Watch
    sweeper: Sweeper
    shards: Shards | None
    notifier: Notifier
    api: Api


def compose(
    settings: Settings, connection: Connection, api: Api, cluster: str, *, inventory: Inventory, telemetry: Telemetry
) -> Parts:
    scheduler: Scheduler[RolloutKey] = Scheduler(
        on_depth=telemetry.queue_depth.set, on_wait=telemetry.queue_wait_seconds.observe
    )

    def status_lost(uid: str, namespace: str, name: str) -> None:
        reconciler.status_lost(uid)
        scheduler.wake_in((namespace, name), STATUS_RETRY_S)

    def woken(namespace: str, name: str, *, urgent: bool = False) -> None:
        scheduler.wake((namespace, name), urgent=urgent)

    def drifted(store: ObjectKey, flag: str) -> None:
        for key in targets.owners(store, flag):
            scheduler.wake(key)

    def changed(role: Role) -> None:
        telemetry.role_changes.labels(role).inc()
        wake_all()

    def wake_all() -> None:
        for key in inventory.rollouts():
            scheduler.wake(key)
        stores.wake()
        providers.wake()

    def can_work() -> bool:
        return stores.answer()

    shards = _shards(settings, api, fit=can_work, changed=changed, resized=wake_all)
    role: Callable[[str | None], Role] = shards.role if shards is not None else lambda _uid: Role.LEADING
    led = shards.led if shards is not None else lambda: 1

    def leads(uid: str | None = None) -> bool:
        return role(uid) is Role.LEADING

    def answers_for(plural: str, obj: Mapping[str, Any]) -> bool:
        """What becomes of an action is said by who leads its rollout."""
        rollout = inventory.get(ROLLOUTS, *rollout_of(obj)) if plural == ACTIONS else None
        return leads(rollout["metadata"]["uid"] if rollout is not None else None)

    telemetry.leader.set_function(led)
    telemetry.shards.set_function(shards.number if shards is not None else lambda: 1)
    recorder = EventRecorder(api, on_dropped=telemetry.events_dropped.inc, give_way=scheduler.give_way)
    clock = SystemClock()
    answers = Answers(api, answers_for)
    actions = Actions(api, inventory, answers, clock, leads)
    objects = BackgroundObjects(KubeRollouts(api, recorder), status_lost, actions.answer, scheduler.give_way, leads)
    access = Access(settings.denied_addresses, settings.allow_sockets)
    stores = Stores(api, answers.store_is, drifted, access, lambda: led() > 0, on_call=telemetry.database_call)
    providers = Providers(inventory, answers.provider_is)
    targets = Targets(
        cluster,
        inventory=inventory,
        stores=stores,
        providers=providers,
        api=api,
        actions=actions,
        wake=scheduler.wake,
    )
    reconciler = Reconciler(
        objects,
        clock,
        Counts(telemetry),
        wake=woken,
        poll=timedelta(seconds=settings.drift_poll_seconds),
        role=role,
    )
    telemetry.of_each.views = reconciler.views
    telemetry.of_each.phase = lambda *key: str(inventory.status(key).get("phase", "Pending"))
    engine = Engine(
        inventory=inventory,
        scheduler=scheduler,
        targets=targets,
        reconciler=reconciler,
        answers=answers,
        stores=stores,
        providers=providers,
        telemetry=telemetry,
    )
    watch = Watch(
        connection=connection,
        offer=engine.offer,
        served=api.served,
        namespaces=settings.watch_namespaces,
        on_restart=telemetry.watch_restarts.inc,
    )
    sweeper = Sweeper(
        api, inventory, namespaces=settings.watch_namespaces, wake=engine.wake, restart_watch=watch.restart
    )
    notifier = Notifier(settings, cluster, inventory, telemetry, stores.open_configs)
    return Parts(
        recorder=recorder,
        objects=objects,
        answers=answers,
        actions=actions,
        stores=stores,
        providers=providers,
        targets=targets,
        scheduler=scheduler,
        reconciler=reconciler,
        engine=engine,
        watch=watch,
        sweeper=sweeper,
        shards=shards,
        notifier=notifier,
        api=api,
    )


def _shards(
    settings: Settings,
    api: Api,
    *,
    fit: Callable[[], bool],
    changed: Callable[[Role], None],
    resized: Callable[[], None],
) -> Shards | None:
    """Who tries for the Leases; None where there is none, because there is one process only."""
    if not settings.lease_name:
        log.info("FEATUREROLLOUT_LEASE_NAME is not set: this must be the only replica")
        return None
    times = Times(settings.lease_duration_seconds, settings.lease_renew_deadline_seconds, settings.lease_retry_seconds)
    namespace = settings.lease_namespace or pod_namespace() or ""
    return Shards(
        settings.lease_name,
        settings.shards,
        times,
        lambda name: KubeLease(api, namespace, name),
        fit=fit,
        changed=changed,
        resized=resized,
    )
