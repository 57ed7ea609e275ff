"""The API server or PostgreSQL goes away in the middle of a stage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_rollout.demo import stage as demo
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.postgres import PostgresServer
from support.databases import Database, all_own_postgres
from support.depth import DEEP
from support.ending import check, end
from support.manifests import A, B, Object, rollout, stage, store
from support.nursery import Nursery
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World, crds_folder, fresh_namespace

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
# The watch notices, lists everything again, and what was not written is.
BACK_S = 30.0
LEASE = {"lease_duration_seconds": "6", "lease_renew_deadline_seconds": "4", "lease_retry_seconds": "0.5"}
# Two rollouts are looked at once a second, by each replica; one after the other is waited for.
AWAY_LOOKS = 150 if DEEP else 12


class Island:
    """A world and its operator, not started yet, on a control plane of their own."""

    def __init__(self, control_plane: ControlPlane, world: World, operator: Operator) -> None:
        self.control_plane = control_plane
        self.world = world
        self.operator = operator


@pytest.fixture
def island(
    own_control_plane: ControlPlane,
    database: Database,
    nursery: Nursery | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Island]:
    own_control_plane.install_crds(crds_folder())
    namespace = fresh_namespace(own_control_plane)
    with World.made(own_control_plane, namespace, database) as world:
        operator = Operator(own_control_plane, namespace, demo.SERVICE_ACCOUNT, tmp_path, nursery=nursery)
        yield Island(own_control_plane, world, operator)
        end(operator, world, request)
        check(world, request)


def one_flag(name: str, flag: str, bake: str) -> Object:
    shares = (("ten", 10, bake), ("half", 50, "1s"))
    stages = [{"name": n, "flags": [{"names": [flag], "percentage": share}], "bake": b} for n, share, b in shares]
    return rollout(name, stages=stages)


@pytest.fixture
def second(
    island: Island, nursery: Nursery | None, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Operator]:
    """Another replica, not started yet."""
    folder = tmp_path / "second"
    folder.mkdir()
    account = (island.control_plane, island.world.namespace, demo.SERVICE_ACCOUNT, folder)
    operator = Operator(*account, nursery=nursery)
    yield operator
    end(operator, island.world, request)


def leads(operator: Operator) -> bool:
    return operator.count("featurerollout_leader") == 1.0


def rests(*replicas: Operator) -> bool:
    """Nothing is written any more but the Lease, which alone is PUT, however many looks are made."""

    def written() -> list[float]:
        calls = "featurerollout_api_requests_total"
        return [replica.count(calls, verb=verb) for replica in replicas for verb in ("POST", "PATCH", "DELETE")]

    before = written()
    next(replica for replica in replicas if leads(replica)).wait_looks(6)
    return written() == before


@pytest.mark.timeout(600)
def test_regressions_while_the_api_server_is_away(island: Island, second: Operator) -> None:
    """Nothing is raised on a manifest that cannot be asked for. Nobody leads then, and the guards of both replicas
    go on, for minutes in a deep run.
    """
    world, first, off = island.world, island.operator, (False, 10, frozenset())
    lease = {"lease_name": "feature-rollout-operator", "lease_namespace": world.namespace, **LEASE}
    first.start(**lease)
    wait_for(lambda: leads(first), BACK_S, "the first to lead")
    second.start(**lease)
    world.apply(store(), one_flag("long", A, "10m"), one_flag("short", B, "3s"))
    for name, flag in (("long", A), ("short", B)):
        world.wait_row(flag, TEN)
        world.wait_stage("ten", name)
    island.control_plane.stop_apiserver()
    # Beyond the end of the short bake.
    for operator in (first, second):
        wait_for(lambda operator=operator: not leads(operator), BACK_S, "the loss of the Lease")
        operator.wait_looks(AWAY_LOOKS, verdict="Pass")
    assert (world.row(A), world.row(B)) == (TEN, TEN)
    world.traffic.failed = 0.3
    # The table is right long before anybody can ask the API server.
    world.wait_row(A, off, 10.0)
    world.wait_row(B, off, 10.0)
    island.control_plane.start_apiserver()
    for name in ("long", "short"):
        world.wait_condition("RolledBack", "True", "RolledBack", name=name, timeout_s=BACK_S)
        world.soon(lambda name=name: "FlagsDisabled" in world.reasons(name), BACK_S)
        told = [event for event in world.events(name) if event["reason"] == "FlagsDisabled"]
        assert [event.get("series") for event in told] == [None]
    assert sorted(entry["flag"] for entry in world.audit() if entry["kind"] == "Lower") == [A, B]
    wait_for(lambda: leads(first) != leads(second), BACK_S, "one that leads")
    wait_for(lambda: rests(first, second), BACK_S, "an end of the writes")
    assert first.stop()


def test_restarts_of_the_api_server_in_a_bake(island: Island) -> None:
    world = island.world
    island.operator.start()
    stages = [stage("ten", 10, "8s"), stage("half", 50)]
    world.apply(store(), rollout(stages=stages))
    world.wait_row(A, TEN)
    world.wait_stage("ten")
    island.control_plane.restart_apiserver(down_seconds=3.0)
    world.wait_row(A, HALF, BACK_S)
    entered = [entry["at"] for entry in world.audit(A)]
    assert (entered[1] - entered[0]).total_seconds() >= 8.0
    world.wait_condition("Completed", "True", "Completed", timeout_s=BACK_S)
    # What is applied afterwards is seen: the watch is back.
    world.edit_spec(stages=[*stages, stage("most", 90, "1s"), stage("everyone", 100)])
    world.wait_row(A, (True, 90, frozenset()), BACK_S)
    # And an operator that is started before the API server waits for it.
    island.operator.kill()
    island.control_plane.stop_apiserver()
    island.operator.start(ready=False)
    island.control_plane.start_apiserver()
    island.operator.wait_ready()
    world.wait_row(A, (True, 100, frozenset()))


@all_own_postgres
def test_postgres_is_killed_in_a_bake(own_world: World, own_postgres: PostgresServer, operator: Operator) -> None:
    world = own_world
    world.apply(store(), rollout(stages=[stage("ten", 10, "8s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    operator.wait_looks(3, verdict="Pass")
    world.database.disconnect()
    own_postgres.kill()
    world.soon(lambda: world.conditions()["Ready"] == ("False", "StoreUnreachable"), 10.0)
    assert "does not answer" in world.condition("Ready")["message"]
    own_postgres.start()
    world.wait_row(A, HALF)
    entered = [entry["at"] for entry in world.audit(A)]
    assert (entered[1] - entered[0]).total_seconds() >= 8.0
    world.wait_condition("Completed", "True", "Completed")


def test_postgres_is_restarted_in_a_bake(own_world: World, own_postgres: PostgresServer, operator: Operator) -> None:
    world = own_world
    world.apply(store(), rollout(stages=[stage("ten", 10, "4s"), stage("half", 50, "30s"), stage("everyone", 100)]))
    world.wait_row(A, TEN)
    world.database.disconnect()
    own_postgres.restart()
    world.wait_row(A, HALF)
    # And harm is still found.
    operator.wait_looks(1, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 50, frozenset()))


def test_a_regression_while_postgres_is_away(
    own_world: World, own_postgres: PostgresServer, operator: Operator
) -> None:
    """Nothing can be measured or written then; it is as soon as the server is back."""
    world = own_world
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    world.database.disconnect()
    own_postgres.kill()
    world.traffic.failed = 0.3
    world.soon(lambda: world.conditions()["Ready"] == ("False", "StoreUnreachable"), 10.0)
    own_postgres.start()
    world.wait_row(A, (False, 10, frozenset()), 15.0)
    world.soon(lambda: world.status()["phase"] == "RolledBack")
