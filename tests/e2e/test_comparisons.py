"""Guards that compare: with the users without the flags, and with the week before the rollout."""

from typing import Any

from support.manifests import WINDOW, A, Object, metric, rollout, row, stage, store
from support.operatorprocess import Operator
from support.world import World

TEN = (True, 10, frozenset())
OFF_AT_TEN = (False, 10, frozenset())
UNTOUCHED = (False, 0, frozenset())
DISABLE = {"type": "DisableFlags"}

# Every second user has the flags. Deliveries to the others fail likewise, or in a way of their own.
ARMS = """
  SELECT count(*) FILTER (WHERE treated AND delivery_status = 'failed') AS events,
         count(*) FILTER (WHERE treated) AS units,
         count(*) FILTER (WHERE NOT treated AND delivery_status = '{control}') AS control_events,
         count(*) FILTER (WHERE NOT treated) AS control_units
  FROM (SELECT delivery_status, substr(user_id, 6)::int % 2 = 0 AS treated FROM notifications WHERE {window}) AS all_of
"""
# A delivery each twenty seconds, up to an hour ago; {each} of them failed.
WEEK = """
  INSERT INTO notifications (user_id, delivery_status, created_at, updated_at)
  SELECT 'past-' || i, CASE WHEN i %% %s = 0 THEN 'failed' ELSE 'delivered' END, at, at
  FROM (SELECT i, now() - i * interval '20 seconds' AS at FROM generate_series(180, 30400) i) AS past
"""


def arms(control: str) -> Object:
    # `%%`: the query names parameters.
    return metric(query=ARMS.format(control=control, window=WINDOW).replace(" % 2", " %% 2"))


def guarded(clause: Object, **spec: Any) -> Object:
    return rollout(stages=[stage("ten", 10, "1h")], rows=[row("High", DISABLE, clause=clause)], **spec)


def measured(world: World) -> Any:
    return world.status()["metrics"][0]


def test_a_regression_beside_the_control_arm(world: World, operator: Operator) -> None:
    clause = {"metric": "error-rate", "increase": "5%", "baseline": {"type": "Control"}}
    world.apply(store(), guarded(clause, metrics=[arms("bounced")]))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_row(A, OFF_AT_TEN)
    world.soon(lambda: world.status()["phase"] == "RolledBack")
    assert measured(world)["control"] == "0%"
    assert measured(world)["test"] == "two-sample, against the control arm"
    assert world.status()["rollback"]["limit"] == "0%"


def test_an_incident_of_everybody_holds_and_lifts(world: World, operator: Operator) -> None:
    """The service is down for all: taking the flags back would help nobody."""
    world.apply(store(), guarded({"metric": "error-rate", "above": "1%"}, metrics=[arms("failed")]))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_condition("Reconciling", "False", "GlobalIncident")
    operator.wait_looks(4, verdict="Fail")
    assert world.row(A) == TEN
    world.traffic.failed = 0.0
    world.wait_condition("Reconciling", "False", "Baking")
    assert not [entry for entry in world.audit() if entry["kind"] == "Lower"]


def test_a_regression_against_the_week_before(world: World, operator: Operator) -> None:
    world.database.execute(WEEK, 50)
    clause = {"metric": "error-rate", "increase": "100%", "baseline": {"type": "BeforeRollout"}}
    world.apply(store(), guarded(clause))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    known = measured(world)
    assert (known["dispersion"], known["test"]) == (1, "one-sample, against the past of the hour")
    # 2 % and its margin, twice.
    assert 4.0 < float(known["limitInForce"].removesuffix("%")) < 10.0
    world.traffic.failed = 0.3
    world.wait_row(A, OFF_AT_TEN)
    world.soon(lambda: world.status()["phase"] == "RolledBack")
    assert world.status()["rollback"]["limit"] == known["limitInForce"]


def test_a_guard_that_would_have_fired_last_week_does_not_begin(world: World, operator: Operator) -> None:
    world.database.execute(WEEK, 50)
    world.apply(store(), guarded({"metric": "error-rate", "above": "1%"}))
    world.wait_condition("Stalled", "True", "GuardTooTight")
    operator.wait_looks(3)
    assert world.row(A) == UNTOUCHED
    assert world.status()["phase"] == "Preflight"
    # Loosened, it begins.
    world.edit_spec(matrix={"rows": [row("High", DISABLE, clause={"metric": "error-rate", "above": "10%"})]})
    world.wait_row(A, TEN)
