"""RolloutActions as objects: read, answered, without a rollout, long over, broken."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feature_rollout.core.people import Answer, Outcome, Request, RequestType, RollBackTo
from feature_rollout.kube.errors import ApiUnavailable
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS
from feature_rollout.runtime.actions import Actions, request_of
from feature_rollout.runtime.answers import Answers
from feature_rollout.runtime.inventory import Inventory

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
ROLLOUT = {"metadata": {"name": "bell", "namespace": "shop", "uid": "r-1", "resourceVersion": "1"}, "spec": {}}


def action(name: str = "pause", version: int = 2, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "RolloutAction",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2026-01-05T09:00:00Z",
        },
        "spec": {"rolloutRef": {"name": "bell"}, "type": "Pause", **spec},
        "status": status or {"observedGeneration": -1},
    }


class Clock:
    time = T0

    def now(self) -> datetime:
        return self.time


class FakeApi:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[str] = []
        self.down = False

    async def apply_status(self, plural: str, obj: Any, status: dict[str, Any]) -> dict[str, Any]:
        assert plural == ACTIONS
        self.written.append((obj["metadata"]["name"], status))
        return {}

    async def delete(self, plural: str, obj: Any) -> None:
        if self.down:
            raise ApiUnavailable("DELETE")
        self.deleted.append(obj["metadata"]["name"])


class World:
    def __init__(self) -> None:
        self.api, self.clock, self.inventory = FakeApi(), Clock(), Inventory()
        self.answers = Answers(self.api)  # type: ignore[arg-type]
        self.actions = Actions(self.api, self.inventory, self.answers, self.clock)  # type: ignore[arg-type]

    def has(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            self.inventory.offer(ACTIONS if obj.get("kind") else ROLLOUTS, "ADDED", obj)

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Every status that was written by now."""
        task = asyncio.create_task(self.answers.run())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.api.written


def test_an_object_as_a_request() -> None:
    spec = {"type": "RollBack", "to": "Baseline", "reason": "why", "requestedBy": "system:serviceaccount:ci:bot"}
    request = request_of(action("back", stage="half", **spec))
    assert request == Request(
        "uid-back",
        RequestType.ROLL_BACK,
        T0,
        "back",
        stage="half",
        to=RollBackTo.BASELINE,
        reason="why",
        requested_by="system:serviceaccount:ci:bot",
    )
    assert request.is_service_account
    assert request_of(action("back", type="RollBack")).to is RollBackTo.OFF


@pytest.mark.parametrize(("phase", "is_asked"), [("Pending", True), ("Applied", False), ("Refused", False)])
def test_what_is_over_is_asked_no_more(phase: str, is_asked: bool) -> None:
    world = World()
    world.has(ROLLOUT, action(status={"phase": phase}))
    assert bool(world.actions.requests(("shop", "bell"))) == is_asked


async def test_one_that_cannot_be_read_is_refused_and_the_others_are_asked() -> None:
    world = World()
    world.has(ROLLOUT, action("odd", type="Explode"), action("pause"))
    assert [request.name for request in world.actions.requests(("shop", "bell"))] == ["pause"]
    ((name, status),) = await world.told()
    assert (name, status["phase"], status["reason"]) == ("odd", "Refused", "InvalidAction")


async def test_an_answer_is_told_once_with_the_conditions_that_tools_read() -> None:
    world = World()
    world.has(ROLLOUT, action())
    (request,) = world.actions.requests(("shop", "bell"))
    for answer in (
        Answer(Outcome.PENDING, "NotYet", "It waits."),
        Answer(Outcome.APPLIED, "Paused", "Paused by alice."),
        Answer(Outcome.APPLIED, "Paused", "Paused by alice."),
    ):
        world.actions.answer(ROLLOUT, request, answer, T0)
        await world.told()
    pending, applied = (status for _, status in world.api.written)
    assert "finishedAt" not in pending
    assert applied["finishedAt"] == "2026-01-05T09:00:00Z"
    assert [(c["type"], c["status"]) for c in pending["conditions"]] == [
        ("Ready", "False"),
        ("Reconciling", "True"),
        ("Stalled", "False"),
    ]
    assert [(c["type"], c["status"]) for c in applied["conditions"]] == [
        ("Ready", "True"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
    ]
    another = Request("uid-of-another", RequestType.PAUSE, T0, "pause")
    world.actions.answer(ROLLOUT, another, Answer(Outcome.REFUSED, "AlreadyPaused", ""), T0)
    assert len(await world.told()) == 2, "an object of the same name is not the same"


@pytest.mark.parametrize(
    ("age", "phase"),
    [(timedelta(seconds=1), None), (timedelta(hours=23), "Pending"), (timedelta(hours=24), "Expired")],
)
async def test_an_action_without_a_rollout(age: timedelta, phase: str | None) -> None:
    world = World()
    world.has(action())
    world.clock.time = T0 + age
    await world.actions.check()
    told = await world.told()
    assert [status["phase"] for _, status in told] == ([phase] if phase else [])
    if phase:
        assert "There is no FeatureRollout bell in namespace shop" in told[0][1]["message"]


async def test_with_its_rollout_an_action_is_not_answered_here() -> None:
    world = World()
    world.has(ROLLOUT, action())
    world.clock.time = T0 + timedelta(days=2)
    await world.actions.check()
    assert await world.told() == []


async def test_what_is_over_for_a_month_is_deleted() -> None:
    world = World()
    over = {"phase": "Applied", "finishedAt": "2026-01-05T09:00:00Z"}
    world.has(action("old", status=over), action("young", status={**over, "finishedAt": "2026-01-20T09:00:00Z"}))
    world.has(action("nonsense", status={**over, "finishedAt": "yesterday"}))
    world.clock.time = T0 + timedelta(days=30)
    world.api.down = True
    await world.actions.check()
    world.api.down = False
    await world.actions.check()
    assert world.api.deleted == ["old"]


async def test_only_who_leads_deletes_and_answers() -> None:
    world = World()
    world.actions = Actions(world.api, world.inventory, world.answers, world.clock, lambda: False)  # type: ignore[arg-type]
    world.has(action("old", status={"phase": "Applied", "finishedAt": "2025-01-05T09:00:00Z"}), action("alone"))
    await world.actions.check()
    assert (world.api.deleted, world.answers._waiting) == ([], {})
