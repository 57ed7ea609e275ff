"""The loop: gather, decide, check, apply, record. The order of side effects lives only here.

One reconcile looks at everything and does at most one thing; it never asks which event
woke it. What it keeps between runs is a cache of what the database holds, and the looks
that are under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from feature_rollout.core import reasons
from feature_rollout.core.decide import decide, release
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.guards import assess
from feature_rollout.core.invariants import violations
from feature_rollout.core.looks import Look
from feature_rollout.core.plan import OnDelete, OnNoTraffic, Plan
from feature_rollout.core.progress import Progress, aligned, verdict
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.core.status import TRANSITIONS, differs, picture, trouble_picture
from feature_rollout.ports import (
    Checkpoint,
    Claim,
    Clock,
    Commit,
    Drifted,
    Fenced,
    FlagStore,
    Lowering,
    MetricSource,
    Problem,
    RolloutObjects,
    Snapshot,
    Why,
)

log = logging.getLogger(__name__)

ABANDON_ANNOTATION = "featurerollout.dev/abandon"
# How often rows are read when nothing else is due: a change by hand is seen this soon.
POLL = timedelta(seconds=5)
POLL_COMPLETED = timedelta(seconds=30)
RETRY = timedelta(seconds=2)
AT_ONCE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Target:
    """One rollout with its references followed, as the runtime found it.

    `plan` is None when the manifest cannot be followed, and then `trouble` says why.
    `store` is None when there is no usable FlagStore; `store_trouble` says why.
    """

    rollout: Mapping[str, Any]
    key: str
    on_delete: OnDelete
    plan: Plan | None = None
    trouble: Trouble | None = None
    suspended: bool = False
    hold_at: str | None = None
    store: FlagStore | None = None
    source: MetricSource | None = None

    @property
    def uid(self) -> str:
        return str(self.rollout["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.rollout["metadata"]["generation"])

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.rollout["metadata"]

    @property
    def status(self) -> Mapping[str, Any]:
        return self.rollout.get("status") or {}


@dataclass(slots=True)
class Session:
    """What is kept of one rollout between two reconciles, by uid."""

    key: str
    store: FlagStore | None = None
    claim: Claim | None = None
    ledger: Ledger | None = None
    plan: Plan | None = None
    progress: Progress | None = None
    looking: dict[str, asyncio.Task[Look]] = field(default_factory=dict)
    unsaved: bool = False
    status: Mapping[str, Any] | None = None
    told: str = ""

    def forget(self) -> None:
        """What the database holds must be read again; looks that are under way go on."""
        self.claim = self.ledger = self.progress = None
        self.unsaved = False


class Telemetry(Protocol):
    """What is counted on the way."""

    def looked(self, verdict: str) -> None: ...

    def reverted(self, severity: str, seconds: float) -> None: ...

    def violated(self, invariant: str) -> None: ...


class Reconciler:
    """Moves rollouts one step at a time. `wake` asks for a reconcile of an object, by namespace and name."""

    def __init__(
        self, objects: RolloutObjects, clock: Clock, telemetry: Telemetry, wake: Callable[[str, str], None]
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._telemetry = telemetry
        self._wake = wake
        self._sessions: dict[str, Session] = {}

    async def reconcile(self, target: Target) -> timedelta | None:
        """One step. Returns in how long the next is due, or None when there is none."""
        session = self._sessions.setdefault(target.uid, Session(target.key))
        try:
            if target.deleting:
                return await self._delete(target, session)
            return await self._step(target, session)
        except Fenced:
            log.info("the ledger row moved on; reading it again", extra={"rollout": target.key})
            session.forget()
            return AT_ONCE
        except Drifted:
            return AT_ONCE
        except Problem as problem:
            session.forget()
            await self._tell_trouble(target, session, Trouble(problem.reason, problem.message, problem.stalled))
            return RETRY

    def forget(self, uid: str) -> None:
        """The object is gone."""
        session = self._sessions.pop(uid, None)
        for task in session.looking.values() if session else ():
            task.cancel()

    async def checkpoint(self) -> None:
        """Store what was measured since the last time, one statement a store."""
        unsaved: dict[int, list[Session]] = {}
        for session in self._sessions.values():
            if session.unsaved and session.store is not None and session.ledger and session.progress:
                unsaved.setdefault(id(session.store), []).append(session)
        for sessions in unsaved.values():
            store = sessions[0].store
            assert store is not None  # noqa: S101 - looked at just above; the type checker cannot see it
            for session in sessions:
                session.unsaved = False
            try:
                await store.checkpoint([_checkpoint(session) for session in sessions])
            except Problem as problem:
                log.warning("progress was not stored: %s", problem)
                for session in sessions:
                    session.unsaved = True

    async def _step(self, target: Target, session: Session) -> timedelta:
        session.plan = target.plan or session.plan
        if session.plan is None or target.store is None:
            trouble = target.trouble or Trouble(reasons.PENDING, "Nothing is known of the plan yet.", stalled=False)
            await self._tell_trouble(target, session, trouble)
            return RETRY
        await self._objects.add_finalizer(target.rollout)
        view = await self._gather(target, session, session.plan, target.store)
        decision = decide(view)
        decision = self._checked(view, decision)
        acted = await self._apply(target, session, view, decision)
        if acted is None:
            return AT_ONCE
        if acted is not view:
            self._announce(target, acted, decision)
        await self._tell(target, session, acted, decision)
        return AT_ONCE if acted is not view else self._due(acted)

    async def _gather(self, target: Target, session: Session, plan: Plan, store: FlagStore) -> View:
        snapshot = await self._read(target, session, plan, store)
        now = self._clock.now()
        if session.progress is None:
            session.progress = await self._stored_progress(plan, snapshot.ledger, store)
        before = session.progress
        session.progress = self._observed(target, session, plan, snapshot.ledger, now)
        session.ledger = snapshot.ledger
        session.unsaved |= session.progress is not before
        if target.source is not None and snapshot.ledger.completed_at is None:
            self._start_looks(target, session, plan, target.source, now)
        return View(
            plan=plan,
            ledger=snapshot.ledger,
            rows=snapshot.rows,
            progress=session.progress,
            guards=assess(plan, session.progress, now),
            now=now,
            suspended=target.suspended,
            hold_at=target.hold_at,
            trouble=target.trouble,
        )

    async def _read(self, target: Target, session: Session, plan: Plan, store: FlagStore) -> Snapshot:
        """The ledger and the rows; opened first when this process, or this plan, has not done so yet."""
        claim = Claim(target.key, target.uid, plan.flags, plan.spec_hash, plan.plan_hash, plan.on_delete)
        if session.claim != claim or session.store is not store:
            await store.open(claim)
            session.claim, session.store = claim, store
        snapshot = await store.read(target.key, plan.flags)
        written = [flag for flag in snapshot.ledger.written if flag not in plan.flags]
        # An edit may drop a flag that was raised: it is still ours to guard.
        return await store.read(target.key, [*plan.flags, *written]) if written else snapshot

    async def _stored_progress(self, plan: Plan, ledger: Ledger, store: FlagStore) -> Progress:
        stored = await store.progress(ledger.key)
        known = Progress.from_json(stored[1]) if stored is not None and stored[0] == ledger.attempt else None
        return aligned(known, plan, ledger)

    def _observed(self, target: Target, session: Session, plan: Plan, ledger: Ledger, now: datetime) -> Progress:
        """The progress after every look that has arrived, in the order of their windows."""
        if session.ledger is not None and session.ledger.attempt != ledger.attempt:
            session.progress = None
        progress = aligned(session.progress, plan, ledger)
        counting = not target.suspended and target.trouble is None and ledger.latch is None
        stage = plan.stages[ledger.stage] if ledger.entered_at is not None and ledger.stage >= 0 else None
        on_no_traffic = stage.on_no_traffic if stage else OnNoTraffic.WAIT
        done = {name: task for name, task in session.looking.items() if task.done()}
        for name in done:
            del session.looking[name]
        for look in sorted((task.result() for task in done.values()), key=lambda k: (k.window.end, k.metric)):
            clauses = [clause for _, clause in plan.guards() if clause.metric == look.metric]
            self._telemetry.looked(str(verdict(look, clauses)))
            if look.error is not None:
                log.info("%s could not be looked at: %s", look.metric, look.error, extra={"rollout": target.key})
            progress = progress.observed(plan, look, counting=counting, on_no_traffic=on_no_traffic)
        return progress.elapsed(plan, now, counting=counting)

    def _start_looks(self, target: Target, session: Session, plan: Plan, source: MetricSource, now: datetime) -> None:
        """Ask for every window that is settled. The answer wakes the rollout: nothing waits for a slow source."""
        assert session.progress is not None  # noqa: S101 - set by the caller
        metadata = target.rollout["metadata"]
        for metric in plan.metrics.values():
            if metric.blocker is not None or metric.name in session.looking:
                continue
            if session.progress.due_at(metric, now) > now:
                continue
            task = asyncio.create_task(source.look(metric.name, session.progress.due_window(metric, now)))
            task.add_done_callback(lambda _: self._wake(metadata["namespace"], metadata["name"]))
            session.looking[metric.name] = task

    def _checked(self, view: View, decision: Decision) -> Decision:
        """The decision, or a hold when it would break an invariant: that is a bug, and must do no harm."""
        broken = violations(view, decision)
        if not broken:
            return decision
        for invariant in broken:
            self._telemetry.violated(invariant)
        message = f"{decision.verb} would break {', '.join(broken)} and was not carried out."
        log.error(message, extra={"rollout": view.ledger.key})
        return Decision(Verb.HOLD, Phase.STALLED, reasons.INVARIANT_VIOLATED, message, stalled=True)

    async def _apply(self, target: Target, session: Session, view: View, decision: Decision) -> View | None:
        """Carry the decision out. The view after it; the same view when nothing was to do; None to look again."""
        store = target.store
        assert store is not None  # noqa: S101 - `_step` has looked
        if decision.verb.reverts:
            await store.lower(_lowering(target, view, decision))
            assert decision.breach is not None  # noqa: S101 - a revert has one
            seconds = (self._clock.now() - decision.breach.onset_at).total_seconds()
            self._telemetry.reverted(str(decision.breach.severity), seconds)
        elif decision.ledger is not None:
            if decision.verb is Verb.ADVANCE and not await self._still_wanted(target):
                return None
            why = _why(target, decision, view.plan.stages[max(decision.ledger.stage, 0)].name)
            await store.commit(Commit(decision.ledger, decision.before, decision.after, why))
        else:
            return view
        return await self._gather(target, session, view.plan, store)

    async def _still_wanted(self, target: Target) -> bool:
        """Whether the API server, asked now, still holds what was decided on: nothing is raised on an old manifest."""
        metadata = target.rollout["metadata"]
        fresh = await self._objects.fresh(metadata["namespace"], metadata["name"])
        if fresh is None or fresh["metadata"]["uid"] != target.uid:
            return False
        return fresh["metadata"]["generation"] == target.generation and "deletionTimestamp" not in fresh["metadata"]

    def _announce(self, target: Target, view: View, decision: Decision) -> None:
        """An Event and a log line for what was done."""
        kind = "Warning" if decision.verb.reverts else "Normal"
        stage = view.stage.name if view.stage else ""
        written = "; ".join(f"{flag}: {view.rows[flag]}" for flag in decision.targets if flag in view.rows)
        note = f"{decision.message} Written: {written}." if written else decision.message
        self._objects.event(target.rollout, kind=kind, reason=decision.reason, action=str(decision.verb), note=note)
        extra = {"rollout": target.key, "stage": stage, "operation": f"{view.ledger.key}@{view.ledger.sequence}"}
        log.log(logging.WARNING if decision.verb.reverts else logging.INFO, note, extra=extra)

    async def _tell(self, target: Target, session: Session, view: View, acted: Decision) -> None:
        """Write the status when it says something new."""
        previous = session.status if session.status is not None else target.status
        now = acted if acted.verb not in TRANSITIONS else decide(view)
        status = picture(view, now, previous, target.generation, acted=acted)
        session.told = ""
        if session.status is not None and not differs(status, session.status):
            return
        if now.verb is Verb.HOLD and _is_news(now, previous):
            kind = "Warning" if now.stalled or now.phase is Phase.HELD else "Normal"
            self._objects.event(target.rollout, kind=kind, reason=now.reason, action=str(now.verb), note=now.message)
        session.status = status
        await self._objects.write_status(target.rollout, status)

    async def _tell_trouble(self, target: Target, session: Session, trouble: Trouble) -> None:
        phase = Phase.STALLED if trouble.stalled else Phase.PENDING
        decision = Decision(Verb.HOLD, phase, trouble.reason, trouble.message, stalled=trouble.stalled)
        previous = session.status if session.status is not None else target.status
        status = trouble_picture(decision, previous, target.generation, self._clock.now())
        if session.told != decision.message:
            log.warning("%s: %s", trouble.reason, trouble.message, extra={"rollout": target.key})
            self._objects.event(
                target.rollout, kind="Warning", reason=trouble.reason, action=str(Verb.HOLD), note=trouble.message
            )
            session.told = decision.message
        if session.status is None or differs(status, session.status):
            session.status = status
            await self._objects.write_status(target.rollout, status)

    async def _delete(self, target: Target, session: Session) -> timedelta | None:
        """Leave the rows as `onDelete` says, give the flags up, then let the object go."""
        if not target.rollout["metadata"].get("finalizers"):
            self.forget(target.uid)
            return None
        abandoned = (target.rollout["metadata"].get("annotations") or {}).get(ABANDON_ANNOTATION)
        if abandoned:
            note = f"Let go without touching the database: {abandoned}"
            self._objects.event(target.rollout, kind="Warning", reason="Abandoned", action="Release", note=note)
        elif target.store is None:
            trouble = target.trouble or Trouble(reasons.STORE_NOT_FOUND, "The FlagStore is not usable.")
            hint = f" To delete without it, annotate with {ABANDON_ANNOTATION}: <reason>."
            await self._tell_trouble(target, session, replace(trouble, message=trouble.message + hint))
            return RETRY
        else:
            await self._release(target, target.store)
        await self._objects.remove_finalizer(target.rollout)
        self.forget(target.uid)
        return None

    async def _release(self, target: Target, store: FlagStore) -> None:
        snapshot = await store.read(target.key, [])
        if snapshot.ledger.uid != target.uid:
            return
        decision = release(snapshot.ledger, target.on_delete)
        exact = target.on_delete is OnDelete.RESTORE
        why = _why(target, decision, "")
        await store.release(Lowering(target.key, decision.targets, why, exact=exact), target.uid)
        self._objects.event(
            target.rollout, kind="Normal", reason=decision.reason, action=str(decision.verb), note=decision.message
        )

    def _due(self, view: View) -> timedelta:
        """When something may be different: a look is due, a bake may be over, a row may have been changed."""
        if view.ledger.completed_at is not None:
            return POLL_COMPLETED
        due = [view.progress.due_at(m, view.now) - view.now for m in view.plan.metrics.values() if not m.blocker]
        if not view.plan.guards() and view.stage is not None:
            due.append(view.stage.bake - view.progress.baked)
        return max(min([POLL, *(wait for wait in due if wait > AT_ONCE)]), timedelta(milliseconds=10))


def _is_news(decision: Decision, previous: Mapping[str, Any]) -> bool:
    ready = next((c for c in previous.get("conditions", []) if c["type"] == "Stalled"), None)
    return ready is None or ready.get("reason") != decision.reason


def _why(target: Target, decision: Decision, stage: str) -> Why:
    evidence = decision.breach.to_json() if decision.breach else {}
    return Why(decision.reason, decision.message, target.generation, stage, evidence=evidence)


def _lowering(target: Target, view: View, decision: Decision) -> Lowering:
    assert decision.breach is not None  # noqa: S101 - a revert has one
    stage = view.stage.name if view.stage else ""
    return Lowering(
        key=target.key,
        targets=decision.targets,
        why=_why(target, decision, stage),
        latch=Latch(decision.breach, stage, view.plan.spec_hash, view.now),
        severity=decision.breach.severity,
    )


def _checkpoint(session: Session) -> Checkpoint:
    assert session.ledger is not None  # noqa: S101 - `checkpoint` has looked
    assert session.progress is not None  # noqa: S101 - likewise
    ledger, progress = session.ledger, session.progress
    return Checkpoint(ledger.key, ledger.epoch, ledger.attempt, progress.baked, progress.to_json())
