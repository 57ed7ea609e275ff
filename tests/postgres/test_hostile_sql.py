"""Metric and check SQL is harmless, with the roles that docs/database.md tells people to create (S9, S17, S18, L10).

Each attack is run as a metric and as a check, directly and behind PgBouncer, on each version of PostgreSQL. After it:

| what | how it is seen |
|---|---|
| nothing was written | a digest of all tables, sequences, large objects, roles, functions, settings and locks |
| no secret came out | in the answers, their repr, and the log at DEBUG |
| nothing stays | the next look of the same reader is right, its session as it was |
| nobody waits | another rollout's look, asked meanwhile, is there within an interval |

The table of outcomes is printed at the end of the run.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feature_rollout.core.looks import Look
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.checks import SqlCheck, SqlChecks
from feature_rollout.metrics.reader import SqlReader
from feature_rollout.metrics.sql import SqlMetricSource, SqlQuery
from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import migrations
from postgres.attacks import ATTACKS, Attack
from postgres.documented import Setup, role_blocks
from postgres.test_sql_metrics import WINDOW
from support import pgbouncer as pgbouncers
from support.databases import MAJORS
from support.depth import DEEP

CANARY = f"canary-{secrets.token_hex(8)}"
LOOT = Path("/tmp/loot")
# The shortest that people are told of; a neighbour's look may be late by one.
INTERVAL_S = 30
# Long enough for a look on a slow machine, short for a hundred attacks.
TIMEOUT_S = 1.0

# What there is before anybody has read the documentation.
TARGETS = f"""
INSERT INTO notifications SELECT generate_series(1, 3);
CREATE TABLE canary (secret text);
INSERT INTO canary VALUES ('{CANARY}');
CREATE TABLE payroll (salary int);
CREATE SEQUENCE numbers;
CREATE FUNCTION overwrite_as_owner() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN UPDATE public.feature_flags SET enabled = true; RETURN 1; END $$;
CREATE SCHEMA shop;
CREATE FUNCTION shop.overwrite_as_owner() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT overwrite_as_owner()';
SELECT lo_create(4711), lo_put(4711, 0, 'large');
"""
# What comes after: tables for metrics, and functions of people who have not read it.
LATER = """
GRANT SELECT ON canary TO flags_reader;
CREATE ROLE careless IN ROLE flags_writer;
GRANT CREATE ON SCHEMA public TO careless;
SET ROLE careless;
CREATE FUNCTION made_later() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN UPDATE public.feature_flags SET enabled = true; RETURN 1; END $$;
CREATE FUNCTION shout() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION USING MESSAGE = (SELECT secret FROM public.canary),
     DETAIL = (SELECT secret FROM public.canary),
     HINT = (SELECT secret FROM public.canary), ERRCODE = 'P0001'; END $$;
"""
_CATALOGUES = {
    "relations": "SELECT relname, relkind, relacl::text, relnamespace::regnamespace FROM pg_class "
    "WHERE relnamespace::regnamespace::text !~ '^pg_'",
    "functions": "SELECT proname, prosrc, proacl::text FROM pg_proc WHERE oid >= 16384",
    "roles": "SELECT rolname, rolsuper, rolpassword FROM pg_authid",
    "settings": "SELECT * FROM pg_db_role_setting",
    "schemas": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'",
    "large objects": "SELECT loid, pageno, data FROM pg_largeobject",
    "large object owners": "SELECT oid, lomacl::text FROM pg_largeobject_metadata",
    "servers": "SELECT srvname FROM pg_foreign_server",
    "sequences": "SELECT last_value, is_called FROM numbers",
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts",
    "advisory locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
}
NEXT = """
SELECT count(*) AS value FROM notifications
WHERE current_setting('transaction_read_only') = 'on' AND current_setting('statement_timeout') <> '0'
  AND current_setting('search_path') = 'pg_catalog, public, pg_temp' AND current_user = 'flags_reader'
  AND session_user = 'flags_reader' AND current_setting('client_min_messages') = 'notice'
  AND NOT EXISTS (SELECT FROM pg_prepared_statements) AND NOT EXISTS (SELECT FROM pg_listening_channels())
"""


@dataclass
class Lane:
    """A way to a database that was set up as documented."""

    name: str
    setup: Setup
    reader_uri: str
    pooled: bool
    bystander: psycopg.Connection[tuple[Any, ...]]

    @cached_property
    def before(self) -> dict[str, Any]:
        """What there was before the first attack."""
        return self.digest()

    def digest(self) -> dict[str, Any]:
        """Everything that there is in the database."""
        with psycopg.connect(self.setup.server.uri("app"), autocommit=True) as connection:
            found: dict[str, Any] = {
                "file": LOOT.exists(),
                "the writer's session": self.bystander.execute("SELECT 1").fetchall(),
            }
            for name, statement in _CATALOGUES.items():
                found[name] = sorted(map(repr, connection.execute(statement.encode()).fetchall()))
            tables = connection.execute(
                "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384"
            )
            for (table,) in tables.fetchall():
                rows = connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1".encode())
                found[table] = rows.fetchall()
        return found


LANES = [(major, way) for major in (MAJORS if DEEP else [max(MAJORS)]) for way in ("direct", "pgbouncer")]


@pytest.fixture(scope="module", params=LANES, ids=[f"pg{major}-{way}" for major, way in LANES])
def lane(request: pytest.FixtureRequest) -> Iterator[Lane]:
    major, way = request.param
    with ExitStack() as stack:
        found = {installation.major: installation for installation in toolchain.postgres_installations()}[major]
        setup = Setup(stack.enter_context(PostgresServer(found.bin_dir)))
        setup.run(TARGETS)
        with psycopg.connect(setup.server.uri("app"), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_available_extensions WHERE name = 'dblink'").fetchone():
                connection.execute("CREATE EXTENSION dblink")
        for block in role_blocks("docs/database.md"):
            setup.run(block)
        setup.run(migrations.script())
        setup.run(LATER)
        uri = setup.uri("flags_reader")
        if way == "pgbouncer":
            try:
                program = pgbouncers.find_or_install()
            except SandboxError as error:
                pytest.skip(f"NOT TESTED behind PgBouncer, which cannot be had on this machine: {error}")
            uri = stack.enter_context(pgbouncers.running(setup.server, program)).uri(uri)
        bystander = stack.enter_context(psycopg.connect(setup.uri("flags_writer"), autocommit=True))
        lane = Lane(f"pg{major} {way}", setup, uri, way == "pgbouncer", bystander)
        assert CANARY in repr(lane.before)
        yield lane


@pytest.fixture
async def reader(lane: Lane) -> AsyncIterator[SqlReader]:
    reader = SqlReader(lane.reader_uri, transaction_pooler=lane.pooled, timeout_s=TIMEOUT_S)
    yield reader
    await reader.close()


async def look(reader: SqlReader, sql: str, rollout: str) -> Look:
    return await SqlMetricSource(reader, {"m": SqlQuery(MetricType.GAUGE, sql)}, rollout).look("m", WINDOW)


async def check(reader: SqlReader, sql: str) -> tuple[bool | None, str]:
    return await SqlChecks(reader, {"c": SqlCheck(sql)}, "shop/check").ask("c")


async def right(reader: SqlReader, rollout: str) -> Look:
    """A look that is as it should be; asked again, as the operator does, when a slow machine let it time out."""
    async with asyncio.timeout(INTERVAL_S):
        answer = await look(reader, NEXT, rollout)
        while answer.error == f"timeout after {TIMEOUT_S:g}s":
            answer = await look(reader, NEXT, rollout)
    assert (answer.value, answer.error) == (3, None)
    return answer


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged or printed."""
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_an_attack(
    lane: Lane, reader: SqlReader, attack: Attack, said: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    sql = attack.sql.replace("{canary}", CANARY).replace("{{", "{")
    # A session that the next one uses again, and that others know of.
    await right(reader, "shop/before")
    asked = asyncio.gather(look(reader, sql, "shop/hostile"), check(reader, sql))
    neighbour = await right(reader, "shop/neighbour")
    answer, (passed, message) = await asked
    request.node.user_properties.append(
        ("attack", (attack.name, lane.name, answer.error or f"{answer.value}", message))
    )

    assert lane.digest() == lane.before
    assert attack.answered or (answer.error is not None and passed is not True)
    assert CANARY not in repr((answer, passed, message, neighbour, reader)) + said()
    await right(reader, "shop/hostile")


def test_there_are_enough_attacks_and_each_has_a_name() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 45
