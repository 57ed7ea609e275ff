"""Answers on the status of FlagStores, MetricProviders and RolloutActions.

A kind that has no effect yet is told so on the object itself: nothing that people apply
is silently ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from feature_rollout.core import reasons
from feature_rollout.core.decision import Trouble
from feature_rollout.core.plan import Notice
from feature_rollout.core.status import with_transition_times
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, ApiUnavailable
from feature_rollout.kube.resources import ACTIONS, PROVIDERS, STORES
from feature_rollout.runtime.inventory import ObjectKey, key_of

log = logging.getLogger(__name__)

RETRY_S = 2.0
QUEUE_MAX = 10_000

ACTION_NOT_IN_EFFECT = "This version does not carry RolloutActions out; this one was refused and will never be applied."
# What is said of an object that can be used.
USABLE = {STORES: reasons.STORE_USABLE, PROVIDERS: reasons.PROVIDER_USABLE}


class Answers:
    """`consider()` for each action seen, `store_is()` and `provider_is()` for what was found out of one, `forget()`
    for what was deleted; `run()` as a task.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: dict[tuple[str, ObjectKey], tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self._told: dict[str, tuple[int, str]] = {}
        self._changed = asyncio.Event()

    def consider(self, plural: str, obj: Mapping[str, Any]) -> None:
        """Say of an object what this version does with it."""
        if plural == ACTIONS:
            self._say(plural, obj, Trouble(reasons.NOT_IN_EFFECT, ACTION_NOT_IN_EFFECT), {"phase": "Refused"})

    def provider_is(self, provider: Mapping[str, Any], trouble: Trouble | None) -> None:
        """Say whether a MetricProvider can be used."""
        self._say(PROVIDERS, provider, trouble, {})

    def forget(self, obj: Mapping[str, Any]) -> None:
        """The object is gone, and nothing will be said of it again."""
        self._told.pop(str((obj.get("metadata") or {}).get("uid")), None)

    def store_is(self, store: Mapping[str, Any], trouble: Trouble | None) -> None:
        """Say whether a FlagStore can be used."""
        allowed = ", ".join((store.get("spec") or {}).get("allow") or ())
        unused = Notice("spec.allow", f"{allowed}: nothing is run as the owner for a rollout yet") if allowed else None
        self._say(STORES, store, trouble, {}, unused)

    async def run(self) -> None:
        while True:
            self._changed.clear()
            while self._waiting:
                key = next(iter(self._waiting))
                await self._write(key[0], *self._waiting.pop(key))
            await self._changed.wait()

    def _say(
        self,
        plural: str,
        obj: Mapping[str, Any],
        trouble: Trouble | None,
        more: Mapping[str, str],
        unused: Notice | None = None,
    ) -> None:
        key = key_of(obj)
        if key is None or len(self._waiting) >= QUEUE_MAX:
            return
        metadata = obj["metadata"]
        said = (int(metadata.get("generation", 0)), f"{trouble.reason} {trouble.message}" if trouble else "")
        before = obj.get("status") or {}
        usable = USABLE.get(plural, "")
        why = (trouble.reason, trouble.message[:1024]) if trouble else (usable, reasons.DESCRIPTIONS[usable])
        if self._told.get(metadata["uid"]) == said or _says(before, said[0], why):
            return
        self._remember(metadata["uid"], said)
        conditions = _conditions(before, said[0], trouble, why, unused)
        status = {**more, "observedGeneration": said[0], "conditions": conditions}
        self._waiting[plural, key] = (obj, status)
        self._changed.set()

    def _remember(self, uid: str, said: tuple[int, str]) -> None:
        """Bounded, because a deletion may go unseen; what is forgotten is compared with the status itself."""
        self._told[uid] = said
        if len(self._told) > QUEUE_MAX:
            del self._told[next(iter(self._told))]

    async def _write(self, plural: str, obj: Mapping[str, Any], status: dict[str, Any]) -> None:
        try:
            await self._api.apply_status(plural, obj, status)
        except ApiUnavailable:
            self._told.pop(obj["metadata"]["uid"], None)
            self._waiting.setdefault((plural, key_of(obj) or ("", "")), (obj, status))
            await asyncio.sleep(RETRY_S)
        except ApiError as error:
            # Changed or gone: its next event brings it here again.
            self._told.pop(obj["metadata"]["uid"], None)
            log.info("a status of %s was not written: %s", plural, error)


def _conditions(
    before: Mapping[str, Any], generation: int, trouble: Trouble | None, why: tuple[str, str], unused: Notice | None
) -> list[dict[str, Any]]:
    rows = [
        ("Ready", "False" if trouble else "True", *why),
        ("Stalled", "True" if trouble and trouble.stalled else "False", *why),
    ]
    if unused is not None:
        rows.append(("FieldsInEffect", "False", reasons.NOT_IN_EFFECT, str(unused)))
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": message[:1024], "observedGeneration": generation}
        for kind, status, reason, message in rows
    ]
    return with_transition_times(conditions, before, datetime.now(UTC))


def _says(status: Mapping[str, Any], generation: int, why: tuple[str, str]) -> bool:
    """Whether the object's status says it already."""
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    if ready is None or status.get("observedGeneration") != generation:
        return False
    return (ready.get("reason"), ready.get("message")) == why
