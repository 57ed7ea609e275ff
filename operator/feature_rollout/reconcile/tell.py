"""What people are told: the status, when it says something new, and Events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from feature_rollout.about import about
from feature_rollout.core import reasons
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.news import news
from feature_rollout.core.people import Answer, Outcome
from feature_rollout.core.plan import OnDrift
from feature_rollout.core.requests import waiting
from feature_rollout.core.status import differs, picture, trouble_picture
from feature_rollout.ports import Clock, Problem, RolloutObjects, Why
from feature_rollout.reconcile.session import Session, Target

log = logging.getLogger(__name__)

STALLED_AFTER = timedelta(minutes=5)


class Teller:
    """Neither a status nor an Event is waited for: both are queued by `objects`.

    Who does not lead tells of what it has done itself, and of nothing else.
    """

    def __init__(self, objects: RolloutObjects, clock: Clock, leads: Callable[[str], bool]) -> None:
        self._leads = leads
        self._objects = objects
        self._clock = clock

    def announce(self, target: Target, view: View, decision: Decision) -> None:
        """An Event and a log line for what was done; `answer` has the Event of what a person has asked for."""
        kind = "Warning" if decision.verb.reverts else "Normal"
        stage = view.stage.name if view.stage else ""
        written = "; ".join(f"{flag}: {view.rows[flag]}" for flag in decision.targets if flag in view.rows)
        note = f"{decision.message} Written: {written}." if written else decision.message
        if decision.answered is None or decision.verb.reverts:
            self._objects.event(target.rollout, kind=kind, reason=decision.reason, action=str(decision.verb), note=note)
        with about(stage=stage, operation=view.ledger.operation):
            log.log(logging.WARNING if decision.verb.reverts else logging.INFO, note)

    async def tell(self, target: Target, session: Session, view: View, decision: Decision) -> None:
        """Write the status when it says something new; after something was done, what is waited for now."""
        session.troubled_since = None
        # Who leads is nothing that a status should tell.
        view = replace(view, leading=True)
        previous = session.status if session.status is not None else target.status
        now = decision
        if decision.verb.acts:
            following = decide(view)
            if decision.verb is Verb.REFUSE and following.verb.acts:
                return  # nothing of the rollout is different, and what is comes next
            now = decision if following.verb.acts else following
        status = picture(view, now, previous, target.generation, acted=decision)
        if not self._leads(target.uid):
            # Written if this replica leads again: another cannot know all that was done.
            if decision.verb.acts:
                session.status, session.status_lost = status, True
            return
        if not differs(status, previous) and not session.status_lost:
            return
        # That a revert stays, or a pause, is no news beside the revert or the person's action.
        told_already = decision.verb.reverts or (decision.verb.acts and decision.reason == now.reason)
        if now.verb is Verb.HOLD and _is_news(now, previous) and not told_already:
            kind = "Warning" if now.stalled or now.phase is Phase.HELD else "Normal"
            self._objects.event(target.rollout, kind=kind, reason=now.reason, action=str(now.verb), note=now.message)
        drift = _drift(status)
        if view.on_drift is OnDrift.REPORT and drift is not None and drift != _drift(previous):
            note = f"{drift} The rollout does not stop for it: onDrift is Report."
            self._objects.event(
                target.rollout, kind="Warning", reason=reasons.MANUAL_CHANGE, action=str(now.verb), note=note
            )
        # Before the status, by which a process that comes after this one knows what was told.
        if not now.verb.acts:
            stage = view.stage.name if view.stage else ""
            await _tell_others(target, session, _why_told(target, now, previous, stage) or session.news)
        session.news = None
        session.status, session.status_lost = status, False
        await self._objects.write_status(target.rollout, status)

    def answer(self, target: Target, session: Session, view: View) -> None:
        """Say on each RolloutAction what became of it or what it waits for, and an Event when that is final.

        By what the store has recorded: an answer that a crash kept from being told is told by the next process.
        """
        if not self._leads(target.uid):
            return
        for request in target.requests:
            recorded = session.recorded.get(request.uid)
            if recorded is None:
                continue
            answer = recorded.answer
            if request.uid not in session.announced:
                kind = "Normal" if answer.outcome is Outcome.APPLIED else "Warning"
                action, note = str(request.type), f"{request.name}: {answer.message}"
                self._objects.event(target.rollout, kind=kind, reason=answer.reason, action=action, note=note)
            self._objects.answer(target.rollout, request, answer, recorded.at)
        session.announced = {request.uid for request in target.requests if request.uid in session.recorded}
        for request, answer in waiting(view):
            self._objects.answer(target.rollout, request, answer, view.now)

    def waiting(self, target: Target, session: Session, trouble: Trouble) -> None:
        """Say on each RolloutAction that it waits until what is wrong is mended."""
        if not self._leads(target.uid):
            return
        for request in target.requests:
            if request.uid not in session.recorded:
                answer = Answer(Outcome.PENDING, trouble.reason, f"It waits until this is mended: {trouble.message}")
                self._objects.answer(target.rollout, request, answer, self._clock.now())

    async def trouble(self, target: Target, session: Session, trouble: Trouble) -> None:
        """Say what is wrong. What would heal by waiting needs a person when it has not healed for minutes."""
        if not self._leads(target.uid):
            return
        now = self._clock.now()
        session.troubled_since = session.troubled_since or now
        if now - session.troubled_since >= STALLED_AFTER:
            trouble = replace(trouble, stalled=True)
        phase = Phase.STALLED if trouble.stalled else Phase.PENDING
        decision = Decision(Verb.HOLD, phase, trouble.reason, trouble.message, stalled=trouble.stalled)
        previous = session.status if session.status is not None else target.status
        status = trouble_picture(decision, previous, target.generation, now)
        if differs(status, previous) or session.status_lost:
            log.warning("%s: %s", trouble.reason, trouble.message)
            if trouble.reason != reasons.PENDING and _is_news(decision, previous):
                self._objects.event(
                    target.rollout,
                    kind="Warning",
                    reason=trouble.reason,
                    action=str(Verb.HOLD),
                    note=trouble.message,
                )
            session.news = _why_told(target, decision, previous, "") or session.news
            session.status, session.status_lost = status, False
            await self._objects.write_status(target.rollout, status)
        # Behind the status: it may be the store that is in trouble, and takes seconds to say so. Until it is taken.
        with contextlib.suppress(Problem):
            await _tell_others(target, session, session.news)
            session.news = None


def _why_told(target: Target, now: Decision, previous: Mapping[str, Any], stage: str) -> Why | None:
    """What others are to be told: that the rollout is held or stalled, or is not any more; None for no news."""
    verb = news(now, previous)
    return Why(now.reason, now.message, target.generation, stage, verb=verb) if verb else None


async def _tell_others(target: Target, session: Session, why: Why | None) -> None:
    """Have others told; raises Problem to be tried again."""
    if why is None or session.store is None:
        return
    try:
        await session.store.tell(target.key, why)
    except Problem as problem:
        if not problem.stalled:
            raise
        # It does not heal by itself, and a status is worth more than a notification.
        log.warning("nobody is notified of %s: %s", why.reason, problem)


def _drift(status: Mapping[str, Any]) -> str | None:
    """What a status says of rows that somebody else changed."""
    found = (c for c in status.get("conditions", []) if c.get("type") == "FlagsInSync")
    return next((str(c.get("message")) for c in found if c.get("reason") == reasons.MANUAL_CHANGE), None)


def _is_news(decision: Decision, previous: Mapping[str, Any]) -> bool:
    """Whether the reason is another than the one that was told last, maybe by an earlier process."""
    told = next((c.get("reason") for c in previous.get("conditions", []) if c.get("type") == "Stalled"), None)
    return told != decision.reason
