"""People create RolloutActions: each is carried out once, or refused with what would be right, and says so."""

from http import HTTPStatus
from typing import Any

import pytest

from support.manifests import ROLLOUT, A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN, HALF, ALL = (True, 10, frozenset()), (True, 50, frozenset()), (True, 100, frozenset())
LONG = "10m"


def plan_hash(world: World) -> str:
    return str(world.status()["planHash"])


def applied(world: World, kind: str, reason: str, **spec: Any) -> Any:
    answer = world.wait_answer(world.act(kind, **spec), "Applied", reason)
    assert answer["finishedAt"]
    ready = {c["type"]: c["status"] for c in answer["conditions"]}
    assert ready == {"Ready": "True", "Reconciling": "False", "Stalled": "False"}
    return answer


def test_a_stage_begins_when_two_people_have_approved(world: World, operator: Operator) -> None:
    stages = [stage("ten", 10), stage("half", 50, approval={"required": 2})]
    world.apply(store(), rollout(stages=stages))
    world.wait_condition("Reconciling", "False", "AwaitingApproval")
    assert world.status()["phase"] == "AwaitingApproval"
    waiting = world.status()["next"]["waitingFor"][0]
    assert f"2 approvals of stage half: featurerollout approve {ROLLOUT} --stage half" in waiting

    wrong = "v1:" + "0" * 64
    refused = world.wait_answer(world.act("Approve", stage="half", planHash=wrong), "Refused", "PlanHashMismatch")
    assert wrong in refused["message"]
    assert plan_hash(world) in refused["message"]
    by_robot = world.act("Approve", by="system:serviceaccount:ci:bot", stage="half", planHash=plan_hash(world))
    world.wait_answer(by_robot, "Refused", "ServiceAccountNotAllowed")

    applied(world, "Approve", "Approved", stage="half", planHash=plan_hash(world))
    again = world.act("Approve", stage="half", planHash=plan_hash(world))
    world.wait_answer(again, "Refused", "AlreadyApproved")
    assert world.row(A) == TEN
    applied(world, "Approve", "Approved", by="bob", stage="half", planHash=plan_hash(world))
    world.wait_row(A, HALF)
    assert world.audit(A)[-1]["evidence"] == {"approvedBy": ["alice", "bob"]}
    world.wait_condition("Completed", "True", "Completed")
    assert {"AwaitingApproval", "PlanHashMismatch", "Approved", "AlreadyApproved"} <= set(world.reasons())


def test_paused_and_resumed(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    applied(world, "Pause", "Paused")
    world.soon(lambda: world.status()["phase"] == "Paused", 10.0)
    operator.kill()
    operator.start()
    operator.wait_looks(6)
    assert (world.row(A), world.status()["phase"]) == (TEN, "Paused")
    applied(world, "Resume", "Resumed")
    world.wait_row(A, HALF)
    world.wait_answer(world.act("Resume"), "Refused", "NotPaused")


def test_promote_ends_a_bake(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, LONG), stage("half", 50, LONG)]))
    world.wait_row(A, TEN)
    applied(world, "Promote", "Promoted")
    world.wait_row(A, HALF)
    assert world.audit(A)[-1]["evidence"] == {"promotedBy": "alice"}
    operator.wait_looks(3)
    world.wait_stage("half")


def test_rolled_back_while_paused_and_begun_again_by_retry(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "2s"), stage("half", 50, LONG)]))
    world.wait_row(A, HALF)
    applied(world, "Pause", "Paused")
    applied(world, "RollBack", "RolledBack", by="bob")
    assert world.row(A) == world.row(B) == (False, 50, frozenset())
    world.wait_condition("RolledBack", "True", "RolledBack")
    told = world.status()["rollback"]
    assert (told["requestedBy"], told["reason"], told["action"]) == ("bob", "a test", "DisableFlags")
    lowered = [entry for entry in world.audit() if entry["kind"] == "Lower"]
    assert [(entry["flag"], entry["actor"]) for entry in lowered] == [(A, "bob"), (B, "bob")]
    operator.wait_looks(4)
    applied(world, "Retry", "Rearmed")
    applied(world, "Resume", "Resumed")
    world.wait_row(A, HALF)
    assert world.ledger()["attempt"] == 2


def test_a_retry_after_a_breach(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "30s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))
    world.wait_condition("RolledBack", "True", "RolledBack")
    world.traffic.failed = 0.0
    applied(world, "Retry", "Rearmed")
    world.wait_row(A, TEN)
    world.wait_condition("RolledBack", "False", "Baking")
    world.wait_answer(world.act("Retry"), "Refused", "NothingToRetry")


def test_a_preflight_is_confirmed(world: World, operator: Operator) -> None:
    preflight = [{"name": "on-call", "confirm": "Somebody is there."}]
    world.apply(store(), rollout(stages=[stage("ten", 10)], preflight=preflight))
    world.wait_condition("Reconciling", "False", "AwaitingConfirmation")
    assert world.status()["phase"] == "Preflight"
    assert "Somebody is there" in world.status()["next"]["waitingFor"][0]
    assert world.row(A) == (False, 0, frozenset())
    applied(world, "Confirm", "Confirmed", check="on-call", planHash=plan_hash(world))
    world.wait_row(A, TEN)
    assert world.audit(A)[-1]["evidence"] == {"confirmedBy": {"preflight/on-call": "alice"}}


@pytest.mark.parametrize("place", ["before-answer-commit", "after-answer-commit"])
def test_killed_at_the_commit_of_an_action(world: World, idle_operator: Operator, place: str) -> None:
    operator = idle_operator
    operator.start(failpoints=[place])
    world.apply(store(), rollout(stages=[stage("ten", 10, LONG), stage("half", 50, LONG), stage("all", 100)]))
    world.wait_row(A, TEN)
    name = world.act("Promote")
    operator.wait_until_dead()
    assert len(world.actions()) == (1 if place.startswith("after") else 0)
    assert world.answer(name).get("phase") != "Applied"
    operator.start()
    world.wait_answer(name, "Applied", "Promoted")
    world.wait_row(A, HALF)
    operator.wait_looks(4)
    assert world.row(A) == HALF, "it ended one bake, and not the next"
    assert [(row["type"], row["outcome"]) for row in world.actions()] == [("Promote", "Applied")]


def test_an_action_without_a_rollout_waits_and_says_so(world: World, operator: Operator) -> None:
    name = world.act("Pause")
    pending = world.wait_answer(name, "Pending", "RolloutNotFound")
    assert f"There is no FeatureRollout {ROLLOUT}" in pending["message"]
    world.apply(store(), rollout(stages=[stage("ten", 10)]))
    world.wait_answer(name, "Applied", "Paused")
    operator.wait_looks(3)
    assert world.row(A) == (False, 0, frozenset())
    applied(world, "Resume", "Resumed")
    world.wait_row(A, TEN)


def test_what_is_over_for_a_month_is_deleted_and_stays_in_the_database(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10)]))
    name = world.act("Retry")
    world.wait_answer(name, "Refused", "NothingToRetry")
    old = world.get("RolloutAction", name)
    old["status"]["finishedAt"] = "2020-01-01T00:00:00Z"
    status, answer = world.cluster.request("PUT", f"{world.path('RolloutAction', name)}/status", old)
    assert status == HTTPStatus.OK, answer
    wait_for(lambda: world.get("RolloutAction", name) is None, 30.0, "the end of an old action")
    assert [(row["type"], row["reason"]) for row in world.actions()] == [("Retry", "NothingToRetry")]


def test_a_row_changed_by_hand_is_taken_over_by_resume(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "2s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 80)
    world.soon(lambda: world.status()["phase"] == "Paused", 10.0)
    refused = world.wait_answer(world.act("Resume"), "Refused", "DriftTooExposed")
    assert A in refused["message"]
    world.set_row(A, True, 3)
    wait_for(lambda: {"flag": A, "enabled": True, "percentage": 3, "groups": []} in world.status()["exposure"])
    applied(world, "Resume", "Resumed")
    world.wait_row(A, HALF)
