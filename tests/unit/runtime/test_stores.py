"""The databases in use: kept as long as a guard needs them, made anew when what they are made of changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from feature_rollout.connectionstring import ANYWHERE
from feature_rollout.core.decision import Trouble
from feature_rollout.runtime.stores import Stores
from feature_rollout.sandbox.processes import free_ports
from feature_rollout.store.store import PostgresFlagStore
from support.waiting import wait_for_async


class Here:
    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.password = "first"
        self.listed = [flag_store()]
        self.used: list[PostgresFlagStore] = []
        self.asked: list[PostgresFlagStore] = []
        self.told: list[Trouble | None] = []
        api: Any = self
        self.leading = True
        self.read = 0
        self.stores = Stores(
            api, lambda _obj, trouble: self.told.append(trouble), lambda *_: None, ANYWHERE, lambda: self.leading
        )

    async def secret(self, _namespace: str, _name: str) -> dict[str, str]:
        self.read += 1
        return {"uri": f"postgresql://writer:{self.password}@127.0.0.1:{self.port}/shop"}

    def uses(self, store: PostgresFlagStore) -> bool:
        self.asked.append(store)
        return store in self.used

    async def checked(self) -> None:
        """Wake it, and wait until it has looked twice: the second time it has seen what is so now."""
        told = len(self.told)
        for more in (1, 2):
            self.stores.wake()
            await wait_for_async(lambda more=more: len(self.told) >= told + more)


def flag_store() -> dict[str, Any]:
    return {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "FlagStore",
        "metadata": {"namespace": "shop", "name": "flags", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {"postgres": {"writer": {"secretKeyRef": {"name": "flags", "key": "uri"}}}},
    }


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    here = Here()
    checking = asyncio.create_task(here.stores.check_forever(lambda: here.listed, here.uses))
    yield here
    checking.cancel()
    await asyncio.wait([checking])
    await here.stores.close()


async def test_one_that_was_removed_stays_open_until_no_guard_needs_it(here: Here) -> None:
    handle = await here.stores.get(flag_store())
    closed = asyncio.Event()
    close = handle.store.close

    async def noted() -> None:
        closed.set()
        await close()

    handle.store.close = noted  # type: ignore[method-assign]
    here.used, here.listed = [handle.store], []
    here.stores.wake()
    await wait_for_async(lambda: here.asked)
    assert not closed.is_set()
    here.used = []
    here.stores.wake()
    await wait_for_async(closed.is_set)


async def test_another_password_opens_it_anew_and_the_same_one_does_not(here: Here) -> None:
    first = await here.stores.get(flag_store())
    await here.checked()
    assert await here.stores.get(flag_store()) is first
    here.password = "second"
    await here.checked()
    assert await here.stores.get(flag_store()) is not first
    assert here.told
    assert all(trouble is not None and "second" not in trouble.message for trouble in here.told)


async def test_databases_are_checked_by_who_leads_and_secrets_read_by_all(here: Here) -> None:
    await here.checked()
    assert not here.stores.answer(), "there is none on that port"
    here.leading = False
    told, read = len(here.told), here.read
    for more in (1, 2):
        here.stores.wake()
        await wait_for_async(lambda more=more: here.read >= read + more)
    assert len(here.told) == told
    here.leading = True
    await here.checked()


def test_a_database_that_nobody_has_asked_is_not_away() -> None:
    assert Here().stores.answer()
