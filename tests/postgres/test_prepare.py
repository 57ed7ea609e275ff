"""What is wrong with a store's setup is said before it matters, with what mends it and without any secret (S17)."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest

from feature_rollout.ports import Commit, Problem
from feature_rollout.store import TableMapping, migrations
from postgres.world import FLAG_TABLE, GRANT, KEY, World, claim, everyone, problem_of, why
from support.databases import Database, all_postgres

pytestmark = all_postgres

GRANTED = "GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON public.feature_flags TO {}"


def check_no_secret(problem: Problem, *uris: str) -> None:
    for uri in uris:
        parts = urlsplit(uri)
        for secret in (uri, parts.password, parts.path[1:], str(parts.port)):
            assert secret
            assert secret not in f"{problem} {problem!r} {problem.message}"


@pytest.mark.parametrize(
    ("statement", "reason", "message"),
    [
        pytest.param(
            "ALTER TABLE feature_flags RENAME enabled TO on_off",
            "ColumnMissing",
            "column enabled (boolean) does not exist in table public.feature_flags",
            id="column missing",
        ),
        pytest.param(
            "ALTER TABLE feature_flags DROP COLUMN user_groups",
            "ColumnMissing",
            "column user_groups (text[]) does not exist in table public.feature_flags",
            id="dropped column",
        ),
        pytest.param(
            "ALTER TABLE feature_flags ALTER enabled DROP DEFAULT, ALTER enabled TYPE text",
            "ColumnType",
            "column enabled of table public.feature_flags is text, boolean is wanted",
            id="enabled is text",
        ),
        pytest.param(
            "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_rollout_percentage_check, "
            "ALTER rollout_percentage DROP DEFAULT, ALTER rollout_percentage TYPE text",
            "ColumnType",
            "column rollout_percentage of table public.feature_flags is text, integer or numeric is wanted",
            id="percentage is text",
        ),
        pytest.param(
            "ALTER TABLE feature_flags ALTER user_groups DROP DEFAULT, "
            "ALTER user_groups TYPE jsonb USING to_jsonb(user_groups)",
            "ColumnType",
            "column user_groups of table public.feature_flags is jsonb, text[] is wanted",
            id="groups are jsonb",
        ),
        pytest.param(
            "REVOKE UPDATE (user_groups) ON feature_flags FROM {writer}",
            "PermissionDenied",
            "role {writer} may not change flags: " + GRANTED.format("{writer}"),
            id="no update of a column",
        ),
        pytest.param(
            "REVOKE SELECT ON feature_flags FROM {writer}",
            "PermissionDenied",
            "role {writer} may not change flags: " + GRANTED.format("{writer}"),
            id="no select",
        ),
        pytest.param(
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            "PermissionDenied",
            "role {writer} may not use the schema of table public.feature_flags: "
            "GRANT USAGE ON SCHEMA public TO {writer}",
            id="no usage of the schema",
        ),
        pytest.param(
            "ALTER TABLE feature_flags ENABLE ROW LEVEL SECURITY",
            "PermissionDenied",
            "row-level security hides every row of public.feature_flags from role {writer}: "
            "CREATE POLICY feature_rollout ON public.feature_flags TO {writer} USING (true)",
            id="row-level security",
        ),
        pytest.param(
            "REVOKE feature_rollout_writer FROM {writer}",
            "PermissionDenied",
            "role {writer} may not use the schema feature_rollout: GRANT feature_rollout_writer TO {writer}",
            id="no member",
        ),
        pytest.param(
            "DROP SCHEMA feature_rollout CASCADE",
            "BookkeepingMissing",
            "the schema feature_rollout is not installed: "
            "run `featurerollout store install --print | psql …` as the owner of the database",
            id="no bookkeeping",
        ),
        pytest.param(
            "DELETE FROM feature_rollout.migration",
            "BookkeepingMissing",
            f"the schema feature_rollout is at version 0, {migrations.newest()} is needed: "
            "run `featurerollout store install --print | psql …` as the owner of the database",
            id="old bookkeeping",
        ),
        pytest.param(
            "INSERT INTO feature_rollout.migration VALUES (99, 'future')",
            "BookkeepingTooNew",
            f"the schema feature_rollout is at version 99, this operator knows {migrations.newest()}: "
            "it raises nothing until it is upgraded",
            id="bookkeeping of a newer operator",
        ),
        pytest.param(
            "ALTER ROLE {writer} SET default_transaction_read_only = on",
            "ReadOnly",
            "default_transaction_read_only is on for this role, database or server",
            id="read-only",
        ),
    ],
)
async def test_a_setup_that_does_not_do(world: World, statement: str, reason: str, message: str) -> None:
    world.database.execute(statement.format(writer=world.writer))
    problem = await problem_of(world.store.prepare())
    assert problem.reason == reason
    assert problem.message == message.format(writer=world.writer)
    assert problem.stalled
    check_no_secret(problem, world.config().writer_uri)
    # `open` says the same, and heals once somebody has done as told.
    assert (await problem_of(world.store.open(claim()))).message == problem.message


async def test_a_check_sees_what_broke_after_preparation(world: World) -> None:
    await world.store.prepare()
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {world.writer}")
    await world.store.prepare()
    assert (await problem_of(world.store.check())).reason == "PermissionDenied"


async def test_a_connection_to_a_server_that_was_read_only_is_not_used_again(world: World) -> None:
    world.database.execute(f"ALTER ROLE {world.writer} SET default_transaction_read_only = on")
    assert (await problem_of(world.store.prepare())).reason == "ReadOnly"
    world.database.execute(f"ALTER ROLE {world.writer} RESET default_transaction_read_only")
    await world.raised(await world.store.open(claim()), alpha=everyone(5))


async def test_what_is_granted_as_told_is_enough(world: World) -> None:
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {world.writer}")
    told = (await problem_of(world.store.prepare())).message.partition(": ")[2]
    world.database.execute(told)
    await world.raised(await world.store.open(claim()), alpha=everyone(5))


async def test_the_policy_that_is_told_is_enough(world: World) -> None:
    world.database.execute("ALTER TABLE feature_flags ENABLE ROW LEVEL SECURITY")
    told = (await problem_of(world.store.prepare())).message.partition(": ")[2]
    world.database.execute(told)
    await world.raised(await world.store.open(claim()), alpha=everyone(5))


async def test_a_row_that_a_policy_hides_is_told_of(world: World) -> None:
    world.database.execute(
        "ALTER TABLE feature_flags ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON feature_flags USING (name = 'beta')"
    )
    ledger = await world.store.open(claim())
    rows = {"alpha": everyone(0)}
    problem = await problem_of(world.store.commit(Commit(ledger, rows, {"alpha": everyone(5)}, why())))
    assert problem.reason == "FlagMissing"
    assert "row-level security is active" in problem.message


async def test_other_names_and_types_of_columns_do(world: World) -> None:
    world.database.execute(
        'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Flags" ("Key" varchar(64) PRIMARY KEY, "order" boolean, '
        'pct numeric(5,2), who varchar(20)[]); INSERT INTO "My Schema"."Flags" VALUES (\'alpha\', false, 0, NULL)'
    )
    table = TableMapping("My Schema", "Flags", "Key", "order", "pct", "who")
    world.database.execute(f'GRANT USAGE ON SCHEMA "My Schema" TO {world.writer}')
    world.database.execute(table.grant(world.writer))
    world.new_store(table=table)
    await world.raised(await world.store.open(claim("alpha")), alpha=everyone("2.5"))
    found = world.database.query('SELECT * FROM "My Schema"."Flags"')
    assert [str(value) for value in found[0].values()] == ["alpha", "True", "2.50", "None"]


async def test_an_error_of_the_setup_after_preparation_is_explained(world: World) -> None:
    ledger = await world.store.open(claim())
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {world.writer}")
    problem = await problem_of(world.raised(ledger, alpha=everyone(5)))
    assert problem.message == f"role {world.writer} may not change flags: {GRANTED.format(world.writer)}"
    world.database.execute(GRANTED.format(world.writer))
    await world.raised(ledger, alpha=everyone(5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda w: w.database.uri(w.writer, "wrong-password"), "AuthenticationFailed", id="wrong password"),
        pytest.param(lambda w: w.database.uri("nobody_here", "x-password"), "AuthenticationFailed", id="no such role"),
        pytest.param(
            lambda w: w.database.server.uri("no_such_db", w.writer, w.database._passwords[w.writer]),
            "DatabaseMissing",
            id="no such database",
        ),
        pytest.param(
            lambda w: w.database.uri(w.writer).replace("127.0.0.1", "no-such-host.invalid"),
            "StoreUnreachable",
            id="no such host",
        ),
        pytest.param(
            lambda w: w.database.uri(w.writer) + "?target_session_attrs=standby",
            "StoreUnreachable",
            id="only replicas wanted",
        ),
        pytest.param(lambda w: w.database.uri(w.writer) + "?sslmode=require", "TlsFailed", id="no TLS there"),
    ],
)
async def test_a_connection_that_is_refused(world: World, change: Callable[[World], str], reason: str) -> None:
    uri = change(world)
    problem = await problem_of(world.new_store(writer_uri=uri).prepare())
    assert problem.reason == reason
    assert problem.stalled == (reason != "StoreUnreachable")
    check_no_secret(problem, uri)
    assert "FATAL" not in problem.message
    assert "no-such-host" not in problem.message


async def test_a_role_without_a_free_connection(world: World) -> None:
    world.database.execute(f"ALTER ROLE {world.writer} CONNECTION LIMIT 0")
    problem = await problem_of(world.store.prepare())
    assert (problem.reason, problem.stalled) == ("TooManyConnections", False)


@pytest.fixture
def empty(make_database: Callable[..., Database]) -> Database:
    return make_database()


async def test_the_owner_installs_the_bookkeeping(empty: Database) -> None:
    owner, writer = empty.role("owner"), empty.role("writer")
    empty.execute(f"GRANT CREATE ON DATABASE {empty.name} TO {owner}; GRANT feature_rollout_writer TO {writer}")
    empty.execute(FLAG_TABLE)
    empty.execute(GRANT.format(writer))
    world = World(empty, writer)
    store = world.new_store(owner_uri=empty.uri(owner))
    await world.raised(await store.open(claim()), alpha=everyone(5))
    await store.close()
    tables = empty.query(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'feature_rollout' AND tableowner = %s", owner
    )
    assert tables == [{"count": len(migrations._NEEDED)}]
    with psycopg.connect(empty.uri(owner), autocommit=True) as connection, pytest.raises(psycopg.errors.Error):
        connection.execute("DELETE FROM feature_rollout.audit")


async def test_an_owner_who_may_not_install_is_told_so(empty: Database) -> None:
    owner, writer = empty.role("owner"), empty.role("writer")
    world = World(empty, writer)
    problem = await problem_of(world.new_store(owner_uri=empty.uri(owner)).prepare())
    await world.store.close()
    assert problem.reason == "PermissionDenied"
    assert f"role {owner} lacks a privilege: the owner needs CREATE on the database" in problem.message
    check_no_secret(problem, empty.uri(owner), empty.uri(writer))


async def test_two_operators_install_at_once(empty: Database) -> None:
    writer = empty.role("writer")
    empty.execute(f"GRANT feature_rollout_writer TO {writer}")
    world = World(empty, writer)
    stores = [world.new_store(owner_uri=empty.uri()) for _ in range(4)]
    await asyncio.gather(*(store.prepare() for store in stores))
    for store in stores:
        await store.close()
    versions = [row["version"] for row in empty.query("SELECT version FROM feature_rollout.migration ORDER BY 1")]
    assert versions == list(range(1, migrations.newest() + 1))


def test_the_script_may_be_run_twice_and_keeps_what_is_there(world: World) -> None:
    with psycopg.connect(world.database.uri(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO feature_rollout.ownership (table_schema, table_name, flag, owner) VALUES ('a', 'b', 'c', %s)",
            (KEY,),
        )
        connection.execute(migrations.script().encode())
    assert world.owners() == {"c": KEY}


def test_the_writer_group_may_do_exactly_what_is_needed(world: World) -> None:
    found = world.database.query(
        "SELECT relname, string_agg(p, ',' ORDER BY p) AS privileges FROM pg_class, "
        "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p "
        "WHERE relnamespace = 'feature_rollout'::regnamespace AND relkind = 'r' "
        "AND has_table_privilege('feature_rollout_writer', pg_class.oid, p) GROUP BY relname"
    )
    assert {row["relname"]: row["privileges"] for row in found} == {
        "migration": "SELECT",
        "ledger": "INSERT,SELECT,UPDATE",
        "ownership": "INSERT,SELECT,UPDATE",
        "plan": "INSERT,SELECT,UPDATE",
        "audit": "INSERT,SELECT",
        "outbox": "DELETE,INSERT,SELECT,UPDATE",
        "delivery": "DELETE,INSERT,SELECT,UPDATE",
        "recipient": "INSERT,SELECT,UPDATE",
        "action": "INSERT,SELECT",
        "evidence": "DELETE,INSERT,SELECT,UPDATE",
    }


def test_every_table_says_what_it_is(world: World) -> None:
    undocumented = world.database.query(
        "SELECT relname FROM pg_class WHERE relnamespace = 'feature_rollout'::regnamespace AND relkind = 'r' "
        "AND obj_description(oid) IS NULL"
    )
    assert undocumented == []
