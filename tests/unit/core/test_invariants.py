"""Each invariant catches a decision that a bug might have made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import DISABLED
from feature_rollout.core.guards import assess
from feature_rollout.core.invariants import violations
from feature_rollout.core.plan import Gate, OnDrift, OnNoTraffic, Severity
from feature_rollout.core.progress import aligned
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


@pytest.mark.parametrize("verb", [Verb.WAIT, Verb.HOLD])
def test_doing_nothing_breaks_nothing(verb: Verb) -> None:
    make: Callable[..., Decision] = Decision
    assert violations(GOOD_VIEW, make(verb, Phase.HELD, "x", "y")) == ()
