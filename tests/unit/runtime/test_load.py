"""What is asked of the API server before anything is watched, and what of it a start waits for."""

from types import SimpleNamespace
from typing import Any

import pytest

from feature_rollout.kube.errors import ApiUnavailable
from feature_rollout.kube.resources import RESOURCES
from feature_rollout.runtime import main


async def test_a_start_does_not_wait_for_what_is_only_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = []

    async def served() -> frozenset[str]:
        return frozenset(RESOURCES)

    async def load() -> None:
        loaded.append(True)

    async def no_fields(_api: Any) -> list[str]:
        return []

    async def away(_api: Any) -> str:
        raise ApiUnavailable("GET the policy", 503)

    monkeypatch.setattr(main, "unknown_fields", no_fields)
    monkeypatch.setattr(main, "missing_policy", away)
    parts: Any = SimpleNamespace(api=SimpleNamespace(served=served), sweeper=SimpleNamespace(load=load))
    assert await main._load(parts)
    assert loaded == [True]
    assert "whether the API server checks who asks for a RolloutAction is not known" in caplog.text
