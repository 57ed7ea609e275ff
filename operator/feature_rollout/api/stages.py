"""A FeatureRollout's stages, and the checks and gates in them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from feature_rollout.api.base import ApiModel
from feature_rollout.api.rules import Found, Rule, index_of
from feature_rollout.api.values import (
    AS_SET,
    BY_NAME,
    Approval,
    ConfigMapSource,
    Duration,
    FlagName,
    Group,
    Int,
    LimitText,
    Name,
    Number,
    ObjectName,
    Prose,
    Sql,
)
from feature_rollout.core.plan import OnNoTraffic


class Risk(StrEnum):
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


def _one_question(check: Check) -> Found:
    count = sum(value is not None for value in (check.sql, check.job, check.confirm))
    return None if count == 1 else {"name": check.name, "count": "several" if count else "none"}


_QUESTIONS_CEL = "[has(self.sql), has(self.job), has(self.confirm)].filter(x, x).size()"


class Check(ApiModel):
    """Something that must be so before the rollout goes on."""

    name: Name
    """The check's name."""
    sql: Sql | None = None
    """Asked of the FlagStore's database, by its reader role."""
    expect: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """What the SQL must answer: "true" (the default), AllPass (every row's status is PASS), Rows (any), or a value."""
    job: ConfigMapSource | None = None
    """The manifest of a Job, which must complete; it runs once an attempt, in the rollout's namespace."""
    confirm: Prose | None = None
    """What a person must confirm, by a RolloutAction of type Confirm that names the check."""

    rules: ClassVar = (
        Rule(
            f"{_QUESTIONS_CEL} == 1",
            "the check {name} has {count} of sql, job and confirm: write exactly one",
            _one_question,
            name="self.name",
            count=f"({_QUESTIONS_CEL} == 0 ? 'none' : 'several')",
        ),
        Rule(
            "!has(self.expect) || has(self.sql)",
            "the check {name} has expect without sql: expect is what the SQL must answer, remove it",
            lambda check: {"name": check.name} if check.expect is not None and check.sql is None else None,
            name="self.name",
        ),
    )


Checks = Annotated[tuple[Check, ...], Field(max_length=16), BY_NAME]


class FlagEntry(ApiModel):
    """Flags that a stage enables, and for whom. What it does not name stays as it was."""

    names: Annotated[tuple[FlagName, ...], Field(min_length=1, max_length=32), AS_SET]
    """The flags."""
    percentage: Annotated[Number, Field(ge=0, le=100)] | None = None
    """The share of users, 0 to 100; a whole number unless the table's column is numeric."""
    groups: Annotated[tuple[Group, ...], Field(max_length=16), AS_SET] | None = None
    """Who may have them at all; an empty list is everyone."""

    unordered: ClassVar = frozenset({"names", "groups"})
    rules: ClassVar = (
        Rule(
            "has(self.percentage) || has(self.groups)",
            "nothing is said about {name}: write percentage or groups or both",
            lambda entry: {"name": entry.names[0]} if entry.percentage is None and entry.groups is None else None,
            name="self.names[0]",
        ),
    )


def _one_limit(gate: Gate) -> Found:
    return None if (gate.at_most is None) != (gate.at_least is None) else {"metric": gate.metric}


class Gate(ApiModel):
    """What the stage's looks must show once its bake is over; until they do, the rollout holds."""

    metric: Name
    """A metric that the rollout binds."""
    at_most: LimitText | None = None
    """Passed at this limit or below."""
    at_least: LimitText | None = None
    """Passed at this limit or above."""
    min_units: Annotated[Int, Field(ge=1, le=1_000_000_000)] = 1
    """How many units must have been counted."""

    rules: ClassVar = (
        Rule(
            "has(self.atMost) != has(self.atLeast)",
            "the gate on {metric} needs one limit: write exactly one of atMost and atLeast",
            _one_limit,
            metric="self.metric",
        ),
    )


class After(ApiModel):
    """A stage of another rollout that must have been passed."""

    rollout: ObjectName
    """Another FeatureRollout of this namespace."""
    stage: Name
    """A stage of its plan; its last one for the whole rollout."""


def _double_flag(stage: Stage) -> Found:
    seen: set[str] = set()
    for entry in stage.flags:
        for name in entry.names:
            if name in seen:
                return {"stage": stage.name, "flag": name}
            seen.add(name)
    return None


def _is_doubled(name: str) -> str:
    return f"!self.flags.exists_one(o, {name} in o.names)"


_DOUBLE_ENTRY_CEL = index_of("self.flags", 16, f"self.flags[i].names.exists(n, {_is_doubled('n')})")
# `[x].map(e, ...)[0]` gives x a name, so that it is not searched for again for each of the names.
_DOUBLE_NAME_CEL = (
    f"[{_DOUBLE_ENTRY_CEL}].map(e, "
    f"{index_of('self.flags[e].names', 32, _is_doubled('self.flags[e].names[j]'), 'j')})[0]"
)


class Stage(ApiModel):
    """One entry of the plan. It runs in this order: approval, after, window, migrations, checks, flags, bake, gates."""

    name: Name
    """The stage's name, unique in the plan."""
    risk: Risk | None = None
    """How much could go wrong, for people."""
    approval: Approval | None = None
    """Who must approve before the stage begins."""
    after: Annotated[tuple[After, ...], Field(max_length=8)] = ()
    """Stages of other rollouts of this namespace that must have been passed before this one begins.

    Passed: its bake and its gates are over, and the rollout is neither rolled back nor paused. Reverts wait for nobody.
    """
    migrations: Annotated[tuple[ConfigMapSource, ...], Field(max_length=16)] = ()
    """SQL scripts, run in order as the FlagStore's owner, each once. Not in effect yet: the stage does not begin."""
    checks: Checks = ()
    """What must be so before the flags are changed."""
    flags: Annotated[tuple[FlagEntry, ...], Field(max_length=16)] = ()
    """The flags that are enabled, all in one transaction."""
    bake: Duration = Duration("0s")
    """How long the stage must be healthy before the next."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = ()
    """What its looks must show at the end of the bake."""
    on_no_traffic: OnNoTraffic = OnNoTraffic.WAIT
    """Whether time without traffic counts as healthy."""
    deadline: Duration | None = None
    """Report the stage as overdue when it is not over by then."""

    unhashed: ClassVar = frozenset({"risk", "deadline"})
    unordered: ClassVar = frozenset({"after", "gates"})
    rules: ClassVar = (
        Rule(
            f"!has(self.flags) || !self.flags.exists(e, e.names.exists(n, {_is_doubled('n')}))",
            'the stage {stage} names the flag "{flag}" twice: name it in one entry',
            _double_flag,
            stage="self.name",
            flag=f"self.flags[{_DOUBLE_ENTRY_CEL}].names[{_DOUBLE_NAME_CEL}]",
        ),
    )
