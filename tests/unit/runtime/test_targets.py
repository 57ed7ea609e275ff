"""References: followed through what was seen, asked of the API server when missing, and never waited for long.

| the API server | then |
|---|---|
| has what was not seen yet | it is taken at once |
| hangs | the rollout goes on, and is woken when the answer comes |
| does not have it | first Pending, then the reason |

What cannot be followed after a start is guarded by the plan that the database has kept.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from feature_rollout.kube.resources import PROVIDERS, ROLLOUTS, STORES, TEMPLATES
from feature_rollout.ports import Problem
from feature_rollout.runtime import targets
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.providers import Providers
from feature_rollout.runtime.targets import Targets
from support.waiting import wait_for_async
from unit.api.cases import Change, both, drop, manifest, put

KEY = ("shop", "checkout")
ON_PROMETHEUS: Change = both(
    drop("sql"), put("prometheus", {"providerRef": {"name": "cases"}, "events": "a", "units": "b"})
)


def seen(kind: str, change: Change = lambda _spec: None) -> dict[str, Any]:
    """An object as the API server gives it."""
    obj = manifest(kind)
    change(obj["spec"])
    namespaced = {} if kind == "MetricProvider" else {"namespace": "shop"}
    obj["metadata"] |= {**namespaced, "uid": f"uid-{kind}", "resourceVersion": "5", "generation": 1}
    return obj


class FakeApi:
    """Has `objects`; answers at once, or when `gate` is set."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, str]] = []

    async def get(self, plural: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        self.asked.append((plural, name))
        await self.gate.wait()
        return self.objects.get((plural, name))


class FakeStores:
    """No FlagStore can be connected to."""

    async def get(self, obj: object) -> Any:
        raise Problem("StoreUnreachable", "away", stalled=False)


class NoActions:
    def requests(self, key: object) -> tuple[()]:
        return ()


class Here:
    def __init__(self) -> None:
        self.inventory, self.api = Inventory(), FakeApi()
        self.woken: list[tuple[str, str]] = []
        self.providers = Providers(self.inventory, lambda _obj, _trouble: None)
        stores: Any = FakeStores()
        api: Any = self.api
        self.targets = Targets(
            "c",
            inventory=self.inventory,
            stores=stores,
            providers=self.providers,
            api=api,
            actions=cast(Any, NoActions()),
            wake=self.woken.append,
        )
        rollout = seen(
            "FeatureRollout", both(drop("metrics.0.template"), put("metrics.0.templateRef", {"name": "errors"}))
        )
        self.inventory.offer(ROLLOUTS, None, rollout)

    def have(self, plural: str, kind: str, change: Change = lambda _spec: None) -> None:
        obj = seen(kind, change)
        self.api.objects[plural, obj["metadata"]["name"]] = obj


@pytest.fixture
async def here(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Here]:
    monkeypatch.setattr(targets, "LOOK_UP_S", 0.01)
    here = Here()
    yield here
    await here.targets.close()
    await here.providers.close()


async def test_what_was_not_seen_yet_is_asked_for(here: Here) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate")
    found = await here.targets.target(KEY)
    assert found is not None
    assert found.plan is not None
    assert sorted(here.api.asked) == [(STORES, "shop"), (TEMPLATES, "errors")]


async def test_a_server_that_hangs_holds_nobody_up(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate")
    here.api.gate.clear()
    first = await asyncio.wait_for(here.targets.target(KEY), 5.0)
    assert first is not None
    assert first.plan is None
    assert first.trouble is not None
    assert first.trouble.reason == "Pending"
    # Nobody waits for what is being asked already, however long the bound is.
    monkeypatch.setattr(targets, "LOOK_UP_S", 3600.0)
    await asyncio.wait_for(here.targets.target(KEY), 5.0)
    assert len(here.api.asked) == 2
    here.api.gate.set()
    await wait_for_async(lambda: here.woken.count(KEY) == 2)
    found = await here.targets.target(KEY)
    assert found is not None
    assert found.plan is not None


async def test_a_provider_is_followed_through_its_template(here: Here) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate", ON_PROMETHEUS)
    here.have(PROVIDERS, "MetricProvider")
    await here.targets.target(KEY)
    found = await here.targets.target(KEY)
    assert (PROVIDERS, "cases") in here.api.asked
    assert found is not None
    assert found.plan is not None


async def test_what_is_missing_is_said_after_a_moment(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate", ON_PROMETHEUS)
    monkeypatch.setattr(Targets, "_handle", _no_trouble)
    await here.targets.target(KEY)
    pending = await here.targets.target(KEY)
    assert pending is not None
    assert pending.trouble is not None
    assert (pending.trouble.reason, pending.trouble.stalled) == ("Pending", False)
    monkeypatch.setattr(targets, "GRACE_S", 0.0)
    found = await here.targets.target(KEY)
    assert found is not None
    assert found.trouble is not None
    assert found.trouble.reason == "ProviderNotFound"


class KeptPlans:
    """A database that keeps what it is given for one uid, or that is away."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.away = False

    async def last_plan(self, key: str, uid: str) -> Any:
        assert key == "c/shop/checkout"
        if self.away:
            raise Problem("StoreUnreachable", "away", stalled=False)
        # As it comes back from the database.
        return json.loads(json.dumps(self.kept.get(uid)))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> KeptPlans:
    database = KeptPlans()
    handle = SimpleNamespace(store=database, reader=object())

    async def opened(*_: object) -> tuple[Any, None]:
        return handle, None

    monkeypatch.setattr(Targets, "_handle", opened)
    monkeypatch.setattr(targets, "GRACE_S", 0.0)
    return database


async def test_after_a_start_with_a_broken_manifest_the_kept_plan_guards(here: Here, kept: KeptPlans) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate", ON_PROMETHEUS)
    here.have(PROVIDERS, "MetricProvider")
    await here.targets.target(KEY)
    good = await here.targets.target(KEY)
    assert good is not None
    assert good.plan is not None
    kept.kept["uid-FeatureRollout"] = good.made_of
    started = Here()
    started.have(STORES, "FlagStore")
    kept.away = True
    unknown = await started.targets.target(KEY)
    assert unknown is not None
    assert (unknown.plan, unknown.source) == (None, None)
    kept.away = False
    found = await started.targets.target(KEY)
    assert found is not None
    # With the same hashes: what was measured goes on.
    assert found.plan == good.plan
    assert found.source is not None
    assert found.trouble is not None
    assert found.trouble.reason == "TemplateNotFound"
    await started.targets.close()


@pytest.mark.parametrize("made_of", [{}, {"rollout": {}}, [], {"rollout": None}], ids=str)
async def test_a_kept_plan_that_cannot_be_read_is_none(here: Here, kept: KeptPlans, made_of: object) -> None:
    here.have(STORES, "FlagStore")
    kept.kept["uid-FeatureRollout"] = made_of
    found = await here.targets.target(KEY)
    assert found is not None
    assert found.plan is None
    assert found.trouble is not None
    assert found.trouble.reason == "TemplateNotFound"


async def test_the_plan_of_a_deleted_object_is_not_that_of_the_next(here: Here, kept: KeptPlans) -> None:
    here.have(STORES, "FlagStore")
    here.have(TEMPLATES, "MetricTemplate")
    good = await here.targets.target(KEY)
    assert good is not None
    assert good.plan is not None
    kept.kept["uid-FeatureRollout"] = good.made_of
    recreated = seen("FeatureRollout", put("matrix", None))
    recreated["metadata"] |= {"uid": "another", "resourceVersion": "9"}
    here.inventory.offer(ROLLOUTS, None, recreated)
    found = await here.targets.target(KEY)
    assert found is not None
    assert found.plan is None
    assert found.trouble is not None


async def _no_trouble(*_: object) -> tuple[None, None]:
    return None, None
