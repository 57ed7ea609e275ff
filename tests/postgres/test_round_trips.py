"""How often the operator waits for the database: what a transaction asks goes out together.

| transaction | waits for |
|---|---|
| each | BEGIN |
| open | what is there, locked; what it writes, with the COMMIT |
| read | everything that it reads, with the COMMIT |
| raise | fence, rows and owners; the rows as written; what is recorded, with the COMMIT |
| revert | ledger and rows, locked; the rows as written; what is recorded, with the COMMIT |
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import psycopg
import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.store import PostgresFlagStore
from feature_rollout.store.connections import Connections
from postgres.world import KEY, World, claim, everyone, latch, lowering, raised_by
from support.databases import all_postgres
from support.network import Network

pytestmark = all_postgres

INSERT = "INSERT INTO feature_rollout.evidence (key, epoch, attempt, state) VALUES ('a', 1, 1, '{}')"


@pytest.fixture
async def line(world: World) -> AsyncIterator[Network]:
    async with Network.to(world.database.server.port) as line:
        yield line
        for store in world.stores:
            await store.close()


@pytest.fixture
async def store(world: World, line: Network) -> PostgresFlagStore:
    """With its checks behind it, and its connections open."""
    uri = world.database.uri(world.writer).replace(f":{world.database.server.port}/", f":{line.port}/")
    store = world.new_store(writer_uri=uri)
    await raised_by(store, await store.open(claim(key="other", uid="uid-0")), alpha=everyone(1))
    await store.lower(lowering(["alpha"], key="other"))
    await store.release(lowering([], key="other"), "uid-0")
    return store


async def test_each_transaction_waits_as_often_as_it_must(line: Network, store: PostgresFlagStore) -> None:
    taken = {}

    async def counted(what: str, doing: Awaitable[object]) -> None:
        before = line.round_trips
        await doing
        taken[what] = line.round_trips - before

    await counted("open", store.open(claim()))
    ledger = (await store.read(KEY, [])).ledger
    await counted("read", store.read(KEY, ["alpha", "beta"], ["uid-of-a-request"], progress=True))
    before = line.round_trips
    await raised_by(store, ledger, alpha=everyone(5), beta=everyone(5))
    taken["raise"] = line.round_trips - before - taken["read"]
    revert = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    await counted("revert", store.lower(revert))
    assert taken == {"open": 3, "read": 2, "raise": 4, "revert": 4}


async def test_connections_that_others_wait_for_are_kept(line: Network, store: PostgresFlagStore) -> None:
    """To log in costs more than to revert."""
    await store.open(claim())
    before = line.logins
    await asyncio.gather(*(store.lower(lowering(["alpha"])) for _ in range(40)))
    assert line.logins - before <= 3, "four at a time, of which one was open"


async def test_a_commit_behind_a_statement_that_failed_is_not_carried_out(world: World) -> None:
    """The statement's own error is raised, and not that the rest was skipped; the connection goes on."""
    await world.store.prepare()
    connections: Connections = world.store._writers

    async def work(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        await connection.execute(INSERT)
        await connection.execute("SELECT 1 / (SELECT count(*) FROM feature_rollout.ledger WHERE key = 'none')")

    before = world.everything()
    for _ in range(2):
        with pytest.raises(Exception, match="22012"):
            await connections.transaction(work)
    assert world.everything() == before
    assert len(connections._idle) == 1
