"""PostgreSQL is killed, stopped and restarted under the operator, loses what it had committed, or does not answer."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from feature_rollout.postgres import APPLICATION_NAME
from feature_rollout.sandbox.postgres import PostgresServer
from support.manifests import SECRET, A, stage
from support.standby import Standby, replicating_postgres
from support.story import HALF, STAGES, STORE_BOUND_S, TEN, Story
from support.waiting import wait_for
from support.world import World

FAULTS: dict[str, Callable[[PostgresServer], None]] = {
    "killed": PostgresServer.kill,
    "stopped at once": lambda server: server.stop("immediate"),
    "stopped": lambda server: server.stop("fast"),
}
# The operator shall see that the server is away, and not only that its connections have ended.
AWAY_LOG = "StoreUnreachable"


def goes_away(story: Story, server: PostgresServer, fault: str) -> None:
    story.world.database.disconnect()
    seen = story.operator.log_text.count(AWAY_LOG)
    FAULTS[fault](server)
    wait_for(lambda: story.operator.log_text.count(AWAY_LOG) > seen, STORE_BOUND_S, "the operator to see it")
    server.start()
    story.fault_over()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_server_goes_away_in_a_stage_and_as_harm_begins(
    own_postgres: PostgresServer, own_world: World, story: Story, fault: str
) -> None:
    story.begin([stage("ten", 10, "3s"), *STAGES[1:]])
    story.start()
    own_world.wait_row(A, TEN)
    story.operator.wait_looks(1, verdict="Pass")
    goes_away(story, own_postgres, fault)
    story.wait_half()
    story.harm()
    goes_away(story, own_postgres, fault)
    story.wait_reverted(STORE_BOUND_S)
    story.tell(f"PostgreSQL {fault}", STORE_BOUND_S)


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """One that can have a standby, where a test has one."""
    bin_dir = replicating_postgres().bin_dir if "standby" in request.fixturenames else None
    with PostgresServer(bin_dir) as server:
        yield server


@pytest.fixture
def standby(own_postgres: PostgresServer) -> Iterator[Standby]:
    with Standby(own_postgres) as standby:
        yield standby


@pytest.fixture
def failing_over(standby: Standby, own_world: World) -> Standby:
    """The standby of `own_world`, whose operator knows both addresses; it ends after that world."""
    uris = own_world.uris()
    own_world.secret(SECRET, {key: standby.beside(uri, "primary") for key, uri in uris.items()})
    return standby


def fail_over(story: Story, primary: PostgresServer, standby: Standby) -> None:
    world = story.world
    world.database.disconnect()
    primary.kill()
    standby.promote()
    world.database.server = standby
    world.traffic.uri = story.witness.uri = world.database.uri()
    # What was seen on the old primary was lost with it.
    story.witness.seen.clear()
    story.fault_over()


def test_a_revert_is_lost_in_a_failover(
    own_postgres: PostgresServer, failing_over: Standby, own_world: World, story: Story
) -> None:
    story.begin()
    story.start()
    story.wait_half()
    failing_over.catch_up()
    failing_over.stop_replicating()
    story.harm()
    story.wait_reverted(STORE_BOUND_S)
    own_world.traffic.failed = 0.0
    fail_over(story, own_postgres, failing_over)
    story.wait_reverted(STORE_BOUND_S)
    assert [entry["reason"] for entry in own_world.audit()][-2:] == ["RevertRestored"] * 2
    story.tell("failover that loses a revert", STORE_BOUND_S)


def test_a_raise_is_lost_in_a_failover(
    own_postgres: PostgresServer, failing_over: Standby, own_world: World, story: Story
) -> None:
    story.begin(holdAt="ten")
    story.start()
    own_world.wait_row(A, TEN)
    failing_over.catch_up()
    failing_over.stop_replicating()
    own_world.edit_spec(holdAt=None)
    own_world.wait_row(A, HALF)
    lost_at = own_world.audit(A)[-1]["at"]
    fail_over(story, own_postgres, failing_over)
    # It is not taken for done, and made again in its time.
    story.wait_half()
    story.harm()
    story.wait_reverted(STORE_BOUND_S)
    raises = [entry for entry in own_world.audit(A) if entry["kind"] == "Raise"]
    assert [entry["stage"] for entry in raises] == ["ten", "half"]
    assert raises[-1]["at"] > lost_at, "the standby must have missed the raise"
    story.tell("failover that loses a raise", STORE_BOUND_S)


IDLE = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND application_name = %s AND state = 'idle'"


@contextmanager
def silent(world: World) -> Iterator[int]:
    """Every backend that serves the store's writer now hears and answers nothing; how many they are."""
    stopped = []
    for row in world.database.query(IDLE, world.writer, APPLICATION_NAME):
        os.kill(row["pid"], signal.SIGSTOP)
        stopped.append(row["pid"])
    try:
        yield len(stopped)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_the_stores_backends_stop_when_a_revert_is_due(world: World, story: Story) -> None:
    """Also the one that is kept open for reverts; they hold no lock, as they wait for a statement."""
    story.begin()
    story.start()
    story.wait_half()
    with silent(world) as stopped:
        assert stopped > 0
        story.harm()
        story.wait_reverted(STORE_BOUND_S)
    story.tell("the store's backends stopped", STORE_BOUND_S)
