"""What every clause says now, which breached row wins, and what it does to each flag."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from feature_rollout.core.exposure import DISABLED, Exposure, FlagChange
from feature_rollout.core.guards import (
    Guard,
    GuardState,
    assess,
    blind_too_long,
    breach_of,
    ordered_targets,
    targets,
    worst,
)
from feature_rollout.core.looks import Look
from feature_rollout.core.plan import (
    Action,
    ActionType,
    BaselineType,
    Clause,
    Metric,
    Mode,
    OnNoTraffic,
    Persist,
    Plan,
    Severity,
    Target,
)
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Breach
from support.fakes import (
    INTERVAL,
    T0,
    above,
    below,
    exposure,
    gauge,
    ledger_in,
    look,
    minutes,
    plan,
    ratio,
    relative,
    row,
    seconds,
    stage,
)

GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
BAD: dict[str, Any] = {"events": 200.0, "units": 1000.0}
HOLD = Action(ActionType.HOLD)


def watched(of: Plan, *numbers: dict[str, Any], metric: str | None = None) -> Progress:
    progress = Progress().entered(of, T0, raised=True)
    names = [metric] if metric else list(of.metrics)
    for index, one in enumerate(numbers):
        for name in names:
            seen: Look = look(name, T0 + index * INTERVAL, **one)
            progress = progress.observed(of, seen, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    return progress


def states(of: Plan, *numbers: dict[str, Any], now: datetime | None = None) -> list[GuardState]:
    at = now or T0 + len(numbers) * INTERVAL
    return [guard.state for guard in assess(of, watched(of, *numbers), at)]


def one(clause: Clause, metric: Metric, **changes: Any) -> Plan:
    return plan(rows=[row(Severity.HIGH, clause, **changes)], metrics=[metric])


ERRORS = one(above(), ratio())
# With one clause the threshold is 20 at the default of 5 %, where holding begins.
SOME = {"events": 5.0, "units": 50.0}
# Without data for longer than `stale_after`: four intervals of 30 s.
DRY: list[dict[str, Any]] = [{}] * 4
CAREFUL = replace(ERRORS, alpha=0.0001)
HITS = one(below(), ratio("hits"))
LATENCY = one(above("latency", "2", persist=Persist(2, 3)), gauge())


@pytest.mark.parametrize(
    ("of", "numbers", "state"),
    [
        pytest.param(ERRORS, [], GuardState.UNSEEN, id="not looked at yet"),
        pytest.param(ERRORS, [GOOD], GuardState.QUIET, id="a healthy look"),
        pytest.param(ERRORS, [{"events": 1.0, "units": 60.0}], GuardState.PAST_LIMIT, id="a look past a small limit"),
        pytest.param(CAREFUL, [SOME], GuardState.HOLDING, id="evidence, and no proof"),
        pytest.param(ERRORS, [BAD], GuardState.BREACHED, id="proof in one look, at a stage's start"),
        pytest.param(ERRORS, [GOOD, {"error": "timeout"}], GuardState.BLIND, id="the newest look failed"),
        pytest.param(ERRORS, [{"events": 0.0, "units": 0.0}], GuardState.NO_DATA, id="there were never any units"),
        pytest.param(ERRORS, [GOOD, *DRY], GuardState.NO_DATA, id="no numbers for longer than stale_after"),
        pytest.param(ERRORS, [GOOD, *DRY[:-1]], GuardState.QUIET, id="no numbers for not so long"),
        pytest.param(ERRORS, [*DRY, GOOD, {}], GuardState.QUIET, id="no numbers in every second window"),
        pytest.param(CAREFUL, [SOME, *DRY], GuardState.HOLDING, id="evidence stays where no data takes it away"),
        pytest.param(ERRORS, [BAD, {"error": "timeout"}], GuardState.BREACHED, id="what is proved stays proved"),
        pytest.param(HITS, [{"events": 90.0, "units": 100.0}], GuardState.QUIET, id="below: enough hits"),
        pytest.param(HITS, [{"events": 80.0, "units": 100.0}], GuardState.QUIET, id="below: exactly at the limit"),
        pytest.param(HITS, [{"events": 10.0, "units": 1000.0}], GuardState.BREACHED, id="below: too few hits"),
        pytest.param(LATENCY, [{"value": 1.0}], GuardState.QUIET, id="a gauge within its limit"),
        pytest.param(LATENCY, [{"value": 3.0}], GuardState.PAST_LIMIT, id="a gauge past it once, persist wants two"),
        pytest.param(LATENCY, [{"value": 3.0}] * 2, GuardState.BREACHED, id="a gauge past it as often as persist says"),
    ],
)
def test_a_guard_says(of: Plan, numbers: list[dict[str, Any]], state: GuardState) -> None:
    assert states(of, *numbers) == [state]


@pytest.mark.parametrize(
    ("since", "state"),
    [
        pytest.param(seconds(99), GuardState.QUIET, id="three intervals and ten seconds are patience"),
        pytest.param(seconds(101), GuardState.BLIND, id="longer without a look is blind"),
        pytest.param(seconds(-3600), GuardState.QUIET, id="a clock that was set back is no outage"),
    ],
)
def test_silence(since: timedelta, state: GuardState) -> None:
    assert states(ERRORS, GOOD, now=T0 + INTERVAL + since) == [state]


def test_nothing_is_blind_just_because_a_stage_has_begun() -> None:
    progress = watched(ERRORS, GOOD).entered(ERRORS, T0 + timedelta(hours=1), raised=True)
    assert assess(ERRORS, progress, T0 + timedelta(hours=1, seconds=30))[0].state is GuardState.QUIET


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(one(above(blocker="increase is not in effect"), ratio()), id="a clause that cannot be judged"),
        pytest.param(one(above(), ratio(blocker="Datadog is not in effect")), id="a metric that cannot be measured"),
    ],
)
def test_what_is_not_in_effect_is_blind_with_its_reason(of: Plan) -> None:
    (guard,) = assess(of, watched(of, GOOD), T0 + INTERVAL)
    assert guard.state is GuardState.BLIND
    assert guard.note.endswith("is not in effect")


def test_observed_and_unbound_metrics_are_no_guards() -> None:
    of = plan(rows=[row(Severity.HIGH, above("seen"), above("optional"))], metrics=[ratio("seen", mode=Mode.OBSERVE)])
    assert assess(of, watched(of, BAD), T0 + INTERVAL) == ()


def test_the_deadline_makes_a_long_run_enough() -> None:
    of = one(above(), ratio(), respond_within=minutes(20), settle=minutes(2))
    weak = {"events": 3.0, "units": 200.0}
    progress = replace(watched(of, *[weak] * 60), evidence={})
    evidence = watched(of, *[weak] * 60).evidence["errors>1%"]
    quiet = replace(evidence, mixture=(0.0,) * 7)
    progress = replace(progress, evidence={"errors>1%": quiet})
    assert assess(of, progress, T0 + minutes(19))[0].state is GuardState.PAST_LIMIT
    assert assess(of, progress, T0 + minutes(30))[0].state is GuardState.BREACHED


# Which row wins.


def test_the_most_severe_breached_row_that_lowers_wins() -> None:
    of = plan(
        rows=[
            row(Severity.CRITICAL, above(limit="50%")),
            row(Severity.HIGH, above(limit="5%"), action=HOLD),
            row(Severity.MEDIUM, above(limit="2%")),
            row(Severity.LOW, above(limit="1%")),
        ]
    )
    guards = assess(of, watched(of, BAD), T0 + INTERVAL)
    assert [g.state for g in guards] == [GuardState.QUIET, *[GuardState.BREACHED] * 3]
    found = worst(guards)
    assert found is not None
    assert found.row.severity is Severity.MEDIUM
    assert worst(guards[:2]) is None


@pytest.mark.parametrize("severity", list(Severity))
def test_a_breach_is_told_at_each_severity(severity: Severity) -> None:
    of = plan(rows=[row(severity, above())])
    guard = worst(assess(of, watched(of, GOOD, BAD), T0 + 2 * INTERVAL))
    assert guard is not None
    breach = breach_of(guard, of.metrics["errors"], T0 + 2 * INTERVAL)
    assert (breach.severity, breach.metric, breach.value, breach.limit) == (severity, "errors", "20%", "1%")
    assert (breach.onset_at, breach.action) == (T0 + INTERVAL, "DisableFlags")
    assert breach.log_evidence is not None


@pytest.mark.parametrize(
    ("clause", "numbers", "state", "note"),
    [
        pytest.param(above(), [], GuardState.UNSEEN, "the first look at errors", id="no look yet"),
        pytest.param(relative(), [GOOD], GuardState.UNSEEN, "the past of errors", id="its past is not known yet"),
        pytest.param(above(), [{"error": "timeout"}], GuardState.BLIND, "errors: timeout", id="an error"),
        pytest.param(
            above(), [{}], GuardState.NO_DATA, "errors had no data in its newest window", id="a window without data"
        ),
        pytest.param(
            relative(baseline=BaselineType.CONTROL),
            [GOOD],
            GuardState.BLIND,
            "errors has no control arm: its query must give control_events and control_units",
            id="no control arm",
        ),
    ],
)
def test_what_a_guard_says_of_what_it_does_not_see(
    clause: Clause, numbers: list[dict[str, Any]], state: GuardState, note: str
) -> None:
    of = one(clause, ratio())
    progress = replace(watched(of, *numbers), reference_until=T0)
    (guard,) = assess(of, progress, T0 + INTERVAL)
    assert (guard.state, guard.note) == (state, note)


def test_a_metric_that_is_not_looked_at_any_more_is_blind() -> None:
    progress = watched(ERRORS, GOOD)
    at_bound = T0 + INTERVAL + seconds(100)
    assert assess(ERRORS, progress, at_bound)[0].state is GuardState.QUIET
    (late,) = assess(ERRORS, progress, at_bound + seconds(1))
    assert (late.state, late.note) == (GuardState.BLIND, "errors was not looked at for longer than 1m40s")


def test_the_record_of_a_breach() -> None:
    of = plan(rows=[row(Severity.HIGH, above(), respond_within=minutes(15))])
    guard = Guard(of.rows[0], of.rows[0].clauses[0], GuardState.BREACHED, 0.2, 5.5, T0, limit="0.9%")
    made = breach_of(guard, of.metrics["errors"], T0 + minutes(1))
    assert made == Breach(
        Severity.HIGH, "errors", "errors above 1%", "20%", "0.9%", 5.5, T0, minutes(15), "DisableFlags"
    )
    bare = replace(guard, limit="", onset_at=None)
    assert breach_of(bare, of.metrics["errors"], T0 + minutes(1)) == replace(made, limit="1%", onset_at=T0 + minutes(1))


def test_of_several_that_were_not_measured_the_most_severe_row_that_lowers_acts() -> None:
    rows = [
        row(Severity.CRITICAL, above(limit="9%"), action=HOLD),
        row(Severity.HIGH, above(limit="5%"), respond_within=minutes(60)),
        row(Severity.MEDIUM, above(limit="2%")),
        row(Severity.LOW, above(limit="1%")),
    ]
    guards = [Guard(one, one.clauses[0], GuardState.BLIND, blind_since=T0) for one in rows]
    for order in (guards, guards[::-1]):
        found = blind_too_long(order, T0 + minutes(30))
        assert found is not None
        assert found.row.severity is Severity.MEDIUM, "High may take an hour, and Critical only holds"
        assert worst([replace(g, state=GuardState.BREACHED) for g in order]) == replace(
            guards[1], state=GuardState.BREACHED
        )
    assert blind_too_long(guards, T0 + minutes(29)) is None


def test_a_metric_without_data_is_news_only_after_as_long_as_one_may_be_unseen() -> None:
    empty = {"events": 0.0, "units": 0.0}
    # Stale after three intervals and 10 s: with windows of 10 s that is just four windows.
    of = one(above(), ratio(interval=seconds(10)))
    found = []
    for count in (4, 5):
        progress = Progress().entered(of, T0, raised=True)
        for index in range(count + 1):
            numbers = GOOD if index == 0 else empty
            seen = look("errors", T0 + index * seconds(10), seconds(10), **numbers)
            progress = progress.observed(of, seen, counting=True, on_no_traffic=OnNoTraffic.WAIT)
        found.append(assess(of, progress, T0 + seconds(60))[0])
    assert [guard.state for guard in found] == [GuardState.QUIET, GuardState.NO_DATA]
    assert all(guard.without_data for guard in found)


def test_a_breach_without_a_newest_value_says_so() -> None:
    (guard,) = assess(ERRORS, watched(ERRORS, BAD, {"error": "timeout"}), T0 + 2 * INTERVAL)
    assert breach_of(guard, ERRORS.metrics["errors"], T0).value == "unknown"


# What a row does.

STAGES = (
    stage("admins", ("bell", FlagChange(Decimal(100), frozenset({"admin"})))),
    stage("ten", ("bell", FlagChange(Decimal(10), frozenset())), ("menu", 10)),
    stage("soak"),
    stage("half", ("bell", 50), ("menu", 50), ("old", 0)),
)
BASE = {"bell": exposure(0), "menu": exposure(5), "old": exposure(100)}


@pytest.mark.parametrize(
    ("action", "stage_index", "lowered"),
    [
        pytest.param(
            Action(ActionType.DISABLE_FLAGS), 3, {"bell": DISABLED, "menu": DISABLED}, id="DisableFlags: all raised"
        ),
        pytest.param(
            Action(ActionType.DISABLE_FLAGS, flags=("menu", "later")),
            3,
            {"menu": DISABLED},
            id="flags: the named ones that were written, and no other",
        ),
        pytest.param(
            Action(ActionType.DISABLE_FLAGS, flags=("old",)), 3, {"old": DISABLED}, id="flags: a lowered one when named"
        ),
        pytest.param(
            Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal(5)),
            3,
            {"bell": exposure(5), "menu": exposure(5)},
            id="ReducePercentage to a percentage",
        ),
        pytest.param(
            Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
            3,
            {"bell": exposure(10), "menu": exposure(10)},
            id="PreviousStage skips stages without flags",
        ),
        pytest.param(
            Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
            2,
            {"bell": exposure(100, "admin"), "menu": exposure(5)},
            id="PreviousStage in a stage without flags is before the newest with some",
        ),
        pytest.param(
            Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
            0,
            {"bell": exposure(0)},
            id="PreviousStage in the first is the baseline",
        ),
        pytest.param(
            Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE),
            3,
            {"bell": exposure(0), "menu": exposure(5)},
            id="Baseline",
        ),
        pytest.param(
            Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset({"admin"})),
            3,
            {"bell": exposure(100, "admin"), "menu": exposure(100, "admin")},
            id="RestrictToGroups leaves the percentage to the meet",
        ),
        pytest.param(
            Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset()),
            0,
            {"bell": DISABLED},
            id="RestrictToGroups of none is nobody, never everyone",
        ),
        pytest.param(
            Action(ActionType.ROLL_BACK_DATABASE), 0, {"bell": DISABLED}, id="RollBackDatabase disables at once"
        ),
    ],
)
def test_targets(action: Action, stage_index: int, lowered: dict[str, Exposure]) -> None:
    of = plan(*STAGES)
    assert targets(action, of, replace(ledger_in(of, stage_index), baseline=BASE)) == lowered


PREVIOUS = Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE)
TEN, HALF = stage("ten", ("bell", 10)), stage("half", ("bell", 50))


@pytest.mark.parametrize(
    "edited",
    [
        pytest.param(plan(stage("ten", ("bell", 100)), HALF), id="the previous stage was edited to more"),
        pytest.param(plan(stage("half", ("bell", 50))), id="the previous stage was removed"),
        pytest.param(plan(stage("ten", ("menu", 10))), id="the flag was removed"),
    ],
)
def test_an_edit_of_the_past_cannot_make_a_revert_less(edited: Plan) -> None:
    assert targets(PREVIOUS, edited, ledger_in(plan(TEN, HALF), 1)) == {"bell": exposure(0, enabled=False)}


@pytest.mark.parametrize(
    ("baseline", "written", "now", "is_lowered"),
    [
        pytest.param(exposure(5), exposure(10), exposure(10), True, id="the operator has raised it"),
        pytest.param(exposure(5), exposure(5), exposure(5), False, id="it is as it was before"),
        pytest.param(exposure(5), exposure(2), exposure(4), False, id="somebody has raised it, to less than before"),
        pytest.param(exposure(5), exposure(2), exposure(6), True, id="somebody has raised it above that"),
        pytest.param(None, exposure(0), exposure(1), True, id="it had no row before, and somebody has it"),
        pytest.param(None, exposure(0), exposure(0), False, id="it had no row before, and nobody has it"),
        pytest.param(exposure(5), exposure(2), None, False, id="its row is gone, and was below"),
    ],
)
def test_what_a_persons_order_lowers(
    baseline: Exposure | None, written: Exposure, now: Exposure | None, is_lowered: bool
) -> None:
    of = plan(TEN)
    entered = replace(
        ledger_in(of, 0), written={"bell": written}, baseline={} if baseline is None else {"bell": baseline}
    )
    rows = {} if now is None else {"bell": now}
    lowered = ordered_targets(Action(ActionType.DISABLE_FLAGS), of, entered, rows)
    assert lowered == ({"bell": DISABLED} if is_lowered else {})


def test_an_edit_of_the_newest_stage_leaves_the_previous_as_it_was() -> None:
    edited = plan(TEN, stage("half", ("bell", 60)))
    assert targets(PREVIOUS, edited, ledger_in(plan(TEN, HALF), 1)) == {"bell": exposure(10)}


def test_a_flag_without_a_baseline_is_taken_to_nobody() -> None:
    of = plan(TEN)
    bare = replace(ledger_in(of, 0), baseline={})
    (target,) = targets(Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE), of, bare).values()
    assert exposure(10).meet(target).is_off
