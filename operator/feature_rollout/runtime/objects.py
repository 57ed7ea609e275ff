"""What the reconciler writes to the API server, without ever waiting for it.

Statuses are written in the background, the newest of each rollout only: an API server
that is slow or away must not keep a guard from being looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from feature_rollout.core.people import Answer, Request
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Stale
from feature_rollout.kube.rollouts import KubeRollouts
from feature_rollout.ports import Problem

log = logging.getLogger(__name__)

API_UNAVAILABLE = "ApiServerUnavailable"
API_FORBIDDEN = "ApiServerForbidden"
T = TypeVar("T")
Answered = Callable[[Mapping[str, Any], Request, Answer, datetime], None]

WRITERS = 4
BACKOFF_S = 1.0
FORBIDDEN_BACKOFF_S = 2.0


class BackgroundObjects:
    """`ports.RolloutObjects`, with `run()` as a task that writes what was queued.

    `give_way(waited_s)` is awaited before a status is written that was queued so long ago: rows go first.
    `lost(uid, namespace, name)` is called when a status could not be written because the
    object had changed: it must be drawn again, from what the object is now. `answered` is
    told what became of a RolloutAction. What is still queued when this replica does not lead the rollout any more is
    lost too: another may have said something newer.
    """

    def __init__(
        self,
        rollouts: KubeRollouts,
        lost: Callable[[str, str, str], None],
        answered: Answered,
        give_way: Callable[[float], Awaitable[None]],
        leads: Callable[[str], bool] = lambda _uid: True,
    ) -> None:
        self._leads = leads
        self._rollouts = rollouts
        self._give_way = give_way
        self._lost = lost
        self._answered = answered
        # The newest status of each object, and since when there was one to write.
        self._waiting: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], float]] = {}
        self._writing: set[str] = set()
        self._changed = asyncio.Condition()

    async def fresh(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return await _translated(self._rollouts.fresh(namespace, name))

    async def add_finalizer(self, rollout: Mapping[str, Any]) -> None:
        await _translated(self._rollouts.add_finalizer(rollout))

    async def remove_finalizer(self, rollout: Mapping[str, Any]) -> None:
        await _translated(self._rollouts.remove_finalizer(rollout))

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        async with self._changed:
            uid, now_s = rollout["metadata"]["uid"], asyncio.get_running_loop().time()
            since_s = self._waiting[uid][2] if uid in self._waiting else now_s
            self._waiting[uid] = (rollout, status, since_s)
            self._changed.notify()

    def event(self, rollout: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        self._rollouts.event(rollout, kind=kind, reason=reason, action=action, note=note)

    def answer(self, rollout: Mapping[str, Any], request: Request, answer: Answer, at: datetime) -> None:
        self._answered(rollout, request, answer, at)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._write_forever())

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything is written; return whether it was."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: not self._waiting and not self._writing)
        except TimeoutError:
            return False
        return True

    async def _write_forever(self) -> None:
        while True:
            async with self._changed:
                oldest = await self._changed.wait_for(self._next)
                assert oldest is not None  # noqa: S101 - just waited for
                waited_s = asyncio.get_running_loop().time() - self._waiting[oldest][2]
            await self._give_way(waited_s)
            async with self._changed:
                uid = self._next()
                if uid is None:
                    continue
                rollout, status, _ = self._waiting.pop(uid)
                self._writing.add(uid)
            try:
                await self._write(uid, rollout, status)
            finally:
                async with self._changed:
                    self._writing.discard(uid)
                    self._changed.notify_all()

    def _next(self) -> str | None:
        """One whose status is not being written now: two writes of one object would race."""
        return next((uid for uid in self._waiting if uid not in self._writing), None)

    async def _write(self, uid: str, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        metadata = rollout["metadata"]
        if not self._leads(uid):
            self._lost(uid, metadata["namespace"], metadata["name"])
            return
        try:
            await self._rollouts.write_status(rollout, status)
        except Gone:
            return
        except Stale:
            self._lost(uid, metadata["namespace"], metadata["name"])
        except (ApiUnavailable, PermissionDenied) as error:
            # An API server that has just been started forbids everything until it knows its RBAC objects.
            log.warning("a status was not written, will try again: %s", error, extra=_extra(metadata))
            await asyncio.sleep(BACKOFF_S if isinstance(error, ApiUnavailable) else FORBIDDEN_BACKOFF_S)
            async with self._changed:
                self._waiting.setdefault(uid, (rollout, status, asyncio.get_running_loop().time()))
        except ApiError as error:
            # Refused by the schema: the same status would be refused again.
            log.warning("a status was refused: %s", error, extra=_extra(metadata))
            await asyncio.sleep(BACKOFF_S)


def _extra(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {"rollout": f"{metadata['namespace']}/{metadata['name']}"}


async def _translated(call: Awaitable[T]) -> T:
    """The answer, or what went wrong in the reconciler's own words."""
    try:
        return await call
    except PermissionDenied as error:
        raise Problem(API_FORBIDDEN, f"The API server forbids what the operator needs: {error}.") from None
    except (Gone, Stale) as error:
        raise Problem(API_UNAVAILABLE, f"The object changed meanwhile: {error}.", stalled=False) from None
    except ApiError as error:
        raise Problem(API_UNAVAILABLE, f"The API server does not answer: {error}.", stalled=False) from None
