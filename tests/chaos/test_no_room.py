"""No room on the disk, no connection left, no lock to be had: exposure is lowered all the same."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from support.manifests import A, B
from support.story import HALF, LOCK_BOUND_S, REVERTED, STORE_BOUND_S, Story
from support.waiting import wait_for
from support.world import World

MAX_CONNECTIONS = 25
WAITING = (
    "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def disk(own_postgres: PostgresServer) -> Iterator[Path]:
    """A folder of the server's on a file system of six megabytes. Ask for it before `own_world`."""
    folder = Path(tempfile.mkdtemp(prefix="featurerollout-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=755", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        if not mounted:
            pytest.skip("NO REAL FULL DISK, which needs a mount: tests/postgres/test_lower.py plays one by a trigger")
        data = folder / "data"
        data.mkdir(mode=0o700)
        own_postgres._give_away(data)
        yield data
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Leave not one byte, and return what to remove for there to be room again."""
    ballast = folder.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return ballast


def move(world: World, disk: Path) -> None:
    """Have flags and bookkeeping on it; the deliveries and the server's log stay where there is room."""
    world.database.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
    world.database.execute("GRANT CREATE ON TABLESPACE small TO PUBLIC")
    world.database.execute("ALTER TABLE feature_flags SET TABLESPACE small")
    world.database.execute(f'ALTER DATABASE "{world.database.name}" SET default_tablespace = small')


def test_the_disk_is_full(own_postgres: PostgresServer, disk: Path, own_world: World, story: Story) -> None:
    world = own_world
    move(world, disk)
    story.begin()
    story.start()
    story.wait_half()
    # A page of the audit that has room would take the record of the revert.
    world.database.execute("ALTER TABLE feature_rollout.audit SET (fillfactor = 10)")
    ballast = fill(disk)
    with pytest.raises(psycopg.errors.DiskFull):
        world.database.execute("CREATE TABLE big TABLESPACE small AS SELECT generate_series(1, 10000)")
    story.harm()
    for flag in (A, B):
        world.wait_row(flag, REVERTED, STORE_BOUND_S)
    assert [entry["kind"] for entry in world.audit()] == ["Raise"] * 4
    world.wait_condition("Ready", "False", "AuditDelayed", timeout_s=STORE_BOUND_S)
    ballast.unlink()
    story.wait_reverted(STORE_BOUND_S)
    assert [entry["kind"] for entry in world.audit()] == ["Raise"] * 4 + ["Lower"] * 2
    story.tell("disk full", STORE_BOUND_S)


@pytest.mark.parametrize("own_postgres", [{"max_connections": str(MAX_CONNECTIONS)}], indirect=True, ids=[""])
def test_every_connection_is_taken(own_postgres: PostgresServer, own_world: World, story: Story) -> None:
    story.begin()
    story.start()
    story.wait_half()
    others = own_world.database.role("others")
    with ExitStack() as taken:
        for _ in range(MAX_CONNECTIONS):
            with suppress(psycopg.OperationalError):
                taken.enter_context(psycopg.connect(own_world.database.uri(others)))
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(own_world.database.uri(own_world.writer))
        story.harm()
        story.wait_reverted(STORE_BOUND_S)
    story.tell("every connection taken", STORE_BOUND_S)


@pytest.fixture
def person(world: World) -> Iterator[psycopg.Connection[Any]]:
    """A session of the flag table's owner, in whose role the writer is: it may interrupt it."""
    role = world.database.role("person")
    world.database.execute(f"ALTER TABLE feature_flags OWNER TO {role}")
    world.database.execute(f"GRANT {role} TO {world.writer}")
    connection = psycopg.connect(world.database.uri(role), autocommit=True, application_name="reports")
    yield connection
    connection.close()


def interrupted(world: World) -> set[tuple[str, str]]:
    """Which applications' sessions were interrupted for a revert, and how."""
    lowers = [entry for entry in world.audit() if entry["kind"] == "Lower"]
    return {(one["application"], one["was"]) for entry in lowers for one in entry["evidence"].get("interrupted", ())}


def test_a_row_is_locked_by_somebody_whom_nobody_may_interrupt(world: World, story: Story) -> None:
    story.begin()
    story.start()
    story.wait_half()
    with psycopg.connect(world.database.uri()) as superuser:
        superuser.execute("SELECT FROM feature_flags WHERE name = %s FOR UPDATE", (A,))
        story.harm()
        world.wait_row(B, REVERTED, LOCK_BOUND_S)
        world.wait_condition("Ready", "False", "RevertBlocked", timeout_s=LOCK_BOUND_S)
        assert world.row(A) == HALF
    story.fault_over()
    story.wait_reverted(LOCK_BOUND_S)
    story.tell("row locked by a superuser", LOCK_BOUND_S)


def test_a_transaction_is_idle(world: World, person: psycopg.Connection[Any], story: Story) -> None:
    story.begin()
    story.start()
    story.wait_half()
    person.execute("BEGIN")
    person.execute("SELECT FROM feature_flags WHERE name = %s FOR UPDATE", (A,))
    story.harm()
    story.wait_reverted(LOCK_BOUND_S)
    assert interrupted(world) == {("reports", "cancelled"), ("reports", "ended")}
    story.tell("row locked by an idle transaction", LOCK_BOUND_S)


def test_a_change_of_the_table_is_queued(world: World, person: psycopg.Connection[Any], story: Story) -> None:
    """A superuser reads in a transaction that stays open, an ALTER TABLE waits for that, and everybody behind it."""
    story.begin()
    story.start()
    story.wait_half()
    with psycopg.connect(world.database.uri()) as reader:
        reader.execute("SELECT count(*) FROM feature_flags")
        person.pgconn.send_query(b"ALTER TABLE feature_flags ADD COLUMN note text")
        wait_for(lambda: world.database.query(WAITING), 10.0, "the ALTER TABLE to wait")
        story.harm()
        # The table cannot be asked yet.
        world.wait_condition("RolledBack", "True", "RolledBack", timeout_s=LOCK_BOUND_S)
        story.wait_reverted(LOCK_BOUND_S)
        reader.execute("SELECT 'is still there'")
    assert interrupted(world) == {("reports", "cancelled")}
    story.tell("ALTER TABLE queued", LOCK_BOUND_S)
