"""The recorder.

| what is said | then |
|---|---|
| something once | one Event |
| the same within ten minutes | a series on the same Event |
| the same after ten minutes, or something else | another Event |
| more than 25 things about one object | the rest is dropped and counted; repeats are told with the next one |
| anything while the API server is away | written once when it is back, oldest dropped when there is too much |
| anything that the API server refuses | dropped and counted |
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feature_rollout.kube import events as module
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Refused, Stale
from feature_rollout.kube.events import EventRecorder

OBJECT = {
    "apiVersion": "featurerollout.dev/v1alpha1",
    "kind": "FeatureRollout",
    "metadata": {"namespace": "shop", "name": "checkout", "uid": "u-1", "resourceVersion": "5"},
}


class FakeApi(Api):
    def __init__(self) -> None:
        super().__init__(Connection())
        self.events: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.errors: list[ApiError] = []
        self.lost_answers = 0

    async def create_event(self, event: Mapping[str, Any]) -> None:
        self.calls.append("create")
        if self.errors:
            raise self.errors.pop(0)
        name = event["metadata"]["name"]
        if name in self.events:
            raise Stale("POST", 409)
        self.events[name] = {**event, "metadata": dict(event["metadata"])}
        if self.lost_answers:
            self.lost_answers -= 1
            raise ApiUnavailable("POST: TimeoutError")

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        self.calls.append("patch")
        if self.errors:
            raise self.errors.pop(0)
        if name not in self.events:
            raise Gone("PATCH", 404)
        self.events[name].update(patch)

    def told(self) -> list[tuple[str, int]]:
        return [(event["note"], event.get("series", {"count": 1})["count"]) for event in self.events.values()]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def date(self) -> datetime:
        return datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=self.now)


class Recording:
    def __init__(self) -> None:
        self.api, self.clock, self.dropped = FakeApi(), Clock(), 0
        self.recorder = EventRecorder(
            self.api, instance="test-1", on_dropped=self._drop, clock=self.clock, now=self.clock.date
        )

    def _drop(self, count: int) -> None:
        self.dropped += count

    def say(self, note: str, *, reason: str = "Advanced", obj: Mapping[str, Any] = OBJECT) -> None:
        self.recorder.record(obj, kind="Normal", reason=reason, action="Advance", note=note)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.recorder.run())
        yield
        assert await self.recorder.drain(2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setattr(module, "BACKOFF_S_MAX", 0.005)
    return Recording()


async def test_an_event_has_all_that_the_api_asks_for(it: Recording) -> None:
    async with it.running():
        it.say("canary is in")
    (event,) = it.api.events.values()
    assert event["metadata"]["name"].startswith("checkout.")
    assert event["metadata"]["namespace"] == "shop"
    assert event["regarding"] == {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "FeatureRollout",
        "namespace": "shop",
        "name": "checkout",
        "uid": "u-1",
        "resourceVersion": "5",
    }
    assert event["eventTime"] == "2026-01-05T00:16:40.000000Z"
    assert event["reportingController"] == "featurerollout.dev/operator"
    assert event["reportingInstance"] == "test-1"
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "Advanced", "Advance")


async def test_repeats_are_counted_on_one_event(it: Recording) -> None:
    async with it.running():
        it.say("a")
        await it.recorder.drain(1)
        it.clock.now += 599
        it.say("a")
        await it.recorder.drain(1)
        it.clock.now += 599
        it.say("a")
        it.say("a", reason="Held")
        it.say("b")
    assert it.api.told() == [("a", 3), ("a", 1), ("b", 1)]
    assert it.api.calls == ["create", "patch", "patch", "create", "create"]


async def test_repeats_before_the_first_was_written_need_no_patch(it: Recording) -> None:
    for _ in range(7):
        it.say("a")
    async with it.running():
        pass
    assert it.api.told() == [("a", 7)]
    assert it.api.calls == ["create"]


async def test_after_ten_minutes_it_is_news_again(it: Recording) -> None:
    async with it.running():
        it.say("a")
        await it.recorder.drain(1)
        it.clock.now += 601
        it.say("a")
    assert it.api.told() == [("a", 1), ("a", 1)]


async def test_an_expired_event_is_made_anew(it: Recording) -> None:
    async with it.running():
        it.say("a")
        await it.recorder.drain(1)
        it.api.events.clear()
        it.say("a")
    assert it.api.told() == [("a", 2)]


async def test_an_object_that_says_too_much_is_cut_off(it: Recording) -> None:
    other = {**OBJECT, "metadata": {**OBJECT["metadata"], "uid": "u-2"}}  # type: ignore[dict-item]
    async with it.running():
        for number in range(30):
            it.say(str(number))
        it.say("other", obj=other)
        await it.recorder.drain(1)
        assert (len(it.api.events), it.dropped) == (26, 5)
        it.say("0")
        it.clock.now += 300
        it.say("0")
    assert it.api.told()[0] == ("0", 3)
    assert it.dropped == 5


async def test_an_outage_delays_and_loses_nothing(it: Recording) -> None:
    it.api.errors = [ApiUnavailable("POST", 503), ApiUnavailable("POST"), ApiUnavailable("POST", 429)]
    it.api.lost_answers = 1
    async with it.running():
        for note in "abc":
            it.say(note)
    assert it.api.told() == [("a", 1), ("b", 1), ("c", 1)]
    assert it.dropped == 0


async def test_an_answer_that_was_lost_is_not_a_second_event(it: Recording) -> None:
    it.api.lost_answers = 1
    async with it.running():
        it.say("a")
        await asyncio.sleep(0)
        it.say("a")
    assert it.api.told() == [("a", 2)]


async def test_the_oldest_are_dropped_when_there_are_too_many(it: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_MAX", 3)
    for note in "abcde":
        it.say(note)
    async with it.running():
        pass
    assert [note for note, _ in it.api.told()] == ["c", "d", "e"]
    assert it.dropped == 2


async def test_what_is_refused_is_dropped_and_does_not_hold_up_the_rest(it: Recording) -> None:
    it.api.errors = [Refused("POST", 422, "Invalid")]
    async with it.running():
        it.say("a")
        it.say("b")
    assert it.api.told() == [("b", 1)]
    assert it.dropped == 1


async def test_what_is_forbidden_is_tried_again_behind_the_rest(it: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an API server does that has just been started."""
    monkeypatch.setattr(module, "FORBIDDEN_PAUSE_S", 0.0)
    it.api.errors = [PermissionDenied("POST", 403)]
    async with it.running():
        it.say("a")
        it.say("b")
    assert it.api.told() == [("b", 1), ("a", 1)]
    assert it.dropped == 0


async def test_what_stays_forbidden_is_dropped(it: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORBIDDEN_PAUSE_S", 0.0)
    it.api.errors = [PermissionDenied("POST", 403) for _ in range(module.FORBIDDEN_ATTEMPTS)]
    async with it.running():
        it.say("a")
    assert it.api.told() == []
    assert it.dropped == 1


async def test_a_long_note_is_cut_between_characters(it: Recording) -> None:
    async with it.running():
        it.say("ü" * 2000)
    (event,) = it.api.events.values()
    assert len(event["note"].encode()) <= 1024
    assert event["note"].endswith("ü…")


async def test_a_cluster_scoped_object_has_its_events_in_default(it: Recording) -> None:
    provider = {"kind": "MetricProvider", "apiVersion": "x/v1", "metadata": {"name": "p", "uid": "u-9"}}
    async with it.running():
        it.say("a", obj=provider)
    (event,) = it.api.events.values()
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["regarding"]


async def test_cancelling_in_the_middle_loses_nothing(it: Recording) -> None:
    it.api.errors = [ApiUnavailable("POST")]
    it.say("a")
    task = asyncio.create_task(it.recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with it.running():
        pass
    assert it.api.told() == [("a", 1)]
