"""Who has a flag, asked of the database: the same answer as Python's, with the rights of who asks and no others.

| what | where it is said |
|---|---|
| buckets and answers are those of core/evaluation.py, over 100,000 ids | one definition |
| rows that mean nothing are read at the widest, as the operator reads them | `Row.widest` |
| a caller needs to read four columns, and gains no right by calling | least privilege |
| flag_enabled reads one table, and never changes over to another by itself | two FlagStores on one database |
"""

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from feature_rollout.core.evaluation import evaluate
from feature_rollout.core.exposure import Exposure, bucket
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.store import migrations
from feature_rollout.store.config import TableMapping
from feature_rollout.store.flags import Row
from feature_rollout.store.serving import serve_statement
from postgres.commands import featurerollout
from postgres.world import World, everyone, only
from support.databases import Database, all_postgres

pytestmark = all_postgres

FLAG = "notifications_new_bell_ui"
CALL = "SELECT feature_rollout.flag_enabled(%s, %s, %s) AS answer"
SPECIAL = [
    "",
    " ",
    ":",
    "a:b",
    "0",
    "-1",
    "1e3",
    "0x10",
    "007",
    "NaN",
    "null",
    "é",
    "e\u0301",
    "用户",
    "🙂",
    "'; --",
    "\\x41",
]
LONG = ["x" * 10_000, "é" * 4000]


def ids(count: int) -> list[str]:
    """As services have them: numbers, UUIDs, addresses, names in any script. Always the same ones."""
    chance = random.Random(20260105)
    letters = "abcXYZ0129 -_.:@éßøжщ東京🙂'\"\\%"
    made = [*SPECIAL, *LONG]
    while len(made) < count:
        number = len(made)
        made += [f"user-{number}", str(number), f"{chance.getrandbits(128):032x}", f"{number}@example.org"]
        made.append("".join(chance.choices(letters, k=chance.randrange(1, 24))))
    return made[:count]


IDS = ids(100_000)


@pytest.fixture
def exact(database: Database) -> Database:
    """The flag table with a numeric percentage."""
    database.execute("ALTER TABLE feature_flags ALTER rollout_percentage TYPE numeric(7, 4)")
    return database


def answers(database: Database, row: Exposure, groups: list[str] | None, users: list[str]) -> list[bool]:
    database.execute(
        "UPDATE feature_flags SET enabled = %s, rollout_percentage = %s, user_groups = %s WHERE name = 'alpha'",
        row.enabled,
        row.percentage,
        sorted(row.groups),
    )
    found = database.query(
        "SELECT array_agg(feature_rollout.flag_enabled('alpha', u.id, %s) ORDER BY u.position) AS all "
        "FROM unnest(%s::text[]) WITH ORDINALITY u (id, position)",
        groups,
        users,
    )
    all_of_them: list[bool] = found[0]["all"]
    return all_of_them


def test_the_pinned_buckets(database: Database) -> None:
    pins = [(FLAG, "user-1", 578), (FLAG, "user-2", 7527), ("flag", "a", 5086)]
    for salt, user, expected in pins:
        found = database.query("SELECT feature_rollout.flag_bucket(%s, %s) AS bucket", salt, user)
        assert found == [{"bucket": expected}]
        assert bucket(salt, user) == expected


def test_buckets_of_100000_ids_are_those_of_python(database: Database) -> None:
    found = database.query(
        "SELECT array_agg(feature_rollout.flag_bucket(%s, u.id) ORDER BY u.position) AS buckets "
        "FROM unnest(%s::text[]) WITH ORDINALITY u (id, position)",
        "flag:é",
        IDS,
    )
    assert found[0]["buckets"] == [bucket("flag:é", user) for user in IDS]


@pytest.mark.parametrize("percentage", ["0", "0.01", "33.33", "50", "99.99", "100"])
def test_answers_for_100000_ids_are_those_of_python(exact: Database, percentage: str) -> None:
    row = everyone(percentage)
    found = answers(exact, row, [], IDS)
    assert found == [evaluate(row, "alpha", user).enabled for user in IDS]
    assert sum(found) == pytest.approx(len(IDS) * float(percentage) / 100, rel=0.02, abs=15)


@pytest.mark.parametrize("groups", [None, [], ["beta"], ["other"], [""], ["staff", "other"]], ids=str)
@pytest.mark.parametrize(
    "row",
    [
        everyone("33.33"),
        only("33.33", "beta", "staff"),
        only("100", "beta"),
        only("100", ""),
        Exposure(False, Decimal(100)),
    ],
    ids=str,
)
def test_answers_by_groups_are_those_of_python(exact: Database, row: Exposure, groups: list[str] | None) -> None:
    users = IDS[:500]
    assert answers(exact, row, groups, users) == [evaluate(row, "alpha", user, groups or ()).enabled for user in users]


def test_raising_only_adds_users_and_lowering_removes_the_newest(exact: Database) -> None:
    steps = ["0", "0.01", "1", "33.33", "50", "99.99", "100"]
    users = IDS[:5000]
    up = [answers(exact, everyone(step), [], users) for step in steps]
    down = [answers(exact, everyone(step), [], users) for step in reversed(steps)]
    assert down == up[::-1]
    for fewer, more in pairwise(up):
        assert all(had <= has for had, has in zip(fewer, more, strict=True))


def test_what_there_is_not_is_false(world: World) -> None:
    world.set_row("alpha", everyone(100))
    for flag, user, expected in (
        ("alpha", "u", True),
        ("alpha", None, True),
        ("nothing", "u", False),
        (None, "u", False),
    ):
        assert world.database.query(CALL, flag, user, []) == [{"answer": expected}]
    world.set_row("alpha", everyone(99))
    assert world.database.query(CALL, "alpha", None, []) == [{"answer": False}]
    assert world.database.query("SELECT feature_rollout.flag_enabled('alpha', 'user-1') AS answer")[0]["answer"] is True


# What stands in enabled, rollout_percentage (any of its types) and user_groups.
STRANGE: list[tuple[Any, Any, Any]] = [
    (None, "10", "{}"),
    (True, None, "{}"),
    (None, None, None),
    (True, "-5", "{}"),
    (True, "250", "{}"),
    (True, "NaN", "{}"),
    (True, "Infinity", "{}"),
    (True, "-Infinity", "{}"),
    (True, "50", None),
    (True, "100", "{NULL}"),
    (True, "100", "{NULL,beta}"),
    (True, "100", "{{beta,staff},{a,b}}"),
    (False, None, None),
]


@pytest.mark.parametrize("kind", ["numeric", "double precision"])
@pytest.mark.parametrize("strange", STRANGE, ids=str)
def test_rows_that_mean_nothing_are_read_as_the_operator_reads_them(
    world: World, strange: tuple[Any, Any, Any], kind: str
) -> None:
    world.database.execute(
        "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_rollout_percentage_check; "
        f"ALTER TABLE feature_flags ALTER rollout_percentage TYPE {kind}"
    )
    write = (
        f"UPDATE feature_flags SET enabled = %s, rollout_percentage = %s::{kind}, user_groups = %s WHERE name='alpha'"
    )
    world.database.execute(write, *strange)
    read = "SELECT name::text, enabled, rollout_percentage::text AS percentage, user_groups AS groups"
    row = Row(**world.database.query(f"{read} FROM feature_flags WHERE name = 'alpha'")[0]).widest()
    for user in ("user-1", "user-2", None):
        for groups in (["beta"], [""], ["{a,b}"], []):
            expected = evaluate(row, "alpha", user, groups).enabled
            assert world.database.query(CALL, "alpha", user, groups) == [{"answer": expected}], (user, groups, row)


@pytest.mark.parametrize("percentage", ["33.33", "0.07", "5.08", "33.330000000000005", "1e-5"])
def test_no_digit_of_a_float_is_lost(world: World, percentage: str) -> None:
    world.database.execute("ALTER TABLE feature_flags ALTER rollout_percentage TYPE double precision")
    row = everyone(percentage)
    users = IDS[:20_000]
    assert answers(world.database, row, [], users) == [evaluate(row, "alpha", user).enabled for user in users]


# ── Rights ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def service(world: World) -> Iterator[psycopg.Connection[Any]]:
    """A role that may call and nothing else: not even read the table."""
    role = world.database.role("service")
    world.database.execute(f"GRANT USAGE ON SCHEMA feature_rollout TO {role}")
    world.set_row("alpha", everyone(100))
    with psycopg.connect(world.database.uri(role), autocommit=True) as connection:
        yield connection
    world.database.execute(f"REVOKE ALL ON SCHEMA feature_rollout FROM {role}")


def ask(service: psycopg.Connection[Any]) -> bool:
    row = service.execute("SELECT feature_rollout.flag_enabled('alpha', 'user-1', '{}')").fetchone()
    return bool(row and row[0])


def test_it_takes_the_right_to_read_four_columns_and_no_more(world: World, service: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(service)
    role = service.info.user
    world.database.execute(f"GRANT SELECT (name, enabled, rollout_percentage, user_groups) ON feature_flags TO {role}")
    assert ask(service)
    for table in ("ledger", "plan", "ownership", "audit", "evidence", "migration"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(f"SELECT FROM feature_rollout.{table}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute("SELECT feature_rollout.serve('public', 'feature_flags', 'a', 'b', 'c', 'd')")


def test_row_level_security_holds_for_who_asks(world: World, service: psycopg.Connection[Any]) -> None:
    world.database.execute(f"GRANT SELECT ON feature_flags TO {service.info.user}")
    assert ask(service)
    world.database.execute("ALTER TABLE feature_flags ENABLE ROW LEVEL SECURITY")
    assert not ask(service)


def test_functions_of_the_callers_own_take_no_part(world: World, service: psycopg.Connection[Any]) -> None:
    world.database.execute(f"GRANT SELECT ON feature_flags TO {service.info.user}")
    world.database.execute(
        f"CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO {service.info.user}; "
        "CREATE FUNCTION trap.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$; "
        "CREATE FUNCTION trap.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'; "
        "CREATE OPERATOR trap.= (FUNCTION = trap.never, LEFTARG = text, RIGHTARG = text)"
    )
    service.execute("SET search_path = trap, pg_catalog, public")
    assert ask(service)
    found = service.execute("SELECT feature_rollout.flag_bucket('flag', 'a')").fetchone()
    assert found == (5086,)


def test_nothing_of_it_runs_with_rights_of_others(database: Database) -> None:
    found = database.query(
        "SELECT proname, prosecdef, provolatile, proparallel FROM pg_proc "
        "WHERE pronamespace = 'feature_rollout'::regnamespace AND "
        "proname IN ('flag_enabled', 'flag_bucket', 'has_flag') ORDER BY 1"
    )
    assert [tuple(row.values()) for row in found] == [
        ("flag_bucket", False, "s", "s"),
        ("flag_enabled", False, "s", "s"),
        ("has_flag", False, "s", "s"),
    ]


def test_a_hostile_path_of_who_installs_takes_no_part(database: Database) -> None:
    script = "DROP SCHEMA feature_rollout CASCADE; CREATE SCHEMA trap; "
    script += "CREATE FUNCTION trap.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$; "
    script += "SET search_path = trap, pg_catalog, public; "
    database.execute(script + migrations.script() + serve_statement(TableMapping()))
    assert database.query("SELECT feature_rollout.flag_bucket('flag', 'a') AS b") == [{"b": 5086}]
    assert database.query("SHOW search_path") == [{"search_path": "trap, pg_catalog, public"}]


def test_it_may_be_called_where_execute_is_not_everybodys_by_default(world: World) -> None:
    """As docs/database.md tells people to have it, when the same role installs by hand."""
    world.database.execute(
        "DROP SCHEMA feature_rollout CASCADE; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; "
        + migrations.script()
        + serve_statement(TableMapping())
    )
    service = world.database.role("service")
    world.database.execute(
        f"GRANT USAGE ON SCHEMA feature_rollout TO {service}; GRANT SELECT ON feature_flags TO {service}"
    )
    world.set_row("alpha", everyone(99))
    with psycopg.connect(world.database.uri(service), autocommit=True) as connection:
        assert ask(connection) is evaluate(everyone(99), "alpha", "user-1").enabled
        query = "SELECT feature_rollout.flag_enabled_reads('public', 'feature_flags', 'x', 'x', 'x', 'x')"
        assert connection.execute(query).fetchone() == ("columns",)


def test_it_runs_in_parallel_workers(world: World, postgres_server: PostgresAccess) -> None:
    world.set_row("alpha", everyone(50))
    setting = "debug_parallel_query" if postgres_server.major >= 16 else "force_parallel_mode"
    count = "SELECT count(*) FILTER (WHERE feature_rollout.flag_enabled('alpha', 'user-' || oid)) AS n FROM pg_class"
    alone = world.database.query(count)
    world.database.execute(f"SET {setting} = on; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
    plan = "\n".join(row["QUERY PLAN"] for row in world.database.query(f"EXPLAIN {count}"))
    assert "Gather" in plan
    assert world.database.query(count) == alone


# ── Which table ──────────────────────────────────────────────────────────────────────────────────

OTHER = TableMapping("Other App", "my flags", "key", "is on", "share%", "who")
OTHER_TABLE = (
    'CREATE SCHEMA "Other App"; CREATE TABLE "Other App"."my flags" '
    '(key varchar(50), "is on" boolean, "share%" double precision, who varchar(20)[]); '
    "INSERT INTO \"Other App\".\"my flags\" VALUES ('gamma', true, 100, '{beta}')"
)


def serve(database: Database, table: TableMapping) -> str:
    return str(database.query(serve_statement(table).rstrip(";\n"))[0]["serve"])


def test_another_table_does_not_take_it_over(database: Database) -> None:
    database.execute(OTHER_TABLE)
    assert serve(database, OTHER) == "taken"
    assert database.query(CALL, "gamma", "u", ["beta"]) == [{"answer": False}]
    found = database.query(
        'SELECT EXISTS (SELECT FROM "Other App"."my flags" f WHERE f.key = \'gamma\' AND '
        "feature_rollout.has_flag(f.\"is on\", f.\"share%\"::numeric, f.who, f.key, 'u', '{beta}')) AS answer"
    )
    assert found == [{"answer": True}]


def test_names_of_any_kind(database: Database) -> None:
    database.execute("DROP FUNCTION feature_rollout.flag_enabled(text, text, text[])")
    database.execute(OTHER_TABLE)
    assert serve(database, OTHER) == "served"
    assert serve(database, OTHER) == "unchanged"
    assert database.query(CALL, "gamma", "u", ["beta"]) == [{"answer": True}]


def test_renamed_columns_are_followed_when_they_are_installed_again(database: Database) -> None:
    database.execute("ALTER TABLE feature_flags RENAME name TO key; UPDATE feature_flags SET enabled = true")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        database.query(CALL, "alpha", "u", [])
    assert serve(database, TableMapping(name="key")) == "served"
    assert database.query(CALL, "alpha", "u", []) == [{"answer": False}]


def test_the_table_may_be_changed_and_dropped_as_if_nobody_asked_it(database: Database) -> None:
    database.execute("ALTER TABLE feature_flags ALTER rollout_percentage TYPE bigint; DROP TABLE feature_flags")
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.query(CALL, "alpha", "u", [])


def test_two_rows_of_a_flag_give_what_either_gives(database: Database) -> None:
    database.execute(
        "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_name_key; "
        "INSERT INTO feature_flags (name, enabled, rollout_percentage) VALUES ('alpha', true, 100)"
    )
    assert database.query(CALL, "alpha", "u", []) == [{"answer": True}]


async def test_install_makes_it_and_says_which_table_it_reads(world: World) -> None:
    database = world.database
    database.execute(f"DROP SCHEMA feature_rollout CASCADE; {OTHER_TABLE}")
    env = {"FEATUREROLLOUT_OWNER_URI": database.uri()}
    assert "flag_enabled: reads public.feature_flags\n" in (await featurerollout("store", "install", env=env)).out
    assert database.query(CALL, "alpha", "u", []) == [{"answer": False}]
    again = await featurerollout("store", "install", "--table", "Other App.my flags", env=env)
    assert "flag_enabled: reads another table, and still does" in again.out
    printed = await featurerollout("store", "install", "--print", env={})
    assert "SELECT feature_rollout.serve('public', 'feature_flags'," in printed.out


async def test_the_operator_makes_it_when_it_installs(world: World) -> None:
    world.database.execute("DROP SCHEMA feature_rollout CASCADE")
    await world.new_store(owner_uri=world.database.uri()).prepare()
    assert world.database.query(CALL, "alpha", "u", []) == [{"answer": False}]


@pytest.mark.parametrize(
    ("statement", "result", "message"),
    [
        ("SELECT 1", "ok", "feature_rollout.flag_enabled reads public.feature_flags"),
        (
            "DROP FUNCTION feature_rollout.flag_enabled(text, text, text[])",
            "warning",
            "is missing: run `featurerollout",
        ),
        (serve_statement(TableMapping(groups="groups")), "warning", "reads other columns of public.feature_flags: run"),
    ],
    ids=["there", "missing", "other columns"],
)
async def test_the_doctor_looks_at_it(world: World, statement: str, result: str, message: str) -> None:
    world.database.execute(statement)
    answer = await featurerollout(
        "doctor", "-o", "json", env={"FEATUREROLLOUT_WRITER_URI": world.database.uri(world.writer)}
    )
    (line,) = [line for line in json.loads(answer.out) if line["check"] == "writer: evaluation"]
    assert line["result"] == result
    assert message in line["message"]
