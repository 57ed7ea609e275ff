"""When a stage may begin, and when it takes too long: the clock is the machine's, windows begin on whole minutes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from support.manifests import A, rollout, stage, store
from support.operatorprocess import Operator
from support.world import World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def freeze() -> dict[str, Any]:
    """Today and the days around it: midnight may pass during a test."""
    today = datetime.now(UTC).date()
    dates = {"from": str(today - timedelta(days=1)), "to": str(today + timedelta(days=2))}
    return {"timeZone": "UTC", "freezes": [{**dates, "reason": "the sale"}]}


def opening(at: datetime) -> dict[str, Any]:
    """Open from this minute on for two hours, every day."""
    window = {"days": DAYS, "from": f"{at:%H:%M}", "to": f"{at + timedelta(hours=2):%H:%M}"}
    return {"timeZone": "UTC", "windows": [window]}


def test_the_first_stage_begins_when_the_window_opens(world: World, operator: Operator) -> None:
    opens = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")], calendar=opening(opens)))
    world.soon(lambda: world.status()["phase"] == "AwaitingWindow", 30.0)
    assert world.row(A) == world.baseline[A]
    assert world.conditions()["Ready"] == ("True", "AwaitingWindow")
    assert world.status()["next"]["at"] == f"{opens:%Y-%m-%dT%H:%M:%SZ}"
    world.wait_row(A, TEN, 180.0)
    assert world.audit(A)[0]["at"] >= opens


def test_nothing_is_raised_in_a_freeze_and_a_revert_does_not_wait_for_its_end(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "6s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.edit_spec(calendar=freeze())
    world.soon(lambda: world.status()["phase"] == "AwaitingWindow", 60.0)
    assert "the sale" in world.condition("Ready")["message"]
    operator.wait_looks(3, verdict="Pass")
    assert world.row(A) == TEN
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()), 60.0)
    world.soon(lambda: world.status()["phase"] == "RolledBack", 10.0)


def test_a_stage_that_takes_longer_than_its_deadline_is_overdue_and_goes_on(world: World, operator: Operator) -> None:
    gate = {"metric": "error-rate", "atMost": "1%", "minUnits": 1_000_000}
    stages = [stage("ten", 10, gates=[gate], deadline="8s"), stage("half", 50)]
    world.apply(store(), rollout(stages=stages))
    world.wait_row(A, TEN)
    condition = world.wait_condition("Stalled", "True", "StageOverdue", timeout_s=60.0)
    assert "deadline of 8s" in condition["message"]
    assert "error-rate needs 1000000 units" in condition["message"]
    assert world.conditions()["Ready"][0] == "False"
    world.soon(lambda: "StageOverdue" in world.reasons(), 10.0)
    assert world.row(A) == TEN
    world.act("Promote")
    world.wait_row(A, HALF, 60.0)
    world.soon(lambda: world.conditions()["Stalled"][0] == "False", 10.0)
