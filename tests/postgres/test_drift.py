"""Changes of flags by others: in the audit with who, told at once, and never in anybody's way.

| what | invariant |
|---|---|
| the trigger records each change with who made it; the operator's own are recorded once | S5 |
| without the trigger every observed change is recorded, once | S5 |
| a service needs no right on the schema, and no error in the trigger breaks its update | issue: cheap, harmless |
| the listener hears, and connects again | drift is seen within seconds |
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from feature_rollout.connectionstring import parse_uri
from feature_rollout.core.exposure import DISABLED, Exposure
from feature_rollout.core.plan import Severity
from feature_rollout.ports import Commit
from feature_rollout.store import StoreConfig, drift, migrations
from feature_rollout.store.config import TableMapping
from feature_rollout.store.listen import DriftListener
from postgres.commands import featurerollout
from postgres.world import FLAG_TABLE, GRANT, KEY, OFF, World, claim, everyone, latch, lowering, only, problem_of, why
from support.audit import violations
from support.databases import Database, all_postgres
from support.waiting import wait_for_async

pytestmark = all_postgres

TABLE = TableMapping()


@pytest.fixture
def service(world: World) -> str:
    """A role that changes flags and has no right whatever on the bookkeeping."""
    role = world.database.role("service")
    world.database.execute(GRANT.format(role))
    return role


@pytest.fixture
def watched(world: World) -> World:
    """The trigger is there, made as the owner of the table."""
    assert world.database.query(drift.watch_statement(TABLE).replace(";", ""))[0]["watch"] == "watched"
    return world


@contextmanager
def session(world: World, role: str, **settings: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(world.database.uri(role), autocommit=True, **settings) as connection:
        yield connection


def change(world: World, role: str, percentage: int, flag: str = "alpha") -> None:
    with session(world, role, application_name="shop-backend") as connection:
        connection.execute("UPDATE feature_flags SET rollout_percentage = %s WHERE name = %s", (percentage, flag))


def by_others(world: World) -> list[dict[str, Any]]:
    return [entry for entry in world.audit() if entry["kind"] == "Manual"]


def assert_replays(world: World) -> None:
    """From how the table was made; every flag, those that people changed too."""
    rows = world.database.query("SELECT name, enabled, rollout_percentage AS p, user_groups AS g FROM feature_flags")
    now = {row["name"]: (row["enabled"], row["p"], frozenset(row["g"])) for row in rows}
    assert violations(world.audit(), dict.fromkeys(now, (False, 0, frozenset())), now) == []


async def raised(world: World) -> Any:
    return await world.raised(await world.store.open(claim()), alpha=everyone(50), beta=everyone(50))


async def test_the_trigger_records_who_changed_what(watched: World, service: str) -> None:
    await raised(watched)
    change(watched, service, 80)
    (entry,) = by_others(watched)
    assert (entry["actor"], entry["flag"], entry["reason"]) == (service, "alpha", "ManualChange")
    assert (entry["ledger_key"], entry["uid"], entry["table_name"]) == (KEY, "uid-1", "feature_flags")
    assert entry["before"] == everyone(50).to_json()
    assert entry["after"] == everyone(80).to_json()
    assert entry["evidence"] == {"applicationName": "shop-backend"}
    assert_replays(watched)


async def test_a_role_that_was_assumed_is_named_too(watched: World, service: str) -> None:
    await raised(watched)
    person = watched.database.role("person")
    watched.database.execute(f"GRANT {service} TO {person}")
    with session(watched, person) as connection:
        connection.execute(f"SET ROLE {service}")
        connection.execute("UPDATE feature_flags SET enabled = false WHERE name = 'alpha'")
    assert by_others(watched)[0]["actor"] == f"{person} as {service}"


async def test_what_the_operator_writes_is_recorded_once(watched: World) -> None:
    ledger = await raised(watched)
    ledger = await watched.raised(ledger, alpha=everyone(70))
    await watched.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    await watched.store.release(lowering({"beta": OFF}, exact=True), "uid-1")
    assert [entry["kind"] for entry in watched.audit()] == ["Raise", "Raise", "Raise", "Lower", "Lower"]
    assert_replays(watched)


async def test_a_kill_is_recorded_once_and_told_of(watched: World) -> None:
    await raised(watched)
    async with listening(watched) as heard:
        env = {"FEATUREROLLOUT_DATABASE_URI": watched.database.uri(watched.writer)}
        answer = await featurerollout("kill", "alpha", "--reason", "it hurts", env=env)
        assert answer.code == 0, answer
        await wait_for_async(lambda: heard == ["alpha"])
    await watched.store.observe(KEY, ["alpha", "beta"])
    assert by_others(watched) == []
    assert_replays(watched)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE feature_flags SET description = 'x' WHERE name = 'alpha'", id="another column"),
        pytest.param("UPDATE feature_flags SET enabled = enabled, user_groups = NULL WHERE name = 'alpha'", id="same"),
        pytest.param("UPDATE feature_flags SET enabled = true WHERE name = 'bystander'", id="a flag of no rollout"),
    ],
)
async def test_what_changes_nothing_of_a_rollout_is_not_recorded(watched: World, statement: str) -> None:
    await raised(watched)
    watched.database.execute(statement)
    assert by_others(watched) == []


async def test_rows_that_mean_nothing_are_recorded_as_services_may_read_them(watched: World) -> None:
    await raised(watched)
    watched.database.execute(
        "UPDATE feature_flags SET enabled = NULL, rollout_percentage = NULL, user_groups = '{b,a,b,NULL}' "
        "WHERE name = 'alpha'"
    )
    assert by_others(watched)[0]["after"] == {"enabled": True, "percentage": "100", "groups": ["", "a", "b"]}
    await watched.store.lower(lowering(["alpha"]))
    assert watched.audit()[-1]["before"] == by_others(watched)[0]["after"]
    assert len(by_others(watched)) == 1


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("DROP SCHEMA feature_rollout CASCADE", id="the bookkeeping is gone, and the trigger with it"),
        pytest.param("ALTER TABLE feature_rollout.audit RENAME TO away", id="no audit"),
        pytest.param("ALTER TABLE feature_rollout.ownership RENAME COLUMN owner TO away", id="another schema"),
        pytest.param("ALTER TABLE feature_flags RENAME rollout_percentage TO share", id="another column"),
        pytest.param(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$; "
            "CREATE TRIGGER full_disk BEFORE INSERT ON feature_rollout.audit EXECUTE FUNCTION full_disk()",
            id="disk full",
        ),
    ],
)
async def test_no_error_in_the_trigger_breaks_somebody_elses_update(
    watched: World, service: str, obstacle: str
) -> None:
    await raised(watched)
    watched.database.execute(obstacle)
    with session(watched, service) as connection:
        done = connection.execute("UPDATE feature_flags SET enabled = false WHERE name = 'alpha'")
    assert done.rowcount == 1
    assert watched.database.query("SELECT enabled FROM feature_flags WHERE name = 'alpha'") == [{"enabled": False}]


async def test_a_locked_audit_delays_somebody_elses_update_only_briefly(watched: World, service: str) -> None:
    await raised(watched)
    with psycopg.connect(watched.database.uri()) as holder:
        holder.execute("LOCK TABLE feature_rollout.audit")
        begun = time.monotonic()
        change(watched, service, 5)
        assert time.monotonic() - begun < 10
    assert watched.row("alpha") == everyone(5)
    await watched.store.observe(KEY, ["alpha", "beta"])
    assert [entry["actor"] for entry in by_others(watched)] == ["unknown"]


async def test_a_forged_setting_hides_nothing_from_who_reads_the_row(watched: World, service: str) -> None:
    await raised(watched)
    with session(watched, service) as connection:
        connection.execute("SELECT set_config('feature_rollout.operation', %s, false)", (f"{KEY}@1",))
        connection.execute("UPDATE feature_flags SET rollout_percentage = 100 WHERE name = 'alpha'")
    assert by_others(watched) == []
    await watched.store.observe(KEY, ["alpha", "beta"])
    assert [(entry["actor"], entry["after"]["percentage"]) for entry in by_others(watched)] == [("unknown", "100")]
    assert_replays(watched)


async def test_a_service_may_neither_call_nor_misuse_the_trigger_function(watched: World, service: str) -> None:
    """It runs with the rights of the schema's owner: on a table of one's own it must tell no lies about another."""
    await raised(watched)
    watched.database.execute(f"GRANT CREATE ON SCHEMA public TO {service}")
    with session(watched, service) as connection:
        connection.execute("CREATE TABLE public.mine AS SELECT * FROM public.feature_flags")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(
                "CREATE TRIGGER t AFTER UPDATE ON public.mine FOR EACH ROW EXECUTE FUNCTION "
                "feature_rollout.record_change('name', 'enabled', 'rollout_percentage', 'user_groups')"
            )


# Without the trigger.


async def test_without_the_trigger_an_observed_change_is_recorded_once(world: World) -> None:
    await raised(world)
    world.set_row("alpha", only(20, "b", "a"))
    for _ in range(3):
        await world.store.observe(KEY, ["alpha", "beta"])
    (entry,) = by_others(world)
    assert (entry["actor"], entry["kind"], entry["reason"]) == ("unknown", "Manual", "ManualChange")
    assert (entry["before"], entry["after"]) == (everyone(50).to_json(), only(20, "a", "b").to_json())
    world.set_row("alpha", everyone(50))
    await world.store.observe(KEY, ["alpha", "beta"])
    assert len(by_others(world)) == 2
    assert_replays(world)


async def test_of_two_who_observe_at_once_one_records(world: World) -> None:
    await raised(world)
    world.set_row("alpha", everyone(20))
    stores = [world.new_store() for _ in range(4)]
    for store in stores:
        await store.prepare()
    await asyncio.gather(*(store.observe(KEY, ["alpha", "beta"]) for store in stores))
    assert len(by_others(world)) == 1


async def test_with_the_trigger_nothing_is_left_to_observe(watched: World, service: str) -> None:
    await raised(watched)
    change(watched, service, 80)
    await watched.store.observe(KEY, ["alpha", "beta"])
    assert len(by_others(watched)) == 1


async def test_a_lowering_accounts_for_what_it_found(world: World) -> None:
    await raised(world)
    world.set_row("alpha", everyone(99))
    await world.store.lower(lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH))
    assert [(e["flag"], e["kind"]) for e in world.audit()[2:]] == [
        ("alpha", "Manual"),
        ("alpha", "Lower"),
        ("beta", "Lower"),
    ]
    assert_replays(world)


async def test_a_lowering_whose_record_is_owed_is_not_taken_for_somebody_elses(world: World) -> None:
    await raised(world)
    world.database.execute("REVOKE INSERT ON feature_rollout.audit FROM feature_rollout_writer")
    revert = lowering(["alpha"], latch=latch(), severity=Severity.HIGH)
    assert (await problem_of(world.store.lower(revert))).reason == "AuditDelayed"
    world.database.execute("GRANT INSERT ON feature_rollout.audit TO feature_rollout_writer")
    assert (await problem_of(world.store.observe(KEY, ["alpha"]))).reason == "AuditDelayed"
    await world.store.lower(revert)
    await world.store.observe(KEY, ["alpha", "beta"])
    assert by_others(world) == []
    assert_replays(world)


async def test_a_stage_written_over_a_reported_change_replays(world: World) -> None:
    """As `Report` does: what was seen is recorded, then the stage starts from the row as it is."""
    ledger = await raised(world)
    world.set_row("alpha", everyone(60))
    await world.store.observe(KEY, ["alpha", "beta"])
    await world.raised(ledger, alpha=everyone(70))
    assert_replays(world)


async def test_the_audit_of_an_earlier_rollout_is_not_held_against_a_row(world: World) -> None:
    ledger = await raised(world)
    await world.store.release(lowering([]), "uid-1")
    world.set_row("alpha", everyone(5))
    ledger = await world.store.open(claim(uid="uid-2"))
    found = {"alpha": everyone(5), "beta": everyone(50)}
    await world.store.commit(Commit(replace(ledger, baseline=found, stage=0), {}, {}, why()))
    await world.store.observe(KEY, ["alpha", "beta"])
    assert by_others(world) == []
    world.set_row("alpha", everyone(6))
    await world.store.observe(KEY, ["alpha", "beta"])
    assert [(e["before"]["percentage"], e["after"]["percentage"]) for e in by_others(world)] == [("5", "6")]


async def test_a_row_that_stays_locked_is_observed_later(world: World) -> None:
    await raised(world)
    world.set_row("alpha", everyone(20))
    with psycopg.connect(world.database.uri()) as holder:
        holder.execute("SELECT FROM feature_flags WHERE name = 'alpha' FOR UPDATE")
        problem = await problem_of(world.store.observe(KEY, ["alpha", "beta"]))
        assert (problem.reason, problem.stalled) == ("LockTimeout", False)
    await world.store.observe(KEY, ["alpha", "beta"])
    assert len(by_others(world)) == 1


# Who makes the trigger.


@pytest.fixture
def owned(make_database: Any) -> tuple[Database, str, str]:
    """A database without bookkeeping, with the owner of its flag table and a writer."""
    database: Database = make_database()
    database.execute(FLAG_TABLE)
    owner, writer = database.role("owner"), database.role("writer")
    database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO {owner}')
    database.execute(f"GRANT feature_rollout_writer TO {writer}")
    database.execute(GRANT.format(writer))
    return database, owner, writer


async def test_install_makes_the_trigger_where_the_role_owns_the_table(
    world: World, owned: tuple[Database, str, str]
) -> None:
    database, owner, _ = owned
    env = {"FEATUREROLLOUT_OWNER_URI": database.uri(owner)}
    answer = await featurerollout("store", "install", env=env)
    assert (answer.code, answer.lines[-1].partition(": ")[2][:6]) == (0, "polled"), answer
    database.execute(f"ALTER TABLE feature_flags OWNER TO {owner}")
    for outcome in ("recorded by a trigger from now on", "recorded by a trigger"):
        answer = await featurerollout("store", "install", env=env)
        assert answer.lines[-1] == f"changes of public.feature_flags by others: {outcome}"
    answer = await featurerollout("store", "install", "--table", "public.none", env=env)
    assert "the table is not there yet" in answer.out


async def test_the_operator_makes_the_trigger_as_the_owner_and_does_without_it(
    world: World, owned: tuple[Database, str, str]
) -> None:
    database, owner, writer = owned
    for owns, trigger in ((False, 0), (True, 1)):
        if owns:
            database.execute(f"ALTER TABLE feature_flags OWNER TO {owner}")
        store = world.new_store(writer_uri=database.uri(writer), owner_uri=database.uri(owner))
        for _ in range(2):
            await store.check()
        found = database.query("SELECT FROM pg_trigger WHERE tgname = 'feature_rollout_drift'")
        assert len(found) == trigger
        assert store._told_of_polling is not owns


async def test_a_trigger_for_other_columns_is_made_again(world: World) -> None:
    world.database.execute("ALTER TABLE feature_flags ADD on_off boolean DEFAULT false")
    server = parse_uri(world.database.uri())
    assert await drift.watch_as(server, TABLE) == "watched"
    assert await drift.watch_as(server, replace(TABLE, enabled="on_off")) == "watched"
    assert await drift.watch_as(server, replace(TABLE, enabled="on_off")) == "unchanged"


async def test_names_that_need_quotes(world: World, service: str) -> None:
    world.database.execute(
        """CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Flag's" ("Kéy" varchar(64) PRIMARY KEY,
        "order" boolean, pct numeric(5,2), who varchar(20)[]);
        INSERT INTO "My Schema"."Flag's" VALUES ('alpha', false, 0, NULL)"""
    )
    table = TableMapping("My Schema", "Flag's", "Kéy", "order", "pct", "who")
    world.database.execute(f'GRANT USAGE ON SCHEMA "My Schema" TO {world.writer}, {service}')
    for role in (world.writer, service):
        world.database.execute(table.grant(role))
    assert await drift.watch_as(parse_uri(world.database.uri()), table) == "watched"
    assert await drift.watch_as(parse_uri(world.database.uri()), table) == "unchanged"
    world.new_store(table=table)
    await world.raised(await world.store.open(claim("alpha")), alpha=everyone("2.5"))
    with session(world, service) as connection:
        connection.execute("""UPDATE "My Schema"."Flag's" SET pct = 12.30, who = '{x}'""")
    (entry,) = by_others(world)
    assert Exposure.from_json(entry["after"]) == Exposure(True, Decimal("12.3"), frozenset("x"))
    assert entry["after"] == only("12.3", "x").to_json()
    await world.store.observe(KEY, ["alpha"])
    assert len(by_others(world)) == 1


async def test_a_table_that_services_hold_locked_is_left_for_later(world: World) -> None:
    with psycopg.connect(world.database.uri()) as holder:
        holder.execute("UPDATE feature_flags SET description = 'x' WHERE name = 'alpha'")
        assert await drift.watch_as(parse_uri(world.database.uri()), TABLE) == "busy"
    assert await drift.watch_as(parse_uri(world.database.uri()), TABLE) == "watched"


async def test_an_open_ledger_of_the_first_version_goes_on(make_database: Any) -> None:
    """Its flags were all written since it was opened, whenever that was."""
    database: Database = make_database()
    first, second = migrations.migrations()[:2]
    database.execute(first.statements)
    database.execute(
        "INSERT INTO feature_rollout.ledger (key, uid, epoch, sequence, spec_hash, plan_hash, on_delete) "
        "VALUES ('k', 'u', 1, 1, 's', 'p', 'Keep')"
    )
    for _ in range(2):
        database.execute(second.statements)
    rows = database.query("SELECT opened_at = '-infinity' AS always FROM feature_rollout.ledger")
    assert rows == [{"always": True}]


# Listening.


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[list[str]]:
    heard: list[str] = []
    listener = DriftListener(world.config(), heard.append)
    listener.start()
    try:
        async with asyncio.timeout(5):
            await listener.listening.wait()
        yield heard
    finally:
        async with asyncio.timeout(10):
            await listener.close()


async def test_a_change_is_heard_at_once_and_our_own_are_not(watched: World, service: str) -> None:
    async with listening(watched) as heard:
        await raised(watched)
        await asyncio.to_thread(change, watched, service, 70)
        await wait_for_async(lambda: heard)
        assert heard == ["alpha"]


async def test_the_listener_connects_again(watched: World, service: str) -> None:
    async with listening(watched) as heard:
        await raised(watched)
        watched.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s",
            watched.database.name,
        )

        async def is_heard() -> bool:
            await asyncio.to_thread(lambda: change(watched, service, 10 + int(time.monotonic() * 20) % 80))
            return bool(heard)

        await wait_for_async(is_heard, 5)


async def test_a_listener_without_a_server_ends_when_told(world: World) -> None:
    listener = DriftListener(StoreConfig("postgresql://nobody:x@127.0.0.1:1/none"), lambda flag: None)
    listener.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await listener.close()


async def test_no_more_than_five_connections_at_rest(watched: World) -> None:
    async with listening(watched):
        await raised(watched)
        await watched.store.lower(lowering({"alpha": DISABLED}))
        count = "SELECT count(*) AS n FROM pg_stat_activity WHERE usename = %s"
        assert watched.database.query(count, watched.writer)[0]["n"] <= 4, "and one of the reader"
