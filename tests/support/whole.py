"""A plugin with the fixtures of tests of the whole: a real API server with RBAC, PostgreSQL, the operator as a process.

| fixture | what |
|---|---|
| `world` | a `World`: a fresh namespace, a fresh database with roles and a Secret, and healthy traffic |
| `own_world` | the same on a PostgreSQL of its own, which the test may stop and kill |
| `idle_operator` | an `Operator` that is not started yet; it belongs to `world`, or to `own_world` where that is used |
| `operator` | the same, started |
| `nursery` | what starts it without its imports; None in a file where its start is what is tested |

At the end of each test the operator must still run or have ended as the test wanted, the audit must replay to the
table, and no password may have been said anywhere.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_rollout.demo import stage
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.postgres import PostgresServer
from support.databases import Database
from support.ending import FAILED, check, end
from support.nursery import Nursery
from support.operatorprocess import Operator
from support.world import World, crds_folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def crds_installed(control_plane: Cluster) -> None:
    """Our six kinds, served. Every worker applies the same bytes, which changes nothing after the first."""
    control_plane.install_crds(crds_folder())


@pytest.fixture
def world(
    control_plane: Cluster, crds_installed: None, namespace: str, database: Database, request: pytest.FixtureRequest
) -> Iterator[World]:
    with World.made(control_plane, namespace, database) as world:
        yield world
        check(world, request)
    world.remove_cluster_rights()


@pytest.fixture
def own_world(
    control_plane: Cluster,
    crds_installed: None,
    namespace: str,
    own_postgres: PostgresServer,
    request: pytest.FixtureRequest,
) -> Iterator[World]:
    with Database.fresh(own_postgres) as database, World.made(control_plane, namespace, database) as world:
        yield world
        check(world, request)
    world.remove_cluster_rights()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery | None]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def idle_operator(request: pytest.FixtureRequest, nursery: Nursery | None, tmp_path: Path) -> Iterator[Operator]:
    world: World = request.getfixturevalue("own_world" if "own_world" in request.fixturenames else "world")
    operator = Operator(world.cluster, world.namespace, stage.SERVICE_ACCOUNT, tmp_path, nursery=nursery)
    yield operator
    end(operator, world, request)


@pytest.fixture
def operator(idle_operator: Operator) -> Operator:
    idle_operator.start()
    return idle_operator
