"""A rollout in virtual time.

| subject | cases |
|---|---|
| healthy | every stage after its bake, completed; a plan without guards; a stage's exposure in its line |
| harm | at a stage's start on the very look of the pins of docs/statistics.md; in mid-stage; at the deadline |
| actions of a row | each lowers as the matrix says; only Hold keeps |
| not knowing | NaN, errors, nothing, and looks that are missing hold, and never revert; onBlind |
| people | approval, pause, promote, rollback, retry, what is refused |
| time | a freeze, windows of the day, looks beside the grid, looks of the past, the end |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from feature_rollout.core.calendar import Calendar, DailyWindow, Freeze
from feature_rollout.core.checks import Check
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.past import of_blocks
from feature_rollout.core.people import Request, RequestType, RollBackTo
from feature_rollout.core.plan import Action, ActionType, Approval, Metric, OnBlind, Plan, Severity, Target
from feature_rollout.core.reference import Reference, windows_before
from feature_rollout.core.simulate import Line, Scenario, _Past, simulate
from support.fakes import INTERVAL, KEY, T0, above, gauge, minutes, plan, ratio, relative, row, seconds, stage

GOOD = {"events": 0.0, "units": 200.0}
BAD = {"events": 40.0, "units": 200.0}
Numbers = Callable[[datetime], dict[str, Any] | None]


def looks(
    numbers: Numbers | dict[str, Any],
    *,
    count: int = 200,
    start: datetime = T0,
    metric: str = "errors",
    length: timedelta = INTERVAL,
) -> tuple[Look, ...]:
    """One look after the other, each 30 s; None for one that is missing."""
    made = []
    for index in range(count):
        window = Window(start + index * length, start + (index + 1) * length)
        found = numbers(window.start) if callable(numbers) else numbers
        if found is not None:
            made.append(Look(metric, window, **found))
    return tuple(made)


def bad_from(at: datetime, bad: dict[str, Any] | None = BAD, good: dict[str, Any] = GOOD) -> Numbers:
    return lambda start: bad if start >= at else good


def run(of: Plan, given: Iterable[Look], start: datetime = T0, **changes: Any) -> list[Line]:
    return list(simulate(Scenario(of, start, KEY, looks=tuple(given), **changes)))


def decisions(lines: list[Line], *, acts: bool = False) -> list[Line]:
    found = [line for line in lines if line["kind"] == "decision"]
    return [line for line in found if line["action"] not in ("Wait", "Hold")] if acts else found


def told(lines: list[Line]) -> list[str]:
    return [f"{line['action']} {line['reason']}" for line in decisions(lines)]


def after(line: Line) -> timedelta:
    return datetime.fromisoformat(line["at"]) - T0


def request(kind: RequestType, at: datetime, number: int = 1, **fields: Any) -> Request:
    return Request(f"action-{number}", kind, at, requested_by="ann", **fields)


def test_a_healthy_rollout_goes_through_its_stages_and_is_completed() -> None:
    lines = run(plan(), looks(GOOD))
    acted = decisions(lines, acts=True)
    assert [(line["action"], line["stage"]) for line in acted] == [
        ("Advance", "ten"),
        ("Advance", "half"),
        ("Advance", "all"),
        ("Complete", "all"),
    ]
    bakes = [after(b) - after(a) for a, b in pairwise(acted)]
    assert all(minutes(5) <= bake <= minutes(5) + 2 * INTERVAL for bake in bakes)
    assert acted[1]["exposure"] == [{"flag": "bell", "enabled": True, "percentage": 50, "groups": []}]
    assert lines[-1] is acted[-1], "nothing is said after the end"


def test_lines_have_their_keys_and_come_in_the_order_of_time() -> None:
    lines = run(plan(), looks(bad_from(T0 + minutes(7))))
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    keys = {line["kind"]: list(line) for line in lines}
    assert keys["look"] == ["at", "kind", "stage", "metric", "verdict", "log_e", "limit", "severity"]
    assert keys["decision"] == ["at", "kind", "action", "stage", "severity", "reason", "message", "exposure"]
    first = next(line for line in lines if line["kind"] == "look")
    assert first == {
        "at": (T0 + INTERVAL).isoformat(),
        "kind": "look",
        "stage": None,
        "metric": "errors",
        "verdict": "Pass",
        "log_e": None,
        "limit": "1%",
        "severity": "High",
    }


def test_a_look_is_known_after_the_delay_of_its_metric() -> None:
    of = plan(metrics=[ratio(delay=seconds(45))])
    lines = [line for line in run(of, looks(GOOD, count=2)) if line["kind"] == "look"]
    assert [after(line) for line in lines] == [seconds(75), seconds(105)]


def test_times_are_printed_in_the_zone_of_the_start() -> None:
    start = datetime.fromisoformat("2026-01-05T10:00:00+01:00")
    assert run(plan(), looks(GOOD), start)[0]["at"] == "2026-01-05T10:00:00+01:00"


def pinned(severe: str = "1%") -> Plan:
    """C 6, alpha .05, S 10, D 21 d, an interval of 30 s and settle 2m, so L 5."""
    others = [above(limit=f"{percent}%") for percent in (95, 96, 97, 98, 99)]
    rows = [
        row(Severity.CRITICAL, above(limit=severe), settle=minutes(2)),
        row(Severity.HIGH, *others, settle=minutes(2)),
    ]
    stages = [stage(f"s{i}", ("bell", 10 * i), bake=timedelta(days=2.1)) for i in range(1, 11)]
    of = plan(*stages, rows=rows)
    assert (of.lowering_clauses, of.flag_stages, of.bakes, of.alpha) == (6, 10, timedelta(days=21), 0.05)
    return of


def evidence(lines: list[Line]) -> list[float]:
    return [line["log_e"] for line in lines if line["kind"] == "look" and line["log_e"] is not None]


def test_harm_at_a_stages_start_has_the_evidence_of_the_pins_and_is_acted_on_at_look_four() -> None:
    # The first look lets the stage begin; those after it are the stage's.
    entered = T0 + INTERVAL
    lines = run(pinned(), looks(bad_from(entered, {"events": 3.0, "units": 50.0}), count=5))
    assert evidence(lines) == pytest.approx([-1.04171, 1.44563, 4.11045, 5.89174], abs=5e-6)
    acted = decisions(lines, acts=True)[-1]
    assert (acted["action"], acted["severity"]) == ("DisableFlags", "Critical")
    assert after(acted) == INTERVAL + 4 * INTERVAL


def test_nothing_but_failures_is_enough_at_the_first_look_of_a_stage() -> None:
    lines = run(pinned(), looks(bad_from(T0 + INTERVAL, {"events": 50.0, "units": 50.0}), count=3))
    assert evidence(lines)[0] == pytest.approx(6.45312, abs=5e-6)
    assert after(decisions(lines, acts=True)[-1]) == 2 * INTERVAL


def test_in_mid_stage_the_same_takes_longer_than_settle() -> None:
    onset = T0 + 81 * INTERVAL
    lines = run(pinned(), looks(bad_from(onset, {"events": 50.0, "units": 50.0}, {"events": 0.0, "units": 50.0})))
    acted = decisions(lines, acts=True)[-1]
    assert acted["action"] == "DisableFlags"
    assert datetime.fromisoformat(acted["at"]) == onset + 6 * INTERVAL


def test_small_harm_is_acted_on_at_the_deadline_and_not_a_look_later() -> None:
    """A look may take too long to come: the deadline itself is a moment to decide at."""
    onset = T0 + minutes(20)
    of = plan(
        stage("one", ("bell", 10), bake=timedelta(days=1)), rows=[row(Severity.HIGH, above(), settle=minutes(60))]
    )
    of = replace(of, rows=tuple(replace(r, respond_within=minutes(16) + seconds(7)) for r in of.rows))
    lines = run(of, looks(bad_from(onset, {"events": 3.0, "units": 200.0})))
    acted = decisions(lines, acts=True)[-1]
    assert (acted["action"], datetime.fromisoformat(acted["at"])) == ("DisableFlags", onset + minutes(16) + seconds(7))


@pytest.mark.parametrize(
    ("action", "verb", "expected"),
    [
        (Action(ActionType.DISABLE_FLAGS), "DisableFlags", {"enabled": False, "percentage": 50, "groups": []}),
        (
            Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
            "ReducePercentage",
            {"enabled": True, "percentage": 10, "groups": []},
        ),
        (
            Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal("2.5")),
            "ReducePercentage",
            {"enabled": True, "percentage": 2.5, "groups": []},
        ),
        (
            Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset({"b", "a"})),
            "RestrictToGroups",
            {"enabled": True, "percentage": 50, "groups": ["a", "b"]},
        ),
        (
            Action(ActionType.ROLL_BACK_DATABASE),
            "RollBackDatabase",
            {"enabled": False, "percentage": 50, "groups": []},
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, Action) else None,
)
def test_each_action_lowers_as_the_matrix_says(action: Action, verb: str, expected: dict[str, Any]) -> None:
    of = plan(rows=[row(Severity.HIGH, above(), action=action)])
    acted = decisions(run(of, looks(bad_from(T0 + minutes(7)))), acts=True)
    assert [line["action"] for line in acted] == ["Advance", "Advance", verb], "it is latched"
    assert acted[-1]["exposure"] == [{"flag": "bell", **expected}]
    assert (acted[-1]["stage"], acted[-1]["severity"]) == ("half", "High")


def test_a_row_that_holds_keeps_the_exposure_until_it_is_over() -> None:
    of = plan(rows=[row(Severity.LOW, above(), action=Action(ActionType.HOLD))])
    bad = {"events": 12.0, "units": 200.0}
    lines = run(of, looks(lambda start: bad if minutes(7) <= start - T0 < minutes(9) else GOOD))
    held = [line for line in decisions(lines) if line["action"] == "Hold"]
    assert {line["severity"] for line in held} == {"Low"}
    assert {line["exposure"][0]["percentage"] for line in held} == {50}
    assert decisions(lines, acts=True)[-1]["action"] == "Complete"


@pytest.mark.parametrize(
    ("numbers", "verdict", "reason"),
    [
        ({"events": math.nan, "units": 200.0}, "Error", "GuardsBlind"),
        ({"events": math.inf, "units": 200.0}, "Error", "GuardsBlind"),
        ({"error": "timeout"}, "Error", "GuardsBlind"),
        ({}, "NoData", "NoTraffic"),
        ({"events": 0.0, "units": 0.0}, "NoData", "NoTraffic"),
        (None, None, "GuardsBlind"),
    ],
    ids=["NaN", "infinite", "error", "nothing", "no units", "missing"],
)
def test_not_knowing_holds_and_never_reverts(numbers: dict[str, Any] | None, verdict: str | None, reason: str) -> None:
    ends = T0 + minutes(6)
    lines = run(plan(), looks(bad_from(ends, numbers)), until=T0 + minutes(30))
    assert told(lines)[-1] == f"Hold {reason}"
    assert [line["stage"] for line in decisions(lines, acts=True)] == ["ten", "half"]
    found = {line["verdict"] for line in lines if line["kind"] == "look" and after(line) > minutes(6.1)}
    assert found == ({verdict} if verdict else set())


def test_a_metric_that_is_not_looked_at_is_blind_after_its_bound_and_again_seen_with_the_next_look() -> None:
    gap = (minutes(7), minutes(20))
    given = looks(lambda start: None if gap[0] <= start - T0 < gap[1] else GOOD)
    lines = decisions(run(plan(), given))
    blind, again = next((a, b) for a, b in pairwise(lines) if a["reason"] == "GuardsBlind")
    # Three intervals and ten seconds after the newest look's end.
    assert (after(blind), after(again)) == (minutes(7) + seconds(101), minutes(20) + INTERVAL)
    assert again["reason"] == "Baking"


def test_with_on_blind_revert_an_outage_counts_as_a_breach_after_the_rows_deadline() -> None:
    of = plan(on_blind=OnBlind.REVERT)
    lines = run(of, looks(bad_from(T0 + minutes(7), {"error": "timeout"})))
    acted = decisions(lines, acts=True)[-1]
    assert (acted["action"], after(acted)) == ("DisableFlags", minutes(37))


def test_the_deadline_of_an_outage_is_met_between_looks() -> None:
    of = plan(rows=[row(Severity.HIGH, above(), respond_within=minutes(10) + seconds(7))], on_blind=OnBlind.REVERT)
    lines = run(of, looks(bad_from(T0 + minutes(7), {"error": "timeout"})))
    assert after(decisions(lines, acts=True)[-1]) == minutes(17) + seconds(7)


APPROVED = plan(stage("ten", ("bell", 10)), stage("all", ("bell", 100), approval=Approval(2)))
NEVER = Calendar("UTC", (), (Freeze(T0.date(), T0.date() + timedelta(days=9), "nobody is here"),))


def test_without_approvals_it_waits_and_says_so() -> None:
    assert told(run(APPROVED, looks(GOOD)))[-1] == "AwaitApproval AwaitingApproval"


def test_approvals_of_two_people_let_the_stage_begin() -> None:
    given = [
        Request("1", RequestType.APPROVE, T0 + minutes(1), stage="all", requested_by="ann"),
        Request("2", RequestType.APPROVE, T0 + minutes(8), stage="all", requested_by="ben"),
        Request("3", RequestType.APPROVE, T0 + minutes(9), stage="all", requested_by="ben"),
    ]
    lines = run(APPROVED, looks(GOOD), requests=tuple(given))
    entered = next(line for line in decisions(lines, acts=True) if line["stage"] == "all")
    assert after(entered) == minutes(8), "at once, and not with the next look"
    refused = next(line for line in decisions(lines) if after(line) == minutes(9))
    assert (refused["action"], refused["reason"]) == ("Wait", "StageNotNext")


def test_what_nobody_could_carry_out_expires_after_a_day_to_the_second() -> None:
    given = (request(RequestType.APPROVE, T0 + seconds(7), stage="all"),)
    later = replace(APPROVED, rows=(), stages=(*APPROVED.stages[:1], stage("half"), *APPROVED.stages[1:]))
    lines = run(replace(later, calendar=NEVER), (), requests=given, until=T0 + timedelta(days=2))
    (expired,) = [line for line in decisions(lines) if line["reason"] == "Expired"]
    assert after(expired) == timedelta(days=1) + seconds(7)


def test_a_paused_rollout_stands_still_and_a_promoted_stage_is_left() -> None:
    given = (
        request(RequestType.PAUSE, T0 + minutes(1), 1, reason="lunch"),
        request(RequestType.RESUME, T0 + minutes(31), 2),
        request(RequestType.PROMOTE, T0 + minutes(32), 3),
    )
    lines = run(plan(), looks(GOOD, count=300), requests=given)
    paused = next(line for line in decisions(lines) if line["reason"] == "Paused")
    assert (paused["action"], after(paused)) == ("Hold", minutes(1))
    acted = decisions(lines, acts=True)
    assert [(after(line), line["stage"]) for line in acted[:2]] == [(INTERVAL, "ten"), (minutes(32), "half")]
    assert acted[-1]["action"] == "Complete"


def test_a_rollback_is_latched_until_retry() -> None:
    given = (
        request(RequestType.ROLL_BACK, T0 + minutes(7), 1, to=RollBackTo.OFF),
        request(RequestType.RETRY, T0 + minutes(17), 2),
    )
    lines = run(plan(), looks(GOOD), requests=given)
    assert [(line["action"], line["stage"]) for line in decisions(lines, acts=True)] == [
        ("Advance", "ten"),
        ("Advance", "half"),
        ("DisableFlags", "half"),
        ("Advance", "ten"),
        ("Advance", "half"),
        ("Advance", "all"),
        ("Complete", "all"),
    ]


def test_it_ends_when_a_revert_leaves_nothing_to_take_back_unless_told_until_when() -> None:
    given = looks(bad_from(T0 + minutes(7)))
    assert decisions(run(plan(), given), acts=True)[-1] == run(plan(), given)[-1]
    whole = run(plan(), given, until=T0 + minutes(30))
    assert after(whole[-1]) == minutes(30)


def test_a_freeze_and_the_windows_of_the_day_put_an_advance_off() -> None:
    open_days = DailyWindow(frozenset(range(5)), 9 * 60, 16 * 60)
    calendar = Calendar("UTC", (open_days,), (Freeze(date(2026, 1, 6), date(2026, 1, 7), "a fair"),))
    stages = (stage("ten", ("bell", 10), bake=timedelta(hours=8)), stage("all", ("bell", 100)))
    of = plan(*stages, metrics=[ratio(interval=minutes(5))], calendar=calendar)
    lines = run(of, looks(GOOD, count=4 * 288, length=minutes(5)))
    waits = next(line for line in decisions(lines) if line["reason"] == "AwaitingWindow")
    assert waits["action"] == "Wait"
    entered = [line["at"] for line in decisions(lines, acts=True)]
    assert entered[:2] == [(T0 + minutes(5)).isoformat(), datetime(2026, 1, 8, 9, tzinfo=UTC).isoformat()]


def test_windows_beside_the_grid_are_taken_as_they_are() -> None:
    lines = run(plan(), looks(GOOD, start=T0 + seconds(7.3)))
    assert decisions(lines, acts=True)[-1]["action"] == "Complete"


def test_a_window_that_was_looked_at_before_counts_once() -> None:
    bad = looks(bad_from(T0 + INTERVAL, {"events": 3.0, "units": 50.0}), count=3)
    once, twice = evidence(run(pinned(), bad)), evidence(run(pinned(), [*bad, *bad]))
    assert twice == [number for number in once for _ in range(2)]


def test_a_plan_without_guards_bakes_by_the_clock_alone() -> None:
    acted = decisions(run(plan(rows=()), ()), acts=True)
    assert [after(line) for line in acted] == [minutes(0), minutes(5), minutes(10), minutes(15)]
    short = plan(stage("ten", ("bell", 10), bake=seconds(90)), rows=())
    assert [after(line) for line in decisions(run(short, ()), acts=True)] == [minutes(0), seconds(90)]


def test_a_plan_without_guards_that_is_suspended_ends() -> None:
    assert told(run(plan(rows=()), (), suspended=True)) == ["Hold Suspended"]


def test_what_was_before_is_what_changes_begin_from() -> None:
    before = {"bell": Exposure(True, Decimal(5), frozenset({"admin"}))}
    assert run(plan(), looks(GOOD), rows=before)[0]["exposure"] == [
        {"flag": "bell", "enabled": True, "percentage": 5, "groups": ["admin"]}
    ]


def week(events: float, units: float = 2000.0, metric: str = "errors") -> tuple[Look, ...]:
    """The seven days before, in looks of five minutes."""
    step = minutes(5)
    starts = [T0 - timedelta(days=7) + index * step for index in range(7 * 288)]
    return tuple(Look(metric, Window(start, start + step), events, units) for start in starts)


def test_the_week_before_gives_the_limit_of_what_is_relative_to_it() -> None:
    of = plan(rows=[row(Severity.HIGH, relative(change="50%"))])
    lines = run(of, [*week(20.0), *looks({"events": 2.0, "units": 200.0})])
    assert {line["limit"] for line in lines if line["kind"] == "look"} == {"1.613%"}
    assert decisions(lines, acts=True)[-1]["action"] == "Complete"
    assert told(run(of, looks(GOOD)))[-1] == "Hold GuardsBlind", "without a past there is nothing to compare with"


def test_a_guard_that_would_have_fired_in_the_week_before_holds_the_start() -> None:
    lines = run(plan(), [*week(24.0), *looks(GOOD)])
    assert told(lines)[-1] == "Hold GuardTooTight"


def test_a_gauge_has_no_evidence_in_its_line_and_is_judged_in_blocks() -> None:
    of = plan(
        stage("one", ("bell", 10), bake=timedelta(hours=2)),
        rows=[row(Severity.MEDIUM, above("latency", "2"))],
        metrics=[gauge()],
    )
    lines = run(of, looks(bad_from(T0 + minutes(10), {"value": 3.0}, {"value": 1.0}), metric="latency"))
    found = [line for line in lines if line["kind"] == "look"]
    assert {line["log_e"] for line in found} == {None}
    assert {line["verdict"] for line in found} == {"Pass", "Fail"}
    acted = decisions(lines, acts=True)[-1]
    assert (acted["action"], acted["severity"]) == ("DisableFlags", "Medium")
    assert minutes(40) <= after(acted) <= minutes(46)


def test_a_metric_that_nothing_judges_is_printed_without_limit() -> None:
    of = plan(metrics=[ratio(), ratio("shown")])
    found = [line for line in run(of, [*looks(GOOD), *looks(BAD, metric="shown")]) if line.get("metric") == "shown"]
    assert {(line["verdict"], line["limit"], line["severity"], line["log_e"]) for line in found} == {
        ("Pass", None, None, None)
    }


# Lives as they are told.

OTHERS = (Check("stages/all/ready", "The others are ready."), Check("stages/all/db"))
CAREFUL = plan(
    stage("ten", ("bell", 10), bake=minutes(2)),
    stage("half", ("bell", 50), bake=minutes(2), approval=Approval()),
    stage("all", ("bell", 100), bake=minutes(2), checks=OTHERS),
    rows=[row(Severity.HIGH, above())],
)
WISHES = (
    request(RequestType.APPROVE, T0 + minutes(3), 1, stage="half"),
    request(RequestType.PAUSE, T0 + minutes(4), 2),
    request(RequestType.RESUME, T0 + minutes(5), 3),
    request(RequestType.RETRY, T0 + minutes(9), 4),
    request(RequestType.APPROVE, T0 + minutes(12), 5, stage="half"),
    request(RequestType.CONFIRM, T0 + seconds(912), 6, check="ready"),
)
APPROVAL = "Waits for 1 approval of stage half: featurerollout approve bell --stage half -n shop --reason ...."
CONFIRMATION = (
    "Stage all waits for its checks: stages/all/ready: The others are ready "
    "(featurerollout confirm bell ready -n shop --reason ...)."
)
# Seconds, action, stage, severity, reason, message, and the flag's row: on or off, and its percentage.
LIFE: list[tuple[int, str, str | None, str | None, str, str, bool, int]] = [
    (0, "Wait", None, None, "AwaitingLook", "Waits for the first look at errors.", False, 0),
    (30, "Advance", "ten", None, "StageEntered", "Stage ten (1 of 3) began: 1 flag written.", True, 10),
    (30, "Wait", "ten", None, "Baking", "Stage ten bakes for 2m of healthy time.", True, 10),
    (150, "AwaitApproval", "ten", None, "AwaitingApproval", APPROVAL, True, 10),
    (180, "Advance", "half", None, "StageEntered", "Stage half (2 of 3) began: 1 flag written.", True, 50),
    (180, "Wait", "half", None, "Baking", "Stage half bakes for 2m of healthy time.", True, 50),
    (
        240,
        "Hold",
        "half",
        None,
        "Paused",
        "Paused by ann; it goes on with: featurerollout resume bell -n shop --reason ....",
        True,
        50,
    ),
    (300, "Wait", "half", None, "Baking", "Stage half bakes for 2m of healthy time.", True, 50),
    (360, "AwaitConfirmation", "half", None, "AwaitingConfirmation", CONFIRMATION, True, 50),
    (390, "DisableFlags", "half", "High", "FlagsDisabled", "errors is 20%, above 1%: a High breach.", False, 50),
    (540, "Wait", None, None, "AwaitingLook", "Waits for the first look at errors.", False, 50),
    (570, "Advance", "ten", None, "StageEntered", "Stage ten (1 of 3) began: 1 flag written.", True, 10),
    (570, "Wait", "ten", None, "Baking", "Stage ten bakes for 2m of healthy time.", True, 10),
    (690, "AwaitApproval", "ten", None, "AwaitingApproval", APPROVAL, True, 10),
    (720, "Advance", "half", None, "StageEntered", "Stage half (2 of 3) began: 1 flag written.", True, 50),
    (720, "Wait", "half", None, "Baking", "Stage half bakes for 2m of healthy time.", True, 50),
    (840, "AwaitConfirmation", "half", None, "AwaitingConfirmation", CONFIRMATION, True, 50),
    (912, "Advance", "all", None, "StageEntered", "Stage all (3 of 3) began: 1 flag written.", True, 100),
    (912, "Wait", "all", None, "Baking", "Stage all bakes for 2m of healthy time.", True, 100),
    (1050, "Complete", "all", None, "Completed", "Every stage is in, baked and gated.", True, 100),
]


def test_a_life_with_people_and_a_revert_in_it() -> None:
    numbers = bad_from(T0 + minutes(6))
    lines = run(
        CAREFUL, looks(lambda start: numbers(start) if start < T0 + minutes(7) else GOOD, count=60), requests=WISHES
    )
    assert decisions(lines) == [
        {
            "at": (T0 + seconds(at)).isoformat(),
            "kind": "decision",
            "action": action,
            "stage": in_stage,
            "severity": severity,
            "reason": reason,
            "message": message,
            "exposure": [{"flag": "bell", "enabled": enabled, "percentage": percentage, "groups": []}],
        }
        for at, action, in_stage, severity, reason, message, enabled, percentage in LIFE
    ]
    seen = [line for line in lines if line["kind"] == "look"]
    assert [after(line) for line in seen] == [index * INTERVAL for index in range(1, 36)]
    # Each in the stage that it was made in, also when it is what ends it.
    assert [line["stage"] for line in seen[::6]] == [None, "half", "half", None, "half", "all"]


SHORT = plan(stage("ten", ("bell", 10), bake=minutes(2)), stage("half", ("bell", 50), bake=minutes(2)))
LATE = replace(SHORT, stages=(replace(SHORT.stages[0], deadline=seconds(66)), SHORT.stages[1]))
KEEPING = replace(SHORT, rows=(row(Severity.LOW, above(), action=Action(ActionType.HOLD)),))
BEGINNING = [(0, "Wait", None, "AwaitingLook"), (30, "Advance", None, "StageEntered"), (30, "Wait", None, "Baking")]
HELD_AT = (150, "Hold", None, "HoldAt")
SECOND = [(150, "Advance", None, "StageEntered"), (150, "Wait", None, "Baking")]


@pytest.mark.parametrize(
    ("of", "given", "changes", "expected", "last_s"),
    [
        pytest.param(
            SHORT,
            looks(GOOD, count=20),
            {"hold_at": "ten"},
            [*BEGINNING, (150, "Hold", None, "HoldAt")],
            600,
            id="holdAt",
        ),
        pytest.param(
            SHORT,
            looks(GOOD, count=4),
            {"suspended": True, "requests": (request(RequestType.RESUME, T0 + minutes(1)),)},
            [(0, "Hold", None, "Suspended"), (60, "Wait", None, "NotPaused"), (60, "Hold", None, "Suspended")],
            120,
            id="suspended, and Resume is refused",
        ),
        pytest.param(
            SHORT, looks(GOOD, count=20), {"until": T0 + minutes(3)}, [*BEGINNING, *SECOND], 180, id="until a time"
        ),
        pytest.param(
            LATE,
            looks(GOOD, count=20),
            {},
            [*BEGINNING, (96, "Wait", None, "StageOverdue"), *SECOND, (270, "Complete", None, "Completed")],
            270,
            id="a deadline is told when it is there, and not with the next look",
        ),
        pytest.param(
            SHORT,
            looks(GOOD, count=6),
            {
                "requests": (
                    request(RequestType.APPROVE, T0 + minutes(1), stage="half"),
                    request(RequestType.CONFIRM, T0 + minutes(1), 2, check="moon"),
                )
            },
            [
                *BEGINNING,
                (60, "Wait", None, "ApprovalNotNeeded"),
                (60, "Wait", None, "CheckUnknown"),
                (60, "Wait", None, "Baking"),
                *SECOND,
            ],
            180,
            id="two that are refused",
        ),
        pytest.param(
            CAREFUL,
            looks(GOOD, count=3),
            {
                "requests": (request(RequestType.APPROVE, T0 + seconds(1), stage="half"),),
                "until": T0 + timedelta(days=2),
            },
            [*BEGINNING, (191, "Hold", None, "GuardsBlind")],
            191,
            id="looks that end: blind just after the bound",
        ),
        pytest.param(
            KEEPING,
            looks(bad_from(T0 + minutes(1)), count=8),
            {},
            [*BEGINNING, (90, "Hold", "Low", "HoldAction")],
            240,
            id="a row that only holds",
        ),
    ],
)
def test_short_lives(
    of: Plan, given: tuple[Look, ...], changes: dict[str, Any], expected: list[tuple[Any, ...]], last_s: int
) -> None:
    lines = run(of, given, **changes)
    found = [(after(d).total_seconds(), d["action"], d["severity"], d["reason"]) for d in decisions(lines)]
    assert found == expected
    assert after(lines[-1]) == seconds(last_s)


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [
        pytest.param(ratio(key="k"), {"events": 10.0, "units": 500.0}, id="a Ratio"),
        pytest.param(
            ratio(key="k"),
            {"events": 4.0, "units": 200.0, "control_events": 6.0, "control_units": 300.0},
            id="two arms of a Ratio",
        ),
        pytest.param(
            ratio(key="k", delay=minutes(20)),
            {"events": 10.0, "units": 500.0, "control_events": 0.0, "control_units": 0.0},
            id="with a delay, and nobody in the other arm",
        ),
        pytest.param(gauge(key="k"), {"value": 2.5}, id="a Gauge"),
    ],
)
def test_the_past_of_the_recorded_looks_is_that_of_their_half_hours(metric: Metric, numbers: dict[str, Any]) -> None:
    """Two looks in each half hour are one with twice the counts; errors, and what ends after the start, say nothing."""
    of = plan(rows=[row(Severity.HIGH, relative(metric.name))], metrics=[metric])
    until = T0 - metric.delay
    halves = [
        Look(metric.name, Window(start, start + minutes(15)), **numbers)
        for window in sorted({*windows_before(until), *windows_before(T0)}, key=lambda window: window.start)
        for start in (window.start, window.start + minutes(15))
    ]
    broken = [
        replace(halves[0], error="timeout", events=9e9),
        Look(metric.name, Window(T0 - minutes(1), T0 + minutes(1))),
    ]
    twice = {name: value * (1 if name == "value" else 2) for name, value in numbers.items()}
    whole = [Look(metric.name, window, **twice) for window in windows_before(until)]
    assert _Past([*broken, *halves]).reference(of, metric.name, T0) == of_blocks(metric, whole)


def test_a_past_without_looks_says_so() -> None:
    of = plan(rows=[row(Severity.HIGH, relative())], metrics=[ratio(key="k")])
    assert _Past([]).reference(of, "errors", T0) == Reference("k", note="it has no data in the seven days before")
