"""A flag table with columns of its users' own, and roles that may do only what is documented.

| fixture | what |
|---|---|
| `world` | a `World`: the database, its writer's stores, and what can be asked of them |
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from feature_rollout.sandbox.database import PostgresAccess
from postgres.world import World, template
from support.databases import Database


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str:
    return template(postgres_server)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    world = World.on(database)
    yield world
    async with asyncio.timeout(5):
        for store in world.stores:
            await store.close()
