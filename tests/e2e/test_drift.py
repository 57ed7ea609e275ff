"""Somebody changes a flag by hand: how soon that is seen, who it was, and what each `onDrift` makes of it."""

import time
from typing import Any

import psycopg
import pytest

from support.audit import violations
from support.databases import all_postgres
from support.manifests import A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
SEEN_S = 2.0
# How often rows are read without the trigger; with it they would be read this seldom.
POLL_S = 0.5
SELDOM = {"drift_poll_seconds": "600"}


def by_others(world: World) -> list[dict[str, Any]]:
    return [entry for entry in world.audit() if entry["kind"] == "Manual"]


def own_the_table(world: World) -> None:
    """The owner role owns the flag table, so that the operator makes the trigger."""
    world.database.execute(f"ALTER TABLE feature_flags OWNER TO {world.owner}")


def person(world: World, percentage: int) -> str:
    """Somebody with no right on the bookkeeping changes A; return the role."""
    role = world.database.role("person")
    world.database.execute(f"GRANT SELECT, UPDATE (rollout_percentage) ON feature_flags TO {role}")
    world.changed_by_hand.add(A)
    with psycopg.connect(world.database.uri(role), autocommit=True) as connection:
        connection.execute("UPDATE feature_flags SET rollout_percentage = %s WHERE name = %s", (percentage, A))
    return role


def seen_in_s(world: World) -> float:
    """How long it takes until the status says that a row was changed."""
    begun = time.monotonic()
    world.wait_condition("FlagsInSync", "False", "ManualChange")
    return time.monotonic() - begun


def assert_replays(world: World) -> None:
    """S5, for the flags that were changed by hand too."""
    assert violations(world.audit(), world.baseline, world.rows()) == []


def slow_metrics(**changes: Any) -> Any:
    """A rollout whose looks do not wake it: only the database does."""
    plan = rollout(stages=[stage("ten", 10, "10m"), stage("half", 50)], **changes)
    plan["spec"]["metrics"][0]["interval"] = "1m"
    return plan


@all_postgres
def test_with_the_trigger_a_change_is_seen_at_once_and_its_author_is_in_the_audit(
    world: World, idle_operator: Operator
) -> None:
    own_the_table(world)
    idle_operator.start(**SELDOM)
    world.apply(store(), slow_metrics())
    world.wait_row(A, TEN, 90.0)
    role = person(world, 33)
    assert seen_in_s(world) < SEEN_S
    assert [(e["actor"], e["flag"], e["before"]["percentage"], e["after"]["percentage"]) for e in by_others(world)] == [
        (role, A, "10", "33")
    ]
    assert by_others(world)[0]["ledger_key"] == world.ledger()["key"]
    world.set_row(A, True, 10)
    world.soon(lambda: world.conditions()["FlagsInSync"] == ("True", "AsPlanned"))
    assert len(by_others(world)) == 2
    assert_replays(world)


def test_without_the_trigger_a_change_is_seen_when_rows_are_read_and_audited_once(
    world: World, operator: Operator
) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.wait_condition("FlagsInSync", "True", "AsPlanned")
    person(world, 33)
    # Two polls, and the time that the status takes on a busy machine.
    assert seen_in_s(world) < 2 * POLL_S + 1.0
    operator.wait_looks(3)
    assert [(entry["actor"], entry["after"]["percentage"]) for entry in by_others(world)] == [("unknown", "33")]
    assert_replays(world)
    operator.kill()
    operator.start()
    operator.wait_looks(2)
    assert len(by_others(world)) == 1


def test_a_pooler_in_transaction_mode_is_polled(world: World, idle_operator: Operator) -> None:
    own_the_table(world)
    idle_operator.start()
    made = store()
    made["spec"]["postgres"]["pooler"] = "Transaction"
    world.apply(made, rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    role = person(world, 33)
    world.wait_condition("FlagsInSync", "False", "ManualChange")
    assert [entry["actor"] for entry in by_others(world)] == [role]
    listening = world.database.query(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    )
    assert listening == []


def test_a_service_goes_on_when_the_bookkeeping_is_gone(world: World, idle_operator: Operator) -> None:
    own_the_table(world)
    idle_operator.start()
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    idle_operator.kill()
    world.database.execute("ALTER TABLE feature_rollout.audit RENAME TO away")
    person(world, 33)
    assert world.row(A) == (True, 33, frozenset())
    world.database.execute("ALTER TABLE feature_rollout.away RENAME TO audit")
    idle_operator.start()
    wait_for(lambda: [entry["actor"] for entry in by_others(world)] == ["unknown"])
    assert_replays(world)


@pytest.mark.parametrize("policy", ["Respect", "LowerOnly"])
def test_paused_until_the_row_is_put_back(world: World, operator: Operator, policy: str) -> None:
    world.apply(store(onDrift=policy), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 33)
    world.soon(lambda: world.status()["phase"] == "Paused")
    operator.wait_looks(5)
    assert (world.row(A), world.row(B)) == ((True, 33, frozenset()), TEN)
    world.set_row(A, True, 10)
    world.wait_row(A, HALF)
    assert_replays(world)


@pytest.mark.parametrize(
    ("policy", "after"), [("Respect", (False, 40)), ("LowerOnly", (False, 5)), ("Report", (False, 5))]
)
def test_a_flag_that_was_switched_off_by_hand_when_guards_lower(
    world: World, operator: Operator, policy: str, after: tuple[bool, int]
) -> None:
    """Low enough already: with Respect its row is left as the person has made it."""
    rows = [
        {
            "severity": "High",
            "when": [{"metric": "error-rate", "above": "1%"}],
            "respondWithin": "15m",
            "settle": "0s",
            "action": {"type": "ReducePercentage", "percentage": 5},
        }
    ]
    world.apply(store(onDrift=policy), rollout(stages=[stage("ten", 10, "60s")], rows=rows))
    world.wait_row(A, TEN)
    world.set_row(A, False, 40)
    world.wait_condition("FlagsInSync", "False", "ManualChange")
    world.traffic.failed = 0.3
    world.wait_row(B, (True, 5, frozenset()))
    assert world.row(A) == (*after, frozenset())
    world.wait_condition("RolledBack", "True", "RolledBack")
    assert (world.conditions()["FlagsInSync"][0] == "False") is (policy == "Respect")
    assert_replays(world)


def test_report_tells_and_goes_on(world: World, operator: Operator) -> None:
    world.apply(store(onDrift="Report"), rollout(stages=[stage("ten", 10, "8s"), stage("half", 50, "60s")]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 33)
    world.wait_condition("FlagsInSync", "False", "ManualChange")
    assert world.status()["phase"] == "Baking"
    world.soon(lambda: world.reasons().count("ManualChange") == 1)
    operator.wait_looks(2)
    assert world.row(A) == (True, 33, frozenset())
    world.wait_row(A, HALF)
    world.wait_condition("FlagsInSync", "True", "AsPlanned")
    assert world.reasons().count("ManualChange") == 1
    assert_replays(world)


def test_the_policy_may_be_changed_while_paused_and_the_plan_stays_the_same(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50, "60s")]))
    world.wait_row(A, TEN)
    world.set_row(A, True, 33)
    world.soon(lambda: world.status()["phase"] == "Paused")
    plan_hash = world.status()["planHash"]
    world.edit("FlagStore", "supabase", lambda made: made["spec"].update(onDrift="Report"))
    world.wait_row(A, HALF)
    assert world.status()["planHash"] == plan_hash
