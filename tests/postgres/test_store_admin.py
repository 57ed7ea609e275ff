"""`featurerollout store list`, `release` and `install`: the bookkeeping, looked after by hand.

| what | invariant |
|---|---|
| a released flag may have another owner, and rows are as they were | S8, S14 |
| latch and epoch outlive the release | S2, S3 |
| a writer that is still there is fenced | S3 |
"""

import json
from datetime import datetime, timedelta

import psycopg
import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.ports import Commit, Fenced
from feature_rollout.store import migrations
from postgres.commands import Answer, featurerollout
from postgres.world import (
    GRANT,
    KEY,
    OTHER_KEY,
    World,
    claim,
    everyone,
    latch,
    lowering,
    problem_of,
    why,
)
from support import audit
from support.databases import Database, all_postgres

pytestmark = all_postgres


async def store(world: World, *arguments: str) -> Answer:
    return await featurerollout(
        "store", *arguments, env={"FEATUREROLLOUT_WRITER_URI": world.database.uri(world.writer)}
    )


async def release(world: World, *arguments: str) -> Answer:
    return await store(world, "release", KEY, "--reason", "the cluster is gone", *arguments)


async def abandoned(world: World) -> None:
    """A rollout at 50 %, of a cluster that nobody has heard of for an hour."""
    ledger = await world.store.open(claim("alpha", "beta"))
    await world.raised(ledger, alpha=everyone(50))
    world.forget_writer_for("1 hour")


async def test_a_released_flag_is_as_it_was_and_may_have_another_owner(world: World) -> None:
    await abandoned(world)
    frame = world.frame()
    answer = await release(world)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{KEY}: closed; released, their rows as they were: alpha, beta\n"
    assert (world.row("alpha"), world.frame()) == (everyone(50), frame)
    assert world.owners() == {"alpha": None, "beta": None}
    assert world.ledger_row()["closed_at"] is not None
    assert world.database.query("SELECT * FROM feature_rollout.evidence") == []
    taken = await world.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2"))
    assert taken.epoch > world.ledger_row()["epoch"]


async def test_the_audit_says_who_released_what_and_why(world: World) -> None:
    await abandoned(world)
    await release(world)
    rows = [row for row in world.audit() if row["reason"] == "ReleasedByHand"]
    assert [(row["flag"], row["kind"], row["before"] == row["after"]) for row in rows] == [
        ("alpha", "Released", True),
        ("beta", "Released", True),
    ]
    now = {
        flag: (world.row(flag).enabled, int(world.row(flag).percentage), world.row(flag).groups)
        for flag in ("alpha", "beta")
    }
    assert audit.violations(world.audit(), dict.fromkeys(now, (False, 0, frozenset())), now) == []
    assert rows[0]["after"] == everyone(50).to_json()
    assert {(row["ledger_key"], row["uid"], row["message"]) for row in rows} == {(KEY, "uid-1", "the cluster is gone")}
    assert rows[0]["actor"].startswith(f"{world.writer} (")


async def test_a_latch_outlives_the_release(world: World) -> None:
    ledger = await world.store.open(claim("alpha"))
    await world.raised(ledger, alpha=everyone(50))
    await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    world.forget_writer_for("3 minutes")
    await release(world)
    same_plan = await world.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2"))
    assert same_plan.latch == latch()


async def test_a_writer_that_is_active_is_not_released_unless_forced(world: World) -> None:
    await abandoned(world)
    world.forget_writer_for("119 seconds")
    before = world.everything()
    refused = await release(world)
    assert (refused.code, refused.out) == (1, "")
    assert "WriterActive" in refused.err
    assert world.everything() == before
    assert (await release(world, "--force")).code == 0
    assert world.owners() == {"alpha": None, "beta": None}


async def test_a_writer_that_is_still_there_raises_nothing_afterwards(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim("alpha")), alpha=everyone(10))
    await release(world, "--force")
    with pytest.raises(Fenced):
        await world.store.commit(Commit(ledger, {"alpha": everyone(10)}, {"alpha": everyone(50)}, why()))
    assert (await problem_of(world.store.open(claim("alpha")))).reason == "Released"


async def test_a_second_release_has_nothing_to_do(world: World) -> None:
    await abandoned(world)
    await release(world)
    before = world.everything()
    answer = await release(world)
    assert (answer.code, answer.out) == (0, f"{KEY}: was closed already, and owns no flag\n")
    assert world.everything() == before


async def test_a_key_that_there_is_not_is_5(world: World) -> None:
    answer = await release(world)
    assert (answer.code, answer.out) == (5, "")
    assert f"there is no key {KEY}" in answer.err


async def test_a_locked_ledger_row_is_4(world: World) -> None:
    await abandoned(world)
    with psycopg.connect(world.database.uri()) as connection:
        connection.execute("SELECT FROM feature_rollout.ledger FOR UPDATE")
        assert (await release(world)).code == 4


async def test_list_shows_every_key(world: World) -> None:
    assert (await store(world, "list")).out == "No keys.\n"
    await abandoned(world)
    await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    await world.store.open(claim("gamma", key=OTHER_KEY, uid="uid-2"))
    await store(world, "release", OTHER_KEY, "--reason", "x", "--force")
    header, other, rollout = (await store(world, "list")).lines
    assert header.split()[:5] == ["KEY", "UID", "STAGE", "ATTEMPT", "LATCHED"]
    assert other.split()[:5] == [OTHER_KEY, "uid-2", "-", "1", "-"]
    assert rollout.split()[:5] == [KEY, "uid-1", "1", "1", "yes"]
    assert rollout.endswith("  alpha, beta")
    keys = {key["key"]: key for key in json.loads((await store(world, "list", "-o", "json")).out)}
    assert keys[KEY]["flags"] == ["alpha", "beta"]
    assert keys[KEY]["closed_at"] is None
    closed_at = datetime.fromisoformat(keys[OTHER_KEY]["closed_at"])
    assert abs(datetime.now(closed_at.tzinfo) - closed_at) < timedelta(minutes=5)


async def test_list_and_release_say_that_there_is_no_bookkeeping(world: World) -> None:
    world.database.execute("DROP SCHEMA feature_rollout CASCADE")
    for answer in (await store(world, "list"), await release(world)):
        assert answer.code == 1
        assert "BookkeepingMissing" in answer.err


async def test_install_is_done_by_the_owner_and_may_be_repeated(database: Database) -> None:
    database.execute("DROP SCHEMA feature_rollout CASCADE")
    owner = database.role("owner")
    database.execute(f"GRANT CREATE ON DATABASE {database.name} TO {owner}")
    for variable in ("FEATUREROLLOUT_OWNER_URI", "FEATUREROLLOUT_DATABASE_URI"):
        answer = await featurerollout("store", "install", env={variable: database.uri(owner)})
        assert (answer.code, answer.err) == (0, "")
        assert answer.lines[0] == f"schema feature_rollout is at version {migrations.newest()}"
    writer = database.role("writer")
    database.execute(GRANT.format(writer))
    database.execute(f"GRANT feature_rollout_writer TO {writer}")
    world = World(database, writer)
    await world.store.prepare()
    await world.store.close()
    database.execute("DROP SCHEMA feature_rollout CASCADE")
    database.execute(f"REVOKE CREATE ON DATABASE {database.name} FROM {owner}")


async def test_install_without_the_right_to_is_an_error(world: World) -> None:
    world.database.execute("DROP SCHEMA feature_rollout CASCADE")
    answer = await featurerollout(
        "store", "install", env={"FEATUREROLLOUT_OWNER_URI": world.database.uri(world.writer)}
    )
    assert (answer.code, answer.out) == (1, "")
    assert "the owner needs CREATE on the database" in answer.err


async def test_install_prints_a_script_that_may_be_run_twice(world: World) -> None:
    script = (await featurerollout("store", "install", "--print", env={})).out
    world.database.execute(f"DROP SCHEMA feature_rollout CASCADE; {script}; {script}")
    await world.store.prepare()


@pytest.mark.parametrize("obstacle", ["", "ledger", "bookkeeping"])
async def test_the_old_owner_does_not_lower_what_another_rollout_has_taken(world: World, obstacle: str) -> None:
    await world.raised(await world.store.open(claim("alpha", "beta")), alpha=everyone(50), beta=everyone(50))
    await release(world, "--force")
    taken = await world.store.open(claim("alpha", key=OTHER_KEY, uid="uid-2"))
    await world.raised(taken, alpha=everyone(70))
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH)
    if obstacle == "ledger":
        with psycopg.connect(world.database.uri()) as connection:
            connection.execute(f"SELECT FROM feature_rollout.ledger WHERE key = '{KEY}' FOR UPDATE".encode())
            assert (await problem_of(world.store.lower(change))).reason == "RevertBlocked"
    elif obstacle == "bookkeeping":
        world.database.execute("REVOKE INSERT ON feature_rollout.audit FROM feature_rollout_writer")
        assert (await problem_of(world.store.lower(change))).reason == "AuditDelayed"
    else:
        await world.store.lower(change)
    assert world.row("alpha") == everyone(70)
    # Nobody has taken this one: lowering it is always allowed.
    assert world.row("beta").is_off
