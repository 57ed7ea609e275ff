"""The reconciler over in-memory stand-ins, in virtual time: what it does, in what order, and what it survives.

| subject | cases |
|---|---|
| lives | healthy to the end; a regression; an outage of the metrics; low traffic |
| crashes | a new process at any point, an answer that was lost |
| the store | down, fenced, drifted, a conflict, rows that cannot be read |
| people | edits, suspend, changes by hand, completed and grown |
| telling | statuses and Events once, across restarts; lost writes; an API server that is away |
| deletion | each onDelete, abandon, the finalizer, a store that is gone, a rollout that never began |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import raises
from feature_rollout.core.looks import Window
from feature_rollout.core.people import RollBackTo
from feature_rollout.core.plan import Action, ActionType, OnDelete, OnDrift, Severity
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Fenced, Lowering, Problem, Unconfirmed, Why
from feature_rollout.reconcile import POLL_COMPLETED, RETRY, Reconciler
from support.fakes import (
    BAKE,
    INTERVAL,
    KEY,
    OFF,
    T0,
    World,
    above,
    exposure,
    gauge,
    minutes,
    plan,
    ratio,
    row,
    seconds,
    stage,
)

PLAN = plan()
GOOD: dict[str, Any] = {"events": 0.0, "units": 200.0}
BAD: dict[str, Any] = {"events": 40.0, "units": 200.0}
UNREACHABLE = Problem("StoreUnreachable", "the database server does not answer", stalled=False)
CONFLICT = Problem("Conflict", "owned by another rollout: bell")


def harm(start: timedelta, end: timedelta = timedelta(days=9)) -> Callable[[str, Window], dict[str, Any]]:
    return lambda _, window: BAD if T0 + start <= window.start < T0 + end else GOOD


async def until_stage(world: World, index: int) -> None:
    await world.run(timedelta(hours=2), until=lambda: KEY in world.store.ledgers and world.ledger.stage >= index)
    await world.step()


# Lives.


async def test_an_answer_past_a_limit_comes_before_those_of_healthy_rollouts() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(3))
    await until_stage(world, 0)
    await world.run(minutes(1))
    assert (world.urgent, world.ledger.latch) == (0, None)
    await world.run(minutes(10), until=lambda: world.ledger.latch is not None)
    assert world.urgent > 0


async def test_a_clock_that_was_fast_for_a_while_blinds_no_guard() -> None:
    """Nothing is measured of windows that are still to come; when the clock is right again, they are looked at."""
    world = World(PLAN)
    true = T0

    def answer(_: str, window: Window) -> dict[str, Any]:
        return GOOD if window.end <= true else {}

    world.source.answer = answer
    await until_stage(world, 0)
    world.clock.time += timedelta(hours=1)
    await world.step()
    await world.step()
    assert world.ledger.stage == 0, "an hour has not gone by"
    world.clock.time -= timedelta(hours=1)
    world.source.answer = harm(timedelta(0))
    await world.run(minutes(10), until=lambda: world.ledger.latch is not None)
    assert world.ledger.latch is not None


@pytest.mark.parametrize("harmed", [True, False])
async def test_a_stage_that_began_by_a_fast_clock_is_guarded_at_once_and_bakes_later(harmed: bool) -> None:
    """What comes before the time of the raise may be from before the raise: it proves nothing for it."""
    world = World(PLAN)
    world.clock.time += timedelta(hours=1)
    await until_stage(world, 0)
    began = world.clock.time
    world.clock.time -= timedelta(hours=1)
    world.restart()
    if harmed:
        world.source.answer = harm(timedelta(0))
        await world.run(minutes(10), until=lambda: world.ledger.latch is not None)
        assert world.ledger.latch is not None
    else:
        await until_stage(world, 1)
        assert BAKE <= world.clock.time - began <= BAKE + 2 * INTERVAL


async def test_a_healthy_rollout_walks_to_the_end() -> None:
    world = World(PLAN)
    await world.run(timedelta(hours=1))
    assert [after.percentage for _, _, _, after in world.store.audit] == [10, 50, 100]
    assert world.reasons == ["StageEntered", "StageEntered", "StageEntered", "Completed"]
    assert world.status["phase"] == "Completed"
    assert world.condition("Ready") == "True"
    assert world.ledger.completed_at is not None
    assert world.ledger.completed_at - T0 <= minutes(17), "three bakes of 5 m, and two intervals each"
    assert [h["action"] for h in world.status["history"]] == ["Advance", "Advance", "Advance", "Complete"]
    assert world.store.calls.count("open") == 1


async def test_a_completed_rollout_is_left_in_peace() -> None:
    world = World(PLAN)
    await world.run(timedelta(hours=1))
    asked, written = len(world.source.asked), len(world.objects.statuses)
    await world.run(timedelta(hours=3))
    assert (len(world.source.asked), len(world.objects.statuses)) == (asked, written)
    assert await world.step() == POLL_COMPLETED


async def test_a_regression_is_taken_back_and_stays_so() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7))
    await world.run(timedelta(hours=1))
    assert world.store.audit[-1][0] == "FlagsDisabled"
    assert world.store.rows["bell"].is_off
    assert world.reasons == ["StageEntered", "StageEntered", "FlagsDisabled"]
    assert world.telemetry.reverts == [("High", 30.0)]
    assert (world.status["phase"], world.condition("RolledBack"), world.condition("Stalled")) == (
        "RolledBack",
        "True",
        "True",
    )
    assert world.status["rollback"]["respondedIn"] == "30.000s"


async def test_a_metric_outage_neither_reverts_nor_advances() -> None:
    world = World(PLAN)
    world.source.answer = lambda _, window: GOOD if window.start < T0 + minutes(2) else {"error": "timeout"}
    await world.run(timedelta(hours=1))
    assert (world.ledger.stage, world.ledger.latch) == (0, None)
    assert (world.status["phase"], world.condition("GuardsHealthy"), world.condition("Ready")) == (
        "Held",
        "False",
        "False",
    )
    assert len(world.objects.statuses) <= 3
    world.source.answer = harm(timedelta(days=2))
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "Completed"


async def test_a_source_that_is_down_from_the_start_lets_nothing_begin() -> None:
    world = World(PLAN)
    world.source.answer = lambda *_: {"error": "connection refused"}
    await world.run(timedelta(hours=1))
    assert (world.ledger.stage, world.store.audit) == (-1, [])
    assert world.status["phase"] == "Held"


async def test_a_source_that_hangs_is_blind_and_delays_nobody() -> None:
    world = World(plan(rows=[row(Severity.HIGH, above(), above("slow"))], metrics=[ratio(), ratio("slow")]))
    await until_stage(world, 0)
    hangs = world.source.answer
    look = world.source.look

    async def partly(metric: str, window: Window) -> Any:
        world.source.hanging = metric == "slow"
        return await look(metric, window)

    world.source.look = partly  # type: ignore[method-assign]
    await world.run(minutes(10))
    assert world.status["phase"] == "Held"
    assert world.ledger.stage == 0
    world.source.answer = lambda metric, window: BAD if metric == "errors" else hangs(metric, window)
    await world.run(minutes(2))
    assert world.status["phase"] == "RolledBack"
    world.reconciler.forget(world.uid)


async def test_a_source_that_raises_is_an_error_without_its_text() -> None:
    world = World(PLAN)

    def broken(*_: object) -> dict[str, Any]:
        raise ValueError("password=hunter2")

    world.source.answer = broken
    await world.run(minutes(5))
    assert world.status["phase"] == "Held"
    assert "ValueError" in str(world.status)
    assert "hunter2" not in str(world.objects.statuses)


async def test_no_traffic_waits() -> None:
    world = World(PLAN)
    world.source.answer = lambda *_: {"events": 0.0, "units": 0.0}
    await world.run(timedelta(hours=1))
    assert (world.ledger.stage, world.status["phase"]) == (0, "Held")


async def test_data_in_every_second_window_is_no_news() -> None:
    """Healthy time counts where there was data, so a bake takes twice as long; only stages are news."""
    world = World(PLAN)
    nothing: dict[str, Any] = {"events": 0.0, "units": 0.0}

    def every_second(_: str, window: Window) -> dict[str, Any]:
        return GOOD if (window.start - T0) // (window.end - window.start) % 2 else nothing

    world.source.answer = every_second
    await world.run(minutes(20))
    assert world.status["phase"] != "Completed"
    await world.run(minutes(20))
    assert world.status["phase"] == "Completed"
    # Before there was any data at all.
    assert world.reasons.count("NoTraffic") == 1
    # The first looks, and at most three for each of the three stages: it began, it waits for data, it ended.
    assert len(world.objects.statuses) <= 11


async def test_without_guards_time_alone_bakes() -> None:
    world = World(plan(rows=(), metrics=()))
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "Completed"
    assert world.ledger.completed_at is not None
    assert minutes(15) <= world.ledger.completed_at - T0 <= minutes(16)


async def test_a_gauge_walks_too() -> None:
    world = World(plan(rows=[row(Severity.HIGH, above("latency", "2"))], metrics=[gauge()]))
    world.source.answer = lambda *_: {"value": 1.0}
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "Completed"


# Crashes.


@settings(derandomize=True, deadline=None, database=None, max_examples=8)
@given(st.lists(st.integers(0, 60), max_size=6), st.booleans())
async def test_a_new_process_at_any_point_goes_on(crashes: list[int], is_harmed: bool) -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7)) if is_harmed else harm(timedelta(days=9))
    for step in range(61):
        if step in crashes:
            world.restart()
        await world.run(seconds(30))
    audited = [after.percentage for reason, _, _, after in world.store.audit if reason == "StageEntered"]
    assert audited == ([10, 50] if is_harmed else [10, 50, 100])
    assert world.status["phase"] == ("RolledBack" if is_harmed else "Completed")
    assert world.reasons.count("StageEntered") == len(audited)
    assert world.ledger.baked <= minutes(5.5)


async def test_a_restart_writes_nothing_when_nothing_changed() -> None:
    world = World(PLAN)
    await until_stage(world, 1)
    await world.run(minutes(1))
    written, told = len(world.objects.statuses), len(world.objects.events)
    world.restart()
    await world.run(minutes(1))
    assert (len(world.objects.statuses), len(world.objects.events)) == (written, told)


async def test_a_restart_neither_resets_nor_shortens_the_bake() -> None:
    world = World(PLAN)
    for _ in range(20):
        await world.run(seconds(45))
        world.restart()
    assert world.ledger.stage == 2
    assert world.ledger.entered_at is not None
    assert world.ledger.entered_at - T0 >= minutes(10)


class Crash(Exception):
    pass


@pytest.mark.parametrize("call", ["commit", "lower"])
async def test_a_crash_between_the_commit_and_its_answer_does_nothing_twice(call: str) -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7))

    def crash(name: str) -> None:
        if name == call:
            world.store.after = lambda _: None
            raise Crash

    world.store.after = crash
    with pytest.raises(Crash):
        await world.run(timedelta(hours=1))
    world.restart()
    await world.run(timedelta(hours=1))
    assert [reason for reason, *_ in world.store.audit] == ["StageEntered", "StageEntered", "FlagsDisabled"]
    assert world.status["phase"] == "RolledBack"


# The store.


@pytest.mark.parametrize("problem", [UNREACHABLE, Problem("PermissionDenied", "role app may not read")])
async def test_an_outage_of_the_store_loses_neither_evidence_nor_bake(problem: Problem) -> None:
    world = World(PLAN)
    await world.run(minutes(3))
    world.store.down = problem
    await world.run(minutes(1))
    phase = "Stalled" if problem.stalled else "Pending"
    assert (world.status["phase"], world.condition("Ready")) == (phase, "False")
    assert world.reasons == ["StageEntered", problem.reason]
    world.store.checkpoints.clear()
    world.store.down = None
    await world.run(minutes(2))
    assert world.ledger.stage == 1, "three minutes, one that was caught up, and one more"
    assert world.status["phase"] == "Baking"
    assert world.store.calls.count("open") == 1


async def test_harm_during_an_outage_of_the_store_is_taken_back_with_its_return() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(3))
    await world.run(minutes(3))
    world.store.down = UNREACHABLE
    await world.run(minutes(2))
    world.store.down = None
    await world.run(seconds(5))
    assert world.store.rows["bell"].is_off


async def test_what_was_done_is_told_although_the_store_failed_right_after_it() -> None:
    world = World(PLAN)

    def fail(name: str) -> None:
        if name == "commit":
            world.store.down = UNREACHABLE

    world.store.after = fail
    await world.run(seconds(1))
    assert world.reasons == ["StoreUnreachable"]
    world.store.down = None
    world.store.after = lambda _: None
    await world.run(seconds(10))
    assert world.reasons == ["StoreUnreachable", "StageEntered"]
    assert [h["action"] for h in world.status["history"]] == ["Advance"]


UNCONFIRMED = Unconfirmed("StoreUnreachable", "the connection was lost", stalled=False)
RETOLD = {"Advance": "StageEntered", "DisableFlags": "FlagsDisabled", "Rearm": "Rearmed", "Complete": "Completed"}


def loses_answers(world: World, *, is_made: bool, of: Callable[[], bool] = lambda: True) -> list[str]:
    """From now on each change is answered by silence the first time, made or not; returns the calls that were so."""
    lost: list[str] = []

    def lose(name: str) -> None:
        if name in ("commit", "lower") and of() and len(lost) < 1:
            lost.append(name)
            raise UNCONFIRMED

    if is_made:
        world.store.after = lose
    else:
        world.store.before = lose
    return lost


@pytest.mark.parametrize("to", list(RollBackTo))
async def test_a_raise_that_lands_after_a_revert_was_decided_is_taken_back_with_it(to: RollBackTo) -> None:
    """Its COMMIT was on its way when the connection was lost, and the revert waits for the row that it has locked."""
    world = World(PLAN)
    commit, lower, late = world.store.commit, world.store.lower, []

    async def lose(change: Commit) -> Ledger:
        late.append(change)
        world.store.commit = commit  # type: ignore[method-assign]
        raise UNCONFIRMED

    async def land_before(change: Lowering) -> Ledger:
        if late:
            await commit(late.pop())
        return await lower(change)

    world.store.commit, world.store.lower = lose, land_before  # type: ignore[method-assign]
    await world.run(minutes(1), until=lambda: bool(late))
    world.asks("RollBack", to=to)
    await world.run(minutes(1))
    assert not late
    assert world.ledger.latch is not None
    assert world.ledger.stage == 0
    assert world.store.rows["bell"].is_off


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("verb", list(RETOLD))
async def test_a_change_whose_answer_was_lost_is_told_as_if_it_had_been_answered(verb: str, is_made: bool) -> None:
    world = World(PLAN)
    if verb in ("DisableFlags", "Rearm"):
        world.source.answer = harm(minutes(7), minutes(12))
    if verb != "Advance":
        await world.run({"DisableFlags": minutes(6.5), "Rearm": minutes(20), "Complete": minutes(14)}[verb])
    if verb == "Rearm":
        world.edit(plan(stage("ten", ("bell", 10)), stage("all", ("bell", 100))))
    told = len(world.reasons)
    lost = loses_answers(world, is_made=is_made)
    await world.run(minutes(4))
    assert len(lost) == 1
    assert [r for r in world.reasons[told:] if r in RETOLD.values()][:1] == [RETOLD[verb]]
    assert world.reasons[told:].count(RETOLD[verb]) == 1
    assert [h["action"] for h in world.status["history"]].count(verb) == world.reasons.count(RETOLD[verb])
    if verb == "DisableFlags":
        assert [severity for severity, _ in world.telemetry.reverts] == ["High"]
    changes = [(before, after) for _, _, before, after in world.store.audit]
    assert all(change != last for last, change in pairwise(changes)), "nothing was done twice"


async def test_a_revert_whose_answer_was_lost_is_made_whole_also_when_its_metric_recovers() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7))
    lost = loses_answers(world, is_made=False, of=lambda: world.store.calls[-1] == "lower")
    await world.run(timedelta(hours=1), until=lambda: bool(lost))
    # What was measured is gone, as after a restart of everything but what this process knows.
    session = world.reconciler._sessions["uid-1"]
    session.progress = None
    world.store.checkpoints.clear()
    world.source.answer = harm(timedelta(days=2))
    await world.run(seconds(10))
    assert world.store.rows["bell"].is_off
    assert world.ledger.latch is not None


@pytest.mark.parametrize("reason", ["RevertBlocked", "AuditDelayed"])
async def test_a_revert_that_is_not_whole_is_shown_and_tried_until_it_is(reason: str) -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7))
    blocked = Problem(reason, "there is more to do", stalled=False)

    def block(name: str) -> None:
        if name == "lower":
            raise blocked

    world.store.before = block
    await world.run(timedelta(hours=1), until=lambda: world.store.calls.count("lower") > 3)
    assert not world.store.rows["bell"].is_off
    assert {c["reason"] for c in world.status["conditions"] if c["type"] == "Ready"} == {reason}
    world.store.before = lambda _: None
    await world.run(seconds(10))
    assert world.store.rows["bell"].is_off
    assert world.reasons[-1] == "FlagsDisabled"


async def test_a_revert_that_is_made_in_parts_is_told_and_counted_once_it_is_whole() -> None:
    world = World(plan(stage("ten", ("bell", 10), ("grouping", 10))))
    await until_stage(world, 0)
    world.store.database.locked.add("bell")
    world.source.answer = lambda _metric, _window: BAD
    await world.run(minutes(9), until=lambda: world.condition("Ready") == "False")
    assert world.store.rows["grouping"].is_off
    assert not world.store.rows["bell"].is_off
    assert world.ledger.latch is not None
    await world.run(minutes(1))
    world.store.database.locked.clear()
    await world.run(minutes(1))
    assert world.store.rows["bell"].is_off
    assert world.reasons[-1] == "FlagsDisabled"
    assert len(world.telemetry.reverts) == 1


def failover(world: World) -> Callable[[], None]:
    """Remember the database; what is returned makes it so again, as a failover does that loses commits."""
    store = world.store
    kept = store.database.begin()

    def fail_over() -> None:
        store.database.rollback(kept)

    return fail_over


async def test_a_revert_that_a_failover_lost_is_made_again() -> None:
    world = World(PLAN)
    await until_stage(world, 1)
    fail_over = failover(world)
    world.source.answer = harm(minutes(7))
    await world.run(timedelta(hours=1), until=lambda: world.ledger.latch is not None)
    latch = world.ledger.latch
    await world.run(minutes(1))
    fail_over()
    world.source.answer = harm(timedelta(days=2))
    await world.run(seconds(6))
    assert world.store.rows["bell"].is_off
    assert world.ledger.latch == latch
    assert world.reasons[-1] == "RevertRestored"
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "RolledBack"
    assert world.reasons.count("RevertRestored") == 1


async def test_a_lost_revert_is_made_again_before_anything_is_raised_also_when_the_raise_was_lost_too() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    fail_over = failover(world)
    world.source.answer = harm(minutes(7))
    await world.run(timedelta(hours=1), until=lambda: world.ledger.latch is not None)
    await world.run(seconds(10))
    fail_over()
    await world.run(timedelta(hours=1))
    assert world.store.rows["bell"].is_off
    assert [reason for reason, *_ in world.store.audit] == ["StageEntered", "RevertRestored"]


async def test_a_raise_that_a_failover_lost_is_not_assumed() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    fail_over = failover(world)
    await until_stage(world, 1)
    fail_over()
    await world.step()
    assert (world.status["stage"]["name"], world.store.rows["bell"].percentage) == ("ten", 10)
    entered = world.clock.time
    await until_stage(world, 1)
    assert world.clock.time - entered <= BAKE, "what was baked in the stage counts, nothing of the lost one does"
    assert not world.telemetry.violations


async def test_a_latch_that_another_plan_cleared_is_not_written_again() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(2), minutes(5))
    await world.run(minutes(20))
    world.edit(plan(stage("ten", ("bell", 10)), stage("all", ("bell", 100))))
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "Completed"
    assert "RevertRestored" not in world.reasons


async def test_a_store_that_stays_away_for_minutes_needs_a_person_and_heals_all_the_same() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.store.down = UNREACHABLE
    await world.run(minutes(4))
    assert world.condition("Stalled") == "False"
    await world.run(minutes(2))
    assert world.condition("Stalled") == "True"
    world.store.down = None
    await world.run(minutes(1))
    assert world.condition("Stalled") == "False"


async def test_a_ledger_row_that_another_process_took_is_opened_again_after_a_pause() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.store.ledgers[KEY] = replace(world.ledger, epoch=7)
    assert await world.step() == RETRY
    await world.run(minutes(5))
    assert (world.ledger.epoch, world.ledger.stage) == (8, 1)


async def test_nothing_is_raised_under_somebody_elses_epoch() -> None:
    world = World(PLAN)
    await world.run(minutes(4.5))
    other = Reconciler(world.objects, world.clock, world.telemetry, lambda *_: None)
    mine, world.reconciler = world.reconciler, other
    await world.step()
    world.reconciler = mine
    world.store.before = _never_commits
    assert await world.step() == RETRY


def _never_commits(name: str) -> None:
    assert name != "commit"


async def test_a_fence_at_the_commit_is_no_loop() -> None:
    world = World(PLAN)

    def fenced(name: str) -> None:
        if name == "commit":
            raise Fenced

    world.store.before = fenced
    await world.run(seconds(20))
    assert world.store.calls.count("commit") <= 13
    assert world.store.audit == []


async def test_a_row_that_changes_between_reading_and_writing_is_seen() -> None:
    world = World(PLAN)

    def meddle(name: str) -> None:
        if name == "commit":
            world.store.before = lambda _: None
            world.store.rows["bell"] = exposure(3)

    world.store.before = meddle
    await world.run(minutes(1))
    assert world.ledger.baseline == {"bell": exposure(3)}
    assert world.ledger.stage == 0


async def test_a_row_that_somebody_changed_pauses_until_it_is_put_back() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(77)
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.ledger.stage) == ("Paused", 0)
    assert world.store.rows["bell"] == exposure(77)
    baked = world.ledger.baked
    assert baked <= minutes(1.5), "no bake while paused"
    world.store.rows["bell"] = exposure(10)
    await world.run(minutes(5))
    assert world.ledger.stage == 1


async def test_what_somebody_changed_is_audited_once_and_so_is_its_return() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    for row_now in (exposure(77), exposure(10)):
        world.store.rows["bell"] = row_now
        await world.run(minutes(1))
        world.restart()
        await world.run(minutes(1))
    by_others = [(before, after) for reason, _, before, after in world.store.audit if reason == "ManualChange"]
    assert by_others == [(exposure(10), exposure(77)), (exposure(77), exposure(10))]


async def test_a_row_that_was_put_back_while_nobody_looked_is_audited_before_it_is_lowered() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(77)
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(10)
    world.restart()
    world.asks("RollBack")
    await world.run(minutes(1))
    assert [(before, after) for _, _, before, after in world.store.audit[-3:]] == [
        (exposure(10), exposure(77)),
        (exposure(77), exposure(10)),
        (exposure(10), world.store.rows["bell"]),
    ]


async def test_an_audit_that_cannot_be_written_holds_nothing_up_and_follows() -> None:
    world = World(PLAN)
    await world.run(minutes(1))

    def refuse(name: str) -> None:
        if name == "observe":
            raise Problem("LockTimeout", "a row stayed locked", stalled=False)

    world.store.before = refuse
    world.store.rows["bell"] = exposure(77)
    await world.run(minutes(1))
    assert world.status["phase"] == "Paused"
    world.store.before = lambda _: None
    await world.run(minutes(1))
    assert world.store.audit[-1] == ("ManualChange", "bell", exposure(10), exposure(77))


async def test_reported_a_change_is_told_once_and_the_rollout_goes_on() -> None:
    world = World(PLAN)
    world.target_changes["on_drift"] = OnDrift.REPORT
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(77)
    await world.run(minutes(2))
    assert (world.condition("FlagsInSync"), world.condition("Ready"), world.status["phase"]) == (
        "False",
        "False",
        "Baking",
    )
    assert world.reasons == ["StageEntered", "ManualChange"]
    assert world.objects.events[-1][0] == "Warning"
    assert "onDrift is Report" in world.objects.events[-1][2]
    await world.run(minutes(5))
    assert (world.ledger.stage, world.store.rows["bell"]) == (1, exposure(50))
    assert (world.condition("FlagsInSync"), world.condition("Ready")) == ("True", "True")
    assert world.store.audit[-2:] == [
        ("ManualChange", "bell", exposure(10), exposure(77)),
        ("StageEntered", "bell", exposure(77), exposure(50)),
    ]


async def test_a_flag_that_was_switched_off_by_hand_stays_theirs_over_a_revert_and_another_plan() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(10, enabled=False)
    world.source.answer = harm(minutes(1))
    await world.run(minutes(2))
    assert world.status["phase"] == "RolledBack"
    world.source.answer = harm(timedelta(days=1))
    world.edit(plan(*PLAN.stages[:2], stage("most", ("bell", 90))))
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.status["attempt"]) == ("Paused", 2)
    assert world.store.rows["bell"] == exposure(10, enabled=False)


async def test_a_row_that_somebody_changed_is_still_lowered() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.store.rows["bell"] = exposure(100)
    world.source.answer = harm(minutes(1))
    await world.run(minutes(2))
    assert world.store.rows["bell"].is_off
    assert world.status["phase"] == "RolledBack"


async def test_a_table_that_is_locked_for_readers_too_does_not_keep_it_from_lowering() -> None:
    """As it is while a change of the table waits for somebody: a lowering may interrupt it, a look at the rows not."""
    world = World(PLAN)
    await until_stage(world, 0)

    def locked(name: str) -> None:
        if name == "read flags" and not world.store.rows["bell"].is_off:
            raise Problem("LockTimeout", "a row or table stayed locked by another session", stalled=False)

    world.store.before = locked
    await world.run(minutes(1))
    assert world.ledger.stage == 0
    world.source.answer = harm(minutes(1))
    await world.run(minutes(3))
    assert world.store.rows["bell"].is_off
    assert world.status["phase"] == "RolledBack"


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        pytest.param("open", CONFLICT, id="a flag that an edit added is somebody else's"),
        pytest.param("read flags", Problem("FlagRowInvalid", "flag bell: column is NULL"), id="a row means nothing"),
    ],
)
async def test_what_keeps_it_from_going_on_does_not_keep_it_from_lowering(call: str, problem: Problem) -> None:
    world = World(PLAN)
    await until_stage(world, 0)

    def fail(name: str) -> None:
        if name == call:
            raise problem

    world.edit(plan(*PLAN.stages, stage("menu", ("menu", 10))))
    world.store.before = fail
    await world.run(minutes(10))
    assert (world.ledger.stage, world.status["phase"]) == (0, "Stalled")
    assert world.condition("Stalled") == "True"
    world.source.answer = lambda *_: BAD
    await world.run(minutes(2))
    assert world.store.rows["bell"].is_off


async def test_a_ledger_row_of_somebody_else_is_not_touched() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.create("uid-2")
    world.restart()
    world.source.answer = lambda *_: BAD

    def fail(name: str) -> None:
        if name == "open":
            raise Problem("AdoptionRequired", "a rollout of the same name was never ended")

    world.store.before = fail
    await world.run(minutes(5))
    assert world.status["phase"] == "Stalled"
    assert world.store.rows["bell"] == exposure(10)


async def test_flags_that_were_given_up_by_hand_are_not_lowered_any_more() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.restart()
    world.source.answer = lambda *_: BAD

    def fail(name: str) -> None:
        if name == "open":
            raise Problem("Released", "its flags were released")

    world.store.before = fail
    await world.run(minutes(5))
    assert world.store.rows["bell"] == exposure(10)
    assert world.status["phase"] == "Stalled"


async def test_progress_that_cannot_be_read_is_begun_anew() -> None:
    world = World(PLAN)
    await world.run(minutes(2))
    world.store.checkpoints[KEY] = (1, '{"stageFrom": 3}')
    world.restart()
    await world.run(minutes(4))
    assert world.ledger.stage == 1


async def test_an_outage_of_the_store_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    world.clock.time += minutes(1)
    await world.step()
    await world.step()
    world.store.down = UNREACHABLE
    for _ in range(5):
        await world.reconciler.checkpoint()
    world.store.down = None
    await world.reconciler.checkpoint()
    said = [r.message for r in caplog.records if r.message.startswith("progress")]
    assert said == [f"progress is not stored: {UNREACHABLE}", "progress is stored again"]


async def test_what_a_deleted_rollout_has_measured_is_not_stored() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    await world.reconciler.checkpoint()
    world.clock.time += minutes(1)
    await world.step()
    await world.step()
    before = dict(world.store.checkpoints)
    world.store.down = UNREACHABLE
    world.delete()
    await world.step()
    world.store.down = None
    await world.reconciler.checkpoint()
    assert world.store.checkpoints == before


async def test_a_checkpoint_that_fails_is_made_again() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    await world.reconciler.checkpoint()
    world.clock.time += minutes(1)
    await world.step()
    await world.step()
    world.store.down = UNREACHABLE
    await world.reconciler.checkpoint()
    world.store.down = None
    before = world.ledger.baked
    await world.reconciler.checkpoint()
    assert world.ledger.baked > before


# People.


async def test_suspended_nothing_is_raised_and_harm_is_taken_back() -> None:
    world = World(PLAN)
    await world.run(minutes(2))
    world.edit(PLAN, suspended=True)
    await world.run(timedelta(hours=1))
    assert (world.ledger.stage, world.status["phase"]) == (0, "Paused")
    assert world.ledger.baked <= minutes(2)
    world.source.answer = harm(timedelta(hours=1))
    await world.run(minutes(5))
    assert world.status["phase"] == "RolledBack"


async def test_an_edit_of_what_was_entered_holds_and_of_what_comes_goes_on() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.edit(plan(stage("ten", ("bell", 12)), *PLAN.stages[1:]))
    await world.run(minutes(10))
    assert (world.ledger.stage, world.condition("Stalled"), world.reasons[-1]) == (0, "True", "PlanChanged")
    world.edit(plan(PLAN.stages[0], stage("third", ("bell", 33)), PLAN.stages[2]))
    await world.run(minutes(30))
    assert [after.percentage for _, _, _, after in world.store.audit] == [10, 33, 100]


async def test_another_plan_begins_a_new_attempt_after_a_revert() -> None:
    world = World(PLAN)
    world.source.answer = harm(minutes(7), minutes(9))
    await world.run(minutes(20))
    assert world.ledger.latch is not None
    world.edit(plan(PLAN.stages[0], stage("quarter", ("bell", 25)), PLAN.stages[2]))
    await world.run(timedelta(hours=1))
    assert (world.ledger.attempt, world.ledger.latch, world.status["phase"]) == (2, None, "Completed")
    assert world.reasons[3:] == ["Rearmed", "StageEntered", "StageEntered", "StageEntered", "Completed"]


async def test_a_plan_that_has_grown_since_it_was_completed_goes_on() -> None:
    world = World(PLAN, bell=OFF, menu=OFF)
    await world.run(timedelta(hours=1))
    world.edit(plan(*PLAN.stages, stage("menu", ("menu", 10))))
    await world.run(timedelta(hours=1))
    assert world.store.rows["menu"] == exposure(10)
    assert (world.status["phase"], world.ledger.stage) == ("Completed", 3)


async def test_a_broken_manifest_holds_and_the_last_good_plan_guards() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.edit(None, trouble=Trouble("InvalidPlan", "the matrix was removed"), source=None)
    await world.run(minutes(10))
    assert (world.ledger.stage, world.status["phase"]) == (0, "Stalled")
    world.source.answer = lambda *_: BAD
    await world.run(minutes(2))
    assert world.status["phase"] == "Stalled"
    assert world.condition("RolledBack") == "True"
    assert world.store.rows["bell"].is_off


async def test_others_are_told_of_what_holds_it_and_of_the_end_of_that() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    assert world.store.told == []
    source = world.source
    world.edit(None, trouble=Trouble("InvalidPlan", "the matrix was removed"), source=None)
    await world.run(minutes(10))
    world.restart()
    await world.run(minutes(1))
    assert world.store.told == [("Hold", "InvalidPlan")], "once, also by the next process"
    world.edit(PLAN, trouble=None, source=source)
    await world.run(minutes(1))
    assert [verb for verb, _ in world.store.told] == ["Hold", "Recover"]


async def test_who_cannot_be_told_now_is_told_before_the_status_says_so() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    failures = [Problem("StoreBusy", "all connections are busy", stalled=False)] * 3

    def fail(call: str) -> None:
        if call == "tell" and failures:
            raise failures.pop()

    world.store.before = fail
    world.store.rows["bell"] = exposure(77)
    await world.run(minutes(1))
    assert (world.status["phase"], world.store.told) == ("Paused", [("Hold", "ManualChange")])
    # What does not heal by itself keeps no status from being written.
    failures = [Problem("DiskFull", "no room")] * 100
    world.store.rows["bell"] = exposure(10)
    world.edit(None, trouble=Trouble("InvalidPlan", "the matrix was removed"), source=None)
    await world.run(minutes(1))
    assert (world.status["phase"], len(world.store.told)) == ("Stalled", 1)


async def test_a_trouble_that_others_cannot_be_told_of_now_is_told_while_it_lasts() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    failures = [Problem("StoreBusy", "all connections are busy", stalled=False)] * 3

    def fail(call: str) -> None:
        if call == "tell" and failures:
            raise failures.pop()

    world.store.before = fail
    world.edit(None, trouble=Trouble("InvalidPlan", "the matrix was removed"), source=None)
    await world.run(minutes(1))
    assert (world.store.told, failures) == ([("Hold", "InvalidPlan")], [])


async def test_a_database_that_hangs_keeps_no_status_from_saying_what_is_wrong() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    hanging = asyncio.Event()

    def fail(call: str) -> None:
        raise Problem("StoreUnreachable", "the server does not answer", stalled=False)

    async def hang(key: str, why: Why) -> None:
        hanging.set()
        await asyncio.Event().wait()

    world.store.before, world.store.tell = fail, hang  # type: ignore[method-assign]
    world.delete()
    step = asyncio.create_task(world.step())
    async with asyncio.timeout(5):
        await hanging.wait()
    assert (world.status["phase"], world.reasons[-1]) == ("Stalled", "StoreUnreachable")
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)


async def test_what_is_mended_while_the_database_is_away_is_told_when_it_is_back() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    source, away = world.source, False

    def fail(call: str) -> None:
        if away:
            raise Problem("StoreUnreachable", "the server does not answer", stalled=False)

    world.store.before = fail
    world.edit(None, trouble=Trouble("InvalidPlan", "the matrix was removed"), source=None)
    await world.run(minutes(1))
    away = True
    world.edit(PLAN, trouble=None, source=source)
    await world.run(minutes(1))
    assert world.store.told == [("Hold", "InvalidPlan")]
    away = False
    await world.run(minutes(1))
    assert [verb for verb, _ in world.store.told] == ["Hold", "Recover"]


async def test_trouble_that_has_not_healed_for_minutes_is_told() -> None:
    """It was none of others' business before: the same reason, which nobody had to mend."""
    world = World(PLAN)
    await until_stage(world, 0)
    refused = True

    def fail(call: str) -> None:
        if call == "read" and refused:
            raise Problem("StoreBusy", "all connections are busy", stalled=False)

    world.store.before = fail
    await world.run(minutes(4))
    assert (world.condition("Stalled"), world.store.told) == ("False", [])
    await world.run(minutes(2))
    assert (world.condition("Stalled"), world.store.told) == ("True", [("Hold", "StoreBusy")])
    refused = False
    await world.run(minutes(1))
    assert [verb for verb, _ in world.store.told] == ["Hold", "Recover"]


async def test_a_flag_store_that_was_removed_does_not_stop_the_guards() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    # As the runtime finds it: without a FlagStore it does not know who answers the metrics either.
    world.edit(PLAN, store=None, source=None)
    await world.run(minutes(10))
    assert (world.ledger.stage, world.reasons[-1]) == (0, "StoreNotFound")
    world.source.answer = lambda *_: BAD
    await world.run(minutes(2))
    assert world.store.rows["bell"].is_off


async def test_a_manifest_that_never_could_be_followed_only_says_so() -> None:
    world = World(PLAN)
    world.edit(None, trouble=Trouble("InvalidPlan", "no such metric"))
    await world.run(minutes(1))
    assert (world.status["phase"], world.reasons, world.store.calls) == ("Stalled", ["InvalidPlan"], [])


async def test_the_answer_to_an_old_question_is_thrown_away() -> None:
    world = World(PLAN)
    await world.run(minutes(1))
    look = world.source.look
    world.clock.time += seconds(30)
    asked = len(world.source.asked)
    await world.reconciler.reconcile(world.target())
    world.source.answer = lambda *_: BAD
    await world.step()
    world.edit(plan(rows=[row(Severity.HIGH, above(limit="1%", key="another template"))], metrics=[ratio()]))
    world.source.answer = lambda *_: GOOD
    await world.step()
    await world.step()
    assert world.ledger.latch is None
    assert look is not None
    windows = [window for _, window in world.source.asked[asked:]]
    assert len(windows) == 2
    assert windows[0] == windows[1], "it is asked again"


async def test_nothing_is_raised_on_a_manifest_that_has_changed_meanwhile() -> None:
    world = World(PLAN)
    stale = world.target()
    await world.step()
    world.edit(PLAN)
    assert await world.reconciler.reconcile(stale) == RETRY
    assert world.store.audit == []
    await world.run(seconds(1))
    assert world.ledger.stage == 0


async def test_a_decision_that_would_break_an_invariant_is_not_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def mad(view: View) -> Decision:
        return Decision(
            Verb.ADVANCE,
            Phase.BAKING,
            "StageEntered",
            "mad",
            ledger=replace(view.ledger, stage=view.ledger.stage + 2),
            before={"bell": OFF},
            after={"bell": exposure(100)},
        )

    monkeypatch.setattr("feature_rollout.reconcile.loop.decide", mad)
    world = World(PLAN)
    await world.run(seconds(10))
    assert world.store.audit == []
    assert (world.status["phase"], world.condition("Stalled")) == ("Stalled", "True")
    assert set(world.telemetry.violations) >= {"S1", "S11"}
    assert world.reasons == ["InvariantViolated"]


# Telling.


async def test_a_problem_is_told_once_and_heals() -> None:
    world = World(PLAN)
    world.store.down = CONFLICT
    await world.run(minutes(10))
    assert (world.reasons, len(world.objects.statuses)) == (["Conflict"], 1)
    world.restart()
    await world.run(minutes(1))
    assert (world.reasons, len(world.objects.statuses)) == (["Conflict"], 1), "a restart is no news"
    world.store.down = None
    await world.run(minutes(1))
    assert (world.status["phase"], world.condition("Stalled")) == ("Baking", "False")


async def test_healthy_looks_write_no_status() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    written = len(world.objects.statuses)
    await world.run(minutes(4))
    assert len(world.telemetry.verdicts) >= 8
    assert len(world.objects.statuses) == written


async def test_a_status_that_could_not_be_written_is_written_again() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    written = world.objects.statuses[-1]
    del world.rollout["status"]
    world.reconciler.status_lost(world.uid)
    world.reconciler.status_lost("nobody")
    await world.step()
    assert world.status["history"] == written["history"]
    count = len(world.objects.statuses)
    await world.step()
    assert len(world.objects.statuses) == count


async def test_an_api_server_that_is_away_stops_raising_and_not_lowering() -> None:
    world = World(PLAN)
    await world.run(minutes(4))
    world.objects.down = True
    await world.run(minutes(10))
    assert world.ledger.stage == 0
    world.source.answer = lambda *_: BAD
    await world.run(minutes(1))
    assert world.store.rows["bell"].is_off
    assert world.store.calls.count("open") == 1


async def test_a_finalizer_that_cannot_be_set_again_stops_no_guard() -> None:
    """The watch is away too: what it last said of the object is from before the finalizer was set."""
    world = World(PLAN)
    await until_stage(world, 0)
    world.rollout["metadata"]["finalizers"] = []
    world.objects.down = True
    await world.run(minutes(20))
    assert world.ledger.stage == 0
    now = world.clock.time
    world.source.answer = lambda _, window: BAD if window.start >= now else GOOD
    await world.run(minutes(5))
    assert world.store.rows["bell"].is_off


# Deletion.


@pytest.mark.parametrize(
    ("on_delete", "left"),
    [
        (OnDelete.KEEP, exposure(10, "staff")),
        (OnDelete.DISABLE, exposure(10, "staff", enabled=False)),
        (OnDelete.RESTORE, exposure(3, "staff")),
    ],
)
async def test_deletion_leaves_the_rows_as_on_delete_says(on_delete: OnDelete, left: object) -> None:
    world = World(PLAN, bell=exposure(3, "staff"))
    await until_stage(world, 0)
    world.delete()
    world.target_changes["on_delete"] = on_delete
    assert await world.step() is None
    assert world.store.rows["bell"] == left
    assert world.rollout["metadata"]["finalizers"] == []
    assert (world.store.closed, world.store.owners) == ({KEY}, {})
    assert world.reasons[-1] == "Released"
    assert await world.step() is None
    assert world.reasons.count("Released") == 1


async def test_deletion_restores_no_more_than_is_there() -> None:
    world = World(PLAN, bell=exposure(50))
    await until_stage(world, 0)
    world.delete()
    world.target_changes["on_delete"] = OnDelete.RESTORE
    await world.step()
    assert world.store.rows["bell"] == exposure(10), "the stage had lowered it; a deletion raises nothing"


async def test_a_deletion_waits_for_the_database_and_says_how_to_do_without() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.store.down = UNREACHABLE
    world.delete()
    await world.run(minutes(5))
    assert world.rollout["metadata"]["finalizers"]
    assert "featurerollout.dev/abandon" in str(world.status["conditions"])
    assert world.reasons.count("StoreUnreachable") == 1
    world.delete(**{"featurerollout.dev/abandon": "the database is gone for good"})
    await world.step()
    assert world.rollout["metadata"]["finalizers"] == []
    assert world.reasons[-1] == "Abandoned"
    assert world.store.rows["bell"] == exposure(10)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"plan": None, "trouble": Trouble("InvalidPlan", "x")}, id="its plan is broken"),
        pytest.param({"store": None}, id="its FlagStore was deleted before it"),
    ],
)
async def test_a_rollout_can_be_deleted_although(changes: dict[str, Any]) -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.delete()
    world.target_changes |= changes | {"on_delete": OnDelete.DISABLE}
    await world.step()
    assert world.store.rows["bell"].is_off
    assert world.rollout["metadata"]["finalizers"] == []


async def test_without_any_store_a_deletion_says_what_it_waits_for() -> None:
    world = World(PLAN)
    world.rollout["metadata"]["finalizers"] = ["featurerollout.dev/finalizer"]
    world.delete()
    world.target_changes["store"] = None
    assert await world.step() == RETRY
    assert world.reasons == ["StoreNotFound"]


async def test_a_rollout_that_never_began_is_let_go() -> None:
    world = World(PLAN)
    world.rollout["metadata"]["finalizers"] = ["featurerollout.dev/finalizer"]
    world.delete()
    await world.step()
    assert world.rollout["metadata"]["finalizers"] == []


async def test_a_ledger_row_of_an_older_object_is_not_released() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    world.create("uid-2")
    world.rollout["metadata"]["finalizers"] = ["featurerollout.dev/finalizer"]
    world.delete()
    await world.step()
    assert world.store.closed == set()


async def test_the_finalizer_comes_before_the_ledger_and_goes_once() -> None:
    world = World(PLAN)
    world.objects.down = True
    await world.run(seconds(10))
    assert world.store.calls == []
    world.objects.down = False
    await world.run(minutes(1))
    world.objects.down = True
    world.delete()
    await world.run(seconds(10))
    assert (world.reasons.count("Released"), world.store.calls.count("release")) == (1, 1)
    world.objects.down = False
    await world.step()
    assert world.rollout["metadata"]["finalizers"] == []


async def test_the_same_rollout_may_be_made_again() -> None:
    world = World(PLAN)
    await until_stage(world, 1)
    world.delete()
    await world.step()
    world.reconciler.forget(world.uid)
    world.reconciler.forget(world.uid)
    world.create("uid-2")
    world.store.rows["bell"] = OFF
    await world.run(seconds(5))
    assert (world.ledger.uid, world.ledger.stage) == ("uid-2", 0)


# Whatever happens.


@settings(derandomize=True, deadline=None, database=None, max_examples=15)
@given(
    st.lists(
        st.sampled_from(
            ["good", "bad", "error", "empty", "restart", "store down", "store up", "suspend", "resume", "hand", "fence"]
        ),
        max_size=25,
    )
)
async def test_whatever_happens_no_raise_follows_a_latch_and_none_is_without_its_bake(events: list[str]) -> None:
    world = World(PLAN)
    answers = {"good": GOOD, "bad": BAD, "error": {"error": "timeout"}, "empty": {"events": 0.0, "units": 0.0}}
    now = {"answer": GOOD}
    world.source.answer = lambda *_: now["answer"]
    for event in events:
        now["answer"] = answers.get(event, now["answer"])
        match event:
            case "restart":
                world.restart()
            case "store down":
                world.store.down = UNREACHABLE
            case "store up":
                world.store.down = None
            case "suspend" | "resume":
                world.edit(PLAN, suspended=event == "suspend")
            case "hand":
                world.store.rows["bell"] = OFF
            case "fence" if KEY in world.store.ledgers:
                world.store.ledgers[KEY] = replace(world.ledger, epoch=world.ledger.epoch + 3)
        await world.run(minutes(2))
    reasons = [reason for reason, *_ in world.store.audit]
    entered = [at for at, reason in enumerate(reasons) if reason == "StageEntered"]
    reverted = [at for at, reason in enumerate(reasons) if reason == "FlagsDisabled"]
    assert not reverted or max(entered, default=-1) < min(reverted)
    assert len(entered) <= 1 + (2 * len(events)) / 5
    assert world.telemetry.violations == []
    assert all(raises(before, after) for reason, _, before, after in world.store.audit if reason == "StageEntered")
    world.reconciler.forget(world.uid)


async def test_a_paused_plan_without_guards_is_not_reconciled_without_a_pause() -> None:
    world = World(plan(*PLAN.stages, rows=(), metrics=()))
    await world.run(minutes(4.99))
    world.edit(world.plan, suspended=True)
    await world.step()
    due = await world.reconciler.reconcile(world.target())
    assert due is not None
    assert due >= seconds(1)


# A revert that is known and not whole.

LIGHT = Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal(5))


def refuses_lowerings(world: World) -> None:
    def refuse(name: str) -> None:
        if name == "lower":
            raise UNREACHABLE

    world.store.before = refuse


async def test_a_graver_revert_that_takes_back_less_does_not_make_the_first_forgotten() -> None:
    of = plan(
        rows=[row(Severity.MEDIUM, above()), row(Severity.HIGH, above("slow"), action=LIGHT)],
        metrics=[ratio(), ratio("slow")],
    )
    world = World(of)
    bad: set[str] = set()
    world.source.answer = lambda metric, _: BAD if metric in bad else GOOD
    await until_stage(world, 0)
    refuses_lowerings(world)
    bad.add("errors")
    await world.run(minutes(3))
    bad.add("slow")
    await world.run(minutes(3))
    assert not world.store.rows["bell"].is_off
    world.store.before = lambda _: None
    await world.run(minutes(1))
    assert world.store.rows["bell"].is_off


async def _with_two_reverts_of_which_the_first_is_lost() -> World:
    """The graver one waits to be written, its metric has recovered; the first is not in the database any more."""
    of = plan(
        rows=[row(Severity.MEDIUM, above(), action=LIGHT), row(Severity.HIGH, above("slow"))],
        metrics=[ratio(), ratio("slow")],
    )
    world = World(of)
    bad: set[str] = set()
    world.source.answer = lambda metric, _: BAD if metric in bad else GOOD
    await until_stage(world, 0)
    fail_over = failover(world)
    bad.add("errors")
    await world.run(minutes(5), until=lambda: world.ledger.latch is not None)
    await world.run(seconds(1))
    refuses_lowerings(world)
    bad.add("slow")
    await world.run(minutes(3))
    bad.clear()
    await world.run(timedelta(hours=3))
    assert world.store.rows["bell"] == exposure(5)
    fail_over()
    world.store.before = lambda _: None
    return world


async def test_a_revert_that_is_made_again_does_not_make_one_that_waits_forgotten() -> None:
    world = await _with_two_reverts_of_which_the_first_is_lost()
    await world.run(minutes(1))
    assert world.store.rows["bell"].is_off
    assert world.store.ledgers[KEY].latch is not None


async def test_a_deletion_makes_a_revert_that_was_lost_and_one_that_waits() -> None:
    world = await _with_two_reverts_of_which_the_first_is_lost()
    world.delete()
    await world.run(minutes(1))
    assert world.store.rows["bell"].is_off
    assert world.store.ledgers[KEY].latch is not None
    assert world.reasons[-2:] == ["RevertRestored", "Released"]


async def test_a_deleted_rollout_leaves_the_latch_of_a_revert_that_was_not_whole() -> None:
    world = World(PLAN)
    await until_stage(world, 0)
    refuses_lowerings(world)
    world.source.answer = lambda *_: BAD
    await world.run(minutes(3))
    assert not world.store.rows["bell"].is_off
    world.store.before = lambda _: None
    world.delete()
    await world.run(seconds(10))
    assert world.store.rows["bell"].is_off
    assert world.store.ledgers[KEY].latch is not None
