"""What a decision is made on, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.guards import Guard
from feature_rollout.core.people import Answered, Order, Promotion, Request
from feature_rollout.core.plan import OnDrift, Plan, Stage
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import NOT_STARTED, Breach, Ledger


class Phase(StrEnum):
    """A summary for people, never an input."""

    PENDING = "Pending"
    PREFLIGHT = "Preflight"
    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_WINDOW = "AwaitingWindow"
    MIGRATING = "Migrating"
    BAKING = "Baking"
    GATING = "Gating"
    HELD = "Held"
    PAUSED = "Paused"
    ROLLED_BACK = "RolledBack"
    COMPLETED = "Completed"
    STALLED = "Stalled"
    TERMINATING = "Terminating"


class Verb(StrEnum):
    """What is to be done. The four reverts are named as in the matrix, what people do as in a RolloutAction."""

    WAIT = "Wait"
    HOLD = "Hold"
    ADVANCE = "Advance"
    COMPLETE = "Complete"
    REARM = "Rearm"
    RELEASE = "Release"
    DISABLE_FLAGS = "DisableFlags"
    REDUCE_PERCENTAGE = "ReducePercentage"
    RESTRICT_TO_GROUPS = "RestrictToGroups"
    ROLL_BACK_DATABASE = "RollBackDatabase"
    APPROVE = "Approve"
    PROMOTE = "Promote"
    PAUSE = "Pause"
    RESUME = "Resume"
    CONFIRM = "Confirm"
    ADOPT = "Adopt"
    REFUSE = "Refuse"

    @property
    def reverts(self) -> bool:
        return self in _REVERTS

    @property
    def acts(self) -> bool:
        """Whether something is different after it."""
        return self not in {Verb.WAIT, Verb.HOLD}


_REVERTS = frozenset({Verb.DISABLE_FLAGS, Verb.REDUCE_PERCENTAGE, Verb.RESTRICT_TO_GROUPS, Verb.ROLL_BACK_DATABASE})


@dataclass(frozen=True, slots=True)
class Trouble:
    """A reason and a message that a person must know of. `stalled`: waiting alone will not heal it."""

    reason: str
    message: str
    stalled: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a decision is made on.

    `rows` are the flag rows as just read; a flag without a row is missing. `trouble` is
    what keeps the present manifest from being followed (`plan` is then the last good one).
    `unfinished`: a lowering was begun that may have got no further than the flags.
    `requests` are what people want and nobody has answered yet, `checks` the newest
    answers of the database by the full name of the check. `others` are the rollouts that
    the next stage waits for, by name; `order` are the stages of all that this one depends
    on, also through others, by the name of the rollout. Only a replica that is `leading`
    may do more than lower.
    """

    plan: Plan
    ledger: Ledger
    rows: Mapping[str, Exposure]
    progress: Progress
    guards: tuple[Guard, ...]
    now: datetime
    suspended: bool = False
    hold_at: str | None = None
    trouble: Trouble | None = None
    on_drift: OnDrift = OnDrift.RESPECT
    unfinished: bool = False
    requests: tuple[Request, ...] = ()
    checks: Mapping[str, CheckAnswer] = field(default_factory=dict)
    others: Mapping[str, Standing] = field(default_factory=dict)
    order: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    leading: bool = True

    @property
    def name(self) -> str:
        """The rollout's, without its namespace."""
        return self.ledger.key.rpartition("/")[2]

    @property
    def namespace(self) -> str:
        return self.ledger.key.rsplit("/", 2)[-2]

    @property
    def stage(self) -> Stage | None:
        """The stage that was entered last; None before the first, and when the plan has lost it."""
        index = self.ledger.stage
        return self.plan.stages[index] if NOT_STARTED < index < len(self.plan.stages) else None

    @property
    def next_stage(self) -> Stage | None:
        index = self.ledger.stage + 1
        return self.plan.stages[index] if index < len(self.plan.stages) else None

    @property
    def is_over(self) -> bool:
        """Whether every stage of the plan as it is now is in, baked and gated: then the guards have ended."""
        return self.ledger.is_over(len(self.plan.stages))

    @property
    def promotion(self) -> Promotion | None:
        """Who has ended the bake and the gates of the stage that was entered last."""
        promoted = self.ledger.people.promoted
        return promoted if promoted is not None and promoted.stage == self.ledger.stage else None

    @property
    def expected(self) -> dict[str, Exposure]:
        """The rows that nobody but the operator should have changed, as it left or found them."""
        found = {f: self.ledger.baseline[f] for f in self.plan.flags if f in self.ledger.baseline}
        return {**found, **self.ledger.written}

    @property
    def drifted(self) -> tuple[str, ...]:
        """The flags whose rows are not so."""
        return tuple(f for f, row in self.expected.items() if f in self.rows and self.rows[f] != row)

    @property
    def missing(self) -> tuple[str, ...]:
        """The flags that the attempt has written and that have no row any more."""
        return tuple(f for f in self.ledger.written if f not in self.rows)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where another rollout stood at that moment; without a view, `unknown` says why nothing is known of it."""

    at: datetime
    view: View | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, and why.

    `ledger`, `before` and `after` are set when a fenced transaction shall be made,
    `targets` when rows shall be lowered, because of a `breach` or of a person's `order`.
    `answered` is the request that is carried out or refused with it. `cited` is whose word
    a raise rests on. `waiting_for` says what must become true before the next step,
    `due_at` when it is known when that will be.
    """

    verb: Verb
    phase: Phase
    reason: str
    message: str
    ledger: Ledger | None = None
    before: Mapping[str, Exposure] = field(default_factory=dict)
    after: Mapping[str, Exposure] = field(default_factory=dict)
    targets: Mapping[str, Exposure] = field(default_factory=dict)
    breach: Breach | None = None
    order: Order | None = None
    answered: Answered | None = None
    cited: Mapping[str, Any] = field(default_factory=dict)
    waiting_for: tuple[str, ...] = ()
    due_at: datetime | None = None
    stalled: bool = False


def hold(phase: Phase, reason: str, message: str, stalled: bool = False, waiting_for: tuple[str, ...] = ()) -> Decision:
    return Decision(Verb.HOLD, phase, reason, message, stalled=stalled, waiting_for=waiting_for)


def because(cause: Breach | Order) -> str:
    if isinstance(cause, Order):
        return f" by {cause.by}" + (f': "{cause.reason}"' if cause.reason else "")
    return f": {cause.metric} was {cause.value}, limit {cause.limit} ({cause.severity})"


Check = Callable[[View], Decision | None]
