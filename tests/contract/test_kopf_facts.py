"""What we rely on in kopf, so that an upgrade that changes it fails here and not in a cluster.

| fact | what we do about it |
|---|---|
| `on.event` makes no write | every replica watches |
| endless backoffs are tried endlessly | an outage does not end it |
| it ends itself on 404 and on an error in the stream | we start it again |
| it looks for resources once, when it starts | we look whether it found them all |
| after a 410 it lists again and says nothing of what vanished | the sweeper |
| a refused token asks for another login; ours has an expiry | tokens that rotate |
| the time-out of a watch must be a whole number | settings |
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.fake_api import FakeApi, rollout
from feature_rollout.kube.client import Api
from feature_rollout.kube.resources import ROLLOUTS
from feature_rollout.runtime import watch as module
from feature_rollout.runtime.watch import Watch
from support.waiting import wait_for_async

pytestmark = pytest.mark.timeout(60)


class Running:
    def __init__(self, fake: FakeApi, watch: Watch) -> None:
        self.fake, self.watch = fake, watch
        self.seen: list[tuple[str | None, str]] = []
        self.restarts = 0

    async def until_seen(self, event_type: str | None, name: str) -> None:
        await wait_for_async(lambda: (event_type, name) in self.seen, describe=f"{event_type} {name}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(module, "LOGIN_PAUSE_S", 0.05)


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with FakeApi(tmp_path).serving() as fake, Api(fake.connection()) as api:
        fake.objects["a"] = rollout("a", 1)

        def offer(plural: str, event_type: str | None, obj: Mapping[str, Any]) -> None:
            assert plural == ROLLOUTS
            it.seen.append((event_type, obj["metadata"]["name"]))

        def restarted() -> None:
            it.restarts += 1

        watch = Watch(connection=fake.connection(), offer=offer, served=api.served, on_restart=restarted)
        it = Running(fake, watch)
        watch.start()
        yield it
        assert await watch.stop(5)


async def test_events_are_handed_over_and_nothing_is_written(it: Running) -> None:
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.fake.send("ADDED", rollout("b", 2))
    it.fake.send("MODIFIED", rollout("b", 3))
    it.fake.send("DELETED", rollout("b", 4))
    await it.until_seen("DELETED", "b")
    assert it.seen == [(None, "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    assert {method for method, _ in it.fake.requests} == {"GET"}


async def test_a_watch_asks_for_whole_seconds(it: Running) -> None:
    await wait_for_async(lambda: it.fake.watches == 1)
    query = it.fake.queries[-1]
    assert query["timeoutSeconds"] == "300"
    assert query["resourceVersion"] == "1"


@pytest.mark.parametrize("code", [500, 503, 429, 403])
async def test_errors_are_tried_again_for_as_long_as_they_last(it: Running, code: int) -> None:
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.fake.faults["list"] = [code] * 20
    it.fake.send("ERROR", {"kind": "Status", "code": 410})
    it.seen.clear()
    await it.until_seen(None, "a")
    assert it.fake.faults["list"] == []
    assert it.restarts == 0


async def test_after_a_410_it_says_nothing_of_what_vanished(it: Running) -> None:
    it.fake.objects["b"] = rollout("b", 2)
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.seen.clear()
    del it.fake.objects["a"]
    it.fake.objects["c"] = rollout("c", 3)
    it.fake.send("ERROR", {"kind": "Status", "code": 410})
    await it.until_seen(None, "c")
    await wait_for_async(lambda: it.fake.watches == 1)
    assert "a" not in [name for _, name in it.seen]
    assert it.restarts == 0


@pytest.mark.parametrize("how", ["404", "stream"])
async def test_it_ends_itself_and_is_started_again(it: Running, how: str) -> None:
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.seen.clear()
    if how == "404":
        it.fake.faults["list"] = [404]
        it.fake.send("ERROR", {"kind": "Status", "code": 410})
    else:
        it.fake.send("ERROR", {"kind": "Status", "code": 500})
    await wait_for_async(lambda: it.restarts == 1)
    await it.until_seen(None, "a")
    assert it.watch.problems() == []


async def test_it_looks_for_resources_once_and_is_started_again_when_it_missed_them(it: Running) -> None:
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.seen.clear()
    # We are told that they are there, and kopf, a moment later, that they are not.
    it.fake.hidden = [False, True]
    it.watch.restart("to make it look again")
    await wait_for_async(lambda: it.restarts == 2)
    await it.until_seen(None, "a")


async def test_a_token_that_is_refused_is_read_again(it: Running) -> None:
    await it.until_seen(None, "a")
    await wait_for_async(lambda: it.fake.watches == 1)
    it.fake.tokens = {"two"}
    it.fake.send("ERROR", {"kind": "Status", "code": 410})
    await wait_for_async(lambda: len(it.fake.tokens_seen) > 10)
    it.seen.clear()
    it.fake.connection("two")
    await it.until_seen(None, "a")
    assert it.fake.tokens_seen[-1] == "two"


async def test_a_token_is_read_again_when_its_time_is_over(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await it.until_seen(None, "a")
    monkeypatch.setattr(module, "CREDENTIALS_LIFE", timedelta(seconds=0.1))
    await wait_for_async(lambda: it.fake.watches == 1)
    it.watch.restart("to log in with the short time")
    await wait_for_async(lambda: it.restarts == 1)
    await wait_for_async(lambda: it.fake.watches == 1)
    it.fake.tokens = {"one", "two"}
    it.fake.connection("two")
    await asyncio.sleep(0.1)
    it.fake.send("ERROR", {"kind": "Status", "code": 410})
    await wait_for_async(lambda: "two" in it.fake.tokens_seen)
    it.fake.send("ADDED", rollout("b", 9))
    await wait_for_async(lambda: it.fake.watches == 1)
