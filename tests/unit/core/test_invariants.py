"""Each invariant catches a decision that a bug might have made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from feature_rollout.core.checks import Check, CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import DISABLED, FlagChange
from feature_rollout.core.guards import GuardState, assess
from feature_rollout.core.intake import aligned
from feature_rollout.core.invariants import violations
from feature_rollout.core.people import Consent, Pause, People
from feature_rollout.core.plan import Approval, Gate, OnDrift, OnNoTraffic, Severity
from feature_rollout.core.state import Breach, Latch
from support.fakes import INTERVAL, T0, exposure, ledger_in, look, minutes, percent, plan, stage

PLAN = plan(stage("ten", ("bell", 10), gates=(Gate("errors", at_most=percent("1%")),)), stage("half", ("bell", 50)))
LATCH = Latch(
    Breach(Severity.HIGH, "errors", "errors above 1%", "2%", "1%", 5.0, T0, minutes(5), "DisableFlags"),
    "ten",
    PLAN.spec_hash,
    T0,
)


def ready(**numbers: Any) -> View:
    """A rollout whose first stage has baked and whose gate is passed."""
    row_in = ledger_in(PLAN, 0)
    progress = aligned(None, PLAN, row_in, T0)
    for index in range(10):
        one = look("errors", T0 + index * INTERVAL, **(numbers or {"events": 0.0, "units": 100.0}))
        progress = progress.observed(PLAN, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    now = T0 + minutes(5)
    return View(PLAN, row_in, dict(row_in.written), progress, assess(PLAN, progress, now), now)


GOOD_VIEW = ready()
GOOD = decide(GOOD_VIEW)


def advanced(**changes: Any) -> Decision:
    assert GOOD.ledger is not None
    return replace(GOOD, ledger=replace(GOOD.ledger, **changes))


def test_a_ceiling_is_that_of_the_stages_entered_and_not_of_those_to_come() -> None:
    of = plan(*PLAN.stages, stage("all", ("bell", 100)))
    row_in = ledger_in(of, 0)
    seen = replace(GOOD_VIEW, plan=of, ledger=row_in)
    good = decide(seen)
    assert violations(seen, good) == ()
    assert violations(seen, replace(good, after={"bell": exposure(100)})) == ("S1",)
    assert violations(seen, replace(good, after={"another": exposure(1)})) == ("S1", "S8")


def test_a_good_decision_breaks_nothing() -> None:
    assert GOOD.verb is Verb.ADVANCE
    assert violations(GOOD_VIEW, GOOD) == ()


@pytest.mark.parametrize(
    ("view", "decision", "broken"),
    [
        pytest.param(
            GOOD_VIEW, replace(GOOD, after={"bell": exposure(60)}), ("S1",), id="S1 more than the stage gives"
        ),
        pytest.param(
            replace(GOOD_VIEW, ledger=replace(GOOD_VIEW.ledger, latch=LATCH)), GOOD, ("S2",), id="S2 after a revert"
        ),
        pytest.param(
            replace(GOOD_VIEW, ledger=replace(GOOD_VIEW.ledger, latch=LATCH)),
            Decision(Verb.REARM, Phase.PENDING, "Rearmed", "", ledger=replace(GOOD_VIEW.ledger, attempt=2)),
            ("S2",),
            id="S2 the same plan re-arms",
        ),
        pytest.param(
            replace(GOOD_VIEW, rows={"bell": exposure(11)}), GOOD, ("S4",), id="S4 somebody else changed the row"
        ),
        pytest.param(
            replace(GOOD_VIEW, rows={"bell": exposure(11)}, on_drift=OnDrift.REPORT),
            GOOD,
            ("S4",),
            id="S4 reported, and not as it was seen",
        ),
        pytest.param(
            GOOD_VIEW,
            replace(GOOD, after={**GOOD.after, "menu": exposure(0)}, before={**GOOD.before, "menu": exposure(0)}),
            ("S8",),
            id="S8 a flag that the stage does not name",
        ),
        pytest.param(
            GOOD_VIEW,
            Decision(Verb.DISABLE_FLAGS, Phase.ROLLED_BACK, "FlagsDisabled", "", targets={"foreign": DISABLED}),
            ("S8",),
            id="S8 a revert of a flag that it never wrote",
        ),
        pytest.param(ready(events=2.0, units=100.0), GOOD, ("S9",), id="S9 the gate is not passed"),
        pytest.param(ready(error="timeout"), GOOD, ("S9", "S10"), id="S9 the guards are blind, S10 nothing was baked"),
        pytest.param(
            replace(GOOD_VIEW, progress=replace(GOOD_VIEW.progress, baked=minutes(4))),
            GOOD,
            ("S10",),
            id="S10 too soon",
        ),
        pytest.param(GOOD_VIEW, advanced(stage=2), ("S11",), id="S11 two stages at once"),
        pytest.param(
            GOOD_VIEW, replace(GOOD, verb=Verb.COMPLETE), ("S11",), id="S11 rows are raised by something else"
        ),
        pytest.param(replace(GOOD_VIEW, suspended=True), GOOD, ("S20",), id="S20 suspended"),
        pytest.param(replace(GOOD_VIEW, leading=False), GOOD, ("S20",), id="S20 another leads"),
        pytest.param(replace(GOOD_VIEW, trouble=Trouble("x", "y")), GOOD, ("S20",), id="S20 the manifest is broken"),
    ],
)
def test_a_planted_bug(view: View, decision: Decision, broken: tuple[str, ...]) -> None:
    assert violations(view, decision) == broken


READY = Check("stages/half/ready", "Somebody is there.")
BACKUP = Check("stages/half/backup")
ASKED = plan(PLAN.stages[0], stage("half", ("bell", 50), checks=(READY, BACKUP), approval=Approval(2)))


def consent(by: str, **changes: Any) -> Consent:
    return replace(Consent(by, T0, "uid-1", ASKED.plan_hash), **changes)


def asked(**people: Any) -> View:
    """The same rollout, whose next stage needs two approvals and two checks, all of them given."""
    given: dict[str, Any] = {
        "approvals": {"half": (consent("alice"), consent("bob"))},
        "confirmations": {READY.key: consent("carol")},
        "preflight_done": True,
        **people,
    }
    entered = replace(ledger_in(ASKED, 0), people=People(**given))
    checks = {BACKUP.key: CheckAnswer(BACKUP.key, True, "", GOOD_VIEW.now)}
    return replace(GOOD_VIEW, plan=ASKED, ledger=entered, checks=checks)


WHOLE = decide(asked())
LATE = {BACKUP.key: CheckAnswer(BACKUP.key, True, "", GOOD_VIEW.now - minutes(1))}
FAILED = {BACKUP.key: CheckAnswer(BACKUP.key, False, "", GOOD_VIEW.now)}


@pytest.mark.parametrize(
    ("view", "decision", "broken"),
    [
        pytest.param(asked(), WHOLE, (), id="all was given"),
        pytest.param(asked(approvals={}), WHOLE, ("S13",), id="S13 nobody has approved"),
        pytest.param(
            asked(approvals={"half": (consent("alice"), consent("alice"))}),
            WHOLE,
            ("S13",),
            id="S13 the same person twice",
        ),
        pytest.param(
            asked(approvals={"half": (consent("alice"), consent("bob", uid="other"))}),
            WHOLE,
            ("S13",),
            id="S13 of another object",
        ),
        pytest.param(asked(), replace(WHOLE, cited={}), ("S13",), id="S13 nobody is cited"),
        pytest.param(asked(confirmations={}), WHOLE, ("S9",), id="S9 nobody has confirmed"),
        pytest.param(
            asked(confirmations={READY.key: consent("carol", plan_hash="old")}), WHOLE, ("S9",), id="S9 another plan"
        ),
        pytest.param(replace(asked(), checks={}), WHOLE, ("S9",), id="S9 a check was not answered"),
        pytest.param(replace(asked(), checks=LATE), WHOLE, ("S9",), id="S9 a minute ago"),
        pytest.param(replace(asked(), checks=FAILED), WHOLE, ("S9",), id="S9 it has not passed"),
        pytest.param(
            replace(asked(preflight_done=False), plan=replace(ASKED, preflight=(BACKUP, Check("preflight/on-call")))),
            WHOLE,
            ("S9",),
            id="S9 preflight was not asked",
        ),
        pytest.param(asked(paused=Pause("alice", T0)), WHOLE, ("S20",), id="S20 somebody has paused it"),
        pytest.param(GOOD_VIEW, advanced(latch=LATCH), ("S2",), id="S2 it leaves a latch"),
        pytest.param(GOOD_VIEW, replace(GOOD, before={}), ("S8",), id="S8 it does not say what the rows were"),
        pytest.param(GOOD_VIEW, replace(GOOD, after={}), ("S8",), id="S8 it does not write what the stage names"),
        pytest.param(
            replace(GOOD_VIEW, plan=plan(PLAN.stages[0])),
            GOOD,
            ("S1", "S8"),
            id="S8 there is no next stage, S1 whose exposure this could be",
        ),
        pytest.param(
            replace(GOOD_VIEW, rows={"bell": exposure(11)}, on_drift=OnDrift.REPORT),
            replace(GOOD, before={"bell": exposure(11)}),
            (),
            id="reported, and as it was seen",
        ),
        pytest.param(
            GOOD_VIEW,
            Decision(Verb.PAUSE, Phase.PAUSED, "Paused", "", ledger=replace(GOOD_VIEW.ledger, stage=1)),
            ("S11",),
            id="S11 a pause that enters a stage",
        ),
        pytest.param(
            replace(GOOD_VIEW, ledger=replace(GOOD_VIEW.ledger, latch=replace(LATCH, spec_hash="old"))),
            Decision(Verb.REARM, Phase.PENDING, "Rearmed", "", ledger=replace(GOOD_VIEW.ledger, attempt=2)),
            (),
            id="another plan re-arms",
        ),
        pytest.param(
            replace(GOOD_VIEW, ledger=replace(GOOD_VIEW.ledger, latch=LATCH)),
            Decision(Verb.PAUSE, Phase.PAUSED, "Paused", "", ledger=GOOD_VIEW.ledger),
            ("S2",),
            id="S2 a pause that forgets a latch",
        ),
        pytest.param(
            GOOD_VIEW,
            Decision(Verb.DISABLE_FLAGS, Phase.ROLLED_BACK, "FlagsDisabled", "", targets={"bell": DISABLED}),
            (),
            id="a revert of what it wrote",
        ),
        *(
            pytest.param(
                replace(GOOD_VIEW, guards=tuple(replace(g, state=GuardState(state)) for g in GOOD_VIEW.guards)),
                GOOD,
                broken,
                id=f"a guard is {state}",
            )
            for state, broken in [
                *((s, ("S9",)) for s in ("Blind", "Unseen", "Holding", "GlobalIncident", "Breached")),
                *((s, ()) for s in ("Quiet", "PastLimit", "NoData")),
            ]
        ),
    ],
)
def test_more_planted_bugs(view: View, decision: Decision, broken: tuple[str, ...]) -> None:
    assert violations(view, decision) == broken


@pytest.mark.parametrize(
    ("flag_row", "is_within"),
    [
        pytest.param(exposure(3), True, id="what the stage before it gave, and less"),
        pytest.param(exposure(5, "staff"), True, id="its baseline"),
        pytest.param(exposure(100, "staff"), False, id="more of the baseline's group than any of them"),
        pytest.param(exposure(6), False, id="between the stages' percentages, and entered is neither"),
    ],
)
def test_the_ceiling_is_one_of_those_that_were_there(flag_row: Any, is_within: bool) -> None:
    """Not the join of them: 5 % of staff and 4 % of everyone are not 5 % of everyone."""
    of = plan(stage("four", ("bell", FlagChange(Decimal(4), frozenset()))), stage("soak", ("bell", 2)))
    entered = replace(ledger_in(of, 0), baseline={"bell": exposure(5, "staff")})
    seen = replace(GOOD_VIEW, plan=of, ledger=entered, rows=dict(entered.written))
    good = decide(seen)
    assert good.verb is Verb.ADVANCE, good.message
    found = violations(seen, replace(good, after={"bell": flag_row}))
    assert found == (() if is_within else ("S1",))


def test_a_flag_of_which_nothing_is_known_was_nobodys() -> None:
    """Neither a baseline nor an earlier stage says anything of it: only the stage that names it gives it."""
    of = plan(stage("ten", ("bell", 10)), stage("menu", ("menu", 50)))
    entered = replace(ledger_in(of, 0), baseline={"bell": exposure(0)})
    seen = replace(GOOD_VIEW, plan=of, ledger=entered, rows={**entered.written, "menu": exposure(0, enabled=False)})
    good = decide(seen)
    assert (good.verb, violations(seen, good)) == (Verb.ADVANCE, ())
    assert violations(seen, replace(good, after={"menu": exposure(51)})) == ("S1",)
    assert violations(seen, replace(good, after={"menu": exposure(0)})) == ()


@pytest.mark.parametrize("verb", [Verb.WAIT, Verb.HOLD])
def test_doing_nothing_breaks_nothing(verb: Verb) -> None:
    make: Callable[..., Decision] = Decision
    assert violations(GOOD_VIEW, make(verb, Phase.HELD, "x", "y")) == ()
