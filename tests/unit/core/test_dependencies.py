"""Stages that wait for stages of other rollouts.

| subject | cases |
|---|---|
| passed | a sentence about the other rollout, and why its stage does not count |
| the chain | what is said of a stage that waits, in which order, and that guards wait for nobody |
| reading | when the others are looked at, and how long that counts |
| cycles | which plans go in a circle, and by which way |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from feature_rollout.core import reasons
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Phase, Standing, Trouble, Verb, View
from feature_rollout.core.dependencies import cycle, to_read, why_not_passed
from feature_rollout.core.people import Pause, People, Promotion
from feature_rollout.core.plan import After, Approval, Gate, Plan, Stage
from support.fakes import T0, exposure, ledger_in, minutes, percent, plan, seconds, stage
from unit.core.test_decide import BAD, BAKED, EMPTY, ERROR, GOOD, SOFT, YEARS, reverted, view

OTHER = plan()
EASY = Gate("errors", at_most=percent("1%"))
GATED = plan(stage("ten", ("bell", 10), gates=(replace(EASY, min_units=10**6),)), OTHER.stages[1])
FULL = [GOOD] * BAKED


def other(of: Plan = OTHER, index: int = 0, looks: list[dict[str, Any]] | None = None, **changes: Any) -> View:
    """Another rollout in that stage, baked unless looks are given."""
    return view(of, index, FULL if looks is None else looks, **changes)


def completed(of: Plan = OTHER) -> View:
    row_in = ledger_in(of, len(of.stages) - 1)
    return other(of, len(of.stages) - 1, [], ledger=replace(row_in, completed_at=T0))


@dataclass(frozen=True)
class Passed:
    sentence: str
    view: View
    stage: str = "ten"
    why: str | None = None

    def __str__(self) -> str:
        return self.sentence


PAUSED = People(paused=Pause("alice", T0))
PASSED = (
    Passed("baked, without gates", other()),
    Passed("baked, and its gate is passed", other(plan(stage("ten", ("bell", 10), gates=(EASY,)), OTHER.stages[1]))),
    Passed("a later stage was entered", other(index=1, looks=[])),
    Passed("the first of three, and the last was entered", other(index=2, looks=[])),
    Passed("completed, its last stage", completed(), "all"),
    Passed("completed, its first stage", completed()),
    Passed("completed, and suspended since", replace(completed(), suspended=True), "all"),
    Passed(
        "promoted", other(looks=[GOOD], ledger=replace(ledger_in(OTHER, 0), people=People(promoted=Promotion(0, "a"))))
    ),
    Passed("not begun", other(index=-1), why="it has not begun"),
    Passed("in the stage before", other(), "half", "it is in stage ten"),
    Passed("baking", other(looks=[GOOD]), why="it is in that stage (Baking)"),
    Passed("a gate is not passed", other(GATED), why="it is in that stage (GateNotPassed)"),
    Passed("a guard holds", other(SOFT, 0, [*FULL, *[BAD] * 2]), why="it is in that stage (HoldAction)"),
    Passed("guards are blind", other(looks=[*FULL, *[ERROR] * 4]), why="it is in that stage (GuardsBlind)"),
    Passed("no traffic", other(looks=[*FULL, *[EMPTY] * 5]), why="it is in that stage (NoTraffic)"),
    Passed("rolled back in it", other(ledger=reverted()), why="it stands still (RolledBack)"),
    Passed("rolled back later", other(ledger=reverted(index=1)), why="it stands still (RolledBack)"),
    Passed("suspended", replace(other(index=1), suspended=True), why="it stands still (Suspended)"),
    Passed(
        "paused by a person",
        other(index=1, ledger=replace(ledger_in(OTHER, 1), people=PAUSED)),
        why="it stands still (Paused)",
    ),
    Passed(
        "a row was changed by hand",
        other(index=1, rows={"bell": exposure(99)}),
        why="it stands still (ManualChange)",
    ),
    Passed(
        "its manifest is broken",
        replace(other(index=1), trouble=Trouble(reasons.INVALID_PLAN, "no")),
        why="it stands still (InvalidPlan)",
    ),
    Passed("a stage that it does not have", other(index=2), "ninety", "it has no such stage"),
)


@pytest.mark.parametrize("case", PASSED, ids=str)
def test_whether_a_stage_is_passed(case: Passed) -> None:
    assert why_not_passed(case.view, case.stage) == case.why


WAITS = plan(stage("ten", ("door", 10)), stage("half", ("door", 50), after=(After("bell", "half"),)))
FIRST = plan(stage("ten", ("door", 10), after=(After("bell", "half"), After("lamp", "all"))))


def known(standing: View | str | None, of: Plan = WAITS, index: int = 0, age_s: float = 0.0, **changes: Any) -> View:
    """A rollout whose stage is over, and what is known of the one that the next stage waits for."""
    made = replace(view(of, index, FULL), **changes)
    if standing is None:
        return made
    at = made.now - seconds(age_s)
    read = Standing(at, unknown=standing) if isinstance(standing, str) else Standing(at, standing)
    return replace(made, others={"bell": read})


@dataclass(frozen=True)
class Waits:
    sentence: str
    view: View
    verb: Verb
    phase: Phase
    reason: str
    message: str
    stalled: bool = False

    def __str__(self) -> str:
        return self.sentence


HELD = (Verb.HOLD, Phase.HELD, reasons.AWAITING_ROLLOUT)
APPROVED = plan(WAITS.stages[0], replace(WAITS.stages[1], approval=Approval()))
WAITING = (
    Waits(
        "not passed", known(other()), *HELD, "Stage half waits for rollout bell to pass stage half: it is in stage ten."
    ),
    Waits("missing", known("there is no such FeatureRollout"), *HELD, "stage half: there is no such FeatureRollout."),
    Waits("in a window that is closed", known(other(), plan(*WAITS.stages, calendar=YEARS)), *HELD, "rollout bell"),
    Waits(
        "passed, and the window is closed",
        known(other(index=2), plan(*WAITS.stages, calendar=YEARS)),
        Verb.WAIT,
        Phase.AWAITING_WINDOW,
        reasons.AWAITING_WINDOW,
        "The next stage waits for the calendar",
    ),
    Waits(
        "not approved either",
        known(other(), APPROVED),
        Verb.HOLD,
        Phase.AWAITING_APPROVAL,
        reasons.AWAITING_APPROVAL,
        "Waits for 1 approval",
    ),
    Waits(
        "a stage that there is not",
        known(other(plan(OTHER.stages[0]))),
        Verb.HOLD,
        Phase.STALLED,
        reasons.STAGE_UNKNOWN,
        "it has no such stage",
        stalled=True,
    ),
    Waits("not read yet", known(None), Verb.WAIT, Phase.BAKING, reasons.BAKING, "where rollout bell is"),
    Waits(
        "read too long ago",
        known(other(index=2), age_s=15),
        Verb.WAIT,
        Phase.BAKING,
        reasons.BAKING,
        "where rollout bell",
    ),
    Waits("not passed when it was read too long ago", known(other(), age_s=15), *HELD, "it is in stage ten"),
    Waits(
        "read in the future", known(other(index=2), age_s=-1), Verb.WAIT, Phase.BAKING, reasons.BAKING, "where rollout"
    ),
    Waits(
        "not read yet, before the first stage",
        known(other(), FIRST, -1),
        Verb.WAIT,
        Phase.PENDING,
        reasons.PENDING,
        "where rollout lamp is",
    ),
    Waits("passed", known(other(index=2)), Verb.ADVANCE, Phase.BAKING, reasons.STAGE_ENTERED, "Stage half"),
    Waits(
        "passed, read a moment ago",
        known(other(index=2), age_s=14),
        Verb.ADVANCE,
        Phase.BAKING,
        reasons.STAGE_ENTERED,
        "",
    ),
)


@pytest.mark.parametrize("case", WAITING, ids=str)
def test_a_stage_that_waits(case: Waits) -> None:
    decision = decide(case.view)
    assert (decision.verb, decision.phase, decision.reason, decision.stalled) == (
        case.verb,
        case.phase,
        case.reason,
        case.stalled,
    )
    assert case.message in decision.message


def test_everything_that_is_waited_for_is_said() -> None:
    waiting = known(other(), FIRST, -1)
    waiting = replace(waiting, others={**waiting.others, "lamp": Standing(waiting.now, unknown="StoreUnreachable")})
    said = ("rollout bell to pass stage half: it is in stage ten", "rollout lamp to pass stage all: StoreUnreachable")
    assert decide(waiting).waiting_for == said
    assert decide(waiting).message == f"Stage ten waits for {said[0]}; {said[1]}."
    unread = decide(known(None, FIRST, -1))
    assert unread.waiting_for == ("where rollout bell is", "where rollout lamp is")
    assert unread.message == "It is asked where rollout bell is; where rollout lamp is."
    unknown = decide(known(other(plan(OTHER.stages[0]))))
    assert unknown.waiting_for == ("rollout bell to pass stage half: it has no such stage",)


def test_what_was_waited_for_is_cited() -> None:
    assert decide(known(other(index=2))).cited == {"after": ["bell/half"]}


def test_a_revert_waits_for_nobody() -> None:
    harmed = view(WAITS, 0, [*FULL, *[BAD] * 3])
    assert decide(harmed).verb is Verb.DISABLE_FLAGS


def test_a_wait_for_others_does_not_make_a_stage_overdue() -> None:
    late = plan(stage("ten", ("door", 10), deadline=minutes(1)), WAITS.stages[1])
    assert decide(known(other(), late)).reason == reasons.AWAITING_ROLLOUT
    assert decide(known(other(), late, hold_at="ten")).reason == reasons.HOLD_AT


@pytest.mark.parametrize(
    ("sentence", "found", "names"),
    [
        ("the bake is nearly over", view(WAITS, 0, FULL[:-1]), ("bell",)),
        ("it was read a second ago", known(other(), age_s=1), ("bell",)),
        ("it was read just now", known(other(), age_s=0.9), ()),
        ("the bake goes on for minutes", view(WAITS, 0, FULL[:-2]), ()),
        (
            "the bake was ended by a person",
            view(WAITS, 0, [GOOD], ledger=replace(ledger_in(WAITS, 0), people=People(promoted=Promotion(0, "a")))),
            ("bell",),
        ),
        ("it is rolled back", view(WAITS, 0, FULL, ledger=reverted(WAITS)), ()),
        ("there is no next stage", view(WAITS, 1, FULL), ()),
        ("the next stage waits for nobody", view(OTHER, 0, FULL), ()),
        ("it has not begun", view(FIRST, -1, []), ("bell", "lamp")),
    ],
)
def test_when_others_are_read(sentence: str, found: View, names: tuple[str, ...]) -> None:
    assert to_read(found) == names, sentence


def order(**rollouts: list[str | tuple[str, str]]) -> dict[str, tuple[Stage, ...]]:
    """Stages by rollout: a name, or a name and what it is after, such as `bell/all lamp/ten`."""

    def made(given: str | tuple[str, str]) -> Stage:
        name, after = (given, "") if isinstance(given, str) else given
        return stage(name, after=tuple(After(*one.split("/")) for one in after.split()))

    return {name: tuple(map(made, stages)) for name, stages in rollouts.items()}


CYCLES = (
    ("nobody waits", order(a=["1", "2"], b=["1"]), ""),
    ("one waits for the other", order(a=["1", ("2", "b/1")], b=["1"]), ""),
    ("each for an earlier stage of the other", order(a=["1", ("2", "b/1")], b=["1", ("2", "a/1")]), ""),
    ("two for each other", order(a=[("1", "b/1")], b=[("1", "a/1")]), "a/1 b/1 a/1"),
    ("through stages between", order(a=[("1", "b/2"), "2"], b=[("1", "a/2"), "2"]), "a/1 b/2 b/1 a/2 a/1"),
    ("three", order(a=["1", ("2", "b/1")], b=[("1", "c/1")], c=[("1", "a/2")]), "a/2 b/1 c/1 a/2"),
    ("two others, in which it is not", order(a=[("1", "b/1")], b=[("1", "c/1")], c=[("1", "b/1")]), ""),
    ("itself", order(a=["1", ("2", "a/2")]), "a/2 a/2"),
    ("a later stage of itself", order(a=[("1", "a/2"), "2"]), "a/1 a/2 a/1"),
    ("an earlier stage of itself", order(a=["1", ("2", "a/1")]), ""),
    ("the shorter way", order(a=[("1", "b/1 c/1")], b=[("1", "c/1")], c=[("1", "a/1")]), "a/1 c/1 a/1"),
    ("who is not there", order(a=[("1", "b/1 c/9")], c=["1"]), ""),
)


@pytest.mark.parametrize(("sentence", "stages", "way"), CYCLES)
def test_who_goes_in_a_circle(sentence: str, stages: dict[str, tuple[Stage, ...]], way: str) -> None:
    assert " ".join(map(str, cycle("a", stages))) == way, sentence


def test_a_cycle_is_said_before_anything_is_raised() -> None:
    made = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), after=(After("lamp", "on"),)))
    begun = view(made, -1, [GOOD])
    lamp = {"lamp": (stage("on", after=(After("bell", "half"),)),)}
    decision = decide(replace(begun, order=lamp))
    assert (decision.phase, decision.reason, decision.stalled) == (Phase.STALLED, reasons.DEPENDENCY_CYCLE, True)
    assert "bell/half -> lamp/on -> bell/half" in decision.message
    assert decide(replace(view(made, 0, [GOOD]), order=lamp)).reason == reasons.DEPENDENCY_CYCLE
    # Once the stage is in, nobody waits any more.
    assert decide(replace(view(made, 1, [GOOD]), order=lamp)).reason == reasons.BAKING


def test_a_cycle_does_not_stop_a_revert() -> None:
    made = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), after=(After("lamp", "on"),)))
    lamp = {"lamp": (stage("on", after=(After("bell", "half"),)),)}
    assert decide(replace(view(made, 0, [BAD] * 3), order=lamp)).verb is Verb.DISABLE_FLAGS
