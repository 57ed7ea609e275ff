"""The past of the metrics, asked before the first raise, in virtual time.

| subject | cases |
|---|---|
| a past | read once, frozen, kept over a restart, read again when one came in between |
| no past | an empty or young table costs two windows and no time |
| sources | failing, hanging, raising, one that a clause cannot do without |
| edits | another query has another past, of the same days |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.checks import Check
from feature_rollout.core.looks import Window
from feature_rollout.core.people import RollBackTo
from feature_rollout.core.plan import Plan, Severity
from feature_rollout.core.reference import BLOCKS
from support.fakes import KEY, T0, World, above, gauge, minutes, plan, ratio, relative, row, seconds, stage

QUERY = ratio(key="k", counts_users=False)
PLAN = plan(metrics=[QUERY])
AGAINST_PAST = plan(rows=[row(Severity.HIGH, relative())], metrics=[QUERY])
WIDE = 2
Past = Callable[[str, Window], dict[str, Any]]


def steady(_metric: str, window: Window) -> dict[str, Any]:
    """As many failures in each half hour, and 336 times that in a week."""
    halves = (window.end - window.start) / timedelta(minutes=30)
    return {"events": 12.0 * halves, "units": 10_000.0 * halves}


def young(_metric: str, window: Window) -> dict[str, Any]:
    """Much traffic with many failures, all of it in the last hour."""
    halves = max((window.end - max(window.start, T0 - minutes(60))) / timedelta(minutes=30), 0.0)
    return {"events": 900.0 * halves, "units": 10_000.0 * halves}


def made(of: Plan, past: Past) -> World:
    world = World(of)
    world.source.past = past
    return world


def stored(world: World) -> dict[str, Any]:
    return dict(json.loads(world.store.checkpoints[KEY][1])["references"])


async def until_raised(world: World) -> timedelta:
    await world.run(timedelta(hours=2), until=lambda: KEY in world.store.ledgers and world.ledger.stage >= 0)
    return world.clock.time - T0


async def test_the_past_is_read_before_the_first_raise_and_only_once() -> None:
    world = made(PLAN, steady)
    await until_raised(world)
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "Completed"
    assert world.source.histories == [("errors", WIDE), ("errors", BLOCKS)]
    reference = stored(world)["errors"]
    assert (reference["dispersion"], reference["blocks"]) == (1.0, [])


@pytest.mark.parametrize(
    "past", [lambda *_: {}, lambda *_: {"events": 0.0, "units": 9.0}, young], ids=["empty", "no failures", "young"]
)
async def test_without_enough_of_a_past_the_start_is_not_held_up(past: Past) -> None:
    world, plain = made(PLAN, past), World(plan(metrics=[ratio()]))
    assert await until_raised(world) == await until_raised(plain)
    assert world.source.histories == [("errors", WIDE)]
    await world.run(minutes(1))
    assert "fewer than 30 blocks" in stored(world)["errors"]["note"]


async def test_a_restart_does_not_ask_again_and_one_in_the_middle_does() -> None:
    world = made(PLAN, steady)
    world.source.hanging_history = True
    await world.run(seconds(3))
    assert world.source.histories == [("errors", WIDE)]
    world.reconciler.forget(world.uid)
    world.source.hanging_history = False
    world.restart()
    await until_raised(world)
    await world.run(seconds(1))
    assert world.source.histories[1:] == [("errors", WIDE), ("errors", BLOCKS)]
    world.restart()
    await world.run(timedelta(hours=1))
    assert len(world.source.histories) == 3
    assert world.status["phase"] == "Completed"


async def test_the_status_says_that_the_past_is_read() -> None:
    world = made(PLAN, steady)
    world.source.hanging_history = True
    await world.run(minutes(2))
    assert world.status["phase"] == "Preflight"
    assert (world.condition("Ready"), world.condition("Reconciling"), world.condition("Stalled")) == (
        "False",
        "True",
        "False",
    )
    assert world.status["next"]["waitingFor"] == ["the past of errors"]
    world.reconciler.forget(world.uid)


async def test_a_source_that_hangs_over_its_past_is_given_up() -> None:
    world = made(PLAN, steady)
    world.source.hanging_history = True
    assert minutes(5) <= await until_raised(world) < minutes(6)
    await world.run(minutes(1))
    assert "within 5 minutes" in stored(world)["errors"]["note"]


@pytest.mark.parametrize("with_text", [True, False])
async def test_a_source_that_fails_is_asked_again_for_a_minute(with_text: bool) -> None:
    def broken(*_: object) -> dict[str, Any]:
        if with_text:
            return {"error": "timeout after 10s"}
        raise ValueError("password=hunter2")

    world = made(PLAN, broken)
    assert minutes(1) <= await until_raised(world) < minutes(2)
    assert 5 <= len(world.source.histories) <= 20
    await world.run(minutes(1))
    assert stored(world)["errors"]["note"] == (
        "timeout after 10s" if with_text else "the metric source failed with ValueError"
    )
    assert "hunter2" not in str(world.objects.statuses)


async def test_a_clause_that_is_dropped_meanwhile_is_not_waited_for() -> None:
    rows = [row(Severity.HIGH, above(), relative("slow"))]
    both = plan(rows=rows, metrics=[QUERY, ratio("slow", key="s")])
    world = made(both, lambda metric, window: {"error": "timeout"} if metric == "slow" else steady(metric, window))
    await world.run(minutes(3))
    assert world.ledger.stage == -1
    world.plan = replace(PLAN, plan_hash="v1:dropped")
    await world.run(minutes(1))
    assert world.ledger.stage == 0


async def test_sources_that_hang_are_given_up_together() -> None:
    names = [f"m{index}" for index in range(6)]
    of = plan(rows=[row(Severity.HIGH, *map(above, names))], metrics=[ratio(name, key=name) for name in names])
    world = made(of, steady)
    world.source.hanging_history = True
    assert await until_raised(world) < minutes(6)


async def test_a_source_that_is_well_again_gives_its_past() -> None:
    world = World(PLAN)
    world.source.past = lambda metric, window: (
        steady(metric, window) if world.clock.time > T0 + seconds(20) else {"error": "timeout"}
    )
    assert await until_raised(world) < minutes(1)
    await world.run(minutes(1))
    assert stored(world)["errors"]["dispersion"] == 1.0


async def test_a_clause_that_needs_the_past_waits_for_it_as_long_as_it_takes() -> None:
    world = made(AGAINST_PAST, lambda *_: {"error": "timeout"})
    await world.run(minutes(30))
    assert world.ledger.stage == -1
    assert world.status["phase"] == "Preflight"
    assert len(world.source.histories) <= 62
    world.source.past = steady
    await world.run(minutes(1))
    assert world.ledger.stage == 0


async def test_a_clause_that_needs_a_past_that_is_not_there_is_blind() -> None:
    world = made(AGAINST_PAST, lambda *_: {})
    await world.run(minutes(10))
    assert (world.ledger.stage, world.status["phase"]) == (-1, "Held")
    assert "errors has no past to be compared with" in str(world.status["conditions"])


async def test_a_rise_against_the_past_is_taken_back() -> None:
    world = made(AGAINST_PAST, steady)
    bad, good = {"events": 2.0, "units": 200.0}, {"events": 0.0, "units": 200.0}
    world.source.answer = lambda _, window: bad if window.start >= T0 + minutes(7) else good
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "RolledBack"
    assert world.status["rollback"]["limit"].endswith("%")
    assert float(world.status["rollback"]["limit"].removesuffix("%")) == pytest.approx(0.22, abs=0.1)


async def test_a_gauge_against_the_past() -> None:
    rows = [row(Severity.HIGH, relative("latency", "50%"))]
    of = plan(stage("ten", ("bell", 10), bake=timedelta(hours=2)), rows=rows, metrics=[gauge(key="k")])
    world = made(of, lambda *_: {"value": 1.0})
    world.source.answer = lambda _, window: {"value": 2.0 if window.start >= T0 + minutes(7) else 1.1}
    await world.run(timedelta(hours=2))
    assert world.status["phase"] == "RolledBack"
    assert world.status["rollback"]["limit"] == "1.5s"


async def test_a_guard_that_would_fire_without_a_rollout_holds_the_first_raise() -> None:
    world = made(plan(rows=[row(Severity.HIGH, above(limit="0.13%"))], metrics=[QUERY]), steady)
    await world.run(minutes(10))
    assert world.ledger.stage == -1
    assert (world.status["phase"], world.condition("Stalled")) == ("Preflight", "True")
    assert "GuardTooTight" in world.reasons
    world.plan = PLAN
    await world.run(minutes(1))
    assert world.ledger.stage == 0


async def test_another_query_is_compared_with_its_own_past_of_the_same_days() -> None:
    world = made(PLAN, steady)
    asked: list[Window] = []
    history = world.source.history

    async def noted(metric: str, windows: Any) -> Any:
        asked.append(windows[0])
        return await history(metric, windows)

    world.source.history = noted  # type: ignore[method-assign]
    await until_raised(world)
    await world.run(minutes(2))
    world.plan = plan(metrics=[replace(QUERY, key="another")], plan_hash="v1:edited")
    await world.run(minutes(2))
    assert [count for _, count in world.source.histories] == [WIDE, BLOCKS, WIDE, BLOCKS]
    assert len({window.start for window in asked}) == 1
    assert stored(world)["errors"]["key"] == "another"
    assert stored(world)["errors"]["blocks"] == []


async def test_a_rollout_that_waits_for_days_is_compared_with_the_days_before_it_starts() -> None:
    world = made(PLAN, steady)
    waiting = replace(PLAN, preflight=(Check("preflight/days", "Somebody has taken days."),))
    world.plan = waiting
    await world.run(minutes(5))
    assert len(world.source.histories) == 2
    world.clock.time += timedelta(days=3)
    await world.run(minutes(5))
    assert len(world.source.histories) == 4
    world.plan = PLAN
    await world.run(timedelta(hours=2))
    assert world.status["phase"] == "Completed"
    assert len(world.source.histories) == 4, "frozen from the first raise on"


async def test_an_attempt_after_a_revert_has_the_past_of_the_first() -> None:
    world = made(PLAN, steady)
    bad, good = {"events": 40.0, "units": 200.0}, {"events": 0.0, "units": 200.0}
    world.source.answer = lambda _, window: bad if T0 + minutes(2) <= window.start < T0 + minutes(4) else good
    await world.run(minutes(20))
    assert world.status["phase"] == "RolledBack"
    world.plan = replace(PLAN, spec_hash="v1:another", plan_hash="v1:another")
    await world.run(timedelta(hours=1))
    assert world.ledger.attempt == 2
    assert len(world.source.histories) == 2
    assert world.status["phase"] == "Completed"


async def test_another_attempt_is_compared_with_the_same_past() -> None:
    """The days since the first raise were the rollout's own."""
    world = World(PLAN)
    await world.run(timedelta(hours=1), until=lambda: KEY in world.store.ledgers and bool(world.ledger.raised))
    await world.run(minutes(1))
    session = world.reconciler._sessions["uid-1"]
    assert session.progress is not None
    until = session.progress.reference_until
    assert until is not None
    await world.run(timedelta(days=3))
    world.asks("RollBack", to=RollBackTo.BASELINE)
    await world.run(minutes(1))
    world.asks("Retry")
    await world.run(minutes(2))
    assert world.ledger.attempt == 2
    again = world.reconciler._sessions["uid-1"].progress
    assert again is not None
    assert again.reference_until == until
    world.restart()
    await world.run(minutes(1))
    after = world.reconciler._sessions["uid-1"].progress
    assert after is not None
    assert after.reference_until == until
