"""What every FlagStore does: one suite, on the simulation's store in memory and on PostgreSQL.

| method | cases |
|---|---|
| open | new, again, conflict, latched flags, closed rows, rows of an earlier object |
| read | no ledger row, rows that are missing, answers, progress |
| commit | the fence, rows changed or gone, flags of another, requests answered before |
| lower | meet, exact, latches, flags of another, no ledger row, locked rows, no room for the record |
| observe, release, tell, checkpoint | what they write, when nothing, and twice |
| all | a server that does not answer |

A difference between the two is a bug of one of them: what the simulation proves is proved of the real one by this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.stores import Memory, Postgres, Side
from feature_rollout.core.people import Answer, Answered, Outcome, Request, RequestType
from feature_rollout.core.plan import Severity
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Checkpoint, Commit, Drifted, Fenced, Problem, Recorded
from feature_rollout.sandbox.database import PostgresAccess
from postgres.world import KEY, OFF, OTHER_KEY, World, claim, everyone, latch, lowering, only, problem_of, template, why
from support.databases import Database

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
APPLIED = Answer(Outcome.APPLIED, "Approved", "approved by alice")


def answered(uid: str = "action-1", kind: RequestType = RequestType.APPROVE) -> Answered:
    return Answered(Request(uid, kind, NOW, uid, requested_by="alice"), APPLIED, NOW)


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str:
    return template(postgres_server)


@pytest.fixture(params=["memory", "postgres"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    if request.param == "memory":
        yield Memory()
        return
    database: Database = request.getfixturevalue("database")
    side = Postgres(World.on(database))
    yield side
    async with asyncio.timeout(5):
        await side.close()


async def raised(side: Side, ledger: Ledger, percentage: int = 10, *flags: str) -> Ledger:
    """The next stage, in which these flags are for so many."""
    names = flags or ("alpha",)
    before = (await side.store.read(ledger.key, names)).rows
    after = dict.fromkeys(names, everyone(percentage))
    baseline, written = {**before, **ledger.baseline}, {**ledger.written, **after}
    change = replace(ledger, stage=ledger.stage + 1, entered_at=NOW, baseline=baseline, written=written)
    return await side.store.commit(Commit(change, before, after, why("StageEntered", verb="Advance")))


def state(side: Side) -> tuple[Any, ...]:
    return side.rows(), side.audit(), side.owners(), side.latches(), side.told()


# open


async def test_a_new_row_owns_its_flags_and_every_open_takes_an_epoch(side: Side) -> None:
    first = await side.store.open(claim())
    assert (first.key, first.uid, first.epoch, first.sequence) == (KEY, "uid-1", 1, 0)
    assert (first.attempt, first.stage, first.latch, first.written) == (1, -1, None, {})
    assert await side.another().open(claim()) == replace(first, epoch=2)
    assert side.owners() == {"alpha": KEY, "beta": KEY}
    assert (side.audit(), side.told()) == ([], [])


async def test_a_flag_has_one_owner(side: Side) -> None:
    await side.store.open(claim("alpha"))
    before = state(side)
    problem = await problem_of(side.store.open(claim("alpha", "gamma", key=OTHER_KEY, uid="uid-2")))
    assert (problem.reason, problem.stalled) == ("Conflict", True)
    # A flag that was asked for may be known; nobody owns it.
    assert {flag: key for flag, key in side.owners().items() if key} == {"alpha": KEY}
    assert state(side)[:2] == before[:2]
    assert (await problem_of(side.store.read(OTHER_KEY, []))).reason == "LedgerMissing"


async def test_epochs_go_up_over_all_owners_of_a_flag(side: Side) -> None:
    for _ in range(3):
        last = await side.store.open(claim("alpha"))
    await side.store.release(lowering({}), "uid-1")
    assert (await side.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2"))).epoch == last.epoch + 1


@pytest.mark.parametrize(("spec_hash", "is_latched"), [("spec-1", True), ("spec-2", False)])
async def test_a_latch_outlives_its_rollout(side: Side, spec_hash: str, is_latched: bool) -> None:
    await raised(side, await side.store.open(claim("alpha")))
    await side.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    await side.store.release(lowering({}), "uid-1")
    opened = await side.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2", spec_hash=spec_hash))
    assert opened.latch == (latch() if is_latched else None)
    assert side.latches() == {"alpha": latch()}, "it stays known, for who comes with that plan again"


async def test_a_closed_row_begins_afresh_for_another_object_only(side: Side) -> None:
    await raised(side, await side.store.open(claim("alpha")))
    await side.store.release(lowering({}), "uid-1")
    assert (await problem_of(side.store.open(claim("alpha")))).reason == "Released"
    again = await side.store.open(claim("alpha", uid="uid-2"))
    assert (again.uid, again.stage, again.written, again.attempt) == ("uid-2", -1, {}, 1)
    assert (again.epoch, again.sequence) == (2, 2)


async def test_an_earlier_objects_row_is_taken_over_when_its_writer_is_silent(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim("alpha")))
    kept = replace(ledger, people=replace(ledger.people, approvals={"ten": ()}, preflight_done=True))
    await side.store.commit(Commit(kept, {}, {}, why("Test")))
    await side.store.checkpoint([Checkpoint(KEY, 1, 1, timedelta(minutes=2), {"a": 1}, 0)])
    problem = await problem_of(side.store.open(claim("alpha", uid="uid-2")))
    assert (problem.reason, problem.stalled) == ("AdoptionPending", False)
    side.silence(KEY)
    adopted = await side.store.open(claim("alpha", uid="uid-2"))
    assert (adopted.uid, adopted.stage, adopted.baked) == ("uid-2", 0, timedelta(minutes=2))
    assert (adopted.people.approvals, adopted.epoch) == ({}, 2)
    assert (await side.store.read(KEY, [], progress=True)).progress is None


async def test_an_earlier_row_of_another_plan_needs_a_persons_word(side: Side) -> None:
    await raised(side, await side.store.open(claim("alpha")))
    other = claim("alpha", uid="uid-2", plan_hash="plan-2")
    assert (await problem_of(side.store.open(other))).reason == "AdoptionRequired"
    word = replace(other, adopt=answered(kind=RequestType.ADOPT))
    assert (await problem_of(side.store.open(word))).reason == "AdoptionPending"
    side.silence(KEY)
    assert (await problem_of(side.store.open(other))).reason == "AdoptionRequired"
    adopted = await side.store.open(word)
    assert (adopted.uid, adopted.stage) == ("uid-2", 0)
    assert (await side.store.read(KEY, [], ["action-1"])).actions == {"action-1": Recorded(APPLIED, NOW)}


async def test_the_last_plan_is_kept_for_who_holds_the_row(side: Side) -> None:
    store: Any = side.store
    await store.open(replace(claim("alpha"), made_of={"plan": 1}))
    await store.open(claim("alpha"))
    assert await store.last_plan(KEY, "uid-1") == {"plan": 1}
    assert await store.last_plan(KEY, "uid-2") is None
    await store.release(lowering({}), "uid-1")
    assert await store.last_plan(KEY, "uid-1") is None


# read


async def test_what_is_read_is_what_there_is(side: Side) -> None:
    assert (await problem_of(side.store.read(KEY, ["alpha"]))).reason == "LedgerMissing"
    ledger = await side.store.open(claim("alpha"))
    side.edit("beta", None)
    found = await side.store.read(KEY, ["alpha", "beta"], ["action-1"], progress=True)
    assert (found.ledger, found.rows, found.actions, found.progress) == (ledger, {"alpha": OFF}, {}, None)


# commit


async def test_a_raise_writes_rows_ledger_audit_and_news_together(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim()), 10, "alpha", "beta")
    assert (ledger.sequence, ledger.stage) == (1, 0)
    assert (await side.store.read(KEY, [])).ledger == ledger
    assert side.rows() == {"alpha": everyone(10), "beta": everyone(10), "gamma": OFF, "bystander": OFF}
    row = (OFF, everyone(10), "Raise", "StageEntered", "operator", 1)
    assert side.audit() == [("alpha", *row), ("beta", *row)]
    assert side.operations() == [f"{KEY}@1", f"{KEY}@1"]
    assert side.told() == ["Advance"]


async def test_a_flag_that_stays_as_it_was_is_no_change(side: Side) -> None:
    side.edit("alpha", everyone(10))
    await raised(side, await side.store.open(claim()), 10, "alpha", "beta")
    assert [flag for flag, *_ in side.audit()] == ["beta"]


FENCED: dict[str, Callable[[Ledger], Ledger]] = {
    "epoch": lambda ledger: replace(ledger, epoch=ledger.epoch - 1),
    "later epoch": lambda ledger: replace(ledger, epoch=ledger.epoch + 1),
    "sequence": lambda ledger: replace(ledger, sequence=ledger.sequence - 1),
    "key": lambda ledger: replace(ledger, key="cluster/shop/nobody"),
}


@pytest.mark.parametrize("what", FENCED)
async def test_the_fence_holds(side: Side, what: str) -> None:
    ledger = await raised(side, await side.store.open(claim()))
    before = state(side)
    change = Commit(FENCED[what](ledger), {"alpha": everyone(10)}, {"alpha": everyone(50)}, why())
    with pytest.raises(Fenced):
        await side.store.commit(change)
    assert state(side) == before


async def test_a_closed_row_is_fenced(side: Side) -> None:
    ledger = await side.store.open(claim())
    await side.store.release(lowering({}), "uid-1")
    with pytest.raises(Fenced):
        await side.store.commit(Commit(ledger, {}, {}, why()))


async def test_a_row_that_was_changed_meanwhile_is_not_written(side: Side) -> None:
    ledger = await side.store.open(claim())
    side.edit("beta", everyone(1))
    before = state(side)
    with pytest.raises(Drifted):
        await side.store.commit(Commit(ledger, {"alpha": OFF, "beta": OFF}, {"alpha": everyone(10)}, why()))
    assert state(side) == before
    assert (await side.store.read(KEY, [])).ledger == ledger


async def test_a_row_that_is_gone_is_not_made(side: Side) -> None:
    ledger = await side.store.open(claim())
    side.edit("beta", None)
    problem = await problem_of(side.store.commit(Commit(ledger, {"beta": OFF}, {"beta": everyone(10)}, why())))
    assert (problem.reason, problem.stalled) == ("FlagMissing", True)
    assert "beta" not in side.rows()
    assert (await side.store.read(KEY, [])).ledger == ledger


async def test_another_rollouts_flag_is_not_raised(side: Side) -> None:
    await side.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2"))
    ledger = await side.store.open(claim("beta"))
    change = Commit(ledger, {"alpha": OFF}, {"alpha": everyone(10)}, why())
    assert (await problem_of(side.store.commit(change))).reason == "Conflict"
    assert (side.rows()["alpha"], side.audit()) == (OFF, [])


async def test_a_request_is_answered_once(side: Side) -> None:
    ledger = await side.store.open(claim())
    after = await side.store.commit(Commit(ledger, {}, {}, why(verb="Approve"), (answered(),)))
    assert (await side.store.read(KEY, [], ["action-1", "action-2"])).actions == {"action-1": Recorded(APPLIED, NOW)}
    with pytest.raises(Fenced):
        await side.store.commit(Commit(after, {}, {}, why(verb="Approve"), (answered("action-2"), answered())))
    assert list((await side.store.read(KEY, [], ["action-1", "action-2"])).actions) == ["action-1"]
    assert (await side.store.read(KEY, [])).ledger == after
    assert side.told() == ["Approve"]


async def test_a_commit_may_clear_a_latch(side: Side) -> None:
    await raised(side, await side.store.open(claim("alpha")))
    reverted = await side.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    assert side.latches() == {"alpha": latch()}
    await side.store.commit(Commit(replace(reverted, latch=None, attempt=2), {}, {}, why("Rearmed")))
    assert side.latches() == {"alpha": None}


async def test_a_raise_of_a_locked_row_is_not_made(side: Side) -> None:
    ledger = await side.store.open(claim())
    with side.locked("beta"):
        change = Commit(ledger, {"alpha": OFF, "beta": OFF}, dict.fromkeys(("alpha", "beta"), everyone(10)), why())
        problem = await problem_of(side.store.commit(change))
    assert (problem.reason, problem.stalled) == ("LockTimeout", False)
    assert (side.rows()["alpha"], side.audit()) == (OFF, [])


# lower


async def test_a_revert_leaves_the_meet_and_a_latch(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim()), 50, "alpha", "beta")
    side.edit("alpha", only(30, "staff"))
    to = {"alpha": only(100, "staff", "eu"), "beta": everyone(20), "gone": everyone(1)}
    after = await side.store.lower(
        lowering(to, latch=latch(), severity=Severity.HIGH, why=why("Breach", verb="ReducePercentage"))
    )
    assert (side.rows()["alpha"], side.rows()["beta"]) == (only(30, "staff"), everyone(20))
    assert (after.sequence, after.latch, after.acted) == (ledger.sequence + 1, latch(), {Severity.HIGH})
    assert after.written["beta"] == everyone(20)
    assert side.latches() == {"alpha": latch(), "beta": latch()}
    manual, lowered = side.audit()[2:]
    assert manual == ("alpha", everyone(50), only(30, "staff"), "Manual", "ManualChange", "unknown", 1)
    assert lowered == ("beta", everyone(50), everyone(20), "Lower", "Breach", "operator", 1)
    assert side.operations()[-1] == f"{KEY}@{after.sequence}"
    assert side.told()[-1] == "ReducePercentage"
    assert (await side.store.read(KEY, [])).ledger == after


async def test_no_groups_in_common_is_disabled(side: Side) -> None:
    side.edit("alpha", only(50, "staff"))
    await side.store.open(claim())
    await side.store.lower(lowering({"alpha": only(100, "eu")}, latch=latch()))
    assert not side.rows()["alpha"].enabled


async def test_a_lowering_is_idempotent_and_needs_no_epoch(side: Side) -> None:
    await raised(side, await side.store.open(claim()))
    await side.another().open(claim())
    change = lowering(["alpha"], latch=latch(), severity=Severity.HIGH)
    first = await side.store.lower(change)
    before = state(side)
    assert await side.store.lower(change) == first
    assert state(side) == before


async def test_the_first_latch_stays_unless_a_graver_one_follows(side: Side) -> None:
    await raised(side, await side.store.open(claim()))
    await side.store.lower(lowering(["alpha"], latch=latch(Severity.MEDIUM), severity=Severity.MEDIUM))
    after = await side.store.lower(lowering(["alpha"], latch=latch(Severity.CRITICAL), severity=Severity.CRITICAL))
    assert after.latch == latch(Severity.MEDIUM).followed_by(latch(Severity.CRITICAL))
    assert after.acted == {Severity.MEDIUM, Severity.CRITICAL}
    assert side.latches()["alpha"] == after.latch


async def test_a_request_to_lower_is_carried_out_once(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim()))
    order = answered(kind=RequestType.ROLL_BACK)
    after = await side.store.lower(lowering(["alpha"], latch=latch(), answered=(order,)))
    assert after.sequence == ledger.sequence + 1
    side.edit("alpha", everyone(70))
    assert await side.store.lower(lowering(["alpha"], latch=latch(), answered=(order,))) == after
    assert side.rows()["alpha"] == everyone(70)


async def test_another_rollouts_flag_is_not_lowered(side: Side) -> None:
    await raised(side, await side.store.open(claim("alpha")))
    await side.store.open(claim("beta", key=OTHER_KEY, uid="uid-2"))
    await side.store.lower(lowering(["alpha"], key=OTHER_KEY))
    assert side.rows()["alpha"] == everyone(10)


async def test_without_a_ledger_row_flags_are_lowered_all_the_same(side: Side) -> None:
    side.edit("alpha", everyone(50))
    after = await side.store.lower(lowering(["alpha"], latch=latch()))
    assert (after.epoch, after.sequence, after.uid) == (0, 0, "")
    assert not side.rows()["alpha"].enabled
    assert [row[:5] for row in side.audit()] == [("alpha", everyone(50), side.rows()["alpha"], "Lower", "Breach")]


async def test_a_baseline_is_restored_exactly_where_that_lowers(side: Side) -> None:
    side.edit("alpha", only(100, "staff"))
    await side.store.open(claim())
    side.edit("alpha", everyone(100))
    side.edit("beta", only(5, "eu"))
    to = {"alpha": replace(only(100, "staff"), enabled=False), "beta": everyone(50)}
    await side.store.lower(lowering(to, exact=True))
    assert side.rows()["alpha"] == to["alpha"]
    assert side.rows()["beta"] == only(5, "eu")


async def test_a_locked_row_keeps_no_other_from_being_lowered(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim()), 50, "alpha", "beta")
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    with side.locked("beta"):
        problem = await problem_of(side.store.lower(change))
        assert (problem.reason, problem.stalled) == ("RevertBlocked", False)
        assert [side.rows()[flag].enabled for flag in ("alpha", "beta")] == [False, True]
        half = (await side.store.read(KEY, [])).ledger
        assert (half.latch, half.acted) == (latch(), frozenset())
        assert half.sequence > ledger.sequence
    after = await side.store.lower(change)
    assert [side.rows()[flag].enabled for flag in ("alpha", "beta")] == [False, False]
    assert after.acted == {Severity.HIGH}
    assert [row[0] for row in side.audit()[2:]] == ["alpha", "beta"]


async def test_without_room_for_the_record_flags_are_lowered_and_it_follows(side: Side) -> None:
    await raised(side, await side.store.open(claim()), 50, "alpha", "beta")
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    with side.no_room():
        problem = await problem_of(side.store.lower(change))
        assert (problem.reason, problem.stalled) == ("AuditDelayed", False)
        assert not side.rows()["alpha"].enabled
        assert (await problem_of(side.store.observe(KEY, ["alpha"]))).reason == "AuditDelayed"
        assert len(side.audit()) == 2
    after = await side.store.lower(change)
    assert (after.latch, after.acted, after.written["alpha"]) == (latch(), {Severity.HIGH}, side.rows()["alpha"])
    rows = [(flag, before, after, kind) for flag, before, after, kind, *_ in side.audit()[2:]]
    assert rows == [(flag, everyone(50), side.rows()[flag], "Lower") for flag in ("alpha", "beta")]
    await side.store.observe(KEY, ["alpha", "beta"])
    assert len(side.audit()) == 4


# observe, release, tell, checkpoint


async def test_a_change_by_somebody_else_is_recorded_once(side: Side) -> None:
    await side.store.observe(KEY, ["alpha"])
    await raised(side, await side.store.open(claim()))
    await side.store.observe(KEY, ["alpha"])
    side.edit("alpha", everyone(99))
    side.edit("beta", everyone(5))
    for _ in range(2):
        await side.store.observe(KEY, ["alpha", "beta", "gone"])
    assert side.audit()[1:] == [("alpha", everyone(10), everyone(99), "Manual", "ManualChange", "unknown", 1)]


async def test_a_release_leaves_what_it_is_told_and_gives_the_flags_up(side: Side) -> None:
    await raised(side, await side.store.open(claim()))
    await side.store.release(lowering(["alpha"], why=why("Released", verb="Release")), "uid-1")
    assert not side.rows()["alpha"].enabled
    assert side.owners() == {"alpha": None, "beta": None}
    assert side.audit()[-1][3:5] == ("Lower", "Released")
    assert side.told() == ["Advance", "Release"]
    before = state(side)
    await side.store.release(lowering(["alpha", "beta"], why=why("Released", verb="Release")), "uid-1")
    assert state(side) == before


async def test_a_release_that_writes_no_row_is_told_too(side: Side) -> None:
    await side.store.open(claim())
    await side.store.release(lowering({}, why=why("Released", verb="Release")), "uid-1")
    assert (side.told(), side.audit()) == (["Release"], [])


async def test_only_the_object_that_holds_the_row_releases_it(side: Side) -> None:
    await raised(side, await side.store.open(claim()))
    before = state(side)
    await side.store.release(lowering(["alpha"]), "uid-2")
    await side.store.release(lowering(["alpha"], key=OTHER_KEY), "uid-1")
    assert state(side) == before


async def test_others_are_told_of_what_is_no_change(side: Side) -> None:
    await side.store.tell(KEY, why("GuardsBlind", verb="Hold"))
    await side.store.open(claim())
    await side.store.tell(KEY, why("GuardsBlind", verb="Recover"))
    assert (side.told(), side.audit()) == (["Hold", "Recover"], [])


async def test_progress_is_stored_under_its_epoch_attempt_and_stage_only(side: Side) -> None:
    ledger = await raised(side, await side.store.open(claim()))
    good = Checkpoint(KEY, ledger.epoch, ledger.attempt, timedelta(seconds=90), {"a": [1.5, None]}, ledger.stage)
    await side.store.checkpoint([])
    await side.store.checkpoint([good])
    after = replace(ledger, baked=good.baked)
    stale = [
        replace(good, epoch=ledger.epoch - 1),
        replace(good, attempt=ledger.attempt + 1),
        replace(good, stage=ledger.stage - 1),
        replace(good, key=OTHER_KEY),
    ]
    for one in stale:
        await side.store.checkpoint([replace(one, baked=timedelta(hours=1), progress={})])
    found = await side.store.read(KEY, [], progress=True)
    assert (found.ledger, found.progress) == (after, (1, {"a": [1.5, None]}))
    await side.store.release(lowering({}), "uid-1")
    await side.store.checkpoint([replace(good, baked=timedelta(hours=1))])
    assert (await side.store.read(KEY, [])).ledger.baked == good.baked


# A server that does not answer


CALLS: dict[str, Callable[[Any], Any]] = {
    "open": lambda store: store.open(claim()),
    "read": lambda store: store.read(KEY, ["alpha"]),
    "commit": lambda store: store.commit(Commit(Ledger(KEY, "uid-1", 1, 0, "s", "p"), {}, {}, why())),
    "lower": lambda store: store.lower(lowering(["alpha"], latch=latch())),
    "observe": lambda store: store.observe(KEY, ["alpha"]),
    "release": lambda store: store.release(lowering({}), "uid-1"),
    "tell": lambda store: store.tell(KEY, why()),
    "checkpoint": lambda store: store.checkpoint([Checkpoint(KEY, 1, 1, timedelta(0), {})]),
}


async def test_a_server_that_is_away_is_the_same_problem_everywhere(side: Side) -> None:
    store = side.unreachable()
    for name, call in CALLS.items():
        problem: Problem = await problem_of(call(store))
        assert (problem.reason, problem.stalled) == ("StoreUnreachable", False), name
