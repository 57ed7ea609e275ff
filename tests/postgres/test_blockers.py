"""Locks that keep exposure from being lowered: who holds them is cancelled or ended, where that is granted (L5)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.ports import Problem
from postgres.world import World, claim, everyone, latch, lowering, problem_of, why
from support.databases import all_postgres
from support.waiting import wait_for

pytestmark = all_postgres

WITHIN_S = 15
LOCK = "UPDATE feature_flags SET description = 'secret text' WHERE name = 'beta'"


@pytest.fixture
def sessions(world: World) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """A function that opens a session of a role, with an open transaction that has run a statement."""
    with ExitStack() as stack:

        def begin(role: str | None, statement: str) -> psycopg.Connection[Any]:
            uri = world.database.uri(role) if role else world.database.uri()
            connection = psycopg.connect(uri, application_name="reports")
            stack.callback(connection.close)
            connection.execute(statement.encode())
            return connection

        yield begin


@pytest.fixture
def service(world: World) -> str:
    role = world.database.role("service")
    world.database.execute(f"GRANT SELECT, UPDATE ON public.feature_flags TO {role}")
    return role


def may_interrupt(world: World, role: str) -> None:
    world.database.execute(f"GRANT pg_signal_backend, pg_read_all_stats TO {role}")


class Reverting:
    """A revert of three flags at 50 %, how long it took, and what was told of others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.told: list[str] = []

    async def run(self) -> Problem | None:
        world = self._world
        change = lowering(["alpha", "beta", "gamma"], latch=latch(), severity=Severity.HIGH)
        change = replace(change, on_interrupted=self.told.append, why=why("Breach", evidence={"metric": "errors"}))
        started = time.monotonic()
        try:
            await world.store.lower(change)
        except Problem as problem:
            return problem
        finally:
            self.took_s = time.monotonic() - started
        return None


async def raised(world: World, **config: Any) -> Reverting:
    store = world.new_store(**config)
    await world.raised(
        await store.open(claim("alpha", "beta", "gamma")), alpha=everyone(50), beta=everyone(50), gamma=everyone(50)
    )
    return Reverting(world)


def interrupted(world: World) -> list[dict[str, str]]:
    return [e["evidence"]["interrupted"] for e in world.audit() if "interrupted" in e["evidence"]]


def is_alive(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


async def test_a_session_that_is_idle_in_its_transaction_is_ended(world: World, service: str, sessions: Any) -> None:
    may_interrupt(world, world.writer)
    reverting = await raised(world)
    session = sessions(service, LOCK)
    assert await reverting.run() is None
    assert reverting.took_s < WITHIN_S
    assert world.row("beta").is_off
    assert not is_alive(session)
    assert interrupted(world) == [
        [
            {"application": "reports", "role": service, "was": "cancelled"},
            {"application": "reports", "role": service, "was": "ended"},
        ]
    ]
    assert len(reverting.told) == 1
    assert f"reports of role {service} (ended)" in reverting.told[0]
    assert "secret" not in reverting.told[0] + str(world.audit())
    assert world.ledger_row()["acted"] == ["High"]


async def test_a_session_that_is_busy_is_cancelled_and_stays(world: World, service: str, sessions: Any) -> None:
    may_interrupt(world, world.writer)
    reverting = await raised(world)
    session = sessions(service, LOCK)
    failures: list[psycopg.Error] = []

    def sleep() -> None:
        try:
            session.execute("SELECT pg_sleep(60)")
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    busy = "SELECT FROM pg_stat_activity WHERE application_name = 'reports' AND state = 'active'"
    wait_for(lambda: world.database.query(busy))
    assert await reverting.run() is None
    thread.join(30)
    assert world.row("beta").is_off
    assert [failure.sqlstate for failure in failures] == ["57014"]
    session.rollback()
    assert is_alive(session)
    assert interrupted(world) == [[{"application": "reports", "role": service, "was": "cancelled"}]]


async def test_without_the_right_it_is_reported_as_before(world: World, service: str, sessions: Any) -> None:
    reverting = await raised(world)
    session = sessions(service, LOCK)
    problem = await reverting.run()
    assert problem is not None
    assert problem.reason == "RevertBlocked"
    assert reverting.took_s < WITHIN_S
    assert is_alive(session)
    assert (reverting.told, interrupted(world)) == ([], [])
    assert world.row("alpha").is_off
    assert world.ledger_row()["acted"] == [], "the row has not acted before it is whole"


async def test_a_superusers_session_is_never_touched(world: World, sessions: Any) -> None:
    may_interrupt(world, world.writer)
    reverting = await raised(world)
    session = sessions(None, LOCK)
    problem = await reverting.run()
    assert problem is not None
    assert problem.reason == "RevertBlocked"
    assert is_alive(session)
    assert reverting.told == []


async def test_sessions_of_its_own_role_need_no_grant(world: World, sessions: Any) -> None:
    reverting = await raised(world)
    session = sessions(world.writer, "SELECT FROM feature_flags WHERE name = 'beta' FOR UPDATE")
    assert await reverting.run() is None
    assert world.row("beta").is_off
    assert not is_alive(session)


async def test_the_owner_is_asked_when_the_writer_may_not(world: World, service: str, sessions: Any) -> None:
    owner = world.database.role("owner")
    may_interrupt(world, owner)
    reverting = await raised(world, owner_uri=world.database.uri(owner))
    sessions(service, LOCK)
    assert await reverting.run() is None
    assert world.row("beta").is_off
    assert len(reverting.told) == 1


async def test_a_ddl_that_queues_behind_an_idle_transaction_is_cancelled(
    world: World, service: str, sessions: Any
) -> None:
    may_interrupt(world, world.writer)
    reverting = await raised(world)
    deployer = world.database.role("deployer")
    world.database.execute(f"ALTER TABLE feature_flags OWNER TO {deployer}")
    idle = sessions(service, "SELECT * FROM feature_flags")
    ddl = sessions(deployer, "SELECT 1")
    failures: list[psycopg.Error] = []

    def alter() -> None:
        try:
            ddl.execute("ALTER TABLE feature_flags ADD COLUMN more text")
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=alter)
    thread.start()
    wait_for(lambda: world.database.query("SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"))
    assert await reverting.run() is None
    assert reverting.took_s < WITHIN_S
    thread.join(30)
    assert [failure.sqlstate for failure in failures] == ["57014"]
    assert all(world.row(flag).is_off for flag in ("alpha", "beta", "gamma"))
    # The reader was in nobody's way but the DDL's.
    assert is_alive(idle)
    assert next(i for names in interrupted(world) for i in names)["role"] == deployer


async def test_a_blocked_ledger_row_is_freed_too(world: World, service: str, sessions: Any) -> None:
    may_interrupt(world, world.writer)
    world.database.execute(f"GRANT feature_rollout_writer TO {service}")
    reverting = await raised(world)
    sessions(service, "SELECT FROM feature_rollout.ledger FOR UPDATE")
    assert await reverting.run() is None
    assert world.ledger_row()["latch"] is not None
    ledger = (await world.store.read("cluster/shop/rollout", [])).ledger
    assert all(ledger.written[flag].is_off for flag in ("alpha", "beta", "gamma")), "lowered by us, and no drift"


async def test_many_locked_rows_stay_within_the_bound(world: World) -> None:
    names = [f"many_{number:02}" for number in range(90)]
    world.database.execute(
        "INSERT INTO feature_flags (name, enabled, rollout_percentage) "
        "SELECT 'many_' || to_char(n, 'FM00'), true, 50 FROM generate_series(0, 89) n"
    )
    await world.store.open(claim(*names))
    with psycopg.connect(world.database.uri()) as connection:
        connection.execute("SELECT FROM feature_flags WHERE name LIKE 'many%' FOR UPDATE")
        started = time.monotonic()
        problem = await problem_of(world.store.lower(lowering(names, latch=latch(), severity=Severity.HIGH)))
        assert time.monotonic() - started < WITHIN_S
    assert problem.reason == "RevertBlocked"
