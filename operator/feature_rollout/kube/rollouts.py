"""What the reconciler reads from and writes to the API server about one rollout (`ports.RolloutObjects`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from feature_rollout import failpoints
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import Gone, Stale
from feature_rollout.kube.events import EventRecorder
from feature_rollout.kube.ratelimit import TokenBucket
from feature_rollout.kube.resources import GROUP, ROLLOUTS

FINALIZER = f"{GROUP}/finalizer"
STATUS_WRITES_PER_S = 20.0
STATUS_BURST = 50
# Somebody else wrote the object between our read and our patch; more often than this is not bad luck.
FINALIZER_ATTEMPTS = 3
# Before a raise the object is read afresh, and what was read counts for 2 s only.
FRESH_S = 2.0


class KubeRollouts:
    """`ports.RolloutObjects` over the real API server. Its methods raise `kube.errors.ApiError`."""

    def __init__(self, api: Api, events: EventRecorder, *, bucket: TokenBucket | None = None) -> None:
        self._api = api
        self._events = events
        self._bucket = bucket or TokenBucket(per_second=STATUS_WRITES_PER_S, burst=STATUS_BURST)
        # What the API server has answered to new finalizers of the last moments, and when it was asked.
        self._answers: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}

    async def fresh(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object as the API server has it, or None when it is gone: asked now, or told in the last two seconds."""
        self._forget_old_answers()
        answer = self._answers.pop((namespace, name), None)
        if answer is not None:
            return answer[1]
        return await self._api.get(ROLLOUTS, namespace, name, timeout_s=FRESH_S)

    async def add_finalizer(self, rollout: Mapping[str, Any]) -> None:
        """Idempotent. Raises Gone when this UID is not there, Stale when it is being deleted or keeps changing."""
        current: Mapping[str, Any] | None = rollout
        for _ in range(FINALIZER_ATTEMPTS):
            metadata = self._same(rollout, current)
            if metadata is None:
                raise Gone(f"add the finalizer of {_name(rollout)}", 404)
            finalizers = metadata.get("finalizers") or []
            if FINALIZER in finalizers:
                return
            if metadata.get("deletionTimestamp"):
                raise Stale(f"add a finalizer to {_name(rollout)}, which is being deleted")
            path, value = ("/metadata/finalizers/-", FINALIZER) if finalizers else ("/metadata/finalizers", [FINALIZER])
            failpoints.hit(failpoints.ADD_FINALIZER[0])
            asked_s = asyncio.get_running_loop().time()
            answer = await self._patched(current, {"op": "add", "path": path, "value": value})
            if answer is not None:
                failpoints.hit(failpoints.ADD_FINALIZER[1])
                self._forget_old_answers()
                self._answers[metadata["namespace"], metadata["name"]] = asked_s, answer
                return
            current = await self._again(rollout)
        raise Stale(f"add the finalizer of {_name(rollout)}")

    async def remove_finalizer(self, rollout: Mapping[str, Any]) -> None:
        """Idempotent, also when this UID is gone. Raises Stale when the object keeps changing."""
        current: Mapping[str, Any] | None = rollout
        for _ in range(FINALIZER_ATTEMPTS):
            metadata = self._same(rollout, current)
            finalizers = [] if metadata is None else metadata.get("finalizers") or []
            if FINALIZER not in finalizers:
                return
            path = f"/metadata/finalizers/{finalizers.index(FINALIZER)}"
            failpoints.hit(failpoints.REMOVE_FINALIZER[0])
            try:
                if await self._patched(current, {"op": "remove", "path": path}):
                    failpoints.hit(failpoints.REMOVE_FINALIZER[1])
                    return
            except Gone:
                return
            current = await self._again(rollout)
        raise Stale(f"remove the finalizer of {_name(rollout)}")

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Make this the whole status, reverts before the others. Raises Stale or Gone; then nothing was written."""
        await self._bucket.acquire(urgent=status.get("phase") == "RolledBack")
        failpoints.hit(failpoints.WRITE_STATUS[0])
        await self._api.apply_status(ROLLOUTS, rollout, status)
        failpoints.hit(failpoints.WRITE_STATUS[1])

    def event(self, rollout: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        """Record an Event, `kind` Normal or Warning; returns at once."""
        self._events.record(rollout, kind=kind, reason=reason, action=action, note=note)

    @staticmethod
    def _same(decided_on: Mapping[str, Any], current: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The current metadata, or None when another object has taken the name or nothing has it."""
        if current is None or current["metadata"]["uid"] != decided_on["metadata"]["uid"]:
            return None
        metadata: Mapping[str, Any] = current["metadata"]
        return metadata

    async def _patched(self, current: Mapping[str, Any] | None, op: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The object as it is after the patch; None when it has changed since it was read."""
        assert current is not None  # noqa: S101 - for the type checker: the callers have seen its metadata
        try:
            return await self._api.json_patch(ROLLOUTS, current, [op])
        except Stale:
            return None

    def _forget_old_answers(self) -> None:
        oldest_s = asyncio.get_running_loop().time() - FRESH_S
        for key in [key for key, (sent_s, _) in self._answers.items() if sent_s < oldest_s]:
            del self._answers[key]

    async def _again(self, rollout: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return await self._api.get(ROLLOUTS, rollout["metadata"]["namespace"], rollout["metadata"]["name"])


def _name(rollout: Mapping[str, Any]) -> str:
    metadata = rollout["metadata"]
    return f"{metadata.get('namespace')}/{metadata.get('name')}"
