"""A rollout without any harm: groups, then percentages, then everyone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from support.databases import Database, all_postgres
from support.manifests import OTHER, STORE, A, B, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

PLAN = [
    stage("admins", 100, groups=["admin"]),
    stage("ten-percent", 10, groups=[], gates=[{"metric": "error-rate", "atMost": "0.1%", "minUnits": 100}]),
    stage("everyone", 100),
]
EXPOSURES = [(True, 100, frozenset({"admin"})), (True, 10, frozenset()), (True, 100, frozenset())]


class Witness:
    """Reads both flags' rows again and again in one statement, and keeps every combination that it saw, in order."""

    def __init__(self, database: Database) -> None:
        self._uri = database.uri()
        self.seen: list[tuple[object, ...]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="witness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            while not stop.wait(0.002):
                rows = connection.execute(
                    "SELECT enabled, rollout_percentage, user_groups FROM feature_flags WHERE name IN (%s, %s)", (A, B)
                ).fetchall()
                combination = tuple((enabled, share, frozenset(groups)) for enabled, share, groups in rows)
                if not self.seen or self.seen[-1] != combination:
                    self.seen.append(combination)


@all_postgres
def test_a_healthy_rollout_reaches_everyone_and_is_completed(world: World, operator: Operator) -> None:
    before = {row["name"]: row for row in world.table()}
    witness = Witness(world.database)
    with witness.watching():
        world.apply(store())
        world.wait_condition("Ready", "True", "StoreUsable", name=STORE, kind="FlagStore")
        world.apply(rollout(stages=PLAN))
        world.wait_row(A, EXPOSURES[0])
        world.soon(lambda: world.status()["stage"]["name"] == "admins")
        world.wait_row(A, EXPOSURES[1])
        world.soon(lambda: world.status()["stage"]["name"] == "ten-percent")
        # A rollout of three weeks must not keep a sync waiting: it is ready while it bakes.
        world.soon(lambda: world.conditions()["Ready"][0] == "True")
        world.wait_row(A, EXPOSURES[2])
        world.wait_condition("Completed", "True", "Completed")
    # No reader ever saw one flag of a stage without the other (S7), nor anything but a stage's exposure.
    off = (False, 0, frozenset())
    assert witness.seen == [(row, row) for row in [off, *EXPOSURES]]

    status = world.status()
    assert status["phase"] == "Completed"
    assert status["observedGeneration"] == 1
    assert {type_: value for type_, (value, _) in world.conditions().items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "GuardsHealthy": "True",
        "FlagsInSync": "True",
        "Completed": "True",
        "RolledBack": "False",
        "FieldsInEffect": "True",
    }
    assert [entry["action"] for entry in status["history"]] == ["Advance", "Advance", "Advance", "Complete"]
    told = ["StageEntered", "StageEntered", "StageEntered", "Completed"]

    def are_told() -> bool:
        assert world.reasons() == told
        return True

    wait_for(are_told)
    columns = world.columns()
    assert columns["STAGE"] == "3/3 everyone"
    assert columns["EXPOSURE"] == "100%"
    assert columns["HEALTH"] == "Healthy"
    assert columns["READY"] == "True"

    # Rows and columns that the plan does not name are byte-equal (S8).
    after = {row["name"]: row for row in world.table()}
    for flag in before.keys() - {A, B}:
        assert after[flag] == before[flag]
    assert after[A]["description"] == before[A]["description"]
    assert after.keys() == before.keys()
    audit = world.audit()
    assert [entry["stage"] for entry in audit if entry["flag"] == A] == ["admins", "ten-percent", "everyone"]
    # One operation a stage, for both of its flags.
    assert len({entry["operation_id"] for entry in audit}) == 3
    assert OTHER not in {entry["flag"] for entry in audit}


def test_a_stage_bakes_as_long_as_it_says(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "5s"), stage("half", 50)]))
    world.wait_row(A, (True, 50, frozenset()))
    entered = [entry["at"] for entry in world.audit(A)]
    took_s = (entered[1] - entered[0]).total_seconds()
    # L8: bake plus two intervals; the rest is the delay of the metric and a machine that is busy with other tests.
    assert 5.0 <= took_s <= 5.0 + 2.0 + 2.0


def test_a_gate_that_is_not_passed_holds_and_reverts_nothing(world: World, operator: Operator) -> None:
    gate = {"metric": "error-rate", "atMost": "0.1%", "minUnits": 100}
    world.traffic.failed = 0.05
    row = {"severity": "High", "when": [{"metric": "error-rate", "above": "30%"}], "respondWithin": "15m"}
    rows = [{**row, "action": {"type": "DisableFlags"}}]
    world.apply(store(), rollout(stages=[stage("ten", 10, gates=[gate]), stage("half", 50)], rows=rows))
    world.wait_row(A, (True, 10, frozenset()))
    world.wait_condition("Ready", "True", "GateNotPassed")
    assert world.status()["phase"] == "Gating"
    assert "error-rate must be at most 0.1%" in world.status()["next"]["waitingFor"][0]
    operator.wait_looks(3)
    assert world.row(A) == (True, 10, frozenset())
    assert {entry["kind"] for entry in world.audit()} == {"Raise"}
