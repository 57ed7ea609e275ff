"""Harm: each severity with its action, in mid-stage and at a stage's start; and that a revert stays."""

from typing import Any

import pytest
import yaml

from support.databases import all_postgres
from support.manifests import ROLLOUT, A, B, Object, disable, metric, rollout, row, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import Row, World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
OFF_AT_HALF = (False, 50, frozenset())
DISABLE = {"type": "DisableFlags"}
RESTRICT = {"type": "RestrictToGroups", "groups": ["admin"]}
DATABASE = {
    "type": "RollBackDatabase",
    "script": {"configMapKeyRef": {"name": "scripts", "key": "rollback.sql"}},
    "sha256": "0" * 64,
    "acknowledgeDataLoss": True,
}


def reduce(**to: Any) -> Object:
    return {"type": "ReducePercentage", **to}


# Severity, action, both rows after it, reason.
ACTIONS = [
    pytest.param("High", DISABLE, OFF_AT_HALF, "FlagsDisabled", id="high-disables"),
    pytest.param("Medium", reduce(to="PreviousStage"), TEN, "PercentageReduced", id="medium-goes-back-a-stage"),
    pytest.param(
        "Medium", reduce(percentage=5), (True, 5, frozenset()), "PercentageReduced", id="medium-reduces-to-a-number"
    ),
    pytest.param(
        "Medium", reduce(to="Baseline"), (False, 0, frozenset()), "PercentageReduced", id="medium-goes-to-the-baseline"
    ),
    pytest.param("Critical", DATABASE, OFF_AT_HALF, "FlagsDisabled", id="critical-disables-before-the-script"),
    pytest.param("Low", RESTRICT, (True, 50, frozenset({"admin"})), "RestrictedToGroups", id="low-restricts-to-groups"),
]


def plan(severity: str, action: Object, *, bake: str = "30s") -> Object:
    rows = [row(severity, action)]
    return rollout(stages=[stage("ten", 10), stage("half", 50, bake), stage("everyone", 100)], rows=rows)


def assert_reverted(world: World, severity: str, action: str, row: Row, reason: str) -> None:
    """The table is right already; the status, the condition and the Event are within two seconds."""
    world.soon(lambda: world.status()["phase"] == "RolledBack")
    world.soon(lambda: world.conditions()["RolledBack"] == ("True", "RolledBack"))
    world.soon(lambda: reason in world.reasons())
    status = world.status()
    assert world.conditions()["Ready"][0] == "False"
    assert world.conditions()["Stalled"][0] == "True"
    revert = status["rollback"]
    assert (revert["severity"], revert["action"]) == (severity, action)
    assert (revert["metric"], revert["limit"]) == ("error-rate", "1%")
    assert revert["value"].endswith("%")
    assert status["history"][-1]["reason"] == reason
    shown = {entry["flag"]: entry for entry in status["exposure"]}
    assert (shown[A]["enabled"], shown[A]["percentage"], frozenset(shown[A]["groups"])) == row
    event = next(event for event in world.events() if event["reason"] == reason)
    assert event["type"] == "Warning"
    assert f"a {severity} breach" in event["note"]
    lowered = [entry for entry in world.audit() if entry["kind"] == "Lower"]
    assert {entry["flag"] for entry in lowered} == {A, B}
    # Both in one transaction, with what it was decided on.
    assert len({entry["operation_id"] for entry in lowered}) == 1
    assert lowered[0]["evidence"]["severity"] == severity


@pytest.mark.parametrize(("severity", "action", "after", "reason"), ACTIONS)
def test_a_regression_in_mid_stage(
    world: World,
    operator: Operator,
    *,
    severity: str,
    action: Object,
    after: Row,
    reason: str,
) -> None:
    world.apply(store(), plan(severity, action))
    world.wait_row(A, HALF)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_row(A, after)
    assert world.row(B) == after
    assert_reverted(world, severity, action["type"], after, reason)
    if severity == "Critical":
        assert "script was not run" in world.events()[-1]["note"]
        assert world.columns()["HEALTH"] == "RolledBack"


@all_postgres
def test_a_regression_at_the_start_of_a_stage(world: World, operator: Operator) -> None:
    world.traffic.failed = 0.3
    world.traffic.harm_at(A, 50)
    world.apply(store(), plan("High", DISABLE))
    world.wait_row(A, OFF_AT_HALF)
    assert_reverted(world, "High", "DisableFlags", OFF_AT_HALF, "FlagsDisabled")
    responded_s = float(world.status()["rollback"]["respondedIn"].removesuffix("s"))
    assert responded_s < 15.0
    assert operator.count("featurerollout_reverts_total", severity="High") == 1


def test_a_regression_must_outlast_settle_in_mid_stage(world: World, operator: Operator) -> None:
    """One bad look in the middle of a stage is an outage of everything, not the rollout's doing."""
    clause = {"metric": "error-rate", "above": "5%"}
    rows = [row("High", DISABLE, clause=clause, settle="3s")]
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], rows=rows))
    world.wait_row(A, TEN)
    operator.wait_looks(8, verdict="Pass")
    world.traffic.failed = 0.5
    operator.wait_looks(1, verdict="Fail")
    world.traffic.failed = 0.0
    operator.wait_looks(3, verdict="Pass")
    assert world.row(A) == TEN
    world.traffic.failed = 0.5
    world.wait_row(A, (False, 10, frozenset()))


def test_the_most_severe_breached_row_acts_and_a_milder_one_does_not_follow(world: World, operator: Operator) -> None:
    severe = {"metric": "error-rate", "above": "5%"}
    rows = [row("Medium", reduce(to="PreviousStage")), row("High", DISABLE, clause=severe)]
    world.apply(store(), rollout(stages=[stage("ten", 10), stage("half", 50, "30s")], rows=rows))
    world.wait_row(A, HALF)
    operator.wait_looks(1, verdict="Pass")
    world.traffic.failed = 0.5
    world.wait_row(A, OFF_AT_HALF)
    operator.wait_looks(3)
    assert [entry["reason"] for entry in world.audit(A) if entry["kind"] == "Lower"] == ["FlagsDisabled"]


def test_a_more_severe_row_acts_after_a_milder_one(world: World, operator: Operator) -> None:
    severe = {"metric": "error-rate", "above": "40%"}
    rows = [row("Medium", reduce(to="PreviousStage")), row("High", DISABLE, clause=severe)]
    world.apply(store(), rollout(stages=[stage("ten", 10), stage("half", 50, "60s")], rows=rows))
    world.wait_row(A, HALF)
    world.traffic.failed = 0.1
    world.wait_row(A, TEN)
    world.traffic.failed = 1.0
    world.wait_row(A, (False, 10, frozenset()))
    world.soon(lambda: world.status()["rollback"]["severity"] == "High")


def test_a_gauge_past_its_limit(world: World, operator: Operator) -> None:
    query = "SELECT avg(extract(epoch FROM updated_at - created_at)) AS value FROM notifications WHERE "
    seconds = metric("seconds", query + "created_at >= %(window_start)s AND created_at < %(window_end)s", "Gauge")
    clause = {"metric": "seconds", "above": "0.8", "persist": {"failures": 2, "of": 3}}
    rows = [row("High", DISABLE, clause=clause)]
    world.apply(store(), rollout(stages=[stage("ten", 10, "40s")], rows=rows, metrics=[seconds]))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.slow = 0.5
    world.wait_row(A, (False, 10, frozenset()))
    world.soon(lambda: world.status()["rollback"]["metric"] == "seconds")
    assert world.status()["rollback"]["value"].endswith("s")


def test_an_action_on_named_flags_leaves_the_others(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], rows=[row("High", {**DISABLE, "flags": [A]})]))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))
    operator.wait_looks(2)
    assert world.row(B) == TEN
    assert [entry["flag"] for entry in world.audit() if entry["kind"] == "Lower"] == [A]


def test_an_observed_metric_and_an_unbound_optional_clause_act_on_nothing(world: World, operator: Operator) -> None:
    observed = {**metric("seen"), "mode": "Observe"}
    optional = {"metric": "websocket-drops", "above": "1%", "optional": True}
    rows = [row("Critical", DISABLE, clause={"metric": "seen", "above": "1%"})]
    rows += [
        row("High", DISABLE, clause={"metric": "error-rate", "above": "60%"}),
        row("Low", DISABLE, clause=optional),
    ]
    world.traffic.failed = 0.3
    world.apply(store(), rollout(stages=[stage("ten", 10, "4s")], rows=rows, metrics=[metric(), observed]))
    world.wait_condition("Completed", "True", "Completed")
    assert world.row(A) == TEN
    shown = {one["name"]: one for one in world.status()["metrics"]}
    assert float(shown["seen"]["value"].removesuffix("%")) > 1.0
    assert "evidence" not in shown["seen"]


def test_a_hold_lifts_when_the_harm_is_over(world: World, operator: Operator) -> None:
    rows = [row("Low", {"type": "Hold"})]
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)], rows=rows))
    world.wait_row(A, TEN)
    world.traffic.failed = 0.3
    world.soon(lambda: world.status()["phase"] == "Held", 10.0)
    world.soon(lambda: "HoldAction" in world.reasons())
    operator.wait_looks(4)
    assert world.row(A) == TEN
    world.traffic.failed = 0.0
    world.wait_row(A, HALF)
    world.wait_condition("Completed", "True", "Completed")
    assert not [entry for entry in world.audit() if entry["kind"] == "Lower"]


def test_a_revert_is_latched_until_another_plan(world: World, operator: Operator) -> None:
    manifest = plan("High", DISABLE)
    world.traffic.failed = 0.3
    world.traffic.harm_at(A, 50)
    world.apply(store())
    apply(world, manifest)
    world.wait_row(A, OFF_AT_HALF)
    world.soon(lambda: world.status()["phase"] == "RolledBack")
    world.traffic.failed = 0.0

    # The same manifest again, as a GitOps sync does.
    apply(world, manifest)
    stays_off(world, operator)

    # Deleted and created again.
    world.delete("FeatureRollout", ROLLOUT)
    wait_for(lambda: world.get("FeatureRollout", ROLLOUT) is None)
    apply(world, manifest)
    world.wait_condition("RolledBack", "True", "RolledBack")
    stays_off(world, operator)

    # Another process.
    operator.kill()
    operator.start()
    stays_off(world, operator)

    # Another plan is another attempt.
    manifest["spec"]["stages"][1]["bake"] = "2s"
    apply(world, manifest)
    world.wait_row(A, HALF)
    world.wait_condition("Completed", "True", "Completed")
    assert world.status()["attempt"] == 2
    assert world.conditions()["RolledBack"][0] == "False"
    assert "Rearmed" in world.reasons()
    assert world.row(A) == (True, 100, frozenset())


def test_an_edit_of_a_shared_matrix_does_not_clear_a_latch(world: World, operator: Operator) -> None:
    matrix = {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "RollbackMatrix",
        "metadata": {"name": "shared"},
        "spec": {"rows": [disable()]},
    }
    world.traffic.failed = 0.3
    world.traffic.harm_at(A, 10)
    world.apply(store(), matrix, rollout(stages=[stage("ten", 10, "20s")], matrixRef={"name": "shared"}))
    world.wait_row(A, (False, 10, frozenset()))
    world.traffic.failed = 0.0
    world.edit("RollbackMatrix", "shared", lambda obj: obj["spec"]["rows"][0]["when"][0].update(above="30%"))
    operator.wait_looks(4)
    assert world.row(A) == (False, 10, frozenset())
    assert world.conditions()["RolledBack"][0] == "True"


def apply(world: World, manifest: Object) -> None:
    """As people do."""
    world.cluster.kubectl("apply", "-n", world.namespace, "-f", "-", input=yaml.safe_dump(manifest))


def stays_off(world: World, operator: Operator) -> None:
    """For some looks, or when it does not look any more because everything is off, for as long."""
    before = world.audit()
    reconciles = operator.count("featurerollout_reconcile_seconds_count")
    wait_for(lambda: operator.count("featurerollout_reconcile_seconds_count") >= reconciles + 4, 25.0)
    assert world.row(A) == OFF_AT_HALF
    assert world.audit() == before
