"""What an event of the watch makes the engine do."""

from typing import Any

import pytest

from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.runtime.engine import Engine
from feature_rollout.runtime.inventory import Inventory


class Recorder:
    """Stands for the parts that the engine only tells of something."""

    def __init__(self) -> None:
        self.woken: list[tuple[tuple[str, str], bool]] = []
        self.forgotten: list[Any] = []

    def wake(self, key: tuple[str, str], *, urgent: bool = False) -> None:
        self.woken.append((key, urgent))

    def forget(self, obj: Any) -> None:
        self.forgotten.append(obj["metadata"]["uid"])


def obj(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"}, "spec": spec}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def engine(recorder: Recorder) -> Engine:
    parts: Any = dict.fromkeys(
        ("scheduler", "targets", "reconciler", "answers", "stores", "providers", "telemetry"), recorder
    )
    return Engine(inventory=Inventory(), **parts)


def test_what_a_person_asks_for_goes_before_all_others(engine: Engine, recorder: Recorder) -> None:
    engine.offer(ROLLOUTS, "ADDED", obj("bell"))
    engine.offer(ACTIONS, "ADDED", obj("pause", rolloutRef={"name": "bell"}))
    assert recorder.woken == [(("shop", "bell"), False), (("shop", "bell"), True)]


def test_what_was_told_of_an_object_is_forgotten_with_it(engine: Engine, recorder: Recorder) -> None:
    gone = obj("pause", rolloutRef={"name": "bell"})
    engine.offer(ACTIONS, "ADDED", gone)
    engine.offer(ACTIONS, "DELETED", gone)
    assert recorder.forgotten == ["pause"]
