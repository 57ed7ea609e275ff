"""What people do, through the reconciler, over in-memory stand-ins in virtual time.

| subject | cases |
|---|---|
| once | each RolloutAction is applied once, also over a crash on either side of the commit; told by the next process |
| people | approve, pause and resume, promote, roll back, retry, confirm, adopt |
| away | the API server, the database, the plan |
| checks | asked in the background, again and again; a late answer counts for nothing |
"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.checks import Check, CheckAnswer, preflight_key, stage_key
from feature_rollout.core.decision import Trouble
from feature_rollout.core.people import Answer, Outcome, Request, RollBackTo
from feature_rollout.core.plan import Action, ActionType, Approval, Severity
from feature_rollout.ports import Problem, Recorded
from support.fakes import KEY, T0, World, above, exposure, minutes, plan, row, seconds, stage

PLAN = plan()
APPROVED = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), approval=Approval(2)))
BACKUP, ON_CALL = Check(preflight_key("backup")), Check(preflight_key("on-call"), "Somebody is there.")
READY = Check(stage_key("half", "ready"))
CHECKED = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), checks=(READY,)), preflight=(BACKUP, ON_CALL))
BAD: dict[str, Any] = {"events": 40.0, "units": 200.0}


async def walked(world: World, index: int = 0) -> World:
    await world.run(timedelta(hours=2), until=lambda: KEY in world.store.ledgers and world.ledger.stage >= index)
    await world.step()
    return world


async def settled(world: World, request: Request) -> tuple[str, str]:
    for _ in range(4):
        await world.step()
    return world.answer(request)


async def test_a_stage_waits_for_two_people() -> None:
    world = await walked(World(APPROVED))
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.condition("Ready"), world.ledger.stage) == ("AwaitingApproval", "True", 0)
    assert "2 approvals of stage half" in world.status["next"]["waitingFor"][0]
    first = world.asks("Approve", stage="half")
    assert await settled(world, first) == ("Applied", "Approved")
    assert "1 approval of stage half" in world.status["next"]["waitingFor"][0]
    assert await settled(world, world.asks("Approve", stage="half")) == ("Refused", "AlreadyApproved")
    assert await settled(world, world.asks("Approve", "bob", stage="half")) == ("Applied", "Approved")
    assert world.ledger.stage == 1
    assert world.reasons == [
        "StageEntered",
        "AwaitingApproval",
        "Approved",
        "AlreadyApproved",
        "Approved",
        "StageEntered",
    ]
    assert [entry["action"] for entry in world.status["history"]] == ["Advance", "Approve", "Approve", "Advance"]
    told = {status["phase"] for status in world.objects.statuses[1:]}
    assert told == {"Baking", "AwaitingApproval"}, "an answer is no news of health"


async def test_an_approval_is_void_when_the_plan_changes() -> None:
    world = await walked(World(APPROVED))
    for by in ("alice", "bob"):
        assert (await settled(world, world.asks("Approve", by, stage="half")))[0] == "Applied"
    world.edit(replace(APPROVED, plan_hash="v1:another"))
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.ledger.stage) == ("AwaitingApproval", 0)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(("kind", "call"), [("Pause", "commit"), ("RollBack", "lower"), ("Promote", "commit")])
async def test_a_crash_at_the_commit_applies_an_action_once(kind: str, call: str, place: str) -> None:
    world = await walked(World(PLAN))
    sequence = world.ledger.sequence

    def crash(name: str) -> None:
        if name == call:
            raise asyncio.CancelledError

    setattr(world.store, place, crash)
    request = world.asks(kind)
    with pytest.raises(asyncio.CancelledError):
        await world.step()
    assert (request.uid in world.store.actions) == (place == "after")
    setattr(world.store, place, lambda _: None)
    world.restart()
    assert (await settled(world, request))[0] == "Applied"
    done = world.ledger.sequence
    assert done >= sequence + 1
    # The status was lost: the action looks new, and the database knows better.
    world.restart()
    del world.objects.answers[request.name]
    assert (await settled(world, request))[0] == "Applied"
    assert world.ledger.sequence == done


async def test_an_old_roll_back_is_not_applied_again_after_a_retry() -> None:
    world = await walked(World(PLAN))
    request = world.asks("RollBack")
    await settled(world, request)
    assert world.store.rows["bell"].is_off
    await settled(world, world.asks("Retry"))
    await walked(world)
    del world.objects.answers[request.name]
    world.restart()
    assert (await settled(world, request))[0] == "Applied"
    assert world.store.rows["bell"] == exposure(10)
    assert (world.ledger.attempt, world.ledger.latch) == (2, None)


async def test_a_pause_survives_a_restart_and_a_breach_comes_through_it() -> None:
    world = await walked(World(PLAN))
    await settled(world, world.asks("Pause", reason="lunch"))
    world.restart()
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.ledger.stage, world.ledger.baked <= seconds(60)) == ("Paused", 0, True)
    await settled(world, world.asks("Resume"))
    world.source.answer = lambda *_: BAD
    await settled(world, world.asks("Pause"))
    await world.run(minutes(5))
    assert world.status["phase"] == "RolledBack"


async def test_promote_ends_a_bake() -> None:
    world = await walked(World(PLAN))
    before = world.clock.time
    assert await settled(world, world.asks("Promote", reason="calm")) == ("Applied", "Promoted")
    await world.run(minutes(1), until=lambda: world.ledger.stage == 1)
    assert world.ledger.stage == 1
    assert world.clock.time - before <= minutes(1)
    assert world.telemetry.violations == []
    await world.run(minutes(2))
    assert world.ledger.stage == 1, "of the next stage the bake counts again"


async def test_a_roll_back_of_a_paused_rollout_says_who_and_why() -> None:
    world = await walked(World(PLAN), 1)
    await settled(world, world.asks("Pause"))
    await settled(world, world.asks("RollBack", "bob", reason="users complain"))
    assert world.store.rows["bell"].is_off
    assert (world.status["phase"], world.condition("RolledBack"), world.condition("Stalled")) == (
        "RolledBack",
        "True",
        "True",
    )
    told = world.status["rollback"]
    assert (told["requestedBy"], told["reason"], told["to"], told["action"]) == (
        "bob",
        "users complain",
        "Off",
        "DisableFlags",
    )
    assert [reason for reason in world.reasons if reason != "StageEntered"] == [
        "Paused",
        "RolledBack",
        "FlagsDisabled",
    ]
    await world.run(timedelta(hours=3))
    assert world.store.rows["bell"].is_off


async def test_retry_after_a_breach_begins_again() -> None:
    world = await walked(World(PLAN))
    world.source.answer = lambda *_: BAD
    await world.run(minutes(5))
    assert world.status["phase"] == "RolledBack"
    world.source.answer = lambda *_: {"events": 0.0, "units": 200.0}
    assert await settled(world, world.asks("Retry")) == ("Applied", "Rearmed")
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.ledger.attempt) == ("Completed", 2)
    assert world.telemetry.violations == []


async def test_resume_after_a_hold_starts_its_evidence_from_nothing() -> None:
    soft = plan(*PLAN.stages, rows=[row(Severity.LOW, above(), action=Action(ActionType.HOLD))])
    world = await walked(World(soft))
    harmed_at = world.clock.time
    world.source.answer = lambda _, w: BAD if w.start < harmed_at + minutes(3) else {"events": 2.0, "units": 200.0}
    await world.run(minutes(5))
    assert world.status["phase"] == "Held"
    assert await settled(world, world.asks("Resume")) == ("Applied", "Resumed")
    await world.reconciler.checkpoint()
    world.restart()
    await world.step()
    assert world.status["phase"] == "Baking"


async def test_resume_takes_a_lower_row_over_and_goes_on_from_the_plan() -> None:
    world = await walked(World(PLAN))
    world.store.rows["bell"] = exposure(3)
    await world.step()
    assert world.status["phase"] == "Paused"
    assert await settled(world, world.asks("Resume")) == ("Applied", "Resumed")
    assert (world.status["phase"], world.condition("FlagsInSync")) == ("Baking", "True")
    await walked(world, 1)
    assert world.store.rows["bell"] == exposure(50)


async def test_another_object_with_another_plan_is_adopted_by_a_word_and_no_consent_passes_on() -> None:
    world = await walked(World(APPROVED))
    await settled(world, world.asks("Approve", stage="half"))
    world.requests.clear()
    world.create("uid-2")
    world.restart()
    world.edit(replace(APPROVED, plan_hash="v1:another"))
    await world.step()
    assert "AdoptionRequired" in world.reasons
    pause = world.asks("Pause")
    await world.step()
    assert world.answer(pause) == ("Pending", "AdoptionRequired")
    world.requests.remove(pause)
    # An older word, which was answered in another matter and was never told so.
    old = world.asks("Adopt")
    refused = Recorded(Answer(Outcome.REFUSED, "NothingToAdopt", "nothing to adopt"), T0)
    world.store.database.tables.actions[old.uid] = KEY, refused
    word = world.asks("Adopt")
    # The earlier object's writer must have been silent for long enough.
    world.clock.time += minutes(3)
    assert await settled(world, word) == ("Applied", "Adopted")
    assert (world.ledger.uid, world.ledger.stage, world.ledger.people.approvals) == ("uid-2", 0, {})
    assert "Adopted" in world.reasons
    world.create("uid-3")
    world.restart()
    world.edit(replace(APPROVED, plan_hash="v1:third"))
    world.clock.time += minutes(3)
    del world.objects.answers[word.name]
    await world.step()
    assert world.ledger.uid == "uid-2", "the same word counts once"


# Away.


async def test_with_the_api_server_away_an_action_is_applied_and_told_later() -> None:
    world = await walked(World(PLAN))
    world.objects.down = True
    request = world.asks("RollBack")
    await world.step()
    assert world.store.rows["bell"].is_off
    world.objects.down = False
    assert (await settled(world, request))[0] == "Applied"


async def test_with_the_database_away_an_action_waits_and_says_so() -> None:
    world = await walked(World(PLAN))
    world.store.down = Problem("StoreUnreachable", "the database server does not answer", stalled=False)
    request = world.asks("RollBack")
    await world.step()
    assert world.answer(request) == ("Pending", "StoreUnreachable")
    world.store.down = None
    assert (await settled(world, request))[0] == "Applied"
    assert world.store.rows["bell"].is_off


async def test_with_a_broken_plan_a_roll_back_is_applied_and_others_wait() -> None:
    world = await walked(World(PLAN))
    world.edit(None, trouble=Trouble("InvalidPlan", "no metric"))
    promote, request = world.asks("Promote"), world.asks("RollBack")
    assert (await settled(world, request))[0] == "Applied"
    assert world.answer(promote) == ("Pending", "InvalidPlan")
    assert world.store.rows["bell"].is_off


@pytest.mark.parametrize("to", ["Off", "PreviousStage", "Baseline"])
async def test_a_roll_back_needs_no_plan(to: str) -> None:
    world = await walked(World(PLAN), 1)
    world.restart()
    world.edit(None, trouble=Trouble("InvalidPlan", "no metric"))
    promote, request = world.asks("Promote"), world.asks("RollBack", to=RollBackTo(to))
    assert (await settled(world, request))[0] == "Applied"
    assert world.answer(promote) == ("Pending", "InvalidPlan")
    assert world.store.rows["bell"].is_off
    assert "FlagsDisabled" in world.reasons or "PercentageReduced" in world.reasons
    world.edit(PLAN, trouble=None)
    await world.run(timedelta(hours=1))
    assert world.status["phase"] == "RolledBack"


async def test_a_roll_back_of_what_never_began_waits_for_its_plan() -> None:
    world = World(PLAN)
    world.edit(None, trouble=Trouble("InvalidPlan", "no metric"))
    request = world.asks("RollBack")
    await world.step()
    assert world.answer(request)[0] == "Pending"


async def test_what_waits_too_long_expires_once() -> None:
    world = await walked(World(plan(*PLAN.stages, stage("late", ("bell", 100), approval=Approval()))))
    await settled(world, world.asks("Pause"))
    request = world.asks("Approve", stage="late")
    assert await settled(world, request) == ("Pending", "NotYet")
    world.clock.time += timedelta(days=1)
    assert await settled(world, request) == ("Expired", "Expired")
    assert world.store.actions[request.uid].answer.reason == "Expired"


# Checks.


async def test_preflight_waits_for_the_database_and_for_a_person() -> None:
    world = World(CHECKED)
    await world.run(minutes(1))
    assert (world.status["phase"], world.ledger.stage) == ("Preflight", -1)
    assert "could not be asked: the server does not answer" in world.status["next"]["waitingFor"][0]
    assert "featurerollout confirm bell on-call" in world.status["next"]["waitingFor"][1]
    world.checks.answers[BACKUP.key] = (False, "no row was returned")
    await world.run(minutes(1))
    assert "no row was returned" in world.status["next"]["waitingFor"][0]
    world.checks.answers[BACKUP.key] = (True, "")
    await world.run(minutes(5))
    assert world.ledger.stage == -1
    written = len(world.objects.statuses)
    await world.run(minutes(30))
    assert len(world.objects.statuses) == written, "nothing flickers while it is asked again"
    assert await settled(world, world.asks("Confirm", check="on-call")) == ("Applied", "Confirmed")
    await world.run(minutes(2), until=lambda: world.ledger.stage == 0)
    assert world.ledger.stage == 0
    asked = world.checks.asked.count(BACKUP.key)
    await world.run(minutes(2))
    assert world.checks.asked.count(BACKUP.key) == asked, "preflight is over"


async def test_a_stages_checks_are_asked_just_before_it() -> None:
    world = World(replace(CHECKED, preflight=()))
    await walked(world)
    assert world.checks.asked == []
    await world.run(timedelta(hours=1))
    assert (world.status["phase"], world.ledger.stage) == ("Preflight", 0)
    assert 200 <= len(world.checks.asked) <= 400, "every ten seconds while it cannot be asked"
    world.checks.answers[READY.key] = (True, "")
    await walked(world, 1)
    assert world.store.rows["bell"] == exposure(50)


async def test_the_first_stage_has_checks_of_its_own_beside_preflight() -> None:
    of = plan(stage("ten", ("bell", 10), checks=(READY,)), preflight=(BACKUP,))
    world = World(of)
    await world.run(minutes(1))
    assert READY.key not in world.checks.asked, "not before preflight has passed"
    world.checks.answers = {BACKUP.key: (True, ""), READY.key: (True, "")}
    await walked(world)
    assert world.ledger.stage == 0


async def test_preflight_runs_again_on_retry() -> None:
    world = World(replace(CHECKED, preflight=(BACKUP,)))
    world.checks.answers[BACKUP.key] = (True, "")
    await walked(world)
    await settled(world, world.asks("RollBack"))
    world.checks.answers[BACKUP.key] = (False, "the backup is old")
    await settled(world, world.asks("Retry"))
    await world.run(minutes(5))
    assert (world.status["phase"], world.ledger.stage) == ("Preflight", -1)
    assert "the backup is old" in world.status["next"]["waitingFor"][0]


async def test_an_answer_to_another_plans_question_counts_for_nothing() -> None:
    world = World(replace(CHECKED, preflight=(BACKUP,)))
    slow: asyncio.Future[CheckAnswer] = asyncio.get_running_loop().create_future()
    world.checks.ask = lambda *_: slow  # type: ignore[method-assign, assignment, return-value]
    await world.step()
    await world.step()
    world.edit(replace(CHECKED, preflight=(BACKUP,), plan_hash="v1:another"))
    await world.step()
    if not slow.done():
        slow.set_result(CheckAnswer(BACKUP.key, True, "", T0))
    await world.step()
    assert world.ledger.stage == -1


async def test_a_check_that_raises_could_not_be_asked_and_its_text_is_not_told() -> None:
    world = World(replace(CHECKED, preflight=(BACKUP,)))

    async def broken(*_: object) -> CheckAnswer:
        raise ValueError("password=hunter2")

    world.checks.ask = broken  # type: ignore[method-assign]
    await world.run(minutes(1))
    assert "ValueError" in str(world.status)
    assert "hunter2" not in str(world.objects.statuses)


async def test_without_anything_to_ask_it_with_a_check_says_so() -> None:
    world = World(replace(CHECKED, preflight=(BACKUP,)))
    world.target_changes["checks"] = None
    await world.run(minutes(1))
    assert "there is nothing to ask it with" in world.status["next"]["waitingFor"][0]


# What somebody asks for must not be in the way of the guards.


async def test_a_roll_back_that_is_refused_keeps_no_guard_from_acting() -> None:
    """Also when the refusal itself cannot be written, as on a full disk."""
    world = await walked(World(PLAN))
    full = Problem("DiskFull", "no room")

    def no_room(name: str) -> None:
        if name == "commit":
            raise full

    world.store.before = no_room
    world.asks("RollBack", stage="half")
    world.source.answer = lambda *_: BAD
    await world.run(minutes(5))
    assert world.store.rows["bell"].is_off


async def test_a_roll_back_that_is_not_whole_keeps_no_breach_waiting() -> None:
    world = await walked(World(PLAN), 1)
    blocked = Problem("AuditDelayed", "the record follows", stalled=False)

    def delayed(name: str) -> None:
        if name == "lower":
            raise blocked

    world.store.after = delayed
    world.source.answer = lambda *_: BAD
    await world.run(seconds(31))
    world.asks("RollBack", to=RollBackTo.PREVIOUS_STAGE)
    await world.run(minutes(5))
    assert world.store.rows["bell"].is_off


async def test_without_a_plan_a_roll_back_need_not_name_the_right_stage() -> None:
    world = await walked(World(PLAN))
    world.edit(None, trouble=Trouble("InvalidPlan", "no such metric"))
    session = world.reconciler._sessions["uid-1"]
    session.plan = None
    asked = world.asks("RollBack", stage="ten")
    assert (await settled(world, asked))[0] == "Applied"
    assert world.store.rows["bell"].is_off
