"""What is said of an object is remembered for as long as the object is there, and no longer."""

import asyncio
from typing import Any

import pytest

from feature_rollout.core.decision import Trouble
from feature_rollout.runtime import answers
from feature_rollout.runtime.answers import Answers
from support.waiting import wait_for_async


def provider(number: int) -> dict[str, Any]:
    return {"metadata": {"name": f"p{number}", "uid": f"u{number}", "generation": 1}}


def new() -> Answers:
    api: Any = None
    return Answers(api)


def test_what_was_deleted_is_forgotten() -> None:
    said = new()
    for number in range(3):
        said.provider_is(provider(number), None)
    said.forget(provider(1))
    said.forget({"metadata": {}})
    assert set(said._told) == {"u0", "u2"}


def test_a_deletion_that_nobody_saw_costs_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "QUEUE_MAX", 10)
    said = new()
    for number in range(100):
        said.provider_is(provider(number), None)
        said._waiting.clear()
    assert set(said._told) == {f"u{number}" for number in range(90, 100)}


def test_it_is_said_once_until_it_changes() -> None:
    said = new()
    for trouble in (None, None, Trouble("ProviderUnusable", "away", stalled=False)):
        said.provider_is(provider(0), trouble)
    ((_, status),) = said._waiting.values()
    ready = status["conditions"][0]
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "ProviderUnusable", "away")
    said._waiting.clear()
    said.provider_is(provider(0), Trouble("ProviderUnusable", "away", stalled=False))
    assert said._waiting == {}
    said.provider_is(provider(0), None)
    ((_, status),) = said._waiting.values()
    assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == ("True", "ProviderUsable")


async def test_who_does_not_lead_says_nothing_and_forgets_what_it_was_about_to_say() -> None:
    leading = False
    api: Any = None
    said = Answers(api, lambda _plural, _obj: leading)
    said.provider_is(provider(0), None)
    assert (said._waiting, said._told) == ({}, {})
    leading = True
    said.provider_is(provider(0), None)
    leading = False
    # There is no API server: a write would raise.
    running = asyncio.create_task(said.run())
    await wait_for_async(lambda: not said._waiting and not said._told)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
