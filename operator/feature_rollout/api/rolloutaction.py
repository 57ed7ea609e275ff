"""RolloutAction: what a person does."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.conditions import ObjectStatus
from feature_rollout.api.rules import Found, Rule, immutable
from feature_rollout.api.values import Name, PlanHash, Prose, Reference
from feature_rollout.core.people import Outcome as RolloutActionPhase
from feature_rollout.core.people import RequestType as RolloutActionType
from feature_rollout.core.people import RollBackTo

__all__ = [
    "RollBackTo",
    "RolloutAction",
    "RolloutActionPhase",
    "RolloutActionSpec",
    "RolloutActionStatus",
    "RolloutActionType",
]


_READ_FIRST = (RolloutActionType.APPROVE, RolloutActionType.CONFIRM)


def _hash_missing(spec: RolloutActionSpec) -> Found:
    return {"type": str(spec.type)} if spec.type in _READ_FIRST and spec.plan_hash is None else None


def _stage_missing(spec: RolloutActionSpec) -> Found:
    return {"type": str(spec.type)} if spec.type is RolloutActionType.APPROVE and spec.stage is None else None


def _check_fits(spec: RolloutActionSpec) -> Found:
    wants = spec.type is RolloutActionType.CONFIRM
    return None if wants == (spec.check_ is not None) else {"type": str(spec.type)}


def _to_fits(spec: RolloutActionSpec) -> Found:
    wrong = spec.to is not None and spec.type is not RolloutActionType.ROLL_BACK
    return {"type": str(spec.type)} if wrong else None


class RolloutActionSpec(ApiModel):
    """What somebody wants done with a rollout, and why."""

    rollout_ref: Reference
    """The FeatureRollout."""
    type: RolloutActionType
    """What is to be done."""
    stage: Name | None = None
    """Of Approve: the stage that may begin. Otherwise: only if the rollout is in this stage."""
    check_: Annotated[Name | None, Field(alias="check")] = None
    """Of Confirm: the check that is confirmed."""
    plan_hash: PlanHash | None = None
    """Of Approve and Confirm: status.planHash as it was read; refused when the plan is another by then."""
    to: RollBackTo | None = None
    """Of RollBack: Off (the default), PreviousStage or Baseline."""
    reason: Prose | None = None
    """Why, for the audit."""
    requested_by: Annotated[str, Field(max_length=512)] | None = None
    """Who asks. Written by the API server, not by the person; a service account's name begins with
    system:serviceaccount: there."""

    rules: ClassVar = (
        Rule(
            "!(self.type in ['Approve', 'Confirm']) || has(self.planHash)",
            "{type} needs planHash: copy it from the rollout's status.planHash, as you read it",
            _hash_missing,
            type="self.type",
        ),
        Rule(
            "self.type != 'Approve' || has(self.stage)",
            "{type} needs stage: name the stage that may begin",
            _stage_missing,
            type="self.type",
        ),
        Rule(
            "has(self.check) == (self.type == 'Confirm')",
            "check does not fit {type}: Confirm names the check that is confirmed, other types have none",
            _check_fits,
            type="self.type",
        ),
        Rule(
            "!has(self.to) || self.type == 'RollBack'",
            "to does not fit {type}: only RollBack has it",
            _to_fits,
            type="self.type",
        ),
    )


class RolloutActionStatus(ObjectStatus):
    """What became of it."""

    phase: RolloutActionPhase | None = None
    """Pending, then one of the others, for good."""
    reason: Annotated[str, Field(max_length=1024)] | None = None
    """Why, or what it waits for, as a documented constant."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The same for people."""
    finished_at: datetime | None = None
    """When it was applied, refused or expired; the object is deleted 30 days later."""


class RolloutAction(Resource):
    """What a person does with a FeatureRollout: approve, pause, roll back, and so on. It is applied once."""

    plural: ClassVar = "rolloutactions"
    short_names: ClassVar = ("fra",)

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["RolloutAction"]
    spec: Annotated[RolloutActionSpec, immutable("an action")]
    """What is to be done. Cannot be changed."""
    status: RolloutActionStatus | None = None
    """What became of it."""
