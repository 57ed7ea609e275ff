"""Making a revert that was begun, and counting it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from feature_rollout import tracing
from feature_rollout.about import about
from feature_rollout.core import reasons
from feature_rollout.core.people import Order
from feature_rollout.core.state import Breach
from feature_rollout.ports import Clock, FlagStore, RolloutObjects
from feature_rollout.reconcile.changes import cause_of
from feature_rollout.reconcile.session import Session, Target, Telemetry

log = logging.getLogger(__name__)

# Instead of a severity, where a revert is counted that a person has ordered.
BY_PERSON = "Person"


class Reverter:
    """Lowers the rows; whoever calls has begun the revert in the session."""

    def __init__(self, objects: RolloutObjects, clock: Clock, telemetry: Telemetry) -> None:
        self._objects = objects
        self._clock = clock
        self._telemetry = telemetry

    async def revert(self, target: Target, session: Session, store: FlagStore) -> bool:
        """Make the revert that was begun; whether it is this replica's. While nobody leads two may come to the same
        one, and the other has counted and told it.
        """
        assert session.reverting is not None  # noqa: S101 - the callers have begun it
        decision, change = session.reverting
        with tracing.span("revert", rollout=target.place, stage=change.why.stage, verb=change.why.verb) as span:
            ledger = await store.lower(replace(change, on_interrupted=self._interrupted(target)))
            span.set(operation=ledger.operation)
        session.remember(ledger)
        session.reverting = None
        if ledger.latch is not None and change.latch is not None and ledger.latch.acted_at != change.latch.acted_at:
            return False
        with about(operation=ledger.operation):
            self._count(session, cause_of(decision))
        return True

    def _interrupted(self, target: Target) -> Callable[[str], None]:
        def tell(note: str) -> None:
            log.warning(note)
            self._objects.event(
                target.rollout, kind="Warning", reason=reasons.SESSION_INTERRUPTED, action="Interrupt", note=note
            )

        return tell

    def _count(self, session: Session, cause: Breach | Order) -> None:
        now = self._clock.now()
        if isinstance(cause, Order):
            self._telemetry.reverted(BY_PERSON, (now - cause.asked_at).total_seconds(), None, late=False)
            return
        answered_at_s = session.answered_at_s
        waited_s = asyncio.get_running_loop().time() - answered_at_s if answered_at_s is not None else None
        took = now - cause.onset_at
        late = took > cause.respond_within
        self._telemetry.reverted(str(cause.severity), took.total_seconds(), waited_s, late=late)
