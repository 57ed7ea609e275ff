"""Fixtures of the whole suite: a real control plane, a real PostgreSQL, and something fresh on each for every test.

| fixture | scope | what |
|---|---|---|
| `control_plane` | session, all workers | a `Cluster` with a controller manager |
| `namespace` | function | the name of a fresh namespace on it |
| `own_control_plane` | function | a `ControlPlane` that the test may stop and start |
| `postgres_server` | session, all workers | a `PostgresAccess`; the newest version, or `@all_postgres` |
| `database` | function | a fresh `Database` on it, copied from `database_template` |
| `make_database` | function | a function that makes more of them |
| `own_postgres` | function | a `PostgresServer` that the test may kill; the newest version, or `@all_own_postgres` |
| `pgbouncer` | session | a `PgBouncer` before `postgres_server`, in transaction mode |
| `pg_installations` | session | the versions found |

Those of tests of the whole (`world`, `operator`) are in `support/whole.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.postgres import PostgresServer
from postgres import attacks
from simulation import coverage
from support import network, story
from support import pgbouncer as pgbouncers
from support.databases import Database
from support.pgbouncer import PgBouncer
from support.shared import SharedServers, wait_until_stopped
from support.world import fresh_namespace

pytest_plugins = ["support.whole"]

SHARED_FOLDER = "shared-servers"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Return only when the shared servers are gone: in the process that outlives all workers, or is the only one."""
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or hasattr(config, "workerinput") or factory._basetemp is None:
        return
    wait_until_stopped(factory.getbasetemp() / SHARED_FOLDER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have recorded in a table: attacks by SQL, faults of the network and of all else.

    Not below a failure, which whoever looks at the end of the output wants to see.
    """
    if {"failed", "error"} & terminalreporter.stats.keys():
        return
    reports = [report for found in terminalreporter.stats.values() for report in found]
    for title, lines in (
        ("attacks by metric and check SQL", attacks.table(reports)),
        ("faults of the network", network.table(reports)),
        ("faults while the operator runs", story.table(reports)),
        ("faults and phases in the simulation", coverage.of_reports(reports)),
    ):
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[SharedServers]:
    base = tmp_path_factory.getbasetemp()
    # A worker of pytest-xdist has a folder of its own in that of the run.
    run_folder = base.parent if hasattr(request.config, "workerinput") else base
    servers = SharedServers(run_folder / SHARED_FOLDER)
    yield servers
    servers.release()


@pytest.fixture(scope="session")
def built_control_plane() -> None:
    """Fail at once, and say what to do, rather than build for minutes within the time limit of a test."""
    toolchain.control_plane_binaries(controller_manager=True, build_missing=False)


@pytest.fixture(scope="session")
def control_plane(built_control_plane: None, shared_servers: SharedServers) -> Iterator[Cluster]:
    cluster = Cluster.from_json(shared_servers.use("control-plane"))
    yield cluster
    cluster.disconnect()


@pytest.fixture
def own_control_plane(built_control_plane: None) -> Iterator[ControlPlane]:
    with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
def namespace(control_plane: Cluster) -> str:
    """It is left to the end of the control plane.

    Deleted, it would hang on the finalizers of rollouts whose operator is gone, and the namespace controller would
    ask for every kind in it again and again: most of what an API server did in a run.
    """
    return fresh_namespace(control_plane)


@pytest.fixture(scope="session")
def pg_installations() -> tuple[toolchain.PostgresInstallation, ...]:
    return toolchain.postgres_installations()


@pytest.fixture(scope="session")
def postgres_server(shared_servers: SharedServers, request: pytest.FixtureRequest) -> PostgresAccess:
    return PostgresAccess.from_json(shared_servers.use(f"postgres-{_installation(request).major}"))


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresAccess) -> Iterator[PgBouncer]:
    try:
        running = pgbouncers.find_or_install()
    except SandboxError as error:
        pytest.skip(f"NOT TESTED behind PgBouncer, which cannot be had on this machine: {error}")
    with pgbouncers.running(postgres_server, running) as pgbouncer:
        yield pgbouncer


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer(_installation(request).bin_dir) as server:
        yield server


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str | None:
    """Return what `database` is copied from; None is an empty one.

    A folder of tests overrides this in its conftest.py, with
    `return postgres_server.ensure_template("name", function_of_the_uri)`.
    """
    return None


@pytest.fixture
def database(postgres_server: PostgresAccess, database_template: str | None) -> Iterator[Database]:
    with Database.fresh(postgres_server, database_template) as database:
        yield database


@pytest.fixture
def make_database(postgres_server: PostgresAccess) -> Iterator[Callable[..., Database]]:
    with ExitStack() as stack:
        yield lambda template=None: stack.enter_context(Database.fresh(postgres_server, template))


def _installation(request: pytest.FixtureRequest) -> toolchain.PostgresInstallation:
    major = getattr(request, "param", None)
    if major is None:
        return toolchain.newest_postgres()
    return next(found for found in toolchain.postgres_installations() if found.major == major)
