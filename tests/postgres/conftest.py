"""A flag table with columns of its users' own, and roles that may do only what is documented.

| fixture | what |
|---|---|
| `world` | a `World`: the database, its writer's stores, and what can be asked of them |
"""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.store import TableMapping, migrations, serving
from postgres.world import FLAG_TABLE, GRANT, World
from support.databases import Database


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str:
    def prepare(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute((migrations.script() + serving.serve_statement(TableMapping())).encode())
            connection.execute(FLAG_TABLE.encode())

    return postgres_server.ensure_template("flag_store", prepare)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    writer = database.role("writer")
    database.execute(GRANT.format(writer))
    database.execute(f"GRANT feature_rollout_writer TO {writer}")
    world = World(database, writer)
    yield world
    async with asyncio.timeout(5):
        for store in world.stores:
            await store.close()
