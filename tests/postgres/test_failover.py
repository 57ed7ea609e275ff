"""A failover to a standby that had not got the last commits: what the operator knows is put right on the new primary.

Real servers, a real asynchronous standby, the real store by the connection string of both; metrics in virtual time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from feature_rollout.core.looks import Window
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import PostgresFlagStore, StoreConfig, migrations
from postgres.world import FLAG_TABLE
from support import audit
from support.fakes import T0, minutes, plan, stage
from support.fakes import World as Rollout
from support.standby import Standby, replicating_postgres

PLAN = plan(stage("ten", ("alpha", 10)), stage("half", ("alpha", 50)), stage("all", ("alpha", 100)))
REAPPLIED_WITHIN = timedelta(seconds=10)


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with PostgresServer(replicating_postgres().bin_dir) as server:
        with psycopg.connect(server.uri(), autocommit=True) as connection:
            connection.execute(migrations.script().encode())
            connection.execute(FLAG_TABLE.encode())
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[Standby]:
    with Standby(primary) as standby:
        yield standby


@pytest.fixture
async def rollout(standby: Standby) -> AsyncIterator[Rollout]:
    store = PostgresFlagStore(StoreConfig(standby.either("postgres")))
    made = Rollout(PLAN)
    made.store = store  # type: ignore[assignment]
    yield made
    await store.close()


def fail_over(primary: PostgresServer, standby: Standby) -> None:
    primary.kill()
    standby.promote()


async def soon(rollout: Rollout, condition: Callable[[], object]) -> timedelta:
    """Reconcile when it is due until the condition holds; how long that takes by the reconciler's own clock."""
    begun = rollout.clock.time
    async with asyncio.timeout(90):
        while not condition():
            rollout.clock.time += await rollout.step() or timedelta(0)
    return rollout.clock.time - begun


def query(server: PostgresServer, statement: str) -> list[Any]:
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def row(server: PostgresServer) -> audit.Row:
    [(enabled, percentage, groups)] = query(
        server, "SELECT enabled, rollout_percentage, user_groups FROM feature_flags WHERE name = 'alpha'"
    )
    return enabled, percentage, frozenset(groups)


def violations(server: PostgresServer) -> list[str]:
    columns = "id, operation_id, ledger_key, flag, before, after, kind, epoch, uid, generation, reason"
    entries = query(server, f"SELECT {columns} FROM feature_rollout.audit ORDER BY id")
    named = [dict(zip(columns.split(", "), entry, strict=True)) for entry in entries]
    return audit.violations(named, {"alpha": (False, 0, frozenset())}, {"alpha": row(server)})


def in_stage(rollout: Rollout, name: str) -> Callable[[], bool]:
    return lambda: (rollout.status.get("stage") or {}).get("name") == name


async def test_a_revert_that_was_lost_with_the_old_primary_is_made_again(
    primary: PostgresServer, standby: Standby, rollout: Rollout
) -> None:
    await soon(rollout, in_stage(rollout, "half"))
    standby.catch_up()
    standby.stop_replicating()

    def harm(_metric: str, window: Window) -> dict[str, Any]:
        return {"events": 40.0 if window.start < bad_until else 0.0, "units": 200.0}

    bad_until = rollout.clock.time + minutes(2)
    rollout.source.answer = harm
    await soon(rollout, lambda: "FlagsDisabled" in rollout.reasons)
    await rollout.run(minutes(3))
    assert row(primary) == (False, 50, frozenset())
    fail_over(primary, standby)
    assert row(standby) == (True, 50, frozenset()), "the standby must have missed the revert"
    took = await soon(rollout, lambda: "RevertRestored" in rollout.reasons)
    assert took <= REAPPLIED_WITHIN
    assert row(standby) == (False, 50, frozenset())
    [(severity,)] = query(standby, "SELECT latch->'breach'->>'severity' FROM feature_rollout.ledger")
    assert severity == "High"
    await rollout.run(timedelta(hours=1))
    assert (rollout.status["phase"], row(standby)) == ("RolledBack", (False, 50, frozenset()))
    assert rollout.reasons.count("RevertRestored") == 1
    assert violations(standby) == []


async def test_a_raise_that_was_lost_with_the_old_primary_is_not_assumed(
    primary: PostgresServer, standby: Standby, rollout: Rollout
) -> None:
    await soon(rollout, in_stage(rollout, "ten"))
    standby.catch_up()
    standby.stop_replicating()
    await soon(rollout, in_stage(rollout, "half"))
    fail_over(primary, standby)
    assert row(standby) == (True, 10, frozenset())
    took = await soon(rollout, in_stage(rollout, "ten"))
    assert took <= REAPPLIED_WITHIN
    assert row(standby) == (True, 10, frozenset())
    assert query(standby, "SELECT stage FROM feature_rollout.ledger") == [(0,)]
    # What was measured in the stage is known; it goes on by its own bake and not by the lost one's.
    await soon(rollout, in_stage(rollout, "half"))
    assert row(standby) == (True, 50, frozenset())
    assert violations(standby) == []


async def test_a_revert_and_the_raise_before_it_are_lost_together(
    primary: PostgresServer, standby: Standby, rollout: Rollout
) -> None:
    await soon(rollout, in_stage(rollout, "ten"))
    standby.catch_up()
    standby.stop_replicating()
    await soon(rollout, in_stage(rollout, "half"))
    rollout.source.answer = lambda _metric, window: {
        "events": 40.0 if T0 + minutes(5) <= window.start < T0 + minutes(8) else 0.0,
        "units": 200.0,
    }
    await soon(rollout, lambda: "FlagsDisabled" in rollout.reasons)
    fail_over(primary, standby)
    assert row(standby) == (True, 10, frozenset())
    assert await soon(rollout, lambda: "RevertRestored" in rollout.reasons) <= REAPPLIED_WITHIN
    assert row(standby) == (False, 10, frozenset())
    await rollout.run(timedelta(hours=1))
    assert row(standby) == (False, 10, frozenset())
    assert violations(standby) == []
