"""Every connection of the server taken by somebody else (L6), and how few the operator takes itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

import psycopg
import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.postgres import APPLICATION_NAME
from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import migrations
from feature_rollout.store.listen import DriftListener
from postgres.world import FLAG_TABLE, GRANT, KEY, World, claim, everyone, latch, lowering, problem_of
from support import audit
from support.databases import Database
from support.waiting import wait_for_async

MAX_CONNECTIONS = 20
REVERTED_WITHIN_S = 10


@pytest.fixture(params=[found.major for found in toolchain.postgres_installations()], ids=lambda major: f"pg{major}")
async def small(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world on a server that takes few connections."""
    bin_dir = next(i.bin_dir for i in toolchain.postgres_installations() if i.major == request.param)
    settings = {"max_connections": str(MAX_CONNECTIONS)}
    with PostgresServer(bin_dir, settings=settings) as server, Database.fresh(server) as database:
        database.execute(migrations.script())
        database.execute(FLAG_TABLE)
        writer = database.role("writer")
        database.execute(GRANT.format(writer))
        database.execute(f"GRANT feature_rollout_writer TO {writer}")
        world = World(database, writer)
        yield world
        for store in world.stores:
            await store.close()


def take_all(stack: ExitStack, uri: str) -> int:
    """Idle readers, until the server has no connection left for anybody but superusers."""
    for taken in range(MAX_CONNECTIONS):
        try:
            stack.enter_context(psycopg.connect(uri))
        except psycopg.OperationalError:
            return taken
    raise AssertionError("the server takes more than it should")


async def test_a_revert_has_its_connection_when_there_is_none_left(small: World) -> None:
    reader = small.database.role("reader")
    await small.raised(await small.store.open(claim("alpha", "beta")), alpha=everyone(50), beta=everyone(50))
    with ExitStack() as stack:
        assert take_all(stack, small.database.uri(reader)) > 5
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(small.database.uri(small.writer))
        started = time.monotonic()
        await small.store.lower(lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH))
        assert time.monotonic() - started < REVERTED_WITHIN_S
        # The next one too: the connection is kept.
        await small.store.lower(lowering({"alpha": everyone(1)}))
    rows = {}
    for flag in ("alpha", "beta"):
        row = small.row(flag)
        assert row.is_off
        rows[flag] = row.enabled, int(row.percentage), row.groups
    assert audit.violations(small.audit(), dict.fromkeys(rows, (False, 0, frozenset())), rows) == []
    assert small.ledger_row()["latch"] is not None


async def test_a_store_without_a_connection_says_so_and_heals(small: World) -> None:
    reader = small.database.role("reader")
    with ExitStack() as stack:
        take_all(stack, small.database.uri(reader))
        problem = await problem_of(small.store.open(claim()))
        assert (problem.reason, problem.stalled) == ("TooManyConnections", False)
    await wait_for_async(lambda: connections(small) == 0)
    assert (await small.store.open(claim())).epoch == 1


async def test_a_store_takes_four_connections_at_rest_and_listens_on_one_of_them(small: World) -> None:
    listener = DriftListener(small.config(), lambda _flag: None)
    listener.start()
    await asyncio.wait_for(listener.listening.wait(), 30)
    await small.store.open(claim())
    reads = (small.store.read(KEY, ["alpha"]) for _ in range(20))
    lowerings = (small.store.lower(lowering(["alpha"])) for _ in range(20))
    await asyncio.gather(*reads, *lowerings)
    await wait_for_async(lambda: connections(small) <= 4)
    assert connections(small) >= 2, "a warm one for reverts, and the listener's"
    await listener.close()
    await wait_for_async(lambda: connections(small) <= 3)


def connections(world: World) -> int:
    """Those of the operator, by the name that it gives them."""
    counted = "SELECT count(*)::integer AS n FROM pg_stat_activity WHERE application_name = %s"
    return world.database.query(counted, APPLICATION_NAME)[0]["n"]
