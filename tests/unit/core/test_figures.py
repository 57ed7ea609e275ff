"""A rollout in numbers: whose word an exposure is, evidence in the terms of each test, how long nobody has watched.

| clause | evidence is | its limit |
|---|---|---|
| of a Ratio | the e-value | the threshold of the plan |
| of a Gauge with persist | how many of the last looks were past the limit | how many it takes |
| of a Gauge without | the part of the blocks that it takes | 1 |
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.decision import View
from feature_rollout.core.figures import FLAGS_MAX, blind_s, exposures, guards
from feature_rollout.core.guards import GuardState, assess
from feature_rollout.core.plan import OnNoTraffic, Persist, Plan, Severity
from feature_rollout.core.progress import Progress
from support.fakes import (
    INTERVAL,
    T0,
    above,
    exposure,
    gauge,
    ledger_in,
    look,
    plan,
    ratio,
    relative,
    row,
    seconds,
    stage,
)

GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
BAD: dict[str, Any] = {"events": 200.0, "units": 1000.0}
FAILED: dict[str, Any] = {"error": "timeout"}
ERRORS = plan()


def seen(of: Plan, *looks: dict[str, Any], **changes: Any) -> View:
    """After these looks at every metric, in the second stage."""
    progress = Progress().entered(of, T0, raised=True)
    for index, numbers in enumerate(looks):
        for name in of.metrics:
            one = look(name, T0 + index * INTERVAL, **numbers)
            progress = progress.observed(of, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    ledger, now = ledger_in(of, 1), T0 + len(looks) * INTERVAL
    return replace(View(of, ledger, dict(ledger.written), progress, assess(of, progress, now), now), **changes)


def test_exposure_by_whose_word_it_is() -> None:
    view = seen(ERRORS)
    reverted = replace(view.ledger, written={"bell": exposure(10)})
    view = replace(view, ledger=reverted, rows={"bell": exposure(5, "staff")})
    found = {(flag, str(whose)): row for flag, whose, row in exposures(view)}
    assert found == {
        ("bell", "desired"): exposure(50),
        ("bell", "applied"): exposure(10),
        ("bell", "observed"): exposure(5, "staff"),
    }


def test_before_the_first_stage_there_is_only_what_is_in_the_table() -> None:
    view = seen(ERRORS)
    view = replace(view, ledger=replace(view.ledger, stage=-1, written={}, baseline={}))
    assert [str(whose) for _, whose, _ in exposures(view)] == ["observed"]


def test_flags_are_bounded_also_when_edits_have_dropped_some() -> None:
    view = seen(ERRORS)
    many = {f"flag-{number}": exposure(1) for number in range(3 * FLAGS_MAX)}
    view = replace(view, ledger=replace(view.ledger, written=many), rows=many)
    found = {flag for flag, _, _ in exposures(view)}
    assert (len(found), "bell" in found) == (FLAGS_MAX, True)


@pytest.mark.parametrize(
    ("clause", "metric", "healthy", "bad", "limit"),
    [
        pytest.param(above(), ratio(), GOOD, BAD, 20.0, id="a ratio"),
        pytest.param(
            above("latency", "2", persist=Persist(2, 3)), gauge(), {"value": 1.0}, {"value": 3.0}, 2.0, id="persist"
        ),
        pytest.param(above("latency", "2"), gauge(), {"value": 1.0}, {"value": 3.0}, 1.0, id="blocks"),
    ],
)
def test_evidence_reaches_its_limit_just_when_the_guard_is_breached(
    clause: Any, metric: Any, healthy: dict[str, Any], bad: dict[str, Any], limit: float
) -> None:
    of = plan(rows=[row(Severity.HIGH, clause)], metrics=[metric])
    (calm,) = guards(seen(of, healthy, healthy))
    assert (calm.severity, calm.metric, calm.clause) == ("High", metric.name, str(clause))
    assert calm.evidence < calm.evidence_limit == pytest.approx(limit)
    number = 0
    while True:
        number += 1
        view = seen(of, *[bad] * number)
        (proved,) = guards(view)
        breached = view.guards[0].state is GuardState.BREACHED
        assert (proved.evidence >= proved.evidence_limit) == breached
        if breached:
            break


def test_the_limit_in_force_of_a_clause_that_is_relative_is_none_without_a_past() -> None:
    of = plan(rows=[row(Severity.HIGH, relative(), above(limit="2%"))])
    assert [guard.limit for guard in guards(seen(of, GOOD))] == [None, 0.02]


def test_what_cannot_be_judged_has_no_evidence_and_what_reads_alike_is_told_once() -> None:
    of = plan(rows=[row(Severity.HIGH, above(), above(blocker="not in effect", limit="3%"), above(key="again"))])
    assert [guard.clause for guard in guards(seen(of, GOOD))] == ["errors above 1%"]


@pytest.mark.parametrize(
    ("of", "looks", "later", "expected"),
    [
        pytest.param(ERRORS, [GOOD], seconds(0), 0.0, id="a healthy look"),
        pytest.param(
            ERRORS, [GOOD, FAILED, FAILED], seconds(5), 65.0, id="from the start of the first look that failed"
        ),
        pytest.param(ERRORS, [FAILED, GOOD], seconds(0), 0.0, id="it sees again"),
        pytest.param(ERRORS, [GOOD], seconds(99), 0.0, id="patience"),
        pytest.param(ERRORS, [GOOD], seconds(101), 101.0, id="nobody looks: from the end of the newest look"),
        pytest.param(plan(rows=[row(Severity.LOW, above(blocker="x"))]), [GOOD], seconds(0), 30.0, id="never judged"),
    ],
)
def test_blind_seconds(of: Plan, looks: list[dict[str, Any]], later: timedelta, expected: float) -> None:
    view = seen(of, *looks)
    assert blind_s(view, view.now + later) == {"errors": expected}


def test_who_has_nothing_to_watch_is_not_blind() -> None:
    view = seen(ERRORS, GOOD)
    unraised = replace(view, progress=replace(view.progress, watching=False))
    over = replace(view, ledger=replace(ledger_in(ERRORS, 2), completed_at=T0))
    for idle in (unraised, over):
        assert blind_s(idle, T0 + timedelta(days=1)) == {}
    assert guards(over) == []


def test_of_several_clauses_the_longest_blindness_counts() -> None:
    of = plan(stage("ten", ("bell", 10)), rows=[row(Severity.HIGH, above(), relative())])
    view = replace(seen(of, GOOD, GOOD), ledger=ledger_in(of, 0))
    assert blind_s(view, view.now) == {"errors": 60.0}
