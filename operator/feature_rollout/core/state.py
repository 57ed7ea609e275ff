"""What is known about a rollout: its ledger row, and what was measured.

The ledger row is the truth and lives in PostgreSQL. Both are values: every change
returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from feature_rollout.core.exposure import OFF, Exposure, raises
from feature_rollout.core.people import Order, People
from feature_rollout.core.plan import Severity

NOT_STARTED = -1


@dataclass(frozen=True, slots=True)
class Breach:
    """A guard that failed conclusively, with everything it was decided on.

    `value` and `limit` are as people read them; `onset_at` is the start of the first
    look of the unbroken run past the limit.
    """

    severity: Severity
    metric: str
    clause: str
    value: str
    limit: str
    log_evidence: float | None
    onset_at: datetime
    respond_within: timedelta
    action: str

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": str(self.severity),
            "metric": self.metric,
            "clause": self.clause,
            "value": self.value,
            "limit": self.limit,
            "logEvidence": self.log_evidence,
            "onsetAt": self.onset_at.isoformat(),
            "respondWithinSeconds": self.respond_within.total_seconds(),
            "action": self.action,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Breach:
        return cls(
            severity=Severity.parse(data["severity"]),
            metric=data["metric"],
            clause=data["clause"],
            value=data["value"],
            limit=data["limit"],
            log_evidence=data["logEvidence"],
            onset_at=datetime.fromisoformat(data["onsetAt"]),
            respond_within=timedelta(seconds=data["respondWithinSeconds"]),
            action=data["action"],
        )


@dataclass(frozen=True, slots=True)
class Latch:
    """A revert that was made, by a breached row or a person: nothing raises until `Retry` or another `spec_hash`."""

    cause: Breach | Order
    stage: str
    spec_hash: str
    acted_at: datetime

    @property
    def gravity(self) -> int:
        """The severity of a breach; a person's order has none, so that every breach after it is told of."""
        return int(self.cause.severity) if isinstance(self.cause, Breach) else 0

    def followed_by(self, later: Latch) -> Latch:
        """What is told when there was another revert: the graver breach, and always what a person did after it."""
        return later if isinstance(later.cause, Order) or later.gravity > self.gravity else self

    def to_json(self) -> dict[str, Any]:
        cause = "breach" if isinstance(self.cause, Breach) else "order"
        return {
            cause: self.cause.to_json(),
            "stage": self.stage,
            "specHash": self.spec_hash,
            "actedAt": self.acted_at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Latch:
        return cls(
            Breach.from_json(data["breach"]) if "breach" in data else Order.from_json(data["order"]),
            data["stage"],
            data["specHash"],
            datetime.fromisoformat(data["actedAt"]),
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """A rollout's row in the ledger.

    `stage` is the index of the newest stage entered in this attempt, -1 before the
    first. `executed` are the digests of the stages entered, which is how an edit of
    the past is seen. `written` are the rows as the operator last left them, which is
    how a change by somebody else is seen. `acted` are the severities whose row has
    acted in this attempt.
    """

    key: str
    uid: str
    epoch: int
    sequence: int
    spec_hash: str
    plan_hash: str
    attempt: int = 1
    stage: int = NOT_STARTED
    entered_at: datetime | None = None
    baked: timedelta = timedelta(0)
    executed: tuple[str, ...] = ()
    baseline: Mapping[str, Exposure] = field(default_factory=dict)
    written: Mapping[str, Exposure] = field(default_factory=dict)
    latch: Latch | None = None
    acted: frozenset[Severity] = frozenset()
    completed_at: datetime | None = None
    people: People = field(default_factory=People)

    @property
    def operation(self) -> str:
        """The id of the change that made this sequence."""
        return f"{self.key}@{self.sequence}"

    @property
    def raised(self) -> tuple[str, ...]:
        """The flags that somebody has because of this rollout: left above what they were before it.

        A flag that a stage lowered, or that a revert took back to its baseline, is not among them.
        """
        return tuple(f for f, row in self.written.items() if raises(self.baseline.get(f, OFF), row))

    def is_over(self, stages: int) -> bool:
        """Whether a plan of so many stages is done. One that has grown since, or was rolled back, is not."""
        return self.completed_at is not None and self.latch is None and self.stage + 1 >= stages
