"""Who owns a flag and a ledger row: over restarts, deletions, recreated objects and other clusters.

| what | invariant |
|---|---|
| one owner a flag, the loser writes nothing | S14 |
| epochs never go down, for any flag | S3 |
| a latch outlives deletion for the same plan | S2 |
| progress belongs to the row, evidence to the UID | S13 |
| release leaves what onDelete says | S15 |
"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import Severity
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Checkpoint, Commit, Fenced, Lowering
from postgres.world import KEY, OFF, OTHER_KEY, World, claim, everyone, latch, lowering, only, problem_of, why
from support.databases import all_postgres

pytestmark = all_postgres


async def rolled_back_and_released(world: World) -> None:
    ledger = await world.store.open(claim())
    await world.raised(ledger, alpha=everyone(5))
    await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    await world.store.release(lowering([]), "uid-1")


async def stored(world: World, key: str) -> object:
    return (await world.store.read(key, [], progress=True)).progress


async def test_the_first_claim_starts_at_epoch_one(world: World) -> None:
    ledger = await world.store.open(claim())
    assert ledger == Ledger(key=KEY, uid="uid-1", epoch=1, sequence=0, spec_hash="spec-1", plan_hash="plan-1")
    assert world.owners() == {"alpha": KEY, "beta": KEY}
    assert world.ledger_row()["on_delete"] == "Keep"


async def test_a_flag_of_another_rollout_is_a_conflict_and_nothing_is_written(world: World) -> None:
    await world.store.open(claim("alpha", "beta"))
    everything = world.everything()
    problem = await problem_of(world.new_store().open(claim("beta", "gamma", key=OTHER_KEY, uid="uid-2")))
    assert (problem.reason, problem.stalled) == ("Conflict", True)
    assert problem.message == f"owned by another rollout: beta by {KEY}"
    assert world.everything() == everything


async def test_of_two_claims_at_once_one_wins(world: World) -> None:
    other = world.new_store()
    results = await asyncio.gather(
        world.store.open(claim("alpha", "beta", "gamma")),
        other.open(claim("gamma", "beta", "alpha", key=OTHER_KEY, uid="uid-2")),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Ledger", "Problem"]
    assert len(set(world.owners().values())) == 1


async def test_a_restart_goes_on_where_it_was_under_the_next_epoch(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim()), alpha=everyone(5))
    again = await world.new_store().open(claim())
    assert again == replace(ledger, epoch=2)


async def test_an_edited_plan_claims_its_new_flag_and_keeps_the_old(world: World) -> None:
    await world.store.open(claim("alpha", "beta"))
    ledger = await world.store.open(claim("beta", "gamma", spec_hash="spec-2", plan_hash="plan-2"))
    assert world.owners() == {"alpha": KEY, "beta": KEY, "gamma": KEY}
    # What was decided on the old plan is the reconciler's to compare.
    assert (ledger.spec_hash, ledger.plan_hash) == ("spec-1", "plan-1")


async def test_an_edited_plan_cannot_take_a_flag_of_another_rollout(world: World) -> None:
    await world.store.open(claim("gamma", key=OTHER_KEY, uid="uid-2"))
    await world.store.open(claim("alpha"))
    everything = world.everything()
    assert (await problem_of(world.store.open(claim("alpha", "gamma")))).reason == "Conflict"
    assert world.everything() == everything


async def test_a_recreated_rollout_starts_afresh_above_the_old_epoch(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim()), alpha=everyone(5))
    await world.store.checkpoint([Checkpoint(KEY, ledger.epoch, 1, timedelta(hours=1), {"a": 1})])
    await world.store.release(lowering([]), "uid-1")
    fresh = await world.store.open(claim(uid="uid-2", spec_hash="spec-2", plan_hash="plan-2"))
    assert (fresh.uid, fresh.stage, fresh.baked, fresh.written, fresh.baseline) == ("uid-2", -1, timedelta(0), {}, {})
    assert (fresh.spec_hash, fresh.plan_hash, fresh.latch) == ("spec-2", "plan-2", None)
    assert fresh.epoch > ledger.epoch
    assert fresh.sequence > ledger.sequence
    assert await stored(world, KEY) is None
    await world.raised(fresh, alpha=everyone(10))


async def test_a_flag_remembers_its_epoch_for_an_owner_of_another_key(world: World) -> None:
    for _ in range(5):
        ledger = await world.store.open(claim())
    await world.store.release(lowering([]), "uid-1")
    other = await world.store.open(claim("beta", key=OTHER_KEY, uid="uid-2"))
    assert other.epoch == ledger.epoch + 1 == 6


async def test_a_rollout_that_was_released_is_not_opened_again(world: World) -> None:
    await world.store.open(claim())
    await world.store.release(lowering([]), "uid-1")
    assert (await problem_of(world.store.open(claim()))).reason == "Released"


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_a_latch_outlives_deletion_for_the_same_plan(world: World, key: str) -> None:
    await rolled_back_and_released(world)
    ledger = await world.store.open(claim(key=key, uid="uid-2"))
    assert ledger.latch == latch()
    assert (ledger.stage, ledger.written) == (-1, {})


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_another_plan_is_not_latched(world: World, key: str) -> None:
    await rolled_back_and_released(world)
    ledger = await world.store.open(claim(key=key, uid="uid-2", spec_hash="spec-2"))
    assert ledger.latch is None


async def test_a_retry_clears_the_latch_for_good(world: World) -> None:
    ledger = await world.store.open(claim())
    await world.raised(ledger, alpha=everyone(5))
    latched = await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    retried = replace(latched, latch=None, attempt=2, stage=-1, acted=frozenset())
    await world.store.commit(Commit(retried, {}, {}, why("Retry")))
    await world.store.release(lowering([]), "uid-1")
    assert (await world.store.open(claim(uid="uid-2"))).latch is None


async def test_the_gravest_latch_of_the_flags_counts(world: World) -> None:
    await world.store.open(claim("alpha"))
    await world.store.open(claim("beta", key=OTHER_KEY, uid="uid-2"))
    await world.store.lower(lowering(["alpha"], latch=latch(Severity.LOW)))
    await world.store.lower(lowering(["beta"], latch=latch(Severity.CRITICAL), key=OTHER_KEY))
    await world.store.release(lowering([]), "uid-1")
    await world.store.release(lowering([], key=OTHER_KEY), "uid-2")
    ledger = await world.store.open(claim("alpha", "beta", key="cluster/shop/third", uid="uid-3"))
    assert ledger.latch == latch(Severity.CRITICAL)


async def test_a_silent_row_of_the_same_plan_is_adopted_without_its_evidence(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim()), alpha=everyone(5))
    await world.store.checkpoint([Checkpoint(KEY, 1, 1, timedelta(hours=3), {"clause": 1})])
    world.forget_writer_for("121 seconds")
    adopted = await world.store.open(claim(uid="uid-2"))
    assert adopted == replace(ledger, uid="uid-2", epoch=2, baked=timedelta(hours=3))
    assert await stored(world, KEY) is None
    with pytest.raises(Fenced):
        await world.raised(ledger, alpha=everyone(6))


async def test_a_row_whose_writer_was_just_heard_of_is_not_adopted_yet(world: World) -> None:
    await world.store.open(claim())
    world.forget_writer_for("110 seconds")
    everything = world.everything()
    problem = await problem_of(world.store.open(claim(uid="uid-2")))
    assert (problem.reason, problem.stalled) == ("AdoptionPending", False)
    assert world.everything() == everything


async def test_a_row_of_another_plan_needs_a_person(world: World) -> None:
    await world.store.open(claim())
    world.forget_writer_for("1 year")
    problem = await problem_of(world.store.open(claim(uid="uid-2", plan_hash="plan-2")))
    assert (problem.reason, problem.stalled) == ("AdoptionRequired", True)


@pytest.mark.parametrize(
    ("release", "row"),
    [
        pytest.param(lowering([]), everyone(50), id="Keep"),
        pytest.param(lowering({"alpha": only(3, "admin")}, exact=True), only(3, "admin"), id="Restore"),
        pytest.param(lowering(["alpha"]), Exposure(False, Decimal(50)), id="Disable"),
    ],
)
async def test_release_leaves_what_it_is_told(world: World, release: Lowering, row: Exposure) -> None:
    world.set_row("alpha", only(3, "admin"))
    await world.raised(await world.store.open(claim()), alpha=everyone(50))
    await world.store.release(release, "uid-1")
    assert world.row("alpha") == row
    assert set(world.owners().values()) == {None}
    assert world.ledger_row()["closed_at"] is not None
    assert len(world.audit()) == 1 + len(release.targets)


async def test_release_is_idempotent_and_leaves_other_uids_alone(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(5))
    everything = world.everything()
    await world.store.release(lowering(["alpha"]), "uid-of-nobody")
    await world.store.release(lowering(["alpha"], key="cluster/shop/nobody"), "uid-1")
    assert world.everything() == everything
    await world.store.release(lowering(["alpha"]), "uid-1")
    everything = world.everything()
    await world.store.release(lowering(["alpha"]), "uid-1")
    assert world.everything() == everything


async def test_a_released_row_takes_no_commit(world: World) -> None:
    ledger = await world.store.open(claim())
    await world.store.release(lowering([]), "uid-1")
    with pytest.raises(Fenced):
        await world.store.commit(Commit(ledger, {}, {}, why()))


async def test_release_does_without_a_flag_table(world: World) -> None:
    await world.store.open(claim())
    world.database.execute("DROP TABLE feature_flags")
    await world.store.release(lowering(["alpha"]), "uid-1")
    assert world.ledger_row()["closed_at"] is not None


async def test_checkpoints_of_old_epochs_attempts_and_stages_are_dropped(world: World) -> None:
    for number in range(4):
        await world.store.open(claim(f"flag-{number}", key=f"k/{number}", uid=f"uid-{number}"))
    ledger = await world.store.open(claim("flag-0", key="k/0", uid="uid-0"))
    given = [
        Checkpoint("k/0", ledger.epoch, 1, timedelta(seconds=60.5), {"a": [1.5, "b"]}, stage=-1),
        Checkpoint("k/1", 0, 1, timedelta(seconds=60), {}),
        Checkpoint("k/2", 1, 2, timedelta(seconds=60), {}),
        Checkpoint("k/3", 1, 1, timedelta(seconds=60), {}, stage=0),
        Checkpoint("k/none", 1, 1, timedelta(seconds=60), {}),
    ]
    await world.store.checkpoint(given)
    await world.store.checkpoint([])
    baked = {row["key"]: row["baked_s"] for row in world.database.query("SELECT * FROM feature_rollout.ledger")}
    assert baked == {"k/0": 60.5, "k/1": 0, "k/2": 0, "k/3": 0}
    assert await stored(world, "k/0") == (1, {"a": [1.5, "b"]})
    assert await stored(world, "k/1") is None
    after = await world.store.read("k/0", [])
    assert (after.ledger.sequence, after.ledger.baked) == (ledger.sequence, timedelta(seconds=60.5))


async def test_progress_may_hold_what_jsonb_does_not(world: World) -> None:
    await world.store.open(claim())
    await world.store.checkpoint([Checkpoint(KEY, 1, 1, timedelta(0), {"m": float("-inf"), "nul\x00": "a\x00b"})])
    assert await stored(world, KEY) == (1, {"m": "-inf", "nul": "ab"})


async def test_reading_a_rollout_that_was_never_opened_is_a_problem(world: World) -> None:
    problem = await problem_of(world.store.read("cluster/shop/nobody", ["alpha"]))
    assert (problem.reason, problem.stalled) == ("LedgerMissing", False)


async def test_open_works_before_the_flag_table_exists(world: World) -> None:
    world.database.execute("ALTER TABLE feature_flags RENAME TO later")
    ledger = await world.store.open(claim())
    ledger = await world.store.commit(Commit(replace(ledger, stage=0), {}, {}, why()))
    problem = await problem_of(world.store.read(KEY, ["alpha"]))
    assert problem.reason == "TableMissing"
    assert problem.message == "table public.feature_flags does not exist"
    world.database.execute("ALTER TABLE later RENAME TO feature_flags")
    await world.raised(ledger, alpha=everyone(5))
    assert world.row("beta") == OFF


async def test_what_the_last_good_plan_was_made_of_is_kept_for_its_object_alone(world: World) -> None:
    made_of = {"rollout": {"spec": {"bake": 0.5}}, "matrix": None}
    assert await world.store.last_plan(KEY, "uid-1") is None
    await world.store.open(replace(claim(), made_of=made_of))
    assert await world.store.last_plan(KEY, "uid-1") == made_of
    assert await world.store.last_plan(KEY, "uid-2") is None
    assert await world.store.last_plan(OTHER_KEY, "uid-1") is None
    await world.store.release(lowering([]), "uid-1")
    assert await world.store.last_plan(KEY, "uid-1") is None


async def test_a_kept_plan_is_written_when_it_changes_and_only_then(world: World) -> None:
    await world.store.open(replace(claim(), made_of={"a": 1}))
    version = "SELECT xmin::text FROM feature_rollout.plan"
    first = world.database.query(version)
    await world.store.open(replace(claim(), made_of={"a": 1}))
    await world.store.open(claim())
    assert world.database.query(version) == first
    await world.store.open(replace(claim(), made_of={"a": 2}))
    assert world.database.query(version) != first
    assert await world.store.last_plan(KEY, "uid-1") == {"a": 2}
