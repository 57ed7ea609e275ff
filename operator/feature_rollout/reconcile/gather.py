"""Everything that a decision is made on: the ledger, the rows, and the looks that have arrived."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from feature_rollout import tracing
from feature_rollout.core import reasons
from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.decision import Trouble, View
from feature_rollout.core.dependencies import to_read
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import taken_in
from feature_rollout.core.looks import Look, Verdict, Window
from feature_rollout.core.past import begun, inherited
from feature_rollout.core.people import Request
from feature_rollout.core.plan import Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.requests import adoption
from feature_rollout.core.state import Ledger
from feature_rollout.ports import (
    CheckSource,
    Claim,
    Clock,
    Fenced,
    FlagStore,
    MetricSource,
    Problem,
    Recorded,
    Snapshot,
)
from feature_rollout.reconcile.recall import recalled
from feature_rollout.reconcile.session import Looking, Session, Target, Telemetry, Wake, trouble_of

log = logging.getLogger(__name__)


class Gatherer:
    """Reads, and asks the metrics; it writes nothing but the claim that opens the ledger row."""

    def __init__(self, clock: Clock, telemetry: Telemetry, wake: Wake) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._wake = wake

    async def view(self, target: Target, session: Session, plan: Plan, store: FlagStore, *, leading: bool) -> View:
        """The rollout as it is now. Raises Fenced, and Problem when the ledger cannot be read.

        Only who is `leading` opens the ledger row, which takes the epoch.
        """
        snapshot, trouble = await self._read(target, session, plan, store, leading=leading)
        ledger, now = snapshot.ledger, self._clock.now()
        session.remember(ledger)
        view = View(
            plan=plan,
            ledger=ledger,
            rows=snapshot.rows,
            progress=Progress(),
            guards=(),
            now=now,
            suspended=target.suspended,
            hold_at=target.hold_at,
            trouble=trouble,
            on_drift=target.on_drift,
            unfinished=session.reverting is not None,
            requests=_unanswered(target, snapshot.actions),
            checks=self._answers(session, plan, ledger),
            others=session.others.known(),
            order=target.order,
            leading=leading,
        )
        if session.progress is None or session.attempt != ledger.attempt:
            session.earlier = session.progress
            session.progress = _stored_progress(session, snapshot)
        before, session.ledger, session.attempt = session.progress, ledger, ledger.attempt
        progress = self._observed(session, view)
        if not view.is_over:
            progress = self._recalled(target, session, view, progress)
        session.unsaved |= progress is not before
        session.progress = progress
        if session.source is not None and not view.is_over:
            self._start_looks(target, session, view, session.source)
        view = replace(view, progress=progress, guards=assess(plan, progress, now))
        if target.others is not None:
            session.others.read(to_read(view), target.others, self._clock, self._waking(target))
        return view

    def ask(self, target: Target, session: Session, names: Sequence[str]) -> None:
        """Ask these checks, unless they are being asked. The answer wakes the rollout."""
        source, wake = session.check_source, self._waking(target)
        for name in names:
            if source is None:
                session.checks[name] = CheckAnswer(name, None, "there is nothing to ask it with", self._clock.now())
            elif name not in session.asking:
                task = asyncio.create_task(_asked(source, name, session.attempt, self._clock))
                task.add_done_callback(lambda _: wake())
                session.asking[name] = task

    def _answers(self, session: Session, plan: Plan, ledger: Ledger) -> Mapping[str, CheckAnswer]:
        """The newest answer of each check; those to another plan's questions, or of an earlier attempt, are none."""
        if session.checks_of != (plan.plan_hash, ledger.attempt):
            session.forget_checks()
            session.checks_of = (plan.plan_hash, ledger.attempt)
        for name, task in [(name, task) for name, task in session.asking.items() if task.done()]:
            del session.asking[name]
            if not task.cancelled():
                session.checks[name] = answer = task.result()
                if not answer.passed:
                    log.info("check %s: %s", name, answer.message)
        return dict(session.checks)

    async def _read(
        self, target: Target, session: Session, plan: Plan, store: FlagStore, *, leading: bool
    ) -> tuple[Snapshot, Trouble | None]:
        """The ledger and the rows; opened first when this process, or this plan, has not done so yet.

        What keeps the row from being opened, or the flags from being read, must not keep
        the guards from lowering what is raised: it is a trouble like any other.
        """
        trouble = target.trouble
        if target.store is None and trouble is None:
            trouble = Trouble(reasons.STORE_NOT_FOUND, "The FlagStore is not usable any more.")
        problem = await self._opened(target, session, plan, store) if leading else None
        is_new = session.progress is None
        uids = [request.uid for request in target.requests]
        try:
            snapshot = await store.read(target.key, _flags(plan, session.ledger), uids, progress=is_new)
            if _flags(plan, session.ledger) != _flags(plan, snapshot.ledger):
                snapshot = await store.read(target.key, _flags(plan, snapshot.ledger), uids, progress=is_new)
        except Problem as unread:
            problem = problem or unread
            # Without a ledger row there is nothing to guard, and why it could not be opened is what people must know.
            # A lock that keeps the rows from being read may be held for hours: a lowering can interrupt who holds it.
            passing = not problem.stalled and unread.reason != reasons.LOCK_TIMEOUT
            if passing or unread.reason == reasons.LEDGER_MISSING:
                raise problem from None
            snapshot = await store.read(target.key, [], uids, progress=is_new)
        # Also where the row could not be opened: a word that was answered before must not be given again for it.
        session.recorded = snapshot.actions
        if session.unled:
            if snapshot.ledger.uid != target.uid:
                raise Problem(reasons.PENDING, "The ledger row is an earlier object's.", stalled=False)
            return snapshot, trouble
        if problem is None:
            if snapshot.ledger.epoch != session.epoch:
                raise Fenced(f"{target.key} is under epoch {snapshot.ledger.epoch}, not {session.epoch}")
            return snapshot, trouble
        # A row of somebody else, or one whose flags were given up: what they are now is not ours to lower.
        if snapshot.ledger.uid != target.uid or problem.reason == reasons.RELEASED:
            raise problem
        return snapshot, trouble or trouble_of(problem)

    async def _opened(self, target: Target, session: Session, plan: Plan, store: FlagStore) -> Problem | None:
        """Open the ledger row unless that was done for just this; what kept it from being opened."""
        adopt = adoption(_unanswered(target, session.recorded), plan.plan_hash, self._clock.now())
        claim = Claim(
            target.key,
            target.uid,
            plan.flags,
            plan.spec_hash,
            plan.plan_hash,
            plan.on_delete,
            adopt,
            target.made_of,
        )
        if session.claim == claim and session.store is store:
            return None
        try:
            session.epoch = (await store.open(claim)).epoch
        except Problem as problem:
            return problem
        session.claim, session.store = claim, store
        return None

    def _observed(self, session: Session, view: View) -> Progress:
        """The progress after every look that has arrived."""
        plan = view.plan
        done = {name: looking for name, looking in session.looking.items() if looking.task.done()}
        for name in done:
            del session.looking[name]
        answers = [k.task.result() for k in done.values() if k.plan_hash == plan.plan_hash and not k.task.cancelled()]
        session.answered_at_s = max((at_s for _, at_s in answers), default=session.answered_at_s)
        looks = [look for look, _ in answers]
        progress = taken_in(view, session.progress, looks)
        for look in looks:
            self._telemetry.looked(str(progress.verdict(plan, look)))
            if look.error is not None:
                log.info("%s could not be looked at: %s", look.metric, look.error)
        return progress

    def _waking(self, target: Target) -> Callable[[], None]:
        metadata = target.rollout["metadata"]
        return lambda: self._wake(metadata["namespace"], metadata["name"])

    def _recalled(self, target: Target, session: Session, view: View, progress: Progress) -> Progress:
        """The progress with what has arrived of the metrics' past."""
        wake = self._waking(target)
        progress = begun(inherited(progress, session.earlier), view.ledger, view.now)
        return recalled(progress, session.recalls, view.plan, source=session.source, now=view.now, wake=wake)

    def _start_looks(self, target: Target, session: Session, view: View, source: MetricSource) -> None:
        """Ask for every window that is settled. The answer wakes the rollout: nothing waits for a slow source."""
        assert session.progress is not None  # noqa: S101 - set by the caller
        now, stage = view.now, view.stage.name if view.stage else ""
        for metric in view.plan.metrics.values():
            if metric.blocker is not None or metric.name in session.looking:
                continue
            if session.progress.due_at(metric, now) > now:
                continue
            window = session.progress.due_window(metric, now)
            task = asyncio.create_task(_looked(source, metric.name, window, rollout=target.place, stage=stage))
            task.add_done_callback(partial(self._looked, target, session, view.plan))
            session.looking[metric.name] = Looking(task, view.plan.plan_hash)

    def _looked(self, target: Target, session: Session, plan: Plan, task: asyncio.Task[tuple[Look, float]]) -> None:
        """Wake the rollout, before those whose looks are healthy when this one may be a breach."""
        metadata, progress, urgent = target.rollout["metadata"], session.progress, False
        if progress is not None and not task.cancelled():
            urgent = progress.verdict(plan, task.result()[0]) is Verdict.FAIL
        self._wake(metadata["namespace"], metadata["name"], urgent=urgent)


def _stored_progress(session: Session, snapshot: Snapshot) -> Progress | None:
    """What the last process has stored of this attempt; what it has of an earlier one is kept for comparison."""
    stored, ledger = snapshot.progress, snapshot.ledger
    if stored is None:
        return None
    try:
        progress = Progress.from_json(stored[1])
    except (AttributeError, KeyError, TypeError, ValueError):
        log.exception("stored progress cannot be read; measuring starts again")
        return None
    if stored[0] == ledger.attempt:
        return progress
    session.earlier = session.earlier or progress
    return None


def _unanswered(target: Target, recorded: Mapping[str, Recorded]) -> tuple[Request, ...]:
    return tuple(request for request in target.requests if request.uid not in recorded)


def _flags(plan: Plan, ledger: Ledger | None) -> list[str]:
    """The plan's flags and those that were written: an edit may drop a flag, it is still ours to guard."""
    return list(dict.fromkeys([*plan.flags, *(ledger.written if ledger else ())]))


async def _asked(source: CheckSource, name: str, attempt: int, clock: Clock) -> CheckAnswer:
    try:
        return await source.ask(name, attempt)
    except Exception as error:  # noqa: BLE001 - a bug of a source must cost no more than an answer
        # Its text may hold anything, secrets too: only its type is told.
        log.error("a check failed with %s", type(error).__name__)  # noqa: TRY400 - likewise
        return CheckAnswer(name, None, f"asking failed with {type(error).__name__}", clock.now())


async def _looked(source: MetricSource, metric: str, window: Window, *, rollout: str, stage: str) -> tuple[Look, float]:
    with tracing.span("look", rollout=rollout, stage=stage, metric=metric) as span:
        look = await _look(source, metric, window)
        span.set(error=look.error or "")
    return look, asyncio.get_running_loop().time()


async def _look(source: MetricSource, metric: str, window: Window) -> Look:
    try:
        return await source.look(metric, window)
    except Exception as error:  # noqa: BLE001 - a bug of a source must cost no more than an answer
        # Its text may hold anything, secrets too: only its type is told.
        log.error("a metric source failed with %s", type(error).__name__)  # noqa: TRY400 - likewise
        return Look(metric, window, error=f"the metric source failed with {type(error).__name__}")
