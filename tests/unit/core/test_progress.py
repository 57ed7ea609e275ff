"""What was measured: the grid of windows, which looks count, and how long a stage has baked.

| subject | cases |
|---|---|
| windows | on the grid, settled, after the stage began, catch-up bounded |
| looks | twice, late, from before the stage, of unknown metrics, with numbers that are none |
| bake | the overlap of all guards; no gap, no error, no data (but Count), not held, not paused; clock jumps |
| unguarded | time between reconciles, bounded |
| aligned | restart at any point, a lost checkpoint, a lost progress, attempts, edits |
| values | from_json(to_json) is the same; spans and values are bounded |
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.evidence import Test
from feature_rollout.core.gauge import FAR_BLOCKS
from feature_rollout.core.intake import aligned
from feature_rollout.core.looks import Look, Verdict, Window, known_at, next_window, stale_after
from feature_rollout.core.measured import SPANS_MAX, MetricProgress
from feature_rollout.core.people import Lift
from feature_rollout.core.plan import (
    Action,
    ActionType,
    BaselineType,
    Clause,
    Gate,
    Metric,
    Mode,
    OnNoTraffic,
    Persist,
    Plan,
    Severity,
)
from feature_rollout.core.progress import CATCH_UP_WINDOWS, UNGUARDED_STEP_MAX, Progress, overlap
from feature_rollout.core.reference import Block, Reference
from feature_rollout.core.state import Ledger
from support.depth import properties
from support.fakes import (
    INTERVAL,
    T0,
    above,
    below,
    exposure,
    gauge,
    ledger,
    ledger_in,
    look,
    minutes,
    percent,
    plan,
    ratio,
    relative,
    row,
    seconds,
    stage,
)

deterministic = properties(60)
ONE = plan()
FULL = exposure(100)
MINUTE = timedelta(minutes=1)
SOAKED = plan(stage("soak"), stage("ten", ("bell", 10)), stage("rest"))
TWO = plan(
    rows=[row(Severity.HIGH, above(), above("slow"))], metrics=[ratio(), ratio("slow", interval=timedelta(minutes=1))]
)
GOOD: dict[str, Any] = {"events": 0.0, "units": 100.0}
BAD: dict[str, Any] = {"events": 60.0, "units": 100.0}


def started(of: Plan, at: datetime = T0) -> Progress:
    return Progress().entered(of, at, raised=True)


def after(
    of: Plan, progress: Progress, *looks: Look, counting: bool = True, on: OnNoTraffic = OnNoTraffic.WAIT
) -> Progress:
    for one in looks:
        progress = progress.observed(of, one, counting=counting, on_no_traffic=on)
    return progress


def at(index: int, metric: str = "errors", **numbers: Any) -> Look:
    """The look at the window of that number since T0, which is on the grid."""
    length = timedelta(minutes=1) if metric == "slow" else INTERVAL
    return look(metric, T0 + index * length, length, **(numbers or GOOD))


# Windows.


def test_failures_of_a_source_are_counted_from_the_first_of_an_unbroken_run() -> None:
    progress, told = MetricProgress(), []
    for index, error in enumerate([None, "timeout", "timeout", None, "timeout"]):
        seen = look("errors", T0 + index * INTERVAL, **({"error": error} if error else {"events": 0.0, "units": 1.0}))
        progress = progress.observed(seen, (), healthy=False, keep_value=False, of_stage=True, key="")
        told.append((progress.failures, progress.failing_since))
    begun, again = T0 + INTERVAL, T0 + 4 * INTERVAL
    assert told == [(0, None), (1, begun), (2, begun), (0, None), (1, again)]


def test_windows_lie_on_a_grid_that_no_process_moves() -> None:
    window = next_window(ratio(), T0 + seconds(1))
    assert window == Window(T0 + seconds(30), T0 + seconds(60))
    assert next_window(ratio(), window.start) == window
    assert next_window(ratio(), window.end).start == window.end


@pytest.mark.parametrize(
    ("progress", "now", "start"),
    [
        pytest.param(Progress(), T0 + seconds(61), T0 + seconds(30), id="before anything: one that is settled already"),
        pytest.param(started(ONE), T0 + seconds(5), T0, id="in a stage: the first that begins in it"),
        pytest.param(started(ONE, T0 + seconds(5)), T0 + seconds(5), T0 + seconds(30), id="never one begun before it"),
        pytest.param(after(ONE, started(ONE), at(0), at(1)), T0 + seconds(70), T0 + seconds(60), id="the one after"),
        pytest.param(
            after(ONE, started(ONE), at(0)),
            T0 + timedelta(hours=1),
            T0 + timedelta(hours=1) - CATCH_UP_WINDOWS * INTERVAL,
            id="after an outage the last ten, not an hour of them",
        ),
    ],
)
def test_the_window_that_is_due(progress: Progress, now: datetime, start: datetime) -> None:
    assert progress.due_window(ratio(), now) == Window(start, start + INTERVAL)
    late = ratio(delay=minutes(3))
    assert progress.due_window(late, now + late.delay) == Window(start, start + INTERVAL), "a delay puts all of it off"


def test_a_window_is_asked_for_when_its_numbers_are_settled() -> None:
    metric = ratio(delay=seconds(20))
    assert started(ONE).due_at(metric, T0) == T0 + seconds(50)
    assert known_at(metric, Window(T0, T0 + INTERVAL)) == T0 + seconds(50)
    first = Progress().due_window(metric, T0)
    assert known_at(metric, first) <= T0
    assert stale_after(metric) == seconds(120)


# Looks.


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(at(1), id="the same look twice"),
        pytest.param(at(0, events=60.0, units=100.0), id="an earlier one, late"),
        pytest.param(look("errors", T0 - INTERVAL, **BAD), id="one that began before the stage"),
        pytest.param(look("unbound", T0 + 2 * INTERVAL, **BAD), id="one of a metric that the plan does not bind"),
    ],
)
def test_a_look_that_changes_nothing(again: Look) -> None:
    before = after(ONE, started(ONE), at(0), at(1))
    assert after(ONE, before, again) is before


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param({"events": math.nan, "units": 100.0}, id="NaN events"),
        pytest.param({"events": 1.0, "units": math.inf}, id="infinite units"),
        pytest.param({"events": -1.0, "units": 100.0}, id="negative events"),
        pytest.param({"value": math.nan}, id="NaN for a gauge"),
        pytest.param({"value": -math.inf}, id="minus infinity for a gauge"),
    ],
)
def test_numbers_that_are_none_are_an_error_and_never_a_pass(numbers: dict[str, Any]) -> None:
    metric = "latency" if "value" in numbers else "errors"
    of = plan(
        rows=[row(Severity.HIGH, above(), above("latency", "2"))],
        metrics=[ratio(), gauge()],
    )
    seen = after(of, started(of), look(metric, T0, **numbers)).of(metric)
    assert seen.latest is not None
    assert started(of).verdict(of, seen.latest) is Verdict.ERROR
    assert (seen.healthy, seen.units, seen.values) == ((), 0.0, ())


def test_more_events_than_units_are_no_negative_complement() -> None:
    of = plan(rows=[row(Severity.HIGH, below())], metrics=[ratio("hits")])
    assert after(of, started(of), at(0, "hits", events=120.0, units=100.0)).of("hits").events == 120.0


def test_before_the_first_raise_nothing_is_held_against_the_rollout() -> None:
    quiet = Progress().entered(ONE, T0, raised=False)
    assert after(ONE, quiet, *(at(i, **BAD) for i in range(5))).evidence == {}


# Bake.


@pytest.mark.parametrize(
    ("looks", "baked"),
    [
        pytest.param([at(0), at(1), at(2)], seconds(90), id="healthy looks, one after the other"),
        pytest.param([at(0), at(2)], seconds(60), id="a gap was not seen"),
        pytest.param([at(0), at(1, error="timeout"), at(2)], seconds(60), id="an error saw nothing"),
        pytest.param([at(0), at(1, events=0.0, units=0.0), at(2)], seconds(60), id="nor did a window without traffic"),
        pytest.param([at(0), at(1, events=2.0, units=100.0)], seconds(60), id="one look past the limit is noise"),
        pytest.param([at(0), at(1, **BAD), at(2)], seconds(30), id="not while held, and evidence lasts"),
        pytest.param([at(0), at(2000)], seconds(60), id="a clock that jumps adds its one window and nothing between"),
    ],
)
def test_bake(looks: list[Look], baked: timedelta) -> None:
    assert after(ONE, started(ONE), *looks).baked == baked


def test_without_traffic_it_counts_only_where_the_stage_says_so() -> None:
    looks = [at(i, events=0.0, units=0.0) for i in range(3)]
    assert after(ONE, started(ONE), *looks).baked == seconds(0)
    assert after(ONE, started(ONE), *looks, on=OnNoTraffic.COUNT).baked == seconds(90)
    assert after(ONE, started(ONE), at(0, error="timeout"), on=OnNoTraffic.COUNT).baked == seconds(0)


def test_it_does_not_count_while_paused_and_goes_on_afterwards() -> None:
    progress = after(ONE, started(ONE), at(0))
    progress = after(ONE, progress, at(1), at(2), counting=False)
    assert after(ONE, progress, at(3)).baked == seconds(60)


def test_it_is_the_overlap_of_all_guards() -> None:
    progress = after(TWO, started(TWO), at(0), at(1))
    assert progress.baked == seconds(0), "the other guard has not been looked at"
    progress = after(TWO, progress, at(0, "slow"), at(2), at(3, error="timeout"), at(1, "slow"))
    assert progress.baked == seconds(90)
    assert all(not measured.healthy for measured in progress.metrics.values())


@pytest.mark.parametrize("early", ["errors", "slow"])
def test_the_bake_waits_for_the_guard_that_is_looked_at_last(early: str) -> None:
    late = {"errors": "slow", "slow": "errors"}[early]
    looks = {"errors": [at(i) for i in range(4)], "slow": [at(i, "slow") for i in range(2)]}
    progress = after(TWO, started(TWO), *looks[early], looks[late][0])
    assert progress.baked_until == looks[late][0].window.end
    assert after(TWO, progress, *looks[late][1:]).baked == minutes(2)


def test_a_metric_that_is_only_observed_neither_adds_nor_takes_away() -> None:
    of = plan(rows=[row(Severity.HIGH, above(), above("seen"))], metrics=[ratio(), ratio("seen", mode=Mode.OBSERVE)])
    progress = after(of, started(of), at(0), at(0, "seen", error="timeout"), at(1))
    assert progress.baked == seconds(60)
    assert progress.of("seen").healthy == ()


def test_a_breached_gauge_holds_the_bake() -> None:
    clause = above("latency", "2", persist=Persist(1, 2))
    of = plan(rows=[row(Severity.LOW, clause, action=Action(ActionType.HOLD))], metrics=[gauge()])
    looks = [at(0, "latency", value=1.0), at(1, "latency", value=3.0), *(at(i, "latency", value=1.0) for i in (2, 3))]
    assert after(of, started(of), *looks).baked == seconds(60)


def test_a_gauge_is_judged_in_blocks() -> None:
    of = plan(rows=[row(Severity.HIGH, above("latency", "2"))], metrics=[gauge()])
    progress = after(of, started(of), *(at(i, "latency", value=3.0) for i in range(10 * FAR_BLOCKS)))
    ((guard_row, clause),) = of.guards()
    assert progress.is_breached(of, guard_row, clause, T0)
    assert not progress.entered(of, T0 + minutes(40), raised=True).is_breached(of, guard_row, clause, T0)


def test_a_new_stage_starts_its_own_bake_and_its_own_counts() -> None:
    before = after(ONE, started(ONE), at(0), at(1, **BAD))
    assert (before.of("errors").events, before.of("errors").units) == (60.0, 200.0)
    progress = before.entered(ONE, T0 + minutes(1), raised=True)
    assert (progress.baked, progress.of("errors").events, progress.of("errors").units) == (seconds(0), 0.0, 0.0)
    assert after(ONE, progress, at(2)).baked == INTERVAL


def test_a_new_stage_has_no_values_no_spans_and_looks_from_its_own_start() -> None:
    of = plan(
        stage("ten", ("bell", 10), gates=(Gate("latency", at_most=percent("1%")),)),
        rows=[row(Severity.HIGH, above(), above("latency", "9"))],
        metrics=[ratio(), gauge()],
    )
    before = replace(
        after(of, started(of), at(0), at(0, "latency", value=2.0), at(1, "latency", value=2.0)), judged_from=T0
    )
    assert (before.of("latency").values, len(before.of("latency").healthy)) == ((2.0, 2.0), 1)
    entered = before.entered(of, T0 + minutes(1), raised=False)
    assert (entered.of("latency").values, entered.of("latency").healthy, entered.judged_from) == ((), (), None)


@pytest.mark.parametrize("raised", [True, False])
def test_the_blocks_of_the_past_go_when_something_is_raised(raised: bool) -> None:
    known = Reference("", dispersion=1.0, blocks=(Block(T0, 1.0, 9.0),))
    entered = Progress(references={"errors": known}).entered(ONE, T0, raised=raised)
    assert bool(entered.references["errors"].blocks) is not raised
    assert bool(entered.referred("errors", known).references["errors"].blocks) is not raised


def test_looks_at_a_gauge_before_a_raise_do_not_count_after_it() -> None:
    of = plan(rows=[row(Severity.HIGH, above("latency", "2", persist=Persist(1, 3)))], metrics=[gauge()])
    slow = after(of, started(of), at(0, "latency", value=9.0))
    assert slow.gauges["latency>2"].recent == (True,)
    assert slow.entered(of, T0 + INTERVAL, raised=True).gauges == {}
    assert slow.entered(of, T0 + INTERVAL, raised=False).gauges == slow.gauges


def test_spans_that_wait_for_a_guard_are_bounded() -> None:
    looks = (at(i) if i % 2 else at(i, error="timeout") for i in range(5 * SPANS_MAX))
    assert len(after(TWO, started(TWO), *looks).of("errors").healthy) == SPANS_MAX


def test_only_gates_make_it_remember_values() -> None:
    rows = [row(Severity.HIGH, above("latency", "2"))]
    gated = plan(stage("a", ("bell", 1), gates=(Gate("latency", at_most=percent("2%")),)), rows=rows, metrics=[gauge()])
    plain = plan(rows=rows, metrics=[gauge()])
    for of, values in ((gated, (1.0, 1.0)), (plain, ())):
        assert after(of, started(of), *(at(i, "latency", value=1.0) for i in range(2))).of("latency").values == values


@pytest.mark.parametrize(
    ("spans", "seconds_common"),
    [
        pytest.param([[(0, 60)]], 60, id="one"),
        pytest.param([[(0, 60)], [(30, 90)]], 30, id="the part in both"),
        pytest.param([[(0, 30), (60, 90)], [(15, 75)]], 30, id="two parts"),
        pytest.param([[(0, 60)], []], 0, id="one was never healthy"),
        pytest.param([[(0, 500)]], 100, id="only within what is asked"),
    ],
)
def test_overlap(spans: list[list[tuple[int, int]]], seconds_common: int) -> None:
    windows = [tuple(Window(T0 + seconds(a), T0 + seconds(b)) for a, b in mine) for mine in spans]
    assert overlap(windows, Window(T0, T0 + seconds(100))) == seconds(seconds_common)


# Unguarded.


def test_without_guards_bake_is_the_time_between_reconciles() -> None:
    of = plan(rows=())
    progress = started(of).elapsed(of, T0 + seconds(20), counting=True)
    assert progress.baked == seconds(20)
    progress = progress.elapsed(of, T0 + seconds(40), counting=False)
    assert progress.elapsed(of, T0 + seconds(50), counting=True).baked == seconds(30)
    assert progress.elapsed(of, T0 + timedelta(days=3), counting=True).baked == seconds(20) + UNGUARDED_STEP_MAX
    assert progress.elapsed(of, T0 - timedelta(days=3), counting=True) is progress
    assert started(ONE).elapsed(ONE, T0 + seconds(20), counting=True).baked == seconds(0)


# Restarts, edits.


def test_the_ledger_says_which_stage_it_is() -> None:
    mine = after(ONE, started(ONE), at(0))
    now = ledger_in(ONE, 1, entered_at=T0 + minutes(1))
    assert aligned(mine, ONE, ledger_in(ONE, 0), T0) is mine
    entered = aligned(mine, ONE, now, T0 + minutes(1))
    assert (entered.stage_from, entered.baked) == (now.entered_at, seconds(0))


def test_what_another_process_has_baked_in_a_stage_that_this_one_has_not_seen_is_not_counted_twice() -> None:
    old = after(ONE, started(ONE, T0 - minutes(9)), at(-2))
    progress = aligned(old, ONE, ledger_in(ONE, 0, baked=seconds(90)), T0 + minutes(2))
    assert after(ONE, progress, at(0), at(1), at(2), at(3)).baked == seconds(90)
    assert after(ONE, progress, at(3), at(4)).baked == seconds(120)


def test_without_progress_what_the_ledger_says_was_baked_is_kept_and_nothing_is_counted_twice() -> None:
    now = T0 + minutes(2)
    progress = aligned(None, ONE, ledger_in(ONE, 0, baked=seconds(90)), now)
    assert (progress.baked, progress.watching) == (seconds(90), True)
    assert after(ONE, progress, at(2), at(3), at(4)).baked == seconds(120), "the windows before two minutes are known"


@pytest.mark.parametrize(
    ("of", "row_in"),
    [
        pytest.param(plan(ONE.stages[0]), ledger_in(ONE, 2), id="stages were removed from the plan"),
        pytest.param(ONE, ledger(entered_at=T0), id="a ledger that is in no stage"),
    ],
)
def test_it_fits_any_ledger(of: Plan, row_in: Ledger) -> None:
    assert aligned(started(ONE, T0 - minutes(9)), of, row_in, T0).stage_from == T0
    assert aligned(None, of, row_in, T0).stage_from == T0


def test_progress_of_an_earlier_life_is_not_taken_over() -> None:
    assert aligned(after(ONE, started(ONE), at(0)), ONE, ledger(), T0) == Progress()
    looking = Progress().observed(ONE, at(0), counting=True, on_no_traffic=OnNoTraffic.WAIT)
    assert aligned(looking, ONE, ledger(), T0) is looking


def test_what_is_still_exposed_is_watched_before_the_next_attempt_raises() -> None:
    left = ledger(baseline={"bell": exposure(0)}, written={"bell": exposure(10)})
    assert aligned(None, ONE, left, T0).watching


@pytest.mark.parametrize(
    ("of", "row_in", "watching"),
    [
        pytest.param(SOAKED, ledger_in(SOAKED, 0), False, id="no stage so far has flags, though the next one has"),
        pytest.param(SOAKED, ledger_in(SOAKED, 1, baseline=FULL), True, id="one has, and raised nothing"),
        pytest.param(SOAKED, ledger_in(SOAKED, 2, baseline=FULL), True, id="one before had"),
        pytest.param(
            SOAKED,
            ledger_in(SOAKED, 0, written={"bell": exposure(10)}),
            True,
            id="an attempt before has raised",
        ),
    ],
)
def test_guards_look_from_the_first_stage_with_flags_on(of: Plan, row_in: Ledger, watching: bool) -> None:
    assert aligned(None, of, row_in, T0).watching is watching


def test_a_stage_that_only_the_ledger_knows_has_baked_what_the_ledger_says() -> None:
    now = ledger_in(ONE, 1, entered_at=T0 + minutes(1), baked=seconds(90))
    assert aligned(after(ONE, started(ONE), at(0)), ONE, now, T0 + minutes(9)).baked == seconds(90)


# The clock was put back.

AHEAD = MetricProgress(looked_until=T0 + minutes(5), data_until=T0 + minutes(4))
BEHIND = MetricProgress(looked_until=T0 + minutes(1), data_until=T0)


@pytest.mark.parametrize(
    ("progress", "is_ahead"),
    [
        pytest.param(Progress(), False, id="nothing"),
        pytest.param(Progress(stage_from=T0 + minutes(1), baked_until=T0 + minutes(1)), False, id="until now"),
        pytest.param(Progress(metrics={"errors": BEHIND}), False, id="looked at until now"),
        pytest.param(Progress(metrics={"slow": BEHIND, "errors": AHEAD}), True, id="looked at ahead"),
        pytest.param(Progress(stage_from=T0 + minutes(2)), True, id="a stage that begins"),
        pytest.param(Progress(baked_until=T0 + minutes(2)), True, id="a bake"),
    ],
)
def test_what_is_of_a_time_to_come(progress: Progress, is_ahead: bool) -> None:
    assert progress.is_ahead_of(T0 + minutes(1)) is is_ahead


def test_what_lies_ahead_is_looked_at_when_it_comes_and_nothing_is_forgotten() -> None:
    now = T0 + minutes(1)
    metrics = {"errors": AHEAD, "slow": BEHIND, "new": MetricProgress()}
    rewound = Progress(stage_from=T0 + minutes(2), baked_until=T0 + minutes(5), metrics=metrics).rewound(
        ONE, now, OnNoTraffic.WAIT
    )
    assert rewound == Progress(
        stage_from=T0 + minutes(2),
        judged_from=now,
        baked_until=now,
        metrics={**metrics, "errors": replace(AHEAD, looked_until=AHEAD.data_until)},
    )


@pytest.mark.parametrize("begun", [T0, T0 + minutes(1)])
def test_a_stage_that_has_begun_stays_as_it_is(begun: datetime) -> None:
    for progress in (Progress(stage_from=begun, baked_until=begun), Progress(stage_from=begun)):
        assert progress.rewound(ONE, T0 + minutes(1), OnNoTraffic.COUNT) == progress


@pytest.mark.parametrize("back", [0, 15, 30, 45, 90])
@pytest.mark.parametrize("quiet_from", [0, 1, 2, 3, 4])
def test_windows_that_are_looked_at_again_are_not_baked_again(back: int, quiet_from: int) -> None:
    looks = [at(n) if n < quiet_from else look("errors", T0 + n * INTERVAL, INTERVAL) for n in range(4)]
    progress = after(ONE, started(ONE), *looks, on=OnNoTraffic.COUNT)
    assert progress.baked == 4 * INTERVAL
    now = T0 + 4 * INTERVAL - seconds(back)
    again = after(ONE, progress.rewound(ONE, now, OnNoTraffic.COUNT), *looks, at(4), on=OnNoTraffic.COUNT)
    assert 2 * INTERVAL <= again.baked <= 5 * INTERVAL


def test_of_guards_that_are_looked_at_unevenly_nothing_is_baked_again() -> None:
    def empty(index: int, metric: str = "errors") -> Look:
        return look(metric, T0 + index * MINUTE, MINUTE)

    ahead = [at(n, "slow") for n in range(3)]
    progress = after(TWO, started(TWO), *ahead, empty(0), on=OnNoTraffic.COUNT)
    assert progress.baked == MINUTE
    again = progress.rewound(TWO, T0, OnNoTraffic.COUNT)
    assert after(TWO, again, *ahead, empty(0), on=OnNoTraffic.COUNT).baked == MINUTE
    both = after(TWO, started(TWO), empty(0, "slow"), empty(1, "slow"), empty(0), on=OnNoTraffic.COUNT)
    again = both.rewound(TWO, T0, OnNoTraffic.COUNT)
    looked = after(TWO, again, empty(0, "slow"), empty(1, "slow"), empty(0), empty(1), on=OnNoTraffic.COUNT)
    assert looked.baked == 2 * MINUTE


def test_time_without_guards_is_not_baked_again() -> None:
    of = plan(rows=[], metrics=[])
    progress = replace(started(of), baked=minutes(3), baked_until=T0 + minutes(4))
    again = progress.rewound(of, T0 + minutes(2), OnNoTraffic.WAIT)
    assert (again.baked, again.baked_until) == (minutes(1), T0 + minutes(2))
    assert progress.rewound(of, T0 - minutes(2), OnNoTraffic.WAIT).baked == seconds(0)


def test_a_lift_is_of_the_clauses_that_it_names() -> None:
    progress = after(TWO, started(TWO), at(0, **BAD), at(0, "slow", **BAD))
    lifted = progress.lifted(Lift(T0 + minutes(1), ("errors>1%",)))
    assert (lifted.evidence["errors>1%"].value, lifted.lifted_at) == (0.0, T0 + minutes(1))
    assert lifted.evidence["slow>1%"] == progress.evidence["slow>1%"]
    assert lifted.evidence["slow>1%"].value > 20


def test_a_lift_of_one_gauge_leaves_the_other() -> None:
    clauses = (above("latency", "2", persist=Persist(1, 2)), above("p95", "2", persist=Persist(1, 2)))
    of = plan(rows=[row(Severity.LOW, *clauses)], metrics=[gauge(), gauge("p95")])
    progress = after(of, started(of), at(0, "latency", value=3.0), at(0, "p95", value=3.0))
    assert set(progress.lifted(Lift(T0, (clauses[0].key,))).gauges) == {clauses[1].key}


def test_a_clause_that_cannot_be_judged_hides_no_other() -> None:
    of = plan(rows=[row(Severity.HIGH, above(limit="300%", blocker="no"), above())])
    assert after(of, started(of), at(0, **BAD)).evidence_of(above()).holds


def test_looks_before_a_stage_that_begins_later_are_judged_and_are_not_of_it() -> None:
    progress = replace(started(ONE, T0 + minutes(2)), judged_from=T0)
    found = after(ONE, progress, at(0, **BAD))
    assert found.of("errors").looked_until == T0 + INTERVAL
    assert found.evidence["errors>1%"].holds
    assert (found.of("errors").events, found.of("errors").units, found.baked) == (0.0, 0.0, seconds(0))


def test_what_waits_for_another_guard_is_one_span_as_long_as_nothing_is_missing() -> None:
    progress = after(TWO, started(TWO), at(0), at(1), at(3))
    whole, rest = progress.of("errors").healthy
    assert (whole, rest) == (Window(T0, T0 + minutes(1)), at(3).window)


def test_an_edited_clause_starts_from_nothing_and_its_time_runs_on() -> None:
    of = plan(rows=[row(Severity.HIGH, above(), above(limit="2%"))])
    progress = after(of, started(of), *(at(i, **BAD) for i in range(3)))
    edited = plan(rows=[row(Severity.HIGH, above(), above(limit="3%"))])
    evidence = after(edited, progress, at(3)).evidence
    assert evidence["errors>1%"].value > 20
    assert evidence["errors>3%"].value < 1
    assert evidence["errors>3%"].observed_s == 120.0


def test_what_cannot_be_judged_is_left_alone() -> None:
    of = plan(rows=[row(Severity.HIGH, above(limit="300%", blocker="increase is not in effect"))])
    progress = after(of, started(of), at(0))
    assert progress.evidence == {}


LOOKS = st.lists(
    st.tuples(
        st.sampled_from(["errors", "slow"]),
        st.integers(0, 20),
        st.sampled_from(
            [GOOD, BAD, {"error": "timeout"}, {"events": 0.0, "units": 0.0}, {"events": 3.0, "units": 9.0}]
        ),
        st.booleans(),
    ),
    max_size=25,
)


@deterministic
@given(LOOKS, st.integers(0, 25))
def test_a_restart_at_any_point_changes_nothing(looks: list[tuple[str, int, dict[str, Any], bool]], when: int) -> None:
    straight = restarted = started(TWO)
    for index, (metric, window, numbers, counting) in enumerate(looks):
        if index == when:
            restarted = Progress.from_json(json.loads(json.dumps(restarted.to_json(), allow_nan=False)))
        straight = after(TWO, straight, at(window, metric, **numbers), counting=counting)
        restarted = after(TWO, restarted, at(window, metric, **numbers), counting=counting)
    assert restarted == straight


@deterministic
@given(LOOKS)
def test_the_bake_is_never_more_than_the_time_that_every_guard_has_seen(
    looks: list[tuple[str, int, dict[str, Any], bool]],
) -> None:
    progress = started(TWO)
    before = progress.baked
    for metric, window, numbers, counting in looks:
        progress = after(TWO, progress, at(window, metric, **numbers), counting=counting)
        assert progress.baked >= before
        before = progress.baked
    seen = [progress.of(name).looked_until or T0 for name in ("errors", "slow")]
    assert progress.baked <= min(seen) - T0


def test_verdicts() -> None:
    of = plan(rows=[row(Severity.HIGH, above(limit="1%"), below("errors", "0.1%"))])
    look_of = {
        Verdict.PASS: at(0, events=5.0, units=1000.0),
        Verdict.FAIL: at(0, **BAD),
        Verdict.NO_DATA: at(0, events=0.0, units=0.0),
        Verdict.ERROR: at(0, error="timeout"),
    }
    assert {Progress().verdict(of, one): one for one in look_of.values()} == look_of
    assert Progress().verdict(of, at(0, events=0.0, units=10.0)) is Verdict.FAIL, "0 % is below 0.1 %"


def test_a_gauge_has_no_units() -> None:
    of = plan(rows=[row(Severity.HIGH, above("latency", "2"))], metrics=[gauge()])
    assert after(of, started(of), at(0, "latency", value=1.0)).of("latency").units == 0.0
    assert replace(at(0), events=None, units=None).number is None


def test_what_is_made_field_by_field_loses_none() -> None:
    """Both are `replace` without its cost: a field that is added later must not be forgotten in them."""
    measured = MetricProgress(**{field.name: f"the {field.name}" for field in fields(MetricProgress)})  # type: ignore[arg-type]
    assert measured.with_healthy(()) == replace(measured, healthy=())
    progress = Progress(**{field.name: f"the {field.name}" for field in fields(Progress)})  # type: ignore[arg-type]
    assert progress.with_measured({}, {}, {}) == replace(progress, metrics={}, evidence={}, gauges={})
    assert progress.with_measured({}) == replace(progress, metrics={})


# Which test a clause is given.


@pytest.mark.parametrize(
    ("clause", "metric", "settle_s", "expected"),
    [
        pytest.param(above(), ratio(), 120, {"limit": 0.01}, id="above"),
        pytest.param(below("errors"), ratio(), 0, {"limit": 0.2, "settle_s": 0.0}, id="below: on the complement"),
        pytest.param(
            relative(), ratio(counts_users=False), 120, {"limit": None, "dispersion": 10.0}, id="against the past"
        ),
        pytest.param(
            relative(baseline=BaselineType.CONTROL),
            ratio(interval=timedelta(minutes=1)),
            120,
            {"limit": None, "interval_s": 60.0},
            id="against the control arm",
        ),
        pytest.param(
            relative("errors", baseline=BaselineType.CONTROL),
            gauge("errors", counts_users=False),
            120,
            {"limit": None, "interval_s": 300.0, "settle_s": 0.0},
            id="of blocks, by signs: nothing to settle, and no bursts",
        ),
    ],
)
def test_the_test_of_a_clause(clause: Clause, metric: Metric, settle_s: int, expected: dict[str, Any]) -> None:
    first = row(Severity.HIGH, clause, settle=seconds(settle_s))
    of = plan(rows=[first, row(Severity.LOW, above(limit="2%"))], metrics=[metric], alpha=0.02)
    usual = {
        "limit": 0.01,
        "clauses": 2,
        "alpha": 0.02,
        "flag_stages": 3,
        "bakes_s": 900.0,
        "interval_s": 30.0,
        "settle_s": 120.0,
        "dispersion": 1.0,
    }
    assert Progress().test_of(of, first, clause) == Test(**usual | expected)
