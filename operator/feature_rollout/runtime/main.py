"""The life of the process: settings in, a running operator out, and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import ValidationError

from feature_rollout import __version__, tracing
from feature_rollout.kube.admission import missing_policy
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection, NoConnection
from feature_rollout.kube.errors import ApiError, PermissionDenied
from feature_rollout.kube.leases import pod_namespace
from feature_rollout.kube.resources import RESOURCES, STORES
from feature_rollout.kube.schemas import unknown_fields
from feature_rollout.runtime import logs
from feature_rollout.runtime.composition import Parts, compose
from feature_rollout.runtime.http import Heartbeat, HttpServer
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.settings import Settings
from feature_rollout.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)
T = TypeVar("T")

START_RETRY_S = 2.0
_LACKS_RIGHTS = "a role or its binding is missing: featurerollout doctor --cluster --as says what it has to allow"
DRAIN_S = 8.0
FAREWELL_S = 3.0


def main() -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 after a clean end, 1 otherwise, 2 for bad settings."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "FEATUREROLLOUT_" + "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"error: {name}: {problem['msg']}\n")
        return 2
    if settings.lease_name and not (settings.lease_namespace or pod_namespace()):
        sys.stderr.write("error: FEATUREROLLOUT_LEASE_NAMESPACE: this is not a pod: name the Lease's namespace\n")
        return 2
    logs.set_up(settings.log_format, settings.log_level)
    untraced = tracing.start(__version__)
    if untraced:
        log.warning("%s", untraced)
    try:
        asyncio.run(_Operator(settings).run())
    except NoConnection as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        tracing.stop(FAREWELL_S)
    return 0


class _Operator:
    """Starts the parts in order, and ends them in the reverse of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings.kubeconfig, settings.context)
        self._telemetry = Telemetry()
        self._heartbeat = Heartbeat(self._telemetry.loop_lag_seconds.observe)
        self._inventory = Inventory()
        self._parts: Parts | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        log.info("featurerollout %s starts", __version__)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        http = HttpServer(
            host=self._settings.http_host,
            port=self._settings.http_port,
            registry=self._telemetry.registry,
            live=self._not_live,
            ready=self._not_ready,
        )
        heartbeat = asyncio.create_task(self._heartbeat.run(), name="heartbeat")
        try:
            await http.start()
            async with Api(self._connection, on_request=self._telemetry.api_request) as api:
                cluster = await self._until_it_works(lambda: self._cluster_name(api))
                if cluster is not None:
                    self._parts = compose(
                        self._settings,
                        self._connection,
                        api,
                        cluster,
                        inventory=self._inventory,
                        telemetry=self._telemetry,
                    )
                    await self._work(self._parts)
        finally:
            heartbeat.cancel()
            await http.stop()
        log.info("ended")

    async def _work(self, parts: Parts) -> None:
        """Load, watch and reconcile until told to stop."""
        tasks = [
            asyncio.create_task(parts.recorder.run(), name="event recorder"),
            asyncio.create_task(parts.objects.run(), name="status writer"),
        ]
        try:
            if await self._until_it_works(lambda: _load(parts)) is None:
                return
            log.info("watching %s", ", ".join(self._settings.watch_namespaces) or "all namespaces")
            parts.watch.start()
            reconciling = asyncio.create_task(
                parts.scheduler.run(parts.engine.work, workers=self._settings.workers), name="scheduler"
            )
            stores = parts.stores.check_forever(lambda: self._inventory.all(STORES), parts.reconciler.uses)
            tasks += [
                asyncio.create_task(parts.sweeper.run(), name="sweeper"),
                asyncio.create_task(parts.answers.run(), name="answers"),
                asyncio.create_task(parts.actions.run(), name="actions"),
                asyncio.create_task(parts.engine.checkpoint_forever(), name="checkpoints"),
                asyncio.create_task(stores, name="store checks"),
                asyncio.create_task(parts.providers.check_forever(), name="provider checks"),
                asyncio.create_task(parts.notifier.run(), name="notifier"),
            ]
            if parts.shards is not None:
                tasks.append(asyncio.create_task(parts.shards.run(), name="electors"))
            await self._until_stopped([*tasks, reconciling])
            await _end(parts, reconciling)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await parts.watch.stop()
            await parts.targets.close()
            await parts.stores.close()
            await parts.providers.close()

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """Return when told to stop; raise when a part ends, which none ever should."""
        stop = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            task.result()
            raise RuntimeError(f"{task.get_name()} has ended by itself")

    async def _until_it_works(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """The step's answer, however long the API server is away; None when told to stop."""
        told = ""
        while not self._stopping.is_set():
            try:
                return await step()
            except ApiError as error:
                if str(error) != told:
                    told = str(error)
                    hint = f"; {_LACKS_RIGHTS}" if isinstance(error, PermissionDenied) else ""
                    log.warning("cannot start yet, will try again: %s%s", told, hint)
            try:
                async with asyncio.timeout(START_RETRY_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue
        return None

    async def _cluster_name(self, api: Api) -> str:
        """What tells this cluster from others in the ledger: the setting, or the UID of kube-system."""
        if self._settings.cluster_name:
            return self._settings.cluster_name
        namespace = await api.namespace("kube-system")
        if namespace is None:
            raise ApiError(
                "there is no namespace kube-system to name the cluster after: set FEATUREROLLOUT_CLUSTER_NAME"
            )
        return str(namespace["metadata"]["uid"])

    def _not_live(self) -> list[str]:
        watch = self._parts.watch.problems() if self._parts is not None and self._inventory.synced else []
        return [*self._heartbeat.problems(), *watch]

    def _not_ready(self) -> list[str]:
        if self._stopping.is_set():
            return ["stopping"]
        if not self._inventory.synced:
            return ["the CRDs are missing, or the objects were not listed yet"]
        shards = self._parts.shards if self._parts is not None else None
        return shards.problems() if shards is not None else []


async def _load(parts: Parts) -> bool:
    missing = set(RESOURCES) - await parts.api.served()
    if missing:
        raise ApiError(f"CRDs are missing ({', '.join(sorted(missing))}): featurerollout crds | kubectl apply -f -")
    fields = await unknown_fields(parts.api)
    if fields:
        told = "the CRDs are older than this program, and the API server drops %s: helm upgrade, or %s"
        log.warning(told, ", ".join(fields), "featurerollout crds | kubectl apply --server-side -f -")
    try:
        policy = await missing_policy(parts.api)
    except ApiError as error:
        # Guards need not wait for a warning.
        log.warning("whether the API server checks who asks for a RolloutAction is not known: %s", error)
        policy = ""
    if policy:
        told = "nobody checks who asks for a RolloutAction: there is no %s: helm upgrade, or %s"
        log.warning(told, policy, "featurerollout crds | kubectl apply --server-side -f -")
    await parts.sweeper.load()
    return True


async def _end(parts: Parts, reconciling: asyncio.Task[None]) -> None:
    """Finish what is under way, store what was measured, say what is left to say."""
    log.info("stopping")
    if parts.shards is not None:
        parts.shards.retire()
    await parts.scheduler.drain(DRAIN_S)
    await reconciling
    await parts.reconciler.checkpoint()
    await parts.objects.drain(FAREWELL_S)
    await parts.recorder.drain(FAREWELL_S)
    if parts.shards is not None:
        # Last: nothing of this process is under way any more.
        await parts.shards.release()
