"""What a reconcile starts from: the rollout as the runtime found it, and what was kept of it since the last time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.looks import Look
from feature_rollout.core.people import Request
from feature_rollout.core.plan import OnDelete, OnDrift, Plan, Stage
from feature_rollout.core.progress import Progress
from feature_rollout.core.reverts import met
from feature_rollout.core.state import Ledger
from feature_rollout.ports import (
    Checkpoint,
    CheckSource,
    Claim,
    FlagStore,
    Lowering,
    MetricSource,
    Problem,
    Recorded,
    Why,
)
from feature_rollout.reconcile.others import Others, Readings
from feature_rollout.reconcile.recall import Recall


@dataclass(frozen=True, slots=True)
class Target:
    """One rollout with its references followed, as the runtime found it.

    `plan` is the last good one, or None, when the manifest cannot be followed; then `trouble` says why.
    `store` is None when there is no usable FlagStore; `store_trouble` says why.
    `made_of` is what `plan` was made of, as JSON, where the manifest itself is good.
    `requests` are the RolloutActions whose status does not say yet what became of them.
    `others` finds the rollouts that its stages wait for, `order` is as in `View`.
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
    on_drift: OnDrift = OnDrift.RESPECT
    checks: CheckSource | None = None
    requests: tuple[Request, ...] = ()
    made_of: Mapping[str, Any] | None = None
    others: Others | None = None
    order: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        return str(self.rollout["metadata"]["uid"])

    @property
    def place(self) -> str:
        """Namespace and name, as logs and traces have them."""
        metadata = self.rollout["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    @property
    def generation(self) -> int:
        return int(self.rollout["metadata"]["generation"])

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.rollout["metadata"]

    @property
    def status(self) -> Mapping[str, Any]:
        return self.rollout.get("status") or {}


# A raise that was refused for good is tried again so often.
TRY_AGAIN_AFTER = timedelta(seconds=30)
# What keeps it from being tried again is told when it lasts longer than this; a check that is asked anew does not.
REFUSED_FOR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A raise that the store has refused, and refuses until a person mends something; `of` is what it was decided on.

    `told` is said of the rollout meanwhile, be it about to try again or waiting for something before that:
    two truths that take turns would be a status and an Event each time.
    """

    told: Decision
    of: tuple[object, ...]
    at: datetime

    @classmethod
    def by(cls, problem: Problem, view: View, generation: int) -> Refusal:
        told = Decision(Verb.HOLD, Phase.STALLED, problem.reason, problem.message, stalled=True)
        return cls(told, _raised_on(view, generation), view.now)

    def instead_of(self, decision: Decision, view: View, generation: int) -> Decision:
        """What is to be said or done now, where that would be `decision` without the refusal."""
        if self.of != _raised_on(view, generation) or decision.stalled:
            return decision
        if decision.verb is Verb.ADVANCE:
            return self.told if view.now < self.at + TRY_AGAIN_AFTER else decision
        return decision if decision.verb.acts or view.now >= self.at + REFUSED_FOR else self.told


def _raised_on(view: View, generation: int) -> tuple[object, ...]:
    """What a raise is made of; an answer to a person, a change by hand and an edit are all in it."""
    flags = view.next_stage.flags if view.next_stage is not None else ()
    rows = tuple(view.rows.get(flag) for flag in flags)
    return (generation, view.plan.plan_hash, view.ledger.epoch, view.ledger.sequence, rows)


@dataclass(slots=True)
class Session:
    """What is kept of one rollout between two reconciles, by uid."""

    key: str
    # The last good ones: a manifest or a store that is broken meanwhile must not stop the guards.
    plan: Plan | None = None
    store: FlagStore | None = None
    source: MetricSource | None = None
    check_source: CheckSource | None = None
    # Under which epoch the ledger row was opened, and for what.
    claim: Claim | None = None
    epoch: int = 0
    ledger: Ledger | None = None
    # What was measured in `attempt`; kept through an outage of the store.
    progress: Progress | None = None
    attempt: int = 0
    # What was measured in the attempt before it.
    earlier: Progress | None = None
    unsaved: bool = False
    # What was looked at last; never decided on again.
    view: View | None = None
    looking: dict[str, Looking] = field(default_factory=dict)
    # When the newest look that was taken in was answered, by the clock of the event loop.
    answered_at_s: float | None = None
    recalls: dict[str, Recall] = field(default_factory=dict)
    # What was done and is told in the next step.
    untold: Decision | None = None
    status: Mapping[str, Any] | None = None
    status_lost: bool = False
    # What others are to be told of as soon as the store takes it; of several such, the newest.
    news: Why | None = None
    released: bool = False
    troubled_since: datetime | None = None
    # A revert that was begun and is not known to be whole: an answer was lost, rows are locked, the audit is owed.
    reverting: tuple[Decision, Lowering] | None = None
    refusal: Refusal | None = None
    # A fenced change whose COMMIT was not answered.
    unconfirmed: Decision | None = None
    # The ledger row as it was when it last had a latch.
    latched: Ledger | None = None
    # The rows as they were when the audit was last seen to account for them.
    audited: Mapping[str, Exposure] | None = None
    # What was answered to the checks of the plan with that hash, in that attempt, and what is being asked.
    checks: dict[str, CheckAnswer] = field(default_factory=dict)
    asking: dict[str, asyncio.Task[CheckAnswer]] = field(default_factory=dict)
    checks_of: tuple[str, int] = ("", 0)
    others: Readings = field(default_factory=Readings)
    # The requests that the store has a final answer to, and those whose Event was recorded.
    recorded: Mapping[str, Recorded] = field(default_factory=dict)
    # Measured without the epoch, while nobody is seen to lead: nothing of it is stored before the epoch is taken.
    unled: bool = False
    announced: set[str] = field(default_factory=set)

    @property
    def stage(self) -> str:
        """The name of the stage that was entered last, as it was looked at last."""
        return self.view.stage.name if self.view and self.view.stage else ""

    def begin(self, decision: Decision, change: Lowering) -> Decision:
        """Hold this revert until it is whole, with one that is not whole yet: the new one may take back less.

        The latch of the first may be in the database already.
        """
        if self.reverting is not None:
            first = self.reverting[1]
            latch = first.latch.followed_by(change.latch) if first.latch and change.latch else change.latch
            change = replace(change, targets=met(change.targets, first.targets), latch=latch)
        self.reverting = decision, change
        return decision

    def with_what_may_land(self, view: View, decision: Decision) -> Decision:
        """A revert that also takes back a raise whose answer was lost: its COMMIT may be on its way still."""
        there = self.unconfirmed.ledger if self.unconfirmed is not None else None
        if self.unconfirmed is None or there is None or there.attempt != view.ledger.attempt:
            return decision
        landed = decide(replace(view, ledger=there, rows={**view.rows, **self.unconfirmed.after}))
        return replace(decision, targets=met(decision.targets, landed.targets)) if landed.verb.reverts else decision

    def remember(self, ledger: Ledger) -> None:
        """The row as the database has it: a latch in it stays known, also when the database should lose it."""
        if ledger.latch is not None:
            self.latched = ledger

    def lost(self, ledger: Ledger) -> Ledger | None:
        """The row with the latch that the database has lost, as it does with a primary whose last commits were lost.

        A latch is only ever cleared by another attempt.
        """
        known = self.latched
        return known if known and ledger.latch is None and ledger.attempt <= known.attempt else None

    def confirmed(self, ledger: Ledger) -> Decision | None:
        """The change whose answer was lost, when this row shows that it was made."""
        decision = self.unconfirmed
        if decision is None or decision.ledger is None or not _is_made(decision.ledger, ledger):
            return None
        self.unconfirmed = None
        return decision

    def fenced(self) -> None:
        """Somebody else has moved the ledger row on: everything is read again but the looks that are under way."""
        self.claim = self.ledger = self.progress = self.audited = None
        self.unsaved = False

    def stand_by(self) -> None:
        """Another replica leads: it measures, does and tells what is left. A latch stays known."""
        self.fenced()
        self.stop_asking()
        self.earlier = self.view = None
        self.unled = False
        self.status = self.reverting = self.untold = self.unconfirmed = self.troubled_since = self.news = None
        self.status_lost = False

    def stop_asking(self) -> None:
        """Nobody waits for an answer any more."""
        for task in (*(one.task for one in self.looking.values()), *(one.task for one in self.recalls.values())):
            task.cancel()
        self.looking, self.recalls = {}, {}
        self.others.forget()
        self.forget_checks()

    def forget_checks(self) -> None:
        """What was asked is no question any more."""
        for task in self.asking.values():
            task.cancel()
        self.asking, self.checks = {}, {}


def _is_made(wanted: Ledger, found: Ledger) -> bool:
    """Whether a fenced change was made. What others may have done to the row since, as a standby's revert, is left out.

    Not made now is not yet never: the COMMIT may still be on its way. Then the fence keeps the
    next change from being made beside it, and this is asked again.
    """
    if found.sequence <= wanted.sequence:
        return False
    progress = (wanted.attempt, wanted.stage, wanted.entered_at, wanted.completed_at)
    return progress == (found.attempt, found.stage, found.entered_at, found.completed_at)


@dataclass(frozen=True, slots=True)
class Looking:
    """A look that is under way, and what was asked: the answer counts only if that is still the question.

    The answer comes with the time at which it came, by the clock of the event loop.
    """

    task: asyncio.Task[tuple[Look, float]]
    plan_hash: str


class Wake(Protocol):
    """Asks for a reconcile of the object; of an urgent one before all others."""

    def __call__(self, namespace: str, name: str, *, urgent: bool = False) -> None: ...


class Telemetry(Protocol):
    """What is counted on the way."""

    def looked(self, verdict: str) -> None: ...

    def reverted(self, severity: str, seconds: float, look_to_commit_s: float | None, *, late: bool) -> None:
        """`seconds` are from the onset of the breach, the others from the answer of the look that decided.

        `late`: it took longer than the row's `respondWithin`.
        """

    def violated(self, invariant: str) -> None: ...


def trouble_of(problem: Problem) -> Trouble:
    return Trouble(problem.reason, problem.message, problem.stalled)


def checkpoint_of(session: Session) -> Checkpoint:
    assert session.ledger is not None  # noqa: S101 - `checkpoint` has looked
    assert session.progress is not None  # noqa: S101 - likewise
    ledger, progress = session.ledger, session.progress
    return Checkpoint(ledger.key, session.epoch, ledger.attempt, progress.baked, progress.to_json(), ledger.stage)
