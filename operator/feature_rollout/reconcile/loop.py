"""The loop: gather, decide, check, apply, record. The order of side effects is here, that of an end in deletion.py.

One reconcile looks at everything and does at most one thing; it never asks which event
woke it. What it keeps between runs is a cache of what the database holds, and the looks
that are under way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from feature_rollout import tracing
from feature_rollout.about import about
from feature_rollout.core import reasons
from feature_rollout.core.clearance import to_ask
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.election import Role
from feature_rollout.core.invariants import violations
from feature_rollout.core.people import RequestType
from feature_rollout.core.plan import Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.standstill import stands_still
from feature_rollout.ports import (
    Clock,
    Commit,
    Drifted,
    Fenced,
    FlagStore,
    Problem,
    RolloutObjects,
    Unconfirmed,
)
from feature_rollout.reconcile.changes import lowering, restoring, why_of
from feature_rollout.reconcile.deletion import Deletion
from feature_rollout.reconcile.gather import Gatherer
from feature_rollout.reconcile.reverting import Reverter
from feature_rollout.reconcile.session import Refusal, Session, Target, Telemetry, Wake, checkpoint_of, trouble_of
from feature_rollout.reconcile.tell import Teller

log = logging.getLogger(__name__)

# How often rows are read when nothing else is due: a change by hand is seen this soon.
POLL = timedelta(seconds=5)
POLL_COMPLETED = timedelta(seconds=30)
RETRY = timedelta(seconds=2)
AT_ONCE = timedelta(0)


class Reconciler:
    """Moves rollouts one step at a time. `wake` asks for a reconcile of an object.

    `role` says what this replica is at the moment for the rollout with a UID. One that stands by does nothing. One that
    does not lead and has the epoch still, or that sees nobody lead, measures and lowers.
    """

    def __init__(
        self,
        objects: RolloutObjects,
        clock: Clock,
        telemetry: Telemetry,
        wake: Wake,
        *,
        poll: timedelta = POLL,
        role: Callable[[str], Role] = lambda _uid: Role.LEADING,
    ) -> None:
        self._role = role
        self._poll = poll
        self._objects = objects
        self._clock = clock
        self._telemetry = telemetry
        self._gatherer = Gatherer(clock, telemetry, wake)
        self._teller = Teller(objects, clock, self._leads)
        self._reverter = Reverter(objects, clock, telemetry)
        self._deletion = Deletion(objects, self._teller, self._reverter)
        self._sessions: dict[str, Session] = {}
        # The stores that did not take the last checkpoint, by id.
        self._not_storing: set[int] = set()

    async def reconcile(self, target: Target) -> timedelta | None:
        """One step. Returns in how long the next is due, or None when there is none."""
        session = self._sessions.setdefault(target.uid, Session(target.key))
        if not self._takes_part(target, session):
            session.stand_by()
            return None
        with about(rollout=target.place, stage=session.stage), tracing.span("reconcile", rollout=target.place) as span:
            due = await self._reconciled(target, session)
            span.set(stage=session.stage)
            return due

    async def _reconciled(self, target: Target, session: Session) -> timedelta | None:
        try:
            if target.deleting:
                if not target.rollout["metadata"].get("finalizers"):
                    self.forget(target.uid)
                    return None
                return None if await self._deletion.ended(target, session) else RETRY
            return await self._step(target, session)
        except Fenced:
            log.info("the ledger row moved on; reading it again")
            session.fenced()
        except Drifted as drifted:
            log.info("a row was changed meanwhile; reading it again: %s", drifted)
        except Problem as problem:
            if problem.reason == reasons.LEDGER_MISSING:
                session.fenced()
            await self._teller.trouble(target, session, trouble_of(problem))
            self._teller.waiting(target, session, trouble_of(problem))
        # Never at once: what goes wrong each time would go wrong without a pause.
        return RETRY

    def _leads(self, uid: str) -> bool:
        return self._role(uid) is Role.LEADING

    def _takes_part(self, target: Target, session: Session) -> bool:
        """Whether this replica has anything to do here; who stands by is woken when its role changes."""
        role = self._role(target.uid)
        session.unled = role is Role.UNLED and session.claim is None
        if role is Role.LEADING:
            return True
        return not target.deleting and (session.unled or session.claim is not None)

    def forget(self, uid: str) -> None:
        """The object is gone."""
        session = self._sessions.pop(uid, None)
        if session is not None:
            session.stop_asking()

    def uses(self, store: FlagStore) -> bool:
        """Whether a rollout's guards may still need this store, also when its FlagStore is gone."""
        return any(session.store is store for session in self._sessions.values())

    def views(self) -> list[View]:
        """Each rollout as it was looked at last, where this replica leads; may be called from any thread."""
        views = [(uid, session.view) for uid, session in tuple(self._sessions.items())]
        return [view for uid, view in views if view is not None and self._leads(uid)]

    def status_lost(self, uid: str) -> None:
        """The status that was told last could not be written: tell it again."""
        session = self._sessions.get(uid)
        if session is not None:
            session.status_lost = True

    async def checkpoint(self) -> None:
        """Store what was measured since the last time, one statement a store."""
        unsaved: dict[int, list[Session]] = {}
        for session in self._sessions.values():
            if session.unled or not session.unsaved:
                continue
            if session.store is not None and session.ledger and session.progress:
                unsaved.setdefault(id(session.store), []).append(session)
        not_storing: set[int] = set()
        for which, sessions in unsaved.items():
            store = sessions[0].store
            assert store is not None  # noqa: S101 - looked at just above; the type checker cannot see it
            for session in sessions:
                session.unsaved = False
            try:
                await store.checkpoint([checkpoint_of(session) for session in sessions])
            except Problem as problem:
                if which not in self._not_storing:
                    log.warning("progress is not stored: %s", problem)
                not_storing.add(which)
                for session in sessions:
                    session.unsaved = True
            else:
                if which in self._not_storing:
                    log.warning("progress is stored again")
        self._not_storing = not_storing

    async def _step(self, target: Target, session: Session) -> timedelta:
        session.plan = target.plan or session.plan
        store = target.store or session.store
        if target.store is not None and (target.plan is not None or target.source is not None):
            session.source, session.check_source = target.source, target.checks
        if session.plan is None or store is None:
            trouble = target.trouble or Trouble(reasons.PENDING, "Nothing is known of the plan yet.", stalled=False)
            await self._teller.trouble(target, session, trouble)
            if store is not None:
                await self._roll_back_without_plan(target, session, store)
            self._teller.waiting(target, session, trouble)
            return RETRY
        leading = self._leads(target.uid)
        if leading:
            target = await self._finalized(target, session)
        view = await self._gatherer.view(target, session, session.plan, store, leading=leading)
        session.view = view
        session.untold = session.untold or session.confirmed(view.ledger)
        self._teller.answer(target, session, view)
        if session.untold is None:
            decision = self._decided(target, session, view)
            if leading:
                await self._audit(session, view, store, reverting=decision.verb.reverts)
            told = session.refusal.instead_of(decision, view, target.generation) if session.refusal else decision
            if not told.verb.acts:
                self._gatherer.ask(target, session, to_ask(view, decision))
                await self._teller.tell(target, session, view, told)
                return self._due(view)
            if not await self._apply(target, session, view, decision, store):
                return RETRY
            # Told in the next step, which comes behind the others that wait: their reverts go before our words.
            session.untold = decision
            return AT_ONCE
        decision, session.untold = session.untold, None
        # What a checkpoint has sent since then named the stage before, and was not taken.
        session.unsaved = True
        self._teller.announce(target, view, decision)
        await self._teller.tell(target, session, view, decision)
        return AT_ONCE

    async def _finalized(self, target: Target, session: Session) -> Target:
        """The target, with the finalizer on its object; an API server that does not take it stops what is begun from
        raising, and no guard.
        """
        try:
            await self._objects.add_finalizer(target.rollout)
        except Problem as problem:
            if session.claim is None:
                raise
            return replace(target, trouble=target.trouble or trouble_of(problem))
        return target

    def _decided(self, target: Target, session: Session, view: View) -> Decision:
        """What to do. A revert that is known to this process is made whole before anything else, whatever was lost."""
        lost = session.lost(view.ledger)
        if lost is not None:
            return session.begin(*restoring(target, lost))
        decision = self._checked(view, decide(view))
        if decision.verb.reverts:
            return session.begin(decision, lowering(target, view, session.with_what_may_land(view, decision)))
        return session.reverting[0] if session.reverting is not None else decision

    async def _roll_back_without_plan(self, target: Target, session: Session, store: FlagStore) -> None:
        """A person's RollBack needs the ledger alone: a manifest that nobody can follow must not be in its way.

        Without a plan nothing is known of earlier stages, so PreviousStage is the baseline too.
        """
        uids = [request.uid for request in target.requests if request.type is RequestType.ROLL_BACK]
        if not uids:
            return
        ledger = (await store.read(target.key, [])).ledger
        if ledger.uid != target.uid:
            return
        snapshot = await store.read(target.key, list(ledger.written), uids)
        session.recorded = snapshot.actions
        view = View(
            plan=Plan({}, (), (), ledger.plan_hash, ledger.spec_hash),
            ledger=snapshot.ledger,
            rows=snapshot.rows,
            progress=Progress(),
            guards=(),
            now=self._clock.now(),
            trouble=target.trouble,
            on_drift=target.on_drift,
            unfinished=session.reverting is not None,
            requests=tuple(r for r in target.requests if r.uid in uids and r.uid not in snapshot.actions),
        )
        decision = self._decided(target, session, view)
        if decision.verb.reverts and await self._apply(target, session, view, decision, store):
            self._teller.announce(target, view, decision)
        self._teller.answer(target, session, view)

    def _checked(self, view: View, decision: Decision) -> Decision:
        """The decision, or a hold when it would break an invariant: that is a bug, and must do no harm."""
        broken = violations(view, decision)
        if not broken:
            return decision
        for invariant in broken:
            self._telemetry.violated(invariant)
        message = f"{decision.verb} would break {', '.join(broken)} and was not carried out."
        log.error(message)
        return Decision(Verb.HOLD, Phase.STALLED, reasons.INVARIANT_VIOLATED, message, stalled=True)

    async def _audit(self, session: Session, view: View, store: FlagStore, *, reverting: bool) -> None:
        """Have the audit account for the rows, when they are not those that it accounted for the last time.

        Somebody else may have changed them, or put them back. A lowering sees by itself to those that are changed,
        and does not wait for that here.
        """
        changed = view.drifted if reverting else ()
        rows = {flag: view.rows[flag] for flag in view.expected if flag in view.rows and flag not in changed}
        known = session.audited or {}
        if all(known.get(flag) == row for flag, row in rows.items()):
            return
        try:
            await store.observe(view.ledger.key, tuple(rows))
        except Problem as problem:
            log.info("changes by others are audited later: %s", problem)
        else:
            session.audited = rows

    async def _apply(self, target: Target, session: Session, view: View, decision: Decision, store: FlagStore) -> bool:
        """Carry the decision out; whether it was, and by this replica."""
        if decision.verb.reverts:
            return await self._reverter.revert(target, session, store)
        assert decision.ledger is not None  # noqa: S101 - what acts and is no revert moves the ledger
        if decision.verb is Verb.ADVANCE and not await self._still_wanted(target):
            return False
        stages = view.plan.stages[: decision.ledger.stage + 1]
        why = why_of(target, decision, stages[-1].name if stages else "")
        answered = (decision.answered,) if decision.answered else ()
        try:
            with tracing.span("transaction", rollout=target.place, stage=why.stage, verb=why.verb) as span:
                after = await store.commit(Commit(decision.ledger, decision.before, decision.after, why, answered))
                span.set(operation=after.operation)
        except Unconfirmed:
            session.unconfirmed = decision
            raise
        except Problem as problem:
            if decision.verb is not Verb.ADVANCE or not problem.stalled:
                raise
            session.refusal = Refusal.by(problem, view, target.generation)
            await self._teller.tell(target, session, view, session.refusal.told)
            return False
        session.unconfirmed = session.refusal = None
        return True

    async def _still_wanted(self, target: Target) -> bool:
        """Whether the API server, asked now, still holds what was decided on: nothing is raised on an old manifest."""
        metadata = target.rollout["metadata"]
        fresh = await self._objects.fresh(metadata["namespace"], metadata["name"])
        if fresh is None or fresh["metadata"]["uid"] != target.uid:
            return False
        unchanged = fresh["metadata"]["generation"] == target.generation
        # The Lease may have been lost while the API server was asked.
        return unchanged and "deletionTimestamp" not in fresh["metadata"] and self._leads(target.uid)

    def _due(self, view: View) -> timedelta:
        """When something may be different: a look is due, a bake may be over, a row may have been changed."""
        if view.is_over:
            return POLL_COMPLETED
        due = [view.progress.due_at(m, view.now) - view.now for m in view.plan.metrics.values() if not m.blocker]
        if not view.plan.guards() and view.stage is not None and not stands_still(view):
            due.append(view.stage.bake - view.progress.baked)
        return max(min([self._poll, *(wait for wait in due if wait > AT_ONCE)]), timedelta(milliseconds=10))
