"""A connection string with two hosts: the writer finds the primary, also after a failover; the reader takes either."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from feature_rollout.api.resolve_metrics import SqlQuery
from feature_rollout.connectionstring import parse_uri
from feature_rollout.core.looks import Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.sql import SqlMetricSource, SqlReader
from feature_rollout.ports import Problem
from feature_rollout.postgres import connect, dispose
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import PostgresFlagStore, StoreConfig, migrations
from postgres.world import FLAG_TABLE, KEY, claim, everyone, lowering, problem_of, raised_by
from support.standby import Standby, replicating_postgres
from support.waiting import wait_for, wait_for_async

FAILOVER_S_MAX = 60.0


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with PostgresServer(replicating_postgres().bin_dir) as server:
        with psycopg.connect(server.uri(), autocommit=True) as connection:
            connection.execute(migrations.script().encode())
            connection.execute(FLAG_TABLE.encode())
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[Standby]:
    with Standby(primary) as server:
        yield server


def both(standby: PostgresServer, primary: PostgresServer, wanted: str) -> str:
    """The standby first, so that order alone does not find the primary."""
    hosts = f"{standby.host}:{standby.port},{primary.host}:{primary.port}"
    return primary.uri().replace(f"{primary.host}:{primary.port}", hosts) + f"?target_session_attrs={wanted}"


async def port_of(uri: str) -> str:
    connection = await connect(parse_uri(uri), seconds=30)
    port = connection.pgconn.port.decode()
    await dispose(connection)
    return port


async def test_the_writer_moves_to_the_new_primary_by_itself(primary: PostgresServer, standby: Standby) -> None:
    store = PostgresFlagStore(StoreConfig(both(standby, primary, "read-write")))
    ledger = await store.open(claim("alpha"))
    ledger = await raised_by(store, ledger, alpha=everyone(50))
    wait_for(lambda: "50" in str(standby.psql("SELECT rollout_percentage FROM feature_flags WHERE name = 'alpha'")))
    primary.stop("immediate")
    problem = await problem_of(store.lower(lowering(["alpha"])))
    assert (problem.reason, problem.stalled) in {("StoreUnreachable", False), ("ReadOnly", True)}
    standby.promote()

    async def is_lowered() -> bool:
        with suppress(Problem):
            await store.lower(lowering(["alpha"]))
            return True
        return False

    await wait_for_async(is_lowered, FAILOVER_S_MAX)
    snapshot = await store.read(KEY, ["alpha"])
    assert snapshot.rows["alpha"].is_off
    assert (snapshot.ledger.epoch, snapshot.ledger.sequence) == (ledger.epoch, ledger.sequence + 1)
    found = standby.psql("SELECT kind FROM feature_rollout.audit ORDER BY id")
    assert [row["kind"] for row in found] == ["Raise", "Lower"]
    await store.close()


async def test_who_goes_where(primary: PostgresServer, standby: Standby) -> None:
    ports = {name: str(server.port) for name, server in (("primary", primary), ("standby", standby))}
    for wanted, where in (
        ("read-write", "primary"),
        ("primary", "primary"),
        ("standby", "standby"),
        ("read-only", "standby"),
        ("prefer-standby", "standby"),
        ("any", "standby"),
    ):
        assert await port_of(both(standby, primary, wanted)) == ports[where], wanted
    standby.stop()
    assert await port_of(both(standby, primary, "prefer-standby")) == ports["primary"]
    problem = await problem_of(connect(parse_uri(both(standby, primary, "standby")), seconds=30))
    assert problem.reason == "StoreUnreachable"


async def test_only_a_standby_is_left(primary: PostgresServer, standby: Standby) -> None:
    primary.stop()
    problem = await problem_of(connect(parse_uri(both(standby, primary, "read-write")), seconds=30))
    assert problem.reason == "ReadOnly"
    assert "no server that the connection string names accepts writes" in problem.message


async def test_metrics_are_read_on_the_standby(primary: PostgresServer, standby: Standby) -> None:
    reader = SqlReader(both(standby, primary, "prefer-standby"))
    query = SqlQuery(MetricType.GAUGE, "SELECT pg_is_in_recovery()::int AS value", {})
    now = datetime(2026, 1, 5, 9, tzinfo=UTC)
    for _ in range(2):
        # The second one is on the connection of the first.
        look = await SqlMetricSource(reader, {"m": query}).look("m", Window(now, now + timedelta(seconds=30)))
        assert (look.error, look.value) == (None, 1)
    await reader.close()
