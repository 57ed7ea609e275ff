"""Looks that have arrived: their order, and when healthy time counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.decision import View
from feature_rollout.core.intake import aligned, taken_in
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.people import Lift, Pause, People
from feature_rollout.core.plan import OnNoTraffic, Plan, Severity
from feature_rollout.core.progress import Progress
from support.fakes import INTERVAL, T0, above, ledger, ledger_in, look, minutes, plan, ratio, row, stage

GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
BAD: dict[str, Any] = {"events": 900.0, "units": 1000.0}
PLAN = plan()
COUNTS = plan(stage("ten", ("bell", 10), on_no_traffic=OnNoTraffic.COUNT))
TWO = plan(rows=[row(Severity.HIGH, above(), above("hits"))], metrics=[ratio(), ratio("hits")])
BARE = plan(rows=[], metrics=[])


def view(of: Plan = PLAN, index: int = 0, **changes: Any) -> View:
    entered = ledger_in(of, index) if index >= 0 else ledger()
    entered = replace(entered, **changes.pop("ledger", {}))
    return replace(View(of, entered, dict(entered.written), Progress(), (), T0 + minutes(1)), **changes)


@pytest.mark.parametrize(
    ("seen", "numbers", "looks_baked"),
    [
        pytest.param(view(), GOOD, 2, id="healthy time"),
        pytest.param(view(), {}, 0, id="without traffic it waits"),
        pytest.param(view(COUNTS), {}, 2, id="without traffic it counts where the stage says so"),
        pytest.param(view(COUNTS, -1), {}, 0, id="not before the first stage"),
        pytest.param(view(suspended=True), GOOD, 0, id="not while it is suspended"),
        pytest.param(
            view(ledger={"people": People(paused=Pause("alice", T0))}), GOOD, 0, id="not while somebody has paused it"
        ),
    ],
)
def test_healthy_time(seen: View, numbers: dict[str, Any], looks_baked: int) -> None:
    known = aligned(None, seen.plan, seen.ledger, T0)
    looks = [look("errors", T0 + i * INTERVAL, **numbers) for i in range(2)]
    assert taken_in(seen, known, looks).baked == looks_baked * INTERVAL


def test_without_guards_the_time_since_the_last_reconcile_counts() -> None:
    known = aligned(None, BARE, ledger_in(BARE, 0), T0)
    assert taken_in(view(BARE), known).baked == minutes(1)
    assert taken_in(view(BARE, suspended=True), known).baked == minutes(0)


def test_looks_are_taken_in_the_order_of_their_windows() -> None:
    known = aligned(None, TWO, ledger_in(TWO, 0), T0)
    looks = [look(name, T0 + i * INTERVAL, **GOOD) for name in ("hits", "errors") for i in range(2)]
    for order in (looks, looks[::-1]):
        progress = taken_in(view(TWO), known, order)
        assert [progress.of(name).looked_until for name in ("errors", "hits")] == [T0 + minutes(1)] * 2
        assert progress.baked == minutes(1)


def test_after_the_clock_was_put_back_nothing_that_was_measured_is_lost() -> None:
    looks = [look("errors", T0 + i * INTERVAL, **GOOD) for i in range(6)]
    known = taken_in(view(now=T0 + minutes(3)), aligned(None, PLAN, ledger_in(PLAN, 0), T0), looks)
    back = taken_in(view(), known)
    assert (known.baked, back.baked, back.baked_until) == (minutes(3), minutes(3), T0 + minutes(1))
    assert back.of("errors") == known.of("errors"), "its windows had data, and are not looked at again"
    assert taken_in(view(now=T0 + minutes(3)), back, looks).baked == minutes(3)


def test_a_stage_without_flags_is_no_raise_whatever_the_next_one_writes() -> None:
    of = plan(stage("ten", ("bell", 10)), stage("soak"), stage("all", ("bell", 100)))
    known = aligned(None, of, ledger_in(of, 0), T0)
    soaks = aligned(known, of, ledger_in(of, 1, entered_at=T0 + minutes(1)), T0 + minutes(1))
    assert soaks.stage_from == T0 + minutes(1)
    assert soaks.evidence == known.evidence
    raised = aligned(known, of, ledger_in(of, 2, entered_at=T0 + minutes(1)), T0 + minutes(1))
    assert raised.evidence["errors>1%"].raises == known.evidence["errors>1%"].raises + 1


def test_what_an_edited_query_has_measured_is_its_own() -> None:
    known = taken_in(view(), aligned(None, PLAN, ledger_in(PLAN, 0), T0), [look("errors", T0, **GOOD)])
    edited = replace(PLAN, metrics={"errors": ratio(key="another query")})
    keyed = replace(known, metrics={"errors": replace(known.of("errors"), key="a query")})
    assert aligned(keyed, edited, ledger_in(PLAN, 0), T0).of("errors") == MetricProgress(key="another query")


def test_a_lift_is_taken_in_before_the_looks_that_follow_it() -> None:
    known = taken_in(view(), aligned(None, PLAN, ledger_in(PLAN, 0), T0), [look("errors", T0, **BAD)])
    assert known.evidence["errors>1%"].holds
    lifted = view(ledger={"people": People(lifted=Lift(T0 + minutes(1), ("errors>1%",)))})
    assert not taken_in(lifted, known).evidence["errors>1%"].holds
    assert taken_in(lifted, known, [look("errors", T0 + INTERVAL, **BAD)]).evidence["errors>1%"].holds
