"""Answers on the status of FlagStores, MetricProviders and RolloutActions.

A person is told what became of an action: nothing that people apply is silently ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from feature_rollout.core import reasons
from feature_rollout.core.decision import Trouble
from feature_rollout.core.people import Answer, Outcome
from feature_rollout.core.plan import Notice
from feature_rollout.core.status import kube_time, with_transition_times
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, ApiUnavailable
from feature_rollout.kube.resources import ACTIONS, PROVIDERS, RESOURCES, STORES
from feature_rollout.runtime.inventory import ObjectKey, key_of

log = logging.getLogger(__name__)

RETRY_S = 2.0
QUEUE_MAX = 10_000
MESSAGE_MAX = 1024
# A condition: type, status, reason, message.
Row = tuple[str, str, str, str]

# What is said of an object that can be used.
USABLE = {STORES: reasons.STORE_USABLE, PROVIDERS: reasons.PROVIDER_USABLE}


class Answers:
    """`store_is()`, `provider_is()` and `action_is()` for what was found out of one, `forget()` for what was deleted;
    `run()` as a task. `leads(plural, object)` says whether it is this replica that has to say something of it.
    """

    def __init__(self, api: Api, leads: Callable[[str, Mapping[str, Any]], bool] = lambda _plural, _obj: True) -> None:
        self._leads = leads
        self._api = api
        self._waiting: dict[tuple[str, ObjectKey], tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self._told: dict[str, tuple[int, str]] = {}
        self._changed = asyncio.Event()

    def provider_is(self, provider: Mapping[str, Any], trouble: Trouble | None) -> None:
        """Say whether a MetricProvider can be used."""
        self._say(PROVIDERS, provider, trouble)

    def forget(self, obj: Mapping[str, Any]) -> None:
        """The object is gone, and nothing will be said of it again."""
        self._told.pop(str((obj.get("metadata") or {}).get("uid")), None)

    def action_is(self, action: Mapping[str, Any], answer: Answer, at: datetime) -> None:
        """Say what became of a RolloutAction at that time, or what it waits for."""
        rows = [
            ("Ready", answer.outcome is Outcome.APPLIED),
            ("Reconciling", answer.outcome is Outcome.PENDING),
            ("Stalled", answer.outcome in (Outcome.REFUSED, Outcome.EXPIRED)),
        ]
        status = {
            "phase": str(answer.outcome),
            "reason": answer.reason,
            "message": answer.message[:MESSAGE_MAX],
            "finishedAt": None if answer.outcome is Outcome.PENDING else kube_time(at),
        }
        conditions = [(kind, "True" if holds else "False", answer.reason, answer.message) for kind, holds in rows]
        before = action.get("status") or {}
        if any(before.get(field) != value for field, value in status.items()):
            known = {field: value for field, value in status.items() if value is not None}
            self._queue(ACTIONS, action, known, conditions)

    def store_is(self, store: Mapping[str, Any], trouble: Trouble | None) -> None:
        """Say whether a FlagStore can be used."""
        allowed = ", ".join((store.get("spec") or {}).get("allow") or ())
        unused = Notice("spec.allow", f"{allowed}: nothing is run as the owner for a rollout yet") if allowed else None
        self._say(STORES, store, trouble, unused)

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
        unused: Notice | None = None,
    ) -> None:
        usable = USABLE[plural]
        why = (trouble.reason, trouble.message[:MESSAGE_MAX]) if trouble else (usable, reasons.DESCRIPTIONS[usable])
        if _says(obj.get("status") or {}, int(obj["metadata"].get("generation", 0)), why):
            return
        if self._queue(plural, obj, {}, _conditions(trouble, why, unused)) and trouble is not None:
            name = "/".join(filter(None, key_of(obj) or ()))
            log.warning("%s %s: %s: %s", RESOURCES[plural].kind, name, *why)

    def _queue(self, plural: str, obj: Mapping[str, Any], more: Mapping[str, Any], rows: list[Row]) -> bool:
        """Have the status written, unless just that was written last; return whether it will be."""
        key = key_of(obj)
        if key is None or not self._leads(plural, obj) or len(self._waiting) >= QUEUE_MAX:
            return False
        metadata, before = obj["metadata"], obj.get("status") or {}
        generation = int(metadata.get("generation", 0))
        said = (generation, repr((more, rows)))
        if self._told.get(metadata["uid"]) == said:
            return False
        self._remember(metadata["uid"], said)
        conditions = [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:MESSAGE_MAX],
                "observedGeneration": generation,
            }
            for kind, status, reason, message in rows
        ]
        drawn = with_transition_times(conditions, before, datetime.now(UTC))
        self._waiting[plural, key] = (obj, {**more, "observedGeneration": generation, "conditions": drawn})
        self._changed.set()
        return True

    def _remember(self, uid: str, said: tuple[int, str]) -> None:
        """Bounded, because a deletion may go unseen; what is forgotten is compared with the status itself."""
        self._told[uid] = said
        if len(self._told) > QUEUE_MAX:
            del self._told[next(iter(self._told))]

    async def _write(self, plural: str, obj: Mapping[str, Any], status: dict[str, Any]) -> None:
        if not self._leads(plural, obj):
            self._told.pop(obj["metadata"]["uid"], None)
            return
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


def _conditions(trouble: Trouble | None, why: tuple[str, str], unused: Notice | None) -> list[Row]:
    rows = [
        ("Ready", "False" if trouble else "True", *why),
        ("Stalled", "True" if trouble and trouble.stalled else "False", *why),
    ]
    if unused is not None:
        rows.append(("FieldsInEffect", "False", reasons.NOT_IN_EFFECT, str(unused)))
    return rows


def _says(status: Mapping[str, Any], generation: int, why: tuple[str, str]) -> bool:
    """Whether the object's status says it already."""
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    if ready is None or status.get("observedGeneration") != generation:
        return False
    return (ready.get("reason"), ready.get("message")) == why
