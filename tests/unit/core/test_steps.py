"""What the ledger becomes, field by field: a stage, the end, a revert, another attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import Exposure, FlagChange
from feature_rollout.core.people import Order, Pause, People, Promotion, RollBackTo
from feature_rollout.core.plan import Plan, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Breach, Latch, Ledger
from feature_rollout.core.steps import completed, latch_of, lowered, next_stage_entered, rearmed
from support.fakes import OFF, T0, exposure, ledger, ledger_in, minutes, plan, stage

PLAN = plan()
NOW = T0 + minutes(7)
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
ORDER = Order("alice", RollBackTo.OFF, "", T0, "DisableFlags")
LATCH = Latch(BREACH, "ten", PLAN.spec_hash, T0)


def view(row: Ledger, of: Plan = PLAN, **changes: Any) -> View:
    rows = {**dict.fromkeys(of.flags, OFF), **row.written}
    return replace(View(of, row, rows, Progress(baked=minutes(4)), (), NOW), **changes)


def reverting(**changes: Any) -> Decision:
    return replace(Decision(Verb.DISABLE_FLAGS, Phase.ROLLED_BACK, "FlagsDisabled", "x", breach=BREACH), **changes)


def test_a_stage_is_entered_under_the_plan_as_it_is_now() -> None:
    people = People(promoted=Promotion(0, "alice"), paused=Pause("bob", T0))
    before = ledger_in(PLAN, 0, people=people, baked=minutes(5), completed_at=T0, spec_hash="old", plan_hash="older")
    assert next_stage_entered(view(before)) == replace(
        before,
        stage=1,
        entered_at=NOW,
        baked=timedelta(0),
        executed=tuple(s.digest for s in PLAN.stages[:2]),
        written={"bell": exposure(50)},
        spec_hash=PLAN.spec_hash,
        plan_hash=PLAN.plan_hash,
        completed_at=None,
        people=People(preflight_done=True, paused=Pause("bob", T0)),
    )


def test_the_end_keeps_what_was_baked() -> None:
    before = ledger_in(PLAN, 2)
    assert completed(view(before)) == replace(before, completed_at=NOW, baked=minutes(4))


@pytest.mark.parametrize(
    ("row", "decision", "latch"),
    [
        pytest.param(ledger_in(PLAN, 1), reverting(), Latch(BREACH, "half", PLAN.spec_hash, NOW), id="a breach"),
        pytest.param(
            ledger_in(PLAN, 1),
            reverting(breach=None, order=ORDER),
            Latch(ORDER, "half", PLAN.spec_hash, NOW),
            id="a person's order",
        ),
        pytest.param(ledger(), reverting(), Latch(BREACH, "", PLAN.spec_hash, NOW), id="before the first stage"),
    ],
)
def test_a_revert_is_remembered_with_its_cause_stage_plan_and_time(
    row: Ledger, decision: Decision, latch: Latch
) -> None:
    assert latch_of(view(row), decision) == latch


def test_only_a_revert_leaves_a_latch() -> None:
    with pytest.raises(ValueError, match=r"^only a revert leaves a latch$"):
        latch_of(view(ledger()), reverting(breach=None))


@pytest.mark.parametrize(
    ("known", "latch", "severity", "expected", "acted"),
    [
        pytest.param(None, LATCH, Severity.HIGH, LATCH, {Severity.LOW, Severity.HIGH}, id="the first revert"),
        pytest.param(LATCH, None, None, LATCH, {Severity.LOW}, id="a lowering that is none keeps the latch"),
        pytest.param(None, None, None, None, {Severity.LOW}, id="a lowering that is none makes none"),
        pytest.param(
            LATCH,
            replace(LATCH, cause=replace(BREACH, severity=Severity.CRITICAL)),
            Severity.CRITICAL,
            replace(LATCH, cause=replace(BREACH, severity=Severity.CRITICAL)),
            {Severity.LOW, Severity.CRITICAL},
            id="a graver one is told of instead",
        ),
        pytest.param(
            LATCH,
            replace(LATCH, cause=replace(BREACH, severity=Severity.MEDIUM)),
            Severity.MEDIUM,
            LATCH,
            {Severity.LOW, Severity.MEDIUM},
            id="a lesser one is not",
        ),
    ],
)
def test_a_lowering(
    known: Latch | None, latch: Latch | None, severity: Severity | None, expected: Latch | None, acted: set[Severity]
) -> None:
    before = ledger(written={"bell": exposure(10), "menu": exposure(5)}, latch=known, acted=frozenset({Severity.LOW}))
    after = lowered(before, {"bell": OFF}, latch, severity)
    written = {"bell": OFF, "menu": exposure(5)}
    assert after == replace(before, written=written, latch=expected, acted=frozenset(acted))


def test_an_attempt_that_begins_again_from_nothing() -> None:
    """Also of a rollout that was completed and then rolled back by a person."""
    before = ledger_in(
        PLAN,
        2,
        latch=LATCH,
        acted=frozenset({Severity.HIGH}),
        written={"bell": exposure(100, enabled=False)},
        completed_at=T0,
        baked=minutes(5),
        spec_hash="old",
        plan_hash="older",
        people=People(preflight_done=True, paused=Pause("bob", T0)),
    )
    assert rearmed(view(before)) == replace(
        before,
        latch=None,
        acted=frozenset(),
        attempt=2,
        stage=-1,
        entered_at=None,
        baked=timedelta(0),
        executed=(),
        spec_hash=PLAN.spec_hash,
        plan_hash=PLAN.plan_hash,
        completed_at=None,
        people=People(paused=Pause("bob", T0)),
    )


TWO = plan(
    stage("ten", ("bell", 10), bake=minutes(3)),
    stage("half", ("bell", 50), ("menu", 50), bake=minutes(4)),
    stage("narrow", ("bell", FlagChange(groups=frozenset({"staff"}))), bake=minutes(5)),
)
MENU_OFF = exposure(50, enabled=False)


@pytest.mark.parametrize(
    ("entered", "written", "stage_index", "baked"),
    [
        pytest.param(1, {"bell": exposure(10), "menu": OFF}, 0, 3, id="back in the stage before, which has baked"),
        pytest.param(1, {"bell": exposure(9), "menu": OFF}, -1, 0, id="below the stage before"),
        pytest.param(
            1, {"bell": exposure(50), "menu": exposure(50)}, 1, 0, id="nothing was lowered: the stage bakes anew"
        ),
        pytest.param(
            1, {"bell": exposure(50), "menu": MENU_OFF}, 0, 3, id="one of the stage's flags was: not the stage"
        ),
        pytest.param(
            2,
            {"bell": exposure(50, "staff"), "menu": MENU_OFF},
            -1,
            0,
            id="narrowed, and another flag off: nobody outside the group has it",
        ),
    ],
)
def test_where_an_attempt_begins_again(
    entered: int, written: dict[str, Exposure], stage_index: int, baked: int
) -> None:
    again = rearmed(view(ledger_in(TWO, entered, latch=LATCH, written=written), TWO))
    assert (again.stage, again.baked) == (stage_index, minutes(baked))
    assert again.entered_at == (NOW if stage_index >= 0 else None)
    assert again.executed == tuple(s.digest for s in TWO.stages[: stage_index + 1])


def test_a_stage_that_was_not_entered_is_not_begun_in_although_its_flags_are_there() -> None:
    same = plan(stage("ten", ("bell", 10)), stage("ten again", ("bell", 10)))
    assert rearmed(view(ledger_in(same, 0, latch=LATCH), same)).stage == 0
