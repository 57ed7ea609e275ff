"""The end of a rollout whose object is deleted: its flags are given up before the finalizer goes."""

from __future__ import annotations

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Trouble, Verb
from feature_rollout.core.plan import OnDelete
from feature_rollout.core.reverts import release
from feature_rollout.core.state import Ledger
from feature_rollout.ports import FlagStore, Lowering, Problem, RolloutObjects
from feature_rollout.reconcile.changes import restoring, why_of
from feature_rollout.reconcile.reverting import Reverter
from feature_rollout.reconcile.session import Session, Target
from feature_rollout.reconcile.tell import Teller

ABANDON_ANNOTATION = "featurerollout.dev/abandon"


class Deletion:
    """One step at a time, as the loop's."""

    def __init__(self, objects: RolloutObjects, teller: Teller, reverter: Reverter) -> None:
        self._objects = objects
        self._teller = teller
        self._reverter = reverter

    async def ended(self, target: Target, session: Session) -> bool:
        """Leave the rows as `onDelete` says, give the flags up, then let the object go; whether all of it is done."""
        # What was measured is of no use any more.
        session.unsaved = False
        if not session.released:
            try:
                await self._release(target, session)
            except Problem as problem:
                # Stalled at once, also where waiting may heal it: whether to wait or to abandon is a person's choice.
                hint = f"To delete without the database, annotate with {ABANDON_ANNOTATION}: <reason>."
                trouble = Trouble(problem.reason, f"{problem.message.rstrip('.')}. {hint}")
                await self._teller.trouble(target, session, trouble)
                return False
            session.released = True
        await self._objects.remove_finalizer(target.rollout)
        # Other finalizers may keep the object: what is left of the session says that ours is done.
        return True

    async def _release(self, target: Target, session: Session) -> None:
        """Give the flags up, once. Raises Problem when the database has to be mended for it."""
        abandoned = (target.rollout["metadata"].get("annotations") or {}).get(ABANDON_ANNOTATION)
        if abandoned:
            note = f"Let go without touching the database: {abandoned}"
            self._objects.event(
                target.rollout, kind="Warning", reason=reasons.ABANDONED, action=str(Verb.RELEASE), note=note
            )
            return
        store = target.store or session.store
        if store is None:
            trouble = target.trouble or Trouble(reasons.STORE_NOT_FOUND, "The FlagStore is not usable.")
            raise Problem(trouble.reason, trouble.message, stalled=trouble.stalled)
        try:
            snapshot = await store.read(target.key, [])
        except Problem as problem:
            if problem.reason == reasons.LEDGER_MISSING:
                return
            raise
        if snapshot.ledger.uid != target.uid:
            return
        finished = await self._finished(target, session, store, snapshot.ledger)
        if finished is not None:
            self._tell_end(target, finished)
            snapshot = await store.read(target.key, [])
        decision = release(snapshot.ledger, target.on_delete)
        exact = target.on_delete is OnDelete.RESTORE
        why = why_of(target, decision, "")
        await store.release(Lowering(target.key, decision.targets, why, exact=exact), target.uid)
        self._tell_end(target, decision)

    async def _finished(self, target: Target, session: Session, store: FlagStore, ledger: Ledger) -> Decision | None:
        """Make whole a revert that this process knows of, if there is one: its latch outlives the object."""
        lost = session.lost(ledger)
        if lost is not None:
            session.begin(*restoring(target, lost))
        if session.reverting is None:
            return None
        decision, _ = session.reverting
        await self._reverter.revert(target, session, store)
        return decision

    def _tell_end(self, target: Target, decision: Decision) -> None:
        """What was done to the rows of a deleted rollout: it has no status any more that says it."""
        kind = "Warning" if decision.verb.reverts else "Normal"
        self._objects.event(
            target.rollout, kind=kind, reason=decision.reason, action=str(decision.verb), note=decision.message
        )
