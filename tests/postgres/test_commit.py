"""The fenced transaction, on every PostgreSQL of this machine.

| what | invariant |
|---|---|
| all or nothing, one audit row a change | S5, S7 |
| columns and rows that are not named stay | S8 |
| old epoch, old sequence, closed row | S3 |
| rows changed by others | S4 |
"""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import Severity
from feature_rollout.ports import Commit, Drifted, Fenced
from postgres.world import KEY, OFF, World, claim, everyone, latch, lowering, only, problem_of, why
from support.databases import all_postgres

pytestmark = all_postgres


async def test_a_commit_writes_flags_ledger_and_audit(world: World) -> None:
    ledger = await world.store.open(claim())
    ledger = await world.raised(ledger, alpha=everyone(5), beta=only(100, "admin", "agent"))
    assert world.row("alpha") == everyone(5)
    assert world.row("beta") == only(100, "admin", "agent")
    assert ledger.sequence == world.ledger_row()["sequence"] == 1
    first, second = world.audit()
    assert first["operation_id"] == second["operation_id"] == f"{KEY}@1"
    assert (first["flag"], first["before"], first["after"]) == ("alpha", OFF.to_json(), everyone(5).to_json())
    assert (first["kind"], first["epoch"], first["uid"]) == ("Raise", 1, "uid-1")
    assert (first["reason"], first["stage"], first["generation"]) == ("StageEntered", "canary", 1)
    assert second["after"] == only(100, "admin", "agent").to_json()


async def test_the_ledger_comes_back_as_it_was_written(world: World) -> None:
    ledger = await world.store.open(claim())
    full = replace(
        ledger,
        spec_hash="spec-2",
        plan_hash="plan-2",
        attempt=2,
        stage=3,
        entered_at=datetime(2026, 1, 5, 9, 30, 1, 123456, tzinfo=UTC),
        baked=timedelta(days=2, microseconds=7),
        executed=("v1:a", "v1:b"),
        baseline={"alpha": Exposure(False, Decimal("2.5"), frozenset({"a", "b"}))},
        written={"alpha": everyone(10)},
        latch=latch(),
        acted=frozenset({Severity.LOW, Severity.CRITICAL}),
        completed_at=datetime(2026, 1, 6, tzinfo=UTC),
    )
    written = await world.store.commit(Commit(full, {}, {}, why()))
    assert written == replace(full, sequence=full.sequence + 1)
    assert (await world.store.read(KEY, [])).ledger == written


async def test_columns_and_rows_that_are_not_named_stay_byte_equal(world: World) -> None:
    frame = world.frame()
    ledger = await world.store.open(claim())
    world.database.execute("UPDATE public.feature_flags SET user_groups = '{b,a,a}' WHERE name = 'alpha'")
    ledger = await world.raised(ledger, alpha=only(7, "a", "b"))
    assert world.frame() == frame
    # The groups did not change, so neither did their order nor their doubles.
    groups = world.database.query("SELECT user_groups::text FROM public.feature_flags WHERE name = 'alpha'")
    assert groups == [{"user_groups": "{b,a,a}"}]


async def test_a_row_that_does_not_change_is_not_written(world: World) -> None:
    ledger = await world.store.open(claim())
    before = world.database.query("SELECT xmin::text FROM public.feature_flags WHERE name = 'beta'")
    await world.raised(ledger, alpha=everyone(5), beta=OFF)
    assert world.database.query("SELECT xmin::text FROM public.feature_flags WHERE name = 'beta'") == before
    assert [row["flag"] for row in world.audit()] == ["alpha"]


@pytest.mark.parametrize(
    "stale", [{"epoch": 0}, {"epoch": 2}, {"sequence": 1}, {"key": "cluster/shop/nobody"}], ids=str
)
async def test_a_commit_off_the_fence_writes_nothing(world: World, stale: dict[str, int]) -> None:
    ledger = await world.store.open(claim())
    everything = world.everything()
    change = Commit(replace(ledger, **stale, stage=4), {"alpha": OFF}, {"alpha": everyone(5)}, why())
    with pytest.raises(Fenced):
        await world.store.commit(change)
    assert world.everything() == everything


async def test_a_new_leader_fences_the_old_one(world: World) -> None:
    old = await world.store.open(claim())
    new = await world.new_store().open(claim())
    assert (old.epoch, new.epoch) == (1, 2)
    with pytest.raises(Fenced):
        await world.raised(old, alpha=everyone(5))
    await world.raised(new, alpha=everyone(5))


async def test_of_two_commits_at_once_one_is_fenced(world: World) -> None:
    ledger = await world.store.open(claim())
    other = world.new_store()
    await other.prepare()
    change = Commit(replace(ledger, stage=0), {"alpha": OFF}, {"alpha": everyone(5)}, why())
    results = await asyncio.gather(world.store.commit(change), other.commit(change), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Fenced", "Ledger"]
    assert len(world.audit()) == 1


async def test_a_row_that_somebody_changed_is_drift_and_nothing_is_written(world: World) -> None:
    ledger = await world.store.open(claim())
    world.set_row("beta", everyone(1))
    everything = world.everything()
    rows = {"alpha": OFF, "beta": OFF}
    with pytest.raises(Drifted, match="beta"):
        await world.store.commit(Commit(ledger, rows, {**rows, "alpha": everyone(5)}, why()))
    assert world.everything() == everything


async def test_a_missing_flag_is_a_problem_and_is_not_created(world: World) -> None:
    ledger = await world.store.open(claim("alpha", "ghost"))
    assert set((await world.store.read(KEY, ["alpha", "ghost"])).rows) == {"alpha"}
    everything = world.everything()
    rows = {"alpha": OFF, "ghost": OFF}
    change = Commit(ledger, rows, {"alpha": everyone(5), "ghost": everyone(5)}, why())
    problem = await problem_of(world.store.commit(change))
    assert (problem.reason, problem.message) == ("FlagMissing", "no row in public.feature_flags for ghost")
    assert world.everything() == everything


async def test_a_flag_of_somebody_else_is_not_written(world: World) -> None:
    ledger = await world.store.open(claim("alpha"))
    problem = await problem_of(world.raised(ledger, gamma=everyone(5)))
    assert (problem.reason, problem.message) == ("Conflict", "not owned by this rollout: gamma")
    assert world.row("gamma") == OFF


async def test_a_fraction_does_not_go_into_an_integer_column(world: World) -> None:
    ledger = await world.store.open(claim())
    problem = await problem_of(world.raised(ledger, alpha=everyone("2.5")))
    assert problem.reason == "PercentageNotWhole"
    assert problem.message == "flag alpha: 2.5 % does not fit column rollout_percentage, which holds whole numbers"
    assert world.row("alpha") == OFF


@pytest.mark.parametrize("column_type", ["numeric", "numeric(5,2)", "double precision", "real"])
async def test_a_fraction_goes_into_a_column_that_holds_it(world: World, column_type: str) -> None:
    world.database.execute(f"ALTER TABLE feature_flags ALTER rollout_percentage TYPE {column_type}")
    ledger = await world.store.open(claim())
    await world.raised(ledger, alpha=everyone("2.5"))
    assert (await world.store.read(KEY, ["alpha"])).rows == {"alpha": everyone("2.5")}


async def test_a_fraction_beyond_the_scale_of_the_column_is_refused(world: World) -> None:
    world.database.execute("ALTER TABLE feature_flags ALTER rollout_percentage TYPE numeric(5,2)")
    ledger = await world.store.open(claim())
    problem = await problem_of(world.raised(ledger, alpha=everyone("2.555")))
    assert (problem.reason, "2 decimal places" in problem.message) == ("PercentageNotWhole", True)


async def test_a_trigger_that_changes_what_is_written_undoes_the_raise(world: World) -> None:
    world.database.execute(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.rollout_percentage = 100; RETURN NEW; END $$; "
        "CREATE TRIGGER more BEFORE UPDATE ON feature_flags FOR EACH ROW EXECUTE FUNCTION more()"
    )
    ledger = await world.store.open(claim())
    problem = await problem_of(world.raised(ledger, alpha=everyone(5)))
    assert problem.reason == "FlagWriteAltered"
    assert world.row("alpha") == OFF


async def test_services_are_told_at_the_commit(world: World) -> None:
    ledger = await world.store.open(claim())
    with psycopg.connect(world.database.uri(), autocommit=True) as listener:
        listener.execute("LISTEN feature_flags")
        await world.raised(ledger, alpha=everyone(5), beta=everyone(5))
        (note,) = listener.notifies(timeout=5, stop_after=1)
    assert json.loads(note.payload) == {"flags": ["alpha", "beta"], "operation": f"{KEY}@1"}


@pytest.mark.parametrize(
    ("statement", "reason", "said"),
    [
        ("UPDATE feature_flags SET enabled = NULL WHERE name = 'alpha'", "FlagRowInvalid", "column enabled is NULL"),
        (
            "UPDATE feature_flags SET rollout_percentage = NULL WHERE name = 'alpha'",
            "FlagRowInvalid",
            "flag alpha: column rollout_percentage is NULL",
        ),
        (
            "UPDATE feature_flags SET user_groups = '{NULL}' WHERE name = 'alpha'",
            "FlagRowInvalid",
            "column user_groups holds a NULL",
        ),
        (
            (
                "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_name_key; "
                "INSERT INTO feature_flags (name) VALUES ('alpha')"
            ),
            "FlagAmbiguous",
            "flag alpha has more than one row in public.feature_flags",
        ),
    ],
)
async def test_a_row_that_means_nothing_is_a_problem(world: World, statement: str, reason: str, said: str) -> None:
    await world.store.open(claim())
    world.database.execute(statement)
    problem = await problem_of(world.store.read(KEY, ["alpha"]))
    assert problem.reason == reason
    assert said in problem.message


async def test_null_groups_are_everyone(world: World) -> None:
    await world.store.open(claim())
    world.database.execute("UPDATE feature_flags SET user_groups = NULL WHERE name = 'alpha'")
    assert (await world.store.read(KEY, ["alpha"])).rows == {"alpha": OFF}


async def test_the_audit_is_append_only_for_the_writer_and_for_its_owner(world: World) -> None:
    ledger = await world.store.open(claim())
    await world.raised(ledger, alpha=everyone(5))
    for uri in (world.database.uri(world.writer), world.database.uri()):
        with psycopg.connect(uri, autocommit=True) as connection:
            for statement in (
                "UPDATE feature_rollout.audit SET actor = 'nobody'",
                "DELETE FROM feature_rollout.audit",
                "TRUNCATE feature_rollout.audit",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
    with psycopg.connect(world.database.uri(), autocommit=True) as superuser:
        superuser.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            superuser.execute("DELETE FROM feature_rollout.audit")
    assert len(world.audit()) == 1


async def test_the_audit_replayed_gives_the_rows(world: World) -> None:
    ledger = await world.store.open(claim())
    ledger = await world.raised(ledger, alpha=everyone(5), beta=only(100, "admin"))
    ledger = await world.raised(ledger, alpha=everyone(50), beta=everyone(10))
    await world.store.lower(lowering({"alpha": everyone(20)}))
    rows = {"alpha": OFF, "beta": OFF}
    for entry in world.audit():
        assert rows[entry["flag"]] == Exposure.from_json(entry["before"])
        rows[entry["flag"]] = Exposure.from_json(entry["after"])
    assert rows == {"alpha": everyone(20), "beta": everyone(10)}
    assert rows == {flag: world.row(flag) for flag in rows}
    assert [entry["kind"] for entry in world.audit()] == ["Raise"] * 4 + ["Lower"]
