"""A FeatureRollout's status: a picture of the ledger for people and tools, never an input."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from feature_rollout.api.base import StatusModel
from feature_rollout.api.conditions import ObjectStatus
from feature_rollout.core.decision import Phase
from feature_rollout.core.looks import Verdict

# Generous: a status that the API server refuses tells less than a long one.
Text = Annotated[str, Field(max_length=4096)]
Short = Annotated[str, Field(max_length=2048)]


class StageStatus(StatusModel):
    """The newest stage entered."""

    name: Short
    """Its name."""
    index: int
    """Its number, from 1."""
    of: int
    """How many stages the plan has."""
    since: datetime | None = None
    """When it was entered."""
    bake_ends_at: datetime | None = None
    """When its bake will be over if it stays healthy."""


class FlagExposure(StatusModel):
    """Who has a flag."""

    flag: Short
    """The flag."""
    enabled: bool
    """Whether it is on at all."""
    percentage: float
    """The share of users, 0 to 100."""
    groups: tuple[Short, ...] = ()
    """Only these groups; empty is everyone."""


class MetricStatus(StatusModel):
    """A metric as of the last decision."""

    name: Short
    """The metric."""
    value: Short | None = None
    """Its value, as people read it."""
    control: Short | None = None
    """The value of the control arm at the same time, where there is one."""
    events: float | None = None
    """Events of the newest look."""
    units: float | None = None
    """Units of the newest look."""
    verdict: Verdict | None = None
    """What the newest look said."""
    limit: Short | None = None
    """The limit of its most severe clause."""
    limit_in_force: Short | None = None
    """The same as a value: of a relative clause, what its change comes to at this hour or beside the control arm."""
    test: Short | None = None
    """How that clause is judged: one-sample, two-sample, by blocks of looks or by so many of the last looks."""
    dispersion: float | None = None
    """How much more the numbers of a Ratio scatter than independent failures do; evidence is weakened by so much."""
    evidence: float | None = None
    """How strongly the looks speak for a breach, as a natural logarithm.

    The rollout holds at ln 20, about 3, and acts at ln (lowering clauses / alphaBudget).
    """
    at: datetime | None = None
    """The end of the newest look."""
    message: Text | None = None
    """What there is to say about it, such as why it cannot be measured."""


class NextStep(StatusModel):
    """What the rollout will do, and what it waits for."""

    action: Short
    """What comes next, such as Advance, Complete or Wait."""
    at: datetime | None = None
    """The earliest time."""
    waiting_for: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    """Everything that must happen before it."""


class RollbackStatus(StatusModel):
    """What took exposure back: a breach, and how fast, or a person."""

    severity: Short | None = None
    """The row that acted."""
    metric: Short | None = None
    """The metric that was past its limit."""
    value: Short | None = None
    """What it was."""
    limit: Short | None = None
    """What it should not pass."""
    onset_at: datetime | None = None
    """The start of the first of the unbroken run of looks past the limit."""
    acted_at: datetime
    """When the revert was committed."""
    respond_within: Short | None = None
    """The row's deadline."""
    responded_in: Short | None = None
    """The time from onset to commit."""
    action: Short
    """What was done."""
    to: Short | None = None
    """Of a person's RollBack: where to."""
    requested_by: Short | None = None
    """Who has asked for it."""
    reason: Short | None = None
    """Why, in that person's words."""


class HistoryEntry(StatusModel):
    """Something that happened."""

    at: datetime
    """When."""
    action: Short
    """What was done."""
    stage: Short | None = None
    """In which stage."""
    reason: Short | None = None
    """Why, as a documented constant."""
    message: Text | None = None
    """The same for people."""


class Summary(StatusModel):
    """The rollout in a few words, for `kubectl get`."""

    stage: Short | None = None
    """Where it is, such as 3/10 ten-percent."""
    exposure: Short | None = None
    """Who has the flags of the stage, such as 10 % of everyone."""
    health: Short | None = None
    """What the guards say, such as Healthy or Breached: error-rate."""
    next: Short | None = None
    """What comes next, such as Advance in 1d4h."""


class FeatureRolloutStatus(ObjectStatus):
    """Where the rollout is and why. Written on transitions only, so numbers are those of the last decision."""

    plan_hash: Short | None = None
    """What approvals bind to: the hash of the plan with all its references followed."""
    attempt: int | None = None
    """Which run through the plan this is, from 1."""
    phase: Phase | None = None
    """A summary of the conditions."""
    stage: StageStatus | None = None
    """The newest stage entered."""
    exposure: Annotated[tuple[FlagExposure, ...], Field(max_length=100)] = ()
    """The flags' rows as they were last seen."""
    metrics: Annotated[tuple[MetricStatus, ...], Field(max_length=128)] = ()
    """What was measured, as of the last decision."""
    next: NextStep | None = None
    """What comes next."""
    rollback: RollbackStatus | None = None
    """The breach that the rollout was taken back for, or the person who did it."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10)] = ()
    """The last ten events, oldest first."""
    summary: Summary | None = None
    """The same in a few words."""
