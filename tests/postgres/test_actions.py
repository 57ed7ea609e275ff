"""What people do, in the ledger's transaction: once by the UID of the action, whatever fails.

| what | invariant |
|---|---|
| an answer is written with what it changes, or not at all | S6, S7 |
| the same UID is never carried out twice, by a raise, a lowering or an adoption | S6 |
| a RollBack has its person as the actor, and its latch outlives the rollout | S2, S5 |
| a RollBack that is blocked is answered when every flag is lowered | L5 |
| consent does not pass on to another object | S13 |
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from feature_rollout.core.people import (
    Answer,
    Answered,
    Consent,
    Order,
    Outcome,
    Pause,
    People,
    Request,
    RequestType,
    RollBackTo,
)
from feature_rollout.core.plan import Severity
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import Commit, Fenced, Recorded
from postgres.world import KEY, World, claim, everyone, latch, lowering, problem_of, why
from support.databases import all_postgres

pytestmark = all_postgres

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)
PAUSED = People(paused=Pause("alice", AT, "lunch"))


def answered(uid: str = "action-1", kind: RequestType = RequestType.PAUSE, **fields: Any) -> Answered:
    request = Request(uid, kind, AT, "an-action", requested_by="alice", reason="lunch")
    return Answered(request, Answer(fields.get("outcome", Outcome.APPLIED), "Paused", "Paused by alice."), AT)


def paused(ledger: Ledger, *answers: Answered) -> Commit:
    return Commit(replace(ledger, people=PAUSED), {}, {}, why("Paused"), answers)


def order() -> Latch:
    return Latch(Order("alice", RollBackTo.OFF, "users complain", AT, "DisableFlags"), "canary", "spec-1", AT)


def rolled_back(*flags: str, uid: str = "action-1") -> Any:
    person = why("FlagsDisabled", actor="alice", evidence=order().cause.to_json())
    return lowering(flags, why=person, latch=order(), answered=(answered(uid, RequestType.ROLL_BACK),))


def actions(world: World) -> list[dict[str, Any]]:
    return world.database.query("SELECT * FROM feature_rollout.action ORDER BY uid")


@contextmanager
def locked(world: World, flag: str) -> Iterator[None]:
    with psycopg.connect(world.database.uri()) as connection:
        connection.execute("SELECT FROM feature_flags WHERE name = %s FOR UPDATE", (flag,))
        yield


async def test_an_answer_is_written_with_the_ledger_and_read_with_it(world: World) -> None:
    ledger = await world.store.open(claim())
    after = await world.store.commit(paused(ledger, answered()))
    assert after.people == PAUSED
    seen = await world.store.read(KEY, [], ["action-1", "action-2"])
    assert seen.ledger.people == PAUSED
    assert seen.actions == {"action-1": Recorded(Answer(Outcome.APPLIED, "Paused", "Paused by alice."), AT)}
    assert (await world.store.read(KEY, [])).actions == {}
    (row,) = actions(world)
    assert (row["ledger_key"], row["type"], row["requested_by"], row["why"]) == (KEY, "Pause", "alice", "lunch")


async def test_the_same_action_twice_changes_nothing(world: World) -> None:
    ledger = await world.store.commit(paused(await world.store.open(claim()), answered()))
    everything = world.everything()
    again = replace(paused(ledger, answered("action-0"), answered()), ledger=replace(ledger, people=People()))
    with pytest.raises(Fenced):
        await world.store.commit(again)
    assert world.everything() == everything
    assert [row["uid"] for row in actions(world)] == ["action-1"]


async def test_of_two_at_once_one_carries_it_out(world: World) -> None:
    ledger = await world.store.open(claim())
    other = world.new_store()
    results = await asyncio.gather(
        world.store.commit(paused(ledger, answered())), other.commit(paused(ledger, answered())), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Fenced", "Ledger"]
    assert len(actions(world)) == 1


async def test_a_refusal_is_recorded_too_and_outcomes_are_checked(world: World) -> None:
    ledger = await world.store.open(claim())
    await world.store.commit(paused(ledger, answered(outcome=Outcome.REFUSED)))
    assert [row["outcome"] for row in actions(world)] == ["Refused"]
    seen = await world.store.read(KEY, [])
    problem = await problem_of(world.store.commit(paused(seen.ledger, answered("x", outcome=Outcome.PENDING))))
    assert problem.reason == "WriteRefused"


async def test_a_fenced_commit_leaves_no_answer(world: World) -> None:
    ledger = await world.store.open(claim())
    with pytest.raises(Fenced):
        await world.store.commit(paused(replace(ledger, epoch=7), answered()))
    assert actions(world) == []


async def test_a_roll_back_is_audited_as_its_persons_and_done_once(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim()), alpha=everyone(20), beta=everyone(20))
    after = await world.store.lower(rolled_back("alpha", "beta"))
    assert (after.latch, after.acted) == (order(), frozenset())
    lowered = [entry for entry in world.audit() if entry["kind"] == "Lower"]
    assert [(entry["flag"], entry["actor"], entry["evidence"]["reason"]) for entry in lowered] == [
        ("alpha", "alice", "users complain"),
        ("beta", "alice", "users complain"),
    ]
    # A new attempt has raised a flag again: the old action must not take that back.
    begun = replace(after, latch=None, attempt=2, stage=-1)
    begun = await world.store.commit(Commit(begun, {}, {}, why("Rearmed")))
    raised = await world.raised(begun, alpha=everyone(20))
    assert await world.store.lower(rolled_back("alpha", "beta")) == raised
    assert world.row("alpha") == everyone(20)
    assert ledger.epoch == raised.epoch


async def test_a_blocked_roll_back_is_answered_when_every_flag_is_lowered(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(20), beta=everyone(20))
    with locked(world, "beta"):
        problem = await problem_of(world.store.lower(rolled_back("alpha", "beta")))
        assert problem.reason == "RevertBlocked"
        assert world.row("alpha").is_off
        assert actions(world) == []
        assert world.ledger_row()["latch"] is not None, "nothing is raised meanwhile"
    await world.store.lower(rolled_back("alpha", "beta"))
    assert world.row("beta").is_off
    assert [row["type"] for row in actions(world)] == ["RollBack"]


async def test_a_persons_latch_outlives_the_rollout(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(20))
    await world.store.lower(rolled_back("alpha"))
    await world.store.release(lowering([]), "uid-1")
    assert (await world.store.open(claim(uid="uid-2"))).latch == order()


async def test_what_is_told_after_two_reverts(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(20))
    await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    assert (await world.store.lower(rolled_back("alpha"))).latch == order()
    critical = lowering(["alpha"], latch=latch(Severity.CRITICAL), severity=Severity.CRITICAL)
    assert (await world.store.lower(critical)).latch == latch(Severity.CRITICAL)


ADOPT = answered("adopt-1", RequestType.ADOPT)
CONSENT = Consent("alice", AT, "uid-1", "plan-1")


async def abandoned(world: World) -> Ledger:
    """A rollout in mid-stage whose object is gone and whose writer is silent."""
    ledger = await world.raised(await world.store.open(claim()), alpha=everyone(20))
    people = replace(PAUSED, approvals={"half": (CONSENT,)}, confirmations={"preflight/x": CONSENT})
    after = await world.store.commit(Commit(replace(ledger, people=people), {}, {}, why("Approved")))
    world.forget_writer_for("3 minutes")
    return after


async def test_another_plan_takes_a_place_over_by_a_word_that_counts_once(world: World) -> None:
    before = await abandoned(world)
    other = claim(uid="uid-2", plan_hash="plan-2")
    assert (await problem_of(world.store.open(other))).reason == "AdoptionRequired"
    adopted = await world.store.open(replace(other, adopt=ADOPT))
    assert (adopted.uid, adopted.stage, adopted.written) == ("uid-2", before.stage, before.written)
    assert adopted.people == PAUSED, "a pause passes on, consent does not"
    assert adopted.epoch == before.epoch + 1
    assert [(row["uid"], row["outcome"]) for row in actions(world)] == [("adopt-1", "Applied")]
    world.forget_writer_for("3 minutes")
    third = replace(claim(uid="uid-3", plan_hash="plan-3"), adopt=ADOPT)
    assert (await problem_of(world.new_store().open(third))).reason == "AdoptionRequired"


async def test_a_word_is_not_spent_where_none_is_needed(world: World) -> None:
    await abandoned(world)
    same = await world.store.open(replace(claim(uid="uid-2"), adopt=ADOPT))
    assert (same.uid, same.people, actions(world)) == ("uid-2", PAUSED, [])


async def test_a_writer_that_is_not_silent_is_waited_for(world: World) -> None:
    await world.store.open(claim())
    other = replace(claim(uid="uid-2", plan_hash="plan-2"), adopt=ADOPT)
    assert (await problem_of(world.store.open(other))).reason == "AdoptionPending"
    assert actions(world) == []


async def test_a_writer_may_add_answers_and_change_none(world: World) -> None:
    await world.store.commit(paused(await world.store.open(claim()), answered()))
    for statement in ("UPDATE feature_rollout.action SET outcome = 'Refused'", "DELETE FROM feature_rollout.action"):
        with (
            psycopg.connect(world.database.uri(world.writer)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())


async def test_a_row_of_an_earlier_version_has_nobodys_word(world: World) -> None:
    await world.store.open(claim())
    world.database.execute("UPDATE feature_rollout.ledger SET people = DEFAULT")
    assert (await world.store.read(KEY, [])).ledger.people == People()
