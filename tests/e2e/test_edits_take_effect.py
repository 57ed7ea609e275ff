"""Edits of what a rollout refers to, in mid-stage: they take effect by themselves, and reset what they touch alone.

| edit | takes effect | evidence that begins anew | counts of the stage that do |
|---|---|---|---|
| a limit in the RollbackMatrix | on the next look | that clause's | none |
| the query of a MetricTemplate | on the next look | that metric's clauses' | that metric's |
| the address of a MetricProvider | on the next look | its metrics' clauses' | its metrics' |
| notifyChannel, onDrift of the FlagStore | at the next commit, at once | none | none |
| another role in the Secret | on new connections, at once | none | none |
| a limit, after an approval | the approval is void | | |
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from feature_rollout.sandbox.prometheus import PrometheusServer, prometheus_binaries, scrape
from support.exporter import Exporter
from support.manifests import (
    ERRORS,
    SECRET,
    SLOW,
    STORE,
    A,
    Object,
    manifest,
    rollout,
    row,
    stage,
    store,
    template,
)
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN, FIVE, HALF = (True, 10, frozenset()), (True, 5, frozenset()), (True, 50, frozenset())
# Flags stay on, so that measuring goes on.
REDUCE = {"type": "ReducePercentage", "percentage": 5}
# So long may a busy machine take for what takes a second; evidence is stored every five.
LONG_S = 90.0
# Of two metrics on the same rows one may have been looked at a window or two sooner.
SKEW_UNITS = 450.0


@dataclass(frozen=True)
class Measured:
    """What is stored of a rollout: observed seconds by clause, units of the stage and keys by metric."""

    observed_s: dict[str, float]
    units: dict[str, float]
    keys: dict[str, str]


def measured(world: World) -> Measured:
    found = world.database.query("SELECT state FROM feature_rollout.evidence")
    assert len(found) == 1, "no evidence is stored yet"
    state = found[0]["state"]
    return Measured(
        {key: evidence["observedSeconds"] for key, evidence in state["evidence"].items()},
        {name: metric["units"] for name, metric in state["metrics"].items()},
        {name: metric["key"] for name, metric in state["metrics"].items()},
    )


def stored(world: World, before: Measured | None = None, *, new: int = 0) -> Measured:
    """What is stored once every metric has some looks more than before, and so many clauses are new."""
    earlier = before.observed_s if before else {}

    def grown() -> Measured:
        now = measured(world)
        assert len(now.units) == 2, now
        assert max(now.observed_s.values()) >= max(earlier.values(), default=0.0) + 4.0, now
        assert min(now.units.values()) >= 600.0, now
        assert not new or len(now.observed_s.keys() - earlier.keys()) == new, now
        return now

    return wait_for(grown, LONG_S, "evidence that is stored")


def begun(world: World, *, errors: str = ERRORS, limit: str = "1%", metrics: list[Object] | None = None) -> Measured:
    """A rollout in a long stage, with everything that it refers to in objects of its own."""
    slow = row("Medium", REDUCE, clause={"metric": "slow", "above": "90%"})
    guard = row("High", REDUCE, clause={"metric": "errors", "above": limit})
    bound = [{"name": name, "templateRef": {"name": name}, "interval": "1s"} for name in ("errors", "slow")]
    world.apply(
        store(),
        manifest("MetricTemplate", "errors", template(errors)),
        manifest("MetricTemplate", "slow", template(SLOW)),
        manifest("RollbackMatrix", "shared", {"rows": [guard, slow]}),
        rollout(
            stages=[stage("ten", 10, "10m"), stage("half", 50)], matrixRef={"name": "shared"}, metrics=metrics or bound
        ),
    )
    world.wait_row(A, TEN, LONG_S)
    return stored(world)


def assert_one_clause_anew(before: Measured, after: Measured) -> None:
    """One of the two clauses is looked at no more, the other goes on, and the time of the new one has run on."""
    assert len(before.observed_s) == 2
    assert before.observed_s.keys() <= after.observed_s.keys()
    ended, kept = sorted(before.observed_s, key=lambda key: after.observed_s[key])
    (new,) = after.observed_s.keys() - before.observed_s.keys()
    assert after.observed_s[ended] < after.observed_s[kept]
    assert after.observed_s[new] > before.observed_s[kept]


def assert_one_metric_anew(before: Measured, after: Measured) -> None:
    """What the old query has counted in the stage counts no more; the other metric's counts go on."""
    assert after.keys["errors"] != before.keys["errors"]
    assert after.keys["slow"] == before.keys["slow"]
    assert after.units["slow"] > before.units["slow"]
    assert after.units["slow"] - after.units["errors"] >= before.units["errors"] - SKEW_UNITS


def test_a_limit_in_the_matrix(world: World, operator: Operator) -> None:
    world.traffic.failed = 0.3
    before = begun(world, limit="90%")
    plan_hash = world.status()["planHash"]

    def tightened(matrix: Object) -> None:
        matrix["spec"]["rows"][0]["when"][0]["above"] = "1%"

    world.edit("RollbackMatrix", "shared", tightened)
    world.wait_row(A, FIVE, LONG_S)
    world.soon(lambda: world.status()["rollback"]["limit"] == "1%", LONG_S)
    assert world.status()["planHash"] != plan_hash
    after = stored(world, before, new=1)
    assert_one_clause_anew(before, after)
    assert after.keys == before.keys
    assert after.units["errors"] > before.units["errors"]


def test_the_query_of_a_template(world: World, operator: Operator) -> None:
    world.traffic.failed = 0.3
    before = begun(world, errors=ERRORS.replace("failed", "bounced"))
    assert world.row(A) == TEN
    world.edit("MetricTemplate", "errors", lambda made: made["spec"]["sql"].update(query=ERRORS))
    world.wait_row(A, FIVE, LONG_S)
    after = stored(world, before, new=1)
    assert_one_clause_anew(before, after)
    assert_one_metric_anew(before, after)


@contextmanager
def prometheus(exporter: Exporter) -> Iterator[str]:
    """The address of a Prometheus that scrapes it."""
    with PrometheusServer(scrape("shop", exporter.port), binaries=prometheus_binaries(build_missing=False)) as server:
        yield server.url


def test_the_address_of_a_provider(world: World, operator: Operator) -> None:
    provider = f"prometheus-{world.namespace}"

    def provide(address: str) -> None:
        spec = {"prometheus": {"address": address}, "allowedNamespaces": [world.namespace]}
        world.apply(manifest("MetricProvider", provider, spec))

    source = {
        "providerRef": {"name": provider},
        "events": 'sum(increase(http_requests_total{code="500"}[{{window}}]))',
        "units": "sum(increase(http_requests_total[{{window}}]))",
    }
    errors = {"type": "Ratio", "counts": "Users", "delay": "500ms", "prometheus": source}
    metrics = [
        {"name": "errors", "template": errors, "interval": "2s"},
        {"name": "slow", "templateRef": {"name": "slow"}, "interval": "1s"},
    ]
    with Exporter() as healthy, Exporter() as failing, prometheus(healthy) as here, prometheus(failing) as there:
        failing.failed = 0.3
        provide(here)
        before = begun(world, metrics=metrics)
        assert world.row(A) == TEN
        provide(there)
        world.wait_row(A, FIVE, LONG_S)
        after = stored(world, before, new=1)
    world.delete("MetricProvider", provider)
    assert_one_clause_anew(before, after)
    assert after.keys["errors"] != before.keys["errors"]
    assert after.keys["slow"] == before.keys["slow"]
    assert after.units["slow"] > before.units["slow"]


def assert_goes_on(before: Measured, after: Measured) -> None:
    """Nothing was reset."""
    assert after.keys == before.keys
    assert after.observed_s.keys() == before.observed_s.keys()
    assert all(after.observed_s[key] > seconds for key, seconds in before.observed_s.items())
    assert all(after.units[name] > units for name, units in before.units.items())


@pytest.fixture
def listener(world: World) -> Iterator[psycopg.Connection]:
    with psycopg.connect(world.database.uri(), autocommit=True) as connection:
        yield connection


def test_the_channel_and_the_drift_policy_of_the_store(
    world: World, operator: Operator, listener: psycopg.Connection
) -> None:
    before = begun(world)
    plan_hash = world.status()["planHash"]
    for channel in ("feature_flags", "flag_changes"):
        listener.execute(f"LISTEN {channel}".encode())
    world.edit("FlagStore", STORE, lambda made: made["spec"].update(notifyChannel="flag_changes"))
    world.set_row(A, True, 7)
    world.soon(lambda: world.status()["phase"] == "Paused", LONG_S)
    world.edit("FlagStore", STORE, lambda made: made["spec"].update(onDrift="Report"))
    world.soon(lambda: world.status()["phase"] == "Baking", LONG_S)
    after = stored(world, before)
    assert_goes_on(before, after)
    assert world.status()["planHash"] == plan_hash

    world.wait_answer(world.act("Promote"), "Applied", "Promoted", LONG_S)
    world.wait_row(A, HALF, LONG_S)
    (note,) = listener.notifies(timeout=LONG_S, stop_after=1)
    assert note.channel == "flag_changes"
    assert json.loads(note.payload)["operation"] == world.audit(A)[-1]["operation_id"]


def test_another_role_in_the_secret(world: World, operator: Operator) -> None:
    before = begun(world)
    newcomer = world.database.role("writer")
    world.database.execute(f"GRANT feature_rollout_writer TO {newcomer}")
    world.database.execute(
        f"GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON feature_flags TO {newcomer}"
    )
    earlier, world.writer = world.writer, newcomer
    world.secret(SECRET, world.uris())
    in_use = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() AND usename = ANY(%s)"

    def changed_over() -> bool:
        assert [found["usename"] for found in world.database.query(in_use, [earlier, newcomer])] == [newcomer]
        return True

    wait_for(changed_over, LONG_S, "connections of the new role alone")
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {earlier}")
    assert_goes_on(before, stored(world, before))
    world.wait_answer(world.act("Promote"), "Applied", "Promoted", LONG_S)
    world.wait_row(A, HALF, LONG_S)


def test_an_approval_is_void_after_an_edit_of_the_matrix(world: World, operator: Operator) -> None:
    """It was given for what was read."""
    matrix = manifest("RollbackMatrix", "shared", {"rows": [row("High", REDUCE)]})
    stages = [stage("ten", 10, "5s"), stage("half", 50, approval={"required": 1})]
    world.apply(store(), matrix, rollout(stages=stages, matrixRef={"name": "shared"}, holdAt="ten"))
    world.wait_row(A, TEN, LONG_S)
    world.wait_stage("ten")
    read = world.status()["planHash"]
    world.wait_answer(world.act("Approve", stage="half", planHash=read), "Applied", "Approved", LONG_S)
    world.edit("RollbackMatrix", "shared", lambda made: made["spec"]["rows"][0]["when"][0].update(above="2%"))
    world.soon(lambda: world.status()["planHash"] != read, LONG_S)
    world.edit("FeatureRollout", "enhanced", lambda made: made["spec"].pop("holdAt"))

    world.soon(lambda: world.status()["phase"] == "AwaitingApproval", LONG_S)
    assert "1 approval of stage half" in world.status()["next"]["waitingFor"][0]
    operator.wait_looks(3)
    assert world.row(A) == TEN
    refused = world.wait_answer(world.act("Approve", stage="half", planHash=read), "Refused", "PlanHashMismatch")
    now = world.status()["planHash"]
    assert now in refused["message"]
    world.wait_answer(world.act("Approve", stage="half", planHash=now), "Applied", "Approved", LONG_S)
    world.wait_row(A, HALF, LONG_S)
