"""Finds what the watch has missed, so that the watch is an optimisation and nothing depends on it.

After a 410 kopf lists again and never says what has vanished meanwhile; a watch can
fall silent without an error. So everything is compared with a listing of metadata now
and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError
from feature_rollout.kube.resources import RESOURCES
from feature_rollout.runtime.inventory import Inventory, ObjectKey, RolloutKey, Version, key_of, version_of

log = logging.getLogger(__name__)

INTERVAL_S = 300.0
# A sweep that failed is tried again sooner.
RETRY_S = 15.0
# How often is looked at what the watch owes.
CHECK_S = 5.0
OWED_S_MAX = 60.0


class Sweeper:
    """`load()` fills the inventory at the start; `run()` is a task.

    `wake(rollout)` is called for each rollout that a found difference concerns,
    `restart_watch(why)` when the watch has not delivered a change for a minute.
    """

    def __init__(
        self,
        api: Api,
        inventory: Inventory,
        *,
        namespaces: Sequence[str] = (),
        wake: Callable[[RolloutKey], None],
        restart_watch: Callable[[str], None],
        interval_s: float = INTERVAL_S,
        owed_s_max: float = OWED_S_MAX,
    ) -> None:
        self._api = api
        self._inventory = inventory
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._wake = wake
        self._restart_watch = restart_watch
        self._interval_s = interval_s
        self._owed_s_max = owed_s_max

    async def load(self) -> None:
        """List everything into the inventory and wake every rollout. Raises ApiError; what was read stays."""
        for plural, namespace in self._collections():
            objects, _ = await self._api.list(plural, namespace)
            for obj in objects:
                self._wake_all(self._inventory.adopt(plural, obj, self._now_s()))
        self._inventory.synced = True

    async def run(self) -> None:
        """Sweep every few minutes, and watch the watch, until cancelled."""
        next_s = self._now_s() + self._interval_s
        # The watch starts about now; it could not deliver anything before.
        self._inventory.owe_from(self._now_s())
        while True:
            await asyncio.sleep(min(CHECK_S, self._interval_s, self._owed_s_max))
            self._check_watch()
            if self._now_s() < next_s:
                continue
            try:
                found = await self.sweep()
            except ApiError as error:
                log.warning("could not sweep, will try again: %s", error)
                next_s = self._now_s() + min(RETRY_S, self._interval_s)
            else:
                next_s = self._now_s() + self._interval_s
                if found:
                    log.warning("the sweep found %d changes that the watch had not delivered", found)

    async def sweep(self) -> int:
        """Compare once; return how many objects were not as they were known. Raises ApiError."""
        found = 0
        for plural, namespace in self._collections():
            before = self._inventory.versions(plural, namespace)
            metadata, _ = await self._api.list_metadata(plural, namespace)
            listed = {key: version_of(obj) for obj in metadata if (key := key_of(obj)) is not None}
            for key, version in listed.items():
                found += await self._compare(plural, key, version, before.get(key))
            for key, version in before.items():
                if key not in listed:
                    found += await self._vanished(plural, key, version)
        return found

    async def _compare(self, plural: str, key: ObjectKey, listed: Version, before: Version | None) -> bool:
        known = self._inventory.versions(plural).get(key) if before is None else before
        # A listing is never older than what was known before it was asked for, unless etcd was restored from a backup.
        set_back = before is not None and listed.older_than(before)
        if known is not None and known.uid == listed.uid and not known.older_than(listed) and not set_back:
            return False
        obj = await self._api.get(plural, key[0] or None, key[1])
        if obj is None:
            return False
        woken = self._inventory.adopt(plural, obj, self._now_s(), force=set_back)
        self._wake_all(woken)
        return bool(woken)

    async def _vanished(self, plural: str, key: ObjectKey, known: Version) -> bool:
        obj = await self._api.get(plural, key[0] or None, key[1])
        if obj is not None and version_of(obj).uid == known.uid:
            return False
        woken = self._inventory.forget(plural, key, known.uid)
        if obj is not None:
            woken |= self._inventory.adopt(plural, obj, self._now_s())
        self._wake_all(woken)
        return bool(woken)

    def _check_watch(self) -> None:
        now_s = self._now_s()
        owed_s = self._inventory.owed_s(now_s)
        if owed_s > self._owed_s_max:
            self._inventory.owe_from(now_s)
            self._restart_watch(f"it has not delivered a change for {owed_s:.0f} s")

    def _collections(self) -> list[tuple[str, str | None]]:
        return [
            (resource.plural, namespace)
            for resource in RESOURCES.values()
            for namespace in (self._namespaces if resource.namespaced else (None,))
        ]

    def _wake_all(self, rollouts: frozenset[RolloutKey]) -> None:
        for rollout in rollouts:
            self._wake(rollout)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
