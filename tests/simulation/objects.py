"""`ports.RolloutObjects` as one process has it: over the API server in memory, by a wire that may fail.

Statuses and answers are written in the background, the newest of each object only, as
`runtime.objects` and `runtime.answers` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from feature_rollout.core.people import Answer, Outcome, Request
from feature_rollout.core.status import kube_time
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, Stale
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.ports import Problem
from simulation.cluster import FINALIZER

if TYPE_CHECKING:
    from simulation.replica import Replica

T = TypeVar("T")
RETRY_S = 1.0
FINALIZER_ATTEMPTS = 3


class MemoryObjects:
    """One for each replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._cluster = replica.world.cluster
        self._waiting: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {}
        self._writing: set[str] = set()
        self._told: dict[str, Mapping[str, Any]] = {}

    async def fresh(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        found = await _translated(self._replica.ask_api("get", lambda stale: self._get(name, stale=stale)))
        self._replica.world.witness.read_object(self._replica, name, found)
        return found

    async def add_finalizer(self, rollout: Mapping[str, Any]) -> None:
        if FINALIZER in (rollout["metadata"].get("finalizers") or ()):
            return
        if "deletionTimestamp" in rollout["metadata"]:
            raise Problem("ApiServerUnavailable", "The object changed meanwhile.", stalled=False)
        await _translated(self._finalize(rollout, [FINALIZER]))

    async def remove_finalizer(self, rollout: Mapping[str, Any]) -> None:
        if FINALIZER in (rollout["metadata"].get("finalizers") or ()):
            await _translated(self._finalize(rollout, []))

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self._queue(ROLLOUTS, rollout, status)

    def event(self, rollout: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        self._replica.note(f"Event {kind} {reason}: {note}")
        self._replica.world.witness.said(note)

    def answer(self, rollout: Mapping[str, Any], request: Request, answer: Answer, at: datetime) -> None:
        obj = self._replica.inventory.get(ACTIONS, rollout["metadata"]["namespace"], request.name)
        if obj is None or obj["metadata"]["uid"] != request.uid:
            return
        status = {"phase": str(answer.outcome), "reason": answer.reason, "message": answer.message}
        if answer.outcome is not Outcome.PENDING:
            status["finishedAt"] = kube_time(at)
        if obj["status"] != status and self._told.get(request.uid) != status:
            self._told[request.uid] = status
            self._queue(ACTIONS, obj, status)

    def _get(self, name: str, *, stale: bool) -> Mapping[str, Any] | None:
        return self._cluster.earlier(ROLLOUTS, name) if stale else self._cluster.get(ROLLOUTS, name)

    async def _finalize(self, rollout: Mapping[str, Any], finalizers: list[str]) -> None:
        what, name = "add finalizer" if finalizers else "remove finalizer", rollout["metadata"]["name"]
        current: Mapping[str, Any] | None = rollout
        for _ in range(FINALIZER_ATTEMPTS):
            if current is None or current["metadata"]["uid"] != rollout["metadata"]["uid"]:
                if finalizers:
                    raise Gone(what, 404)
                return
            decided_on = current
            if bool(decided_on["metadata"].get("finalizers")) == bool(finalizers):
                return
            if finalizers and "deletionTimestamp" in decided_on["metadata"]:
                raise Stale(what)
            try:
                await self._replica.tell_api(what, lambda on=decided_on: self._cluster.finalizers(on, finalizers))  # type: ignore[misc]
            except Stale:
                current = await self._replica.ask_api("get", lambda stale: self._get(name, stale=stale))
            except Gone:
                if finalizers:
                    raise
                return
            else:
                return
        raise Stale(what)

    def _queue(self, plural: str, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        uid = obj["metadata"]["uid"]
        self._waiting[uid] = plural, obj, status
        if uid not in self._writing:
            self._writing.add(uid)
            self._replica.spawn(self._write(uid))

    async def _write(self, uid: str) -> None:
        try:
            while uid in self._waiting:
                plural, obj, status = self._waiting.pop(uid)
                await self._write_once(uid, plural, obj, status)
        finally:
            self._writing.discard(uid)

    async def _write_once(self, uid: str, plural: str, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        name = obj["metadata"]["name"]
        what = f"status {status.get('phase')}" if plural == ROLLOUTS else f"answer {name} {status.get('phase')}"
        try:
            await self._replica.tell_api(what, lambda: self._cluster.status(plural, obj, status))
        except ApiUnavailable:
            await asyncio.sleep(RETRY_S)
            self._waiting.setdefault(uid, (plural, obj, status))
        except ApiError as error:
            self._told.pop(uid, None)
            if isinstance(error, Stale) and plural == ROLLOUTS:
                self._replica.status_lost(uid, name)


async def _translated(call: Any) -> Any:
    try:
        return await call
    except (Gone, Stale) as error:
        raise Problem("ApiServerUnavailable", f"The object changed meanwhile: {error}.", stalled=False) from None
    except ApiError as error:
        raise Problem("ApiServerUnavailable", f"The API server does not answer: {error}.", stalled=False) from None


Work = Callable[[], T]
