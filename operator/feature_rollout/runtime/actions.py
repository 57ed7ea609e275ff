"""RolloutActions: from objects to requests, and what became of them back into their status.

What a person wants is decided in the core and recorded in the database. Here is only what
needs neither: an action without a rollout, one that nobody can read, and the end of those
that are long over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from feature_rollout.api.base import InvalidObject
from feature_rollout.api.rolloutaction import RolloutAction
from feature_rollout.core import reasons
from feature_rollout.core.people import EXPIRES_AFTER, Answer, Outcome, Request, RollBackTo
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.ports import Clock
from feature_rollout.runtime.answers import Answers
from feature_rollout.runtime.inventory import Inventory, RolloutKey

log = logging.getLogger(__name__)

KEPT_FOR = timedelta(days=30)
# How often is looked for actions without a rollout, and for those that are long over.
CHECK_S = 5.0
# Each kind has a watch of its own: the rollout may be a moment behind its action.
GRACE = timedelta(seconds=3)
DELETED_AT_ONCE_MAX = 50


class Actions:
    """`requests` while reconciling, `answer` from there, `run` as a task."""

    def __init__(
        self,
        api: Api,
        inventory: Inventory,
        answers: Answers,
        clock: Clock,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._leads = leads
        self._api = api
        self._inventory = inventory
        self._answers = answers
        self._clock = clock

    def requests(self, key: RolloutKey) -> tuple[Request, ...]:
        """What people want of this rollout and were not answered yet, as far as the objects say."""
        found = []
        for obj in self._inventory.actions(key):
            if is_over(obj):
                continue
            try:
                found.append(request_of(obj))
            except InvalidObject as error:
                self._say(obj, Answer(Outcome.REFUSED, reasons.INVALID_ACTION, str(error)))
        return tuple(found)

    def answer(self, rollout: Mapping[str, Any], request: Request, answer: Answer, at: datetime) -> None:
        """Say on the object what became of it; one that is gone needs no answer."""
        obj = self._inventory.get(ACTIONS, rollout["metadata"]["namespace"], request.name)
        if obj is not None and obj["metadata"]["uid"] == request.uid:
            self._say(obj, answer, at)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self.check()

    async def check(self) -> None:
        """Look at every action once, if this replica leads what belongs to no rollout."""
        if not self._leads():
            return
        now, deleted = self._clock.now(), 0
        for obj in self._inventory.all(ACTIONS):
            if is_over(obj):
                if now - finished_at(obj, now) >= KEPT_FOR and deleted < DELETED_AT_ONCE_MAX:
                    deleted += 1
                    await self._delete(obj)
            else:
                self._without_rollout(obj, now)

    def _without_rollout(self, obj: Mapping[str, Any], now: datetime) -> None:
        namespace, name = rollout_of(obj)
        age = now - _time(obj["metadata"].get("creationTimestamp"), now)
        if self._inventory.get(ROLLOUTS, namespace, name) is not None or age < GRACE:
            return
        missing = f"There is no FeatureRollout {name} in namespace {namespace}."
        if age >= EXPIRES_AFTER:
            message = f"It could not be applied within 24 hours. {missing}"
            self._say(obj, Answer(Outcome.EXPIRED, reasons.EXPIRED, message), now)
        else:
            self._say(obj, Answer(Outcome.PENDING, reasons.ROLLOUT_MISSING, f"{missing} It waits for it for a day."))

    async def _delete(self, obj: Mapping[str, Any]) -> None:
        try:
            await self._api.delete(ACTIONS, obj)
        except ApiError as error:
            log.info("an action that is long over was not deleted: %s", error)

    def _say(self, obj: Mapping[str, Any], answer: Answer, at: datetime | None = None) -> None:
        self._answers.action_is(obj, answer, at or self._clock.now())


def request_of(obj: Mapping[str, Any]) -> Request:
    """A RolloutAction as the core sees it. Raises InvalidObject."""
    action = RolloutAction.parse(obj)
    spec, metadata = action.spec, action.metadata
    return Request(
        uid=metadata.uid,
        type=spec.type,
        created_at=(metadata.creation_timestamp or datetime.now(UTC)).astimezone(UTC),
        name=metadata.name,
        stage=spec.stage,
        check=spec.check_,
        plan_hash=spec.plan_hash,
        to=spec.to or RollBackTo.OFF,
        reason=spec.reason or "",
        requested_by=spec.requested_by or "",
    )


def rollout_of(obj: Mapping[str, Any]) -> RolloutKey:
    """The rollout that an action names, be it there or not."""
    name = ((obj.get("spec") or {}).get("rolloutRef") or {}).get("name") or ""
    return obj["metadata"].get("namespace") or "", name


def is_over(obj: Mapping[str, Any]) -> bool:
    """Whether its status says what became of it."""
    return (obj.get("status") or {}).get("phase") in {Outcome.APPLIED, Outcome.REFUSED, Outcome.EXPIRED}


def finished_at(obj: Mapping[str, Any], now: datetime) -> datetime:
    return _time((obj.get("status") or {}).get("finishedAt"), now)


def _time(text: object, otherwise: datetime) -> datetime:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else otherwise
    except ValueError:
        return otherwise
