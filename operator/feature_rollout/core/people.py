"""What people want, and what they have decided for the present attempt.

A request is a RolloutAction as the core sees it. What comes of one is kept in the ledger,
as `People`: it survives restarts, belongs to one UID and one plan hash, and never passes
on to another attempt, except that a paused rollout stays paused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

# A request that could not be applied for so long is not meant any more.
EXPIRES_AFTER = timedelta(hours=24)
UNKNOWN = "somebody"
_SERVICE_ACCOUNT = "system:serviceaccount:"


class RequestType(StrEnum):
    APPROVE = "Approve"
    PROMOTE = "Promote"
    PAUSE = "Pause"
    RESUME = "Resume"
    ROLL_BACK = "RollBack"
    RETRY = "Retry"
    CONFIRM = "Confirm"
    ADOPT = "Adopt"


class RollBackTo(StrEnum):
    OFF = "Off"
    PREVIOUS_STAGE = "PreviousStage"
    BASELINE = "Baseline"


class Outcome(StrEnum):
    PENDING = "Pending"
    APPLIED = "Applied"
    REFUSED = "Refused"
    EXPIRED = "Expired"


@dataclass(frozen=True, slots=True)
class Request:
    """A RolloutAction. `requested_by` is empty when nothing has stamped it."""

    uid: str
    type: RequestType
    created_at: datetime
    name: str = ""
    stage: str | None = None
    check: str | None = None
    plan_hash: str | None = None
    to: RollBackTo = RollBackTo.OFF
    reason: str = ""
    requested_by: str = ""

    @property
    def is_service_account(self) -> bool:
        return self.requested_by.startswith(_SERVICE_ACCOUNT)

    @property
    def who(self) -> str:
        return self.requested_by or UNKNOWN

    @property
    def because(self) -> str:
        """The person's reason as the end of a sentence."""
        return f': "{self.reason.strip()}"' if self.reason.strip() else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: a documented reason, and a message for the person who made it."""

    outcome: Outcome
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and its final answer, as it is recorded, once by its UID."""

    request: Request
    answer: Answer
    at: datetime


@dataclass(frozen=True, slots=True)
class Order:
    """A person's RollBack: the cause of a latch, as a breach is one."""

    by: str
    to: RollBackTo
    reason: str
    asked_at: datetime
    action: str

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "to": str(self.to),
            "reason": self.reason,
            "askedAt": self.asked_at.isoformat(),
            "action": self.action,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Order:
        asked_at = datetime.fromisoformat(data["askedAt"])
        return cls(data["by"], RollBackTo(data["to"]), data["reason"], asked_at, data["action"])


@dataclass(frozen=True, slots=True)
class Consent:
    """Somebody's word, with the UID and the plan hash that it binds to."""

    by: str
    at: datetime
    uid: str
    plan_hash: str
    reason: str = ""

    def is_for(self, uid: str, plan_hash: str) -> bool:
        return (self.uid, self.plan_hash) == (uid, plan_hash)

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "at": self.at.isoformat(),
            "uid": self.uid,
            "planHash": self.plan_hash,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Consent:
        return cls(data["by"], datetime.fromisoformat(data["at"]), data["uid"], data["planHash"], data["reason"])


@dataclass(frozen=True, slots=True)
class Promotion:
    """Who ended the bake and the gates of the stage of that index."""

    stage: int
    by: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"stage": self.stage, "by": self.by, "reason": self.reason}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Promotion:
        return cls(data["stage"], data["by"], data["reason"])


@dataclass(frozen=True, slots=True)
class Pause:
    by: str
    at: datetime
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"by": self.by, "at": self.at.isoformat(), "reason": self.reason}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pause:
        return cls(data["by"], datetime.fromisoformat(data["at"]), data["reason"])


@dataclass(frozen=True, slots=True)
class Lift:
    """A Resume that has lifted the hold of these clauses: what was measured against them counts no more."""

    at: datetime
    clauses: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(), "clauses": list(self.clauses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lift:
        return cls(datetime.fromisoformat(data["at"]), tuple(data["clauses"]))


@dataclass(frozen=True, slots=True)
class People:
    """What people have decided in this attempt.

    `approvals` are by the name of a stage, `confirmations` by the full name of a check.
    `preflight_done`: a stage was entered in this attempt, so that preflight is behind it.
    """

    paused: Pause | None = None
    approvals: Mapping[str, tuple[Consent, ...]] = field(default_factory=dict)
    confirmations: Mapping[str, Consent] = field(default_factory=dict)
    promoted: Promotion | None = None
    lifted: Lift | None = None
    preflight_done: bool = False

    def approvers(self, stage: str, uid: str, plan_hash: str) -> tuple[Consent, ...]:
        """Whose approval of a stage counts for this UID and plan hash."""
        return tuple(consent for consent in self.approvals.get(stage, ()) if consent.is_for(uid, plan_hash))

    def confirmed(self, check: str, uid: str, plan_hash: str) -> Consent | None:
        """Who has confirmed a check, by its full name, for this UID and plan hash."""
        consent = self.confirmations.get(check)
        return consent if consent is not None and consent.is_for(uid, plan_hash) else None

    def inherited(self) -> People:
        """What passes on to a new attempt."""
        return People(paused=self.paused)

    def adopted(self) -> People:
        """What passes on to another object in the same attempt: never consent."""
        return replace(self, approvals={}, confirmations={}, promoted=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "paused": self.paused.to_json() if self.paused else None,
            "approvals": {stage: [c.to_json() for c in given] for stage, given in self.approvals.items()},
            "confirmations": {check: consent.to_json() for check, consent in self.confirmations.items()},
            "promoted": self.promoted.to_json() if self.promoted else None,
            "lifted": self.lifted.to_json() if self.lifted else None,
            "preflightDone": self.preflight_done,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> People:
        """`{}` is nobody's word on anything."""
        if not data:
            return cls()
        return cls(
            paused=Pause.from_json(data["paused"]) if data["paused"] else None,
            approvals={s: tuple(Consent.from_json(c) for c in given) for s, given in data["approvals"].items()},
            confirmations={check: Consent.from_json(c) for check, c in data["confirmations"].items()},
            promoted=Promotion.from_json(data["promoted"]) if data["promoted"] else None,
            lifted=Lift.from_json(data["lifted"]) if data["lifted"] else None,
            preflight_done=data["preflightDone"],
        )
