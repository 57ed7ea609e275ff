"""Lowering: always allowed, always idempotent, and done as far as it can be.

| what | invariant |
|---|---|
| the meet of row and target, an empty intersection is disabled | S19 |
| no epoch, no preparation | design, principle 2 |
| locked rows, a locked ledger, no room for the audit | L5, L6 |
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from feature_rollout.core.exposure import DISABLED, FULL, Exposure
from feature_rollout.core.plan import Severity
from postgres.world import KEY, OFF, World, claim, everyone, latch, lowering, only, problem_of
from support.databases import all_postgres

pytestmark = all_postgres


@contextmanager
def locked(world: World, statement: str) -> Iterator[None]:
    """Hold a lock as a person does who forgot to commit."""
    with psycopg.connect(world.database.uri()) as connection:
        connection.execute(statement.encode())
        yield


async def raised(world: World) -> None:
    ledger = await world.store.open(claim("alpha", "beta", "gamma"))
    await world.raised(ledger, alpha=everyone(50), beta=everyone(50), gamma=everyone(50))


@pytest.mark.parametrize(
    ("row", "target", "after"),
    [
        pytest.param(everyone(50), DISABLED, Exposure(False, Decimal(50)), id="disable changes nothing else"),
        pytest.param(everyone(50), everyone(10), everyone(10), id="the smaller percentage"),
        pytest.param(everyone(10), everyone(50), everyone(10), id="never more than it was"),
        pytest.param(everyone(50), only(100, "admin"), only(50, "admin"), id="restricted to a group"),
        pytest.param(only(50, "a", "b"), only(100, "b", "c"), only(50, "b"), id="the common group"),
        pytest.param(only(50, "a"), only(100, "b"), Exposure(False, Decimal(50), frozenset("a")), id="disjoint: off"),
        pytest.param(OFF, everyone(100), OFF, id="what is off stays off"),
    ],
)
async def test_a_row_becomes_its_meet_with_the_target(
    world: World, row: Exposure, target: Exposure, after: Exposure
) -> None:
    await world.store.open(claim())
    world.set_row("alpha", row)
    await world.store.lower(lowering({"alpha": target}))
    assert world.row("alpha") == after


async def test_a_baseline_is_restored_exactly_where_it_is_within_the_row(world: World) -> None:
    await raised(world)
    baseline = {"alpha": Exposure(False, Decimal(7), frozenset({"x"})), "beta": only(3, "y"), "gamma": everyone(80)}
    await world.store.lower(lowering(baseline, exact=True))
    assert world.row("alpha") == baseline["alpha"]
    assert world.row("beta") == baseline["beta"]
    # This one would be more than there is now.
    assert world.row("gamma") == everyone(50)


async def test_a_revert_writes_flags_latch_and_audit_in_one_transaction(world: World) -> None:
    await raised(world)
    frame = world.frame()
    ledger = await world.store.lower(lowering(["alpha", "beta"], latch=latch(Severity.HIGH), severity=Severity.HIGH))
    assert world.frame() == frame
    assert ledger == (await world.store.read(KEY, [])).ledger
    assert (ledger.sequence, ledger.latch, ledger.acted) == (2, latch(Severity.HIGH), {Severity.HIGH})
    assert ledger.written == {
        "alpha": Exposure(False, Decimal(50)),
        "beta": Exposure(False, Decimal(50)),
        "gamma": everyone(50),
    }
    entries = world.audit()[3:]
    assert [(e["flag"], e["kind"], e["operation_id"]) for e in entries] == [
        ("alpha", "Lower", f"{KEY}@2"),
        ("beta", "Lower", f"{KEY}@2"),
    ]
    same_transaction = world.database.query(
        "SELECT count(DISTINCT x) AS n FROM (SELECT xmin::text AS x FROM feature_rollout.audit WHERE kind = 'Lower' "
        "UNION SELECT xmin::text FROM feature_rollout.ledger UNION SELECT xmin::text FROM feature_flags "
        "WHERE name IN ('alpha', 'beta')) t"
    )
    assert same_transaction == [{"n": 1}]


async def test_lowering_twice_writes_once(world: World) -> None:
    await raised(world)
    change = lowering(["alpha"], latch=latch(), severity=Severity.HIGH)
    first = await world.store.lower(change)
    everything = world.everything()
    assert await world.store.lower(change) == first
    assert world.everything() == everything


async def test_lowering_needs_no_epoch(world: World) -> None:
    await raised(world)
    standby = world.new_store()
    await world.new_store().open(claim("alpha", "beta", "gamma"))
    await standby.lower(lowering(["alpha"]))
    assert world.row("alpha").is_off


async def test_lowering_needs_no_ledger_row(world: World) -> None:
    world.set_row("alpha", everyone(50))
    ledger = await world.store.lower(lowering(["alpha"], key="cluster/shop/nobody"))
    assert world.row("alpha").is_off
    assert ledger.sequence == 0
    assert [entry["kind"] for entry in world.audit()] == ["Lower"]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (Severity.HIGH, Severity.LOW, Severity.HIGH),
        (Severity.LOW, Severity.CRITICAL, Severity.CRITICAL),
    ],
)
async def test_the_gravest_latch_is_kept(world: World, first: Severity, second: Severity, kept: Severity) -> None:
    await raised(world)
    await world.store.lower(lowering(["alpha"], latch=latch(first), severity=first))
    ledger = await world.store.lower(lowering(["beta"], latch=latch(second), severity=second))
    assert ledger.latch == latch(kept)
    assert ledger.acted == {first, second}
    stored = world.database.query("SELECT DISTINCT latch->'breach'->>'severity' AS s FROM feature_rollout.ownership")
    assert stored == [{"s": str(kept)}]


async def test_an_equal_latch_does_not_replace_the_first(world: World) -> None:
    await raised(world)
    later = replace(latch(), stage="later")
    await world.store.lower(lowering(["alpha"], latch=latch()))
    assert (await world.store.lower(lowering(["alpha"], latch=later))).latch == latch()


async def test_missing_flags_are_skipped(world: World) -> None:
    await raised(world)
    await world.store.lower(lowering(["alpha", "ghost"]))
    assert world.row("alpha").is_off


async def test_a_fraction_is_rounded_down_for_an_integer_column(world: World) -> None:
    await raised(world)
    await world.store.lower(lowering({"alpha": everyone("2.9")}))
    assert world.row("alpha") == everyone(2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE feature_flags SET enabled = NULL WHERE name = 'alpha'",
        "UPDATE feature_flags SET rollout_percentage = NULL WHERE name = 'alpha'",
        "UPDATE feature_flags SET user_groups = '{NULL}' WHERE name = 'alpha'",
        (
            "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_name_key; "
            "INSERT INTO feature_flags (name, enabled, rollout_percentage) VALUES ('alpha', true, 100)"
        ),
    ],
)
async def test_rows_that_cannot_be_raised_can_be_lowered(world: World, statement: str) -> None:
    await raised(world)
    world.database.execute(statement)
    await world.store.lower(lowering(["alpha"]))
    rows = world.database.query("SELECT enabled FROM feature_flags WHERE name = 'alpha'")
    assert all(row["enabled"] is False for row in rows)


async def test_lowering_does_not_hide_what_somebody_else_changed(world: World) -> None:
    await raised(world)
    world.set_row("beta", only(5, "person"))
    ledger = await world.store.lower(lowering({"alpha": everyone(20), "beta": everyone(20)}))
    assert world.row("beta") == only(5, "person")
    assert ledger.written["beta"] == everyone(50)
    assert ledger.written["alpha"] == everyone(20)


async def test_one_locked_row_keeps_no_other_from_being_lowered(world: World) -> None:
    await raised(world)
    change = lowering(["alpha", "beta", "gamma"], latch=latch(), severity=Severity.HIGH)
    with locked(world, "SELECT FROM feature_flags WHERE name = 'beta' FOR UPDATE"):
        problem = await problem_of(world.store.lower(change))
        assert (problem.reason, problem.stalled) == ("RevertBlocked", False)
        assert problem.message == "locked by another session: beta; all other flags were lowered"
        assert world.row("alpha").is_off
        assert world.row("gamma").is_off
        assert world.row("beta") == everyone(50)
        assert world.ledger_row()["latch"] is not None
    ledger = await world.store.lower(change)
    assert world.row("beta").is_off
    assert ledger.written == {flag: Exposure(False, Decimal(50)) for flag in ("alpha", "beta", "gamma")}
    assert sorted(entry["flag"] for entry in world.audit() if entry["kind"] == "Lower") == ["alpha", "beta", "gamma"]


async def test_a_locked_ledger_keeps_no_flag_from_being_lowered(world: World) -> None:
    await raised(world)
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    with locked(world, "SELECT FROM feature_rollout.ledger FOR UPDATE"):
        problem = await problem_of(world.store.lower(change))
        assert problem.reason == "RevertBlocked"
        assert "the ledger row" in problem.message
        assert world.row("alpha").is_off
        assert world.row("beta").is_off
        assert world.ledger_row()["latch"] is None
    ledger = await world.store.lower(change)
    assert ledger.latch == latch()
    # The rows were lowered by us and are known as ours, so they are no drift.
    assert ledger.written["alpha"] == Exposure(False, Decimal(50))
    assert len([entry for entry in world.audit() if entry["kind"] == "Lower"]) == 2


async def test_lowering_does_not_wait_for_busy_connections_of_the_writer(world: World) -> None:
    await raised(world)
    busy = world.store._writers
    taken = asyncio.Event()
    done = asyncio.Event()

    async def occupy(connection: object) -> None:
        taken.set()
        await done.wait()

    tasks = [asyncio.create_task(busy.transaction(occupy)) for _ in range(2)]
    await taken.wait()
    started = time.monotonic()
    await world.store.lower(lowering(["alpha"]))
    # Far less than a free connection is waited for.
    assert time.monotonic() - started < 10
    assert world.row("alpha").is_off
    done.set()
    await asyncio.gather(*tasks)


async def test_lowering_uses_the_connection_that_is_open_already(world: World) -> None:
    await world.store.prepare()
    (warm,) = world.store._reverters._idle
    world.set_row("alpha", everyone(50))
    await world.store.lower(lowering(["alpha"]))
    assert world.store._reverters._idle == [warm]


async def test_lowering_survives_the_end_of_its_connection(world: World) -> None:
    await raised(world)
    world.database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", world.writer)
    await world.store.lower(lowering(["alpha"]))
    assert world.row("alpha").is_off


@pytest.mark.parametrize(
    ("obstacle", "removal"),
    [
        pytest.param(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'secret-of-the-server' USING ERRCODE = 'disk_full'; END $$; "
            "CREATE TRIGGER full_disk BEFORE INSERT ON feature_rollout.audit EXECUTE FUNCTION full_disk()",
            "DROP TRIGGER full_disk ON feature_rollout.audit",
            id="disk full",
        ),
        pytest.param(
            "ALTER TABLE feature_rollout.ledger RENAME TO away",
            "ALTER TABLE feature_rollout.away RENAME TO ledger",
            id="table gone",
        ),
        pytest.param(
            "REVOKE INSERT ON feature_rollout.audit FROM feature_rollout_writer",
            "GRANT INSERT ON feature_rollout.audit TO feature_rollout_writer",
            id="privilege gone",
        ),
    ],
)
async def test_without_bookkeeping_the_flags_are_lowered_and_the_audit_follows(
    world: World, obstacle: str, removal: str
) -> None:
    await raised(world)
    world.database.execute(obstacle)
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    for _ in range(2):
        problem = await problem_of(world.store.lower(change))
        assert (problem.reason, problem.stalled) == ("AuditDelayed", False)
        assert "secret-of-the-server" not in problem.message
        assert world.row("alpha").is_off
        assert world.row("beta").is_off
    world.database.execute(removal)
    ledger = await world.store.lower(change)
    assert ledger.latch == latch()
    assert ledger.written["alpha"] == Exposure(False, Decimal(50))
    lower = [entry for entry in world.audit() if entry["kind"] == "Lower"]
    assert [(entry["flag"], entry["before"]["enabled"], entry["after"]["enabled"]) for entry in lower] == [
        ("alpha", True, False),
        ("beta", True, False),
    ]


async def test_without_a_flag_table_the_latch_is_kept(world: World) -> None:
    await raised(world)
    world.database.execute("DROP TABLE feature_flags")
    ledger = await world.store.lower(lowering(["alpha"], latch=latch()))
    assert ledger.latch == latch()


async def test_a_missing_privilege_on_the_flags_is_explained(world: World) -> None:
    await raised(world)
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {world.writer}")
    problem = await problem_of(world.store.lower(lowering(["alpha"])))
    assert problem.reason == "PermissionDenied"
    assert "GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups)" in problem.message


async def test_the_target_everyone_at_full_changes_nothing(world: World) -> None:
    await raised(world)
    everything = world.everything()
    await world.store.lower(lowering({"alpha": Exposure(True, FULL)}))
    assert world.everything() == everything
