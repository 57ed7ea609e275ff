"""What the reconciler asks of the world, and the errors that it may get.

Adapters live in `store`, `metrics` and `kube`; tests use in-memory ones. Times are
aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.people import Answer, Answered, Request
from feature_rollout.core.plan import OnDelete, Severity
from feature_rollout.core.state import Latch, Ledger


class Problem(Exception):
    """Something that a person must know of: a documented reason and a message without secrets.

    `stalled` says that waiting alone will not heal it.
    """

    def __init__(self, reason: str, message: str, *, stalled: bool = True) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.stalled = stalled


class Unconfirmed(Problem):
    """The COMMIT was sent and its answer never came: the change was made, or it was not. The ledger says which."""


class Fenced(Exception):
    """The ledger row is under another epoch or sequence: read again before anything else."""


class Drifted(Exception):
    """A flag row is not as it was last seen: somebody else changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who opens a ledger row, and for which flags.

    `adopt` is a person's word that it may be an earlier rollout's, of another plan; it is
    recorded when it was needed. `made_of` is what the plan was made of, as JSON, to be
    kept for a start with a broken manifest; None leaves what is kept.
    """

    key: str
    uid: str
    flags: tuple[str, ...]
    spec_hash: str
    plan_hash: str
    on_delete: OnDelete
    adopt: Answered | None = field(default=None, compare=False)
    made_of: Mapping[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Why:
    """What an audit row tells beside the change itself.

    `verb` is what was done, as in `Decision`; the outbox tells of it. Without one there is nothing to tell.
    """

    reason: str
    message: str
    generation: int
    stage: str
    actor: str = "operator"
    evidence: Mapping[str, Any] = field(default_factory=dict)
    verb: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The final answer to a request, and when it was given."""

    answer: Answer
    at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ledger row and the flag rows, read together. A flag without a row is missing from `rows`.

    `actions` are the requests that were asked for and have their final answer already,
    `progress` the last checkpoint, if it was asked for: the attempt that it belongs to, and what was stored.
    """

    ledger: Ledger
    rows: Mapping[str, Exposure]
    actions: Mapping[str, Recorded] = field(default_factory=dict)
    progress: tuple[int, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A fenced transaction: `ledger` as it shall be, under the epoch and sequence it holds.

    `before` are the flag rows as last seen, `after` as they shall be; both empty when
    only the ledger changes. `answered` are the requests that it carries out or refuses.
    """

    ledger: Ledger
    before: Mapping[str, Exposure]
    after: Mapping[str, Exposure]
    why: Why
    answered: tuple[Answered, ...] = ()


@dataclass(frozen=True, slots=True)
class Lowering:
    """An unfenced transaction: each row becomes its meet with the target.

    It needs no epoch, only the key. `latch` and `severity` are set for a revert.
    `exact` writes the target itself where it is within the row (a baseline restored
    byte for byte), and the meet where it is not. `on_interrupted` is called with a sentence
    when somebody else's sessions had to be cancelled or ended for it. `answered` are the
    requests that it carries out: they are recorded when every flag was lowered, and nothing
    is done when one of them was recorded before.
    """

    key: str
    targets: Mapping[str, Exposure]
    why: Why
    latch: Latch | None = None
    severity: Severity | None = None
    exact: bool = False
    on_interrupted: Callable[[str], None] | None = field(default=None, compare=False)
    answered: tuple[Answered, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Measured progress, written in batches and without a change of sequence.

    `stage` is the ledger's stage that was baked: a checkpoint that comes after the next
    stage was entered must not count as that stage's bake.
    """

    key: str
    epoch: int
    attempt: int
    baked: timedelta
    progress: Mapping[str, Any]
    stage: int | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """What happened to a rollout, as somebody is told of it.

    `id` is the operation's and never another's; `number` grows in the order in which things happened
    to one rollout. `key` is the ledger's, `kind` a verb as in `Decision`, `payload` is JSON.
    """

    id: str
    number: int
    at: datetime
    key: str
    kind: str
    payload: Mapping[str, Any]

    @property
    def place(self) -> tuple[str, str, str] | None:
        """Cluster, namespace and name of the rollout; None for what is no rollout's, such as a kill."""
        parts = self.key.rsplit("/", 2)
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """The next transition of a rollout for a recipient; nobody else delivers it while `lease` holds.

    `attempts` have failed so far. `memory` is what the recipient keeps of the rollout.
    """

    recipient: str
    lease: str
    transition: Transition
    attempts: int
    memory: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a recipient is still to be told of: how much, since when, and how much it never will be."""

    waiting: int
    oldest_at: datetime | None
    given_up: int


class Outbox(Protocol):
    """The transitions of one database that somebody is to be told of. Every method raises Problem.

    Any number of processes may work on it: of a rollout's transitions a recipient is handed the
    oldest only, and one at a time.
    """

    async def next(self, recipient: str) -> Delivery | None:
        """Something that is due for this recipient, under a lease; None when there is nothing now."""

    async def remember(self, delivery: Delivery, memory: Mapping[str, Any]) -> bool:
        """Keep what the recipient knows now, and the lease a while longer; False when the lease was lost."""

    async def told(self, delivery: Delivery, memory: Mapping[str, Any]) -> None:
        """The recipient knows; idempotent."""

    async def failed(self, delivery: Delivery, problem: str, retry_s: float) -> None:
        """It could not be told; not before so many seconds is it tried again. No secret is in `problem`."""

    async def give_up(self, delivery: Delivery, problem: str) -> None:
        """It is never tried again, and counted."""

    async def sweep(self, recipients: Sequence[str]) -> Sequence[tuple[str, str, str]]:
        """Register these recipients, give up what is too old, delete what all were told of.

        Returns what was given up: recipient, operation id and ledger key of each.
        """

    async def backlog(self, recipient: str) -> Backlog: ...


class FlagStore(Protocol):
    """One database with its flag table and bookkeeping.

    Every method raises Problem for what a person must mend or wait for.
    """

    async def open(self, claim: Claim) -> Ledger:
        """Begin or go on with a rollout, own its flags, and take the next epoch.

        Idempotent for the same uid. Raises Problem(Conflict) when somebody else owns a
        flag, and then nothing is written.
        """

    async def read(
        self, key: str, flags: Sequence[str], requests: Sequence[str] = (), *, progress: bool = False
    ) -> Snapshot:
        """The ledger row, the flag rows, and which of the requests of these UIDs are answered, in one transaction.

        With `progress` also the last checkpoint.
        """

    async def commit(self, change: Commit) -> Ledger:
        """Write flags, ledger, audit and answers together. Raises Fenced or Drifted; then nothing is written.

        Fenced also when one of the requests was answered before. Unconfirmed is the one
        Problem after which it may have been written.
        """

    async def lower(self, change: Lowering) -> Ledger:
        """Lower flags, latch and audit together; idempotent."""

    async def observe(self, key: str, flags: Sequence[str]) -> None:
        """Record in the audit, as changes by somebody unknown, what it cannot account for in these flags' rows.

        Idempotent. Rows are not written. Raises Problem when it has to be tried again.
        """

    async def release(self, change: Lowering, uid: str) -> None:
        """Lower as told, close the ledger row of that uid and give its flags up, in one transaction.

        Idempotent: a row that is closed, of another uid or missing is left alone.
        """

    async def tell(self, key: str, why: Why) -> None:
        """Have others told of something that is no change: what holds the rollout, or that this is over."""

    async def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store progress; a checkpoint under an old epoch, attempt or stage is dropped silently."""


class MetricSource(Protocol):
    """Something that can answer one metric of one rollout."""

    async def look(self, metric: str, window: Window) -> Look:
        """Never raises: what went wrong is in the look's `error`, without secrets."""

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        """A look for each of these windows, which are long and long past, in the same order; never raises.

        There may be hundreds. It takes its time, since looks of rollouts that are under way
        go before it, and it may give up: the windows that it did not ask are errors.
        """


class CheckSource(Protocol):
    """Something that can answer the checks of one rollout that are not for people."""

    async def ask(self, name: str, attempt: int) -> CheckAnswer:
        """By the check's full name, such as `preflight/backup-is-recent`. Never raises; no secret is in the message.

        A Job runs once an attempt, and is asked how far it is until it is over.
        """


class RolloutObjects(Protocol):
    """What the reconciler reads from and writes to the API server about one rollout."""

    async def fresh(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object as the API server has it, or None when it is gone; true at most two seconds ago."""

    async def add_finalizer(self, rollout: Mapping[str, Any]) -> None: ...

    async def remove_finalizer(self, rollout: Mapping[str, Any]) -> None: ...

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Server-side apply of the whole status under the resourceVersion that was decided on."""

    def event(self, rollout: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        """Record an Event, `kind` Normal or Warning; returns at once."""

    def answer(self, rollout: Mapping[str, Any], request: Request, answer: Answer, at: datetime) -> None:
        """Say on the RolloutAction what became of it, or what it waits for; returns at once."""


class Clock(Protocol):
    def now(self) -> datetime: ...
