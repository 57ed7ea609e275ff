"""Providers: one client for as long as the address is the same; who may ask; what is said of each."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from feature_rollout.core.decision import Trouble
from feature_rollout.kube.resources import PROVIDERS
from feature_rollout.ports import Problem
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.providers import Providers
from support import fakeprometheus
from support.fakeprometheus import FakePrometheus
from support.waiting import wait_for_async


def provider(address: str, *namespaces: str, generation: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "MetricProvider",
        "metadata": {"name": "p", "uid": "u", "resourceVersion": str(generation), "generation": generation},
        "spec": {"prometheus": {"address": address}, "allowedNamespaces": list(namespaces)},
    }


class Here:
    def __init__(self) -> None:
        self.inventory = Inventory()
        self.told: list[Trouble | None] = []
        self.providers = Providers(self.inventory, lambda _obj, trouble: self.told.append(trouble))


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    here = Here()
    yield here
    await here.providers.close()


async def test_one_client_until_the_address_changes(here: Here) -> None:
    here.inventory.offer(PROVIDERS, None, provider("http://a:9090", "shop"))
    first = here.providers.client("p", "shop")
    here.inventory.offer(PROVIDERS, "MODIFIED", provider("http://a:9090", "shop", "other", generation=2))
    assert here.providers.client("p", "other") is first
    here.inventory.offer(PROVIDERS, "MODIFIED", provider("http://b:9090", "shop", generation=3))
    moved = here.providers.client("p", "shop")
    assert (first.address, moved.address) == ("http://a:9090", "http://b:9090")


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (None, "ProviderNotFound"),
        (provider("http://a:9090"), "ProviderNotAllowed"),
        (provider("http://a:9090", "other"), "ProviderNotAllowed"),
        (provider("nonsense", "*"), "InvalidPlan"),
    ],
    ids=["missing", "for nobody", "for others", "broken"],
)
async def test_who_may_not_ask(here: Here, obj: dict[str, Any] | None, reason: str) -> None:
    if obj is not None:
        here.inventory.offer(PROVIDERS, None, obj)
    with pytest.raises(Problem) as raised:
        here.providers.client("p", "shop")
    assert raised.value.reason == reason
    assert "a:9090" not in raised.value.message


async def test_what_is_said_of_it(here: Here) -> None:
    async with FakePrometheus() as server:
        server.numbers = {"1": 1}
        here.inventory.offer(PROVIDERS, None, provider(server.url, "*"))
        checking = asyncio.create_task(here.providers.check_forever())
        await wait_for_async(lambda: here.told == [None])
        server.answer = fakeprometheus.text(503, "starting")
        here.providers.wake()
        await wait_for_async(lambda: len(here.told) == 2)
        server.answer = fakeprometheus.text(404, "elsewhere")
        here.providers.wake()
        await wait_for_async(lambda: len(here.told) == 3)
        # One query a check, and none without a reason.
        assert server.queries == ["1"] * 3
        checking.cancel()
        await asyncio.wait([checking])
    said = [(trouble.reason, trouble.stalled) for trouble in here.told if trouble is not None]
    assert said == [("ProviderUnusable", False), ("ProviderUnusable", True)]


async def test_one_that_is_gone_is_asked_no_more(here: Here) -> None:
    async with FakePrometheus() as server:
        server.numbers = {"1": 1, "a": 7}
        obj = provider(server.url, "*")
        here.inventory.offer(PROVIDERS, None, obj)
        checking = asyncio.create_task(here.providers.check_forever())
        await wait_for_async(lambda: len(here.told) == 1)
        client = here.providers.client("p", "shop")
        here.inventory.offer(PROVIDERS, "DELETED", obj)
        here.providers.wake()
        await wait_for_async(lambda: client._closed)
        checking.cancel()
        await asyncio.wait([checking])
