"""SQL metrics: what is a look, what is no data, what is an error, and that no query writes (S9, S17, S18)."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.hub import Shared
from feature_rollout.metrics.reader import SqlReader
from feature_rollout.metrics.sql import SqlMetricSource, SqlQuery
from feature_rollout.sandbox.database import PostgresAccess
from support.databases import ADVISORY_LOCKS, Database, all_postgres
from support.waiting import wait_for_async

pytestmark = all_postgres

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(seconds=30))
RATIO, GAUGE = MetricType.RATIO, MetricType.GAUGE

TABLES = """
CREATE TABLE notifications (user_id int, delivery_status text, created_at timestamptz, updated_at timestamptz);
INSERT INTO notifications
  SELECT i % 50, CASE WHEN i % 25 = 0 THEN 'failed' ELSE 'sent' END,
         timestamptz '2026-01-05 09:00+00' + i * interval '0.2 second',
         timestamptz '2026-01-05 09:00+00' + i * interval '0.2 second' + interval '1.5 seconds'
  FROM generate_series(-100, 249) i;
CREATE TABLE feature_flag_usage (flag_name text, enabled boolean, "timestamp" timestamptz);
INSERT INTO feature_flag_usage VALUES ('alpha', true, '2026-01-05 09:00:01+00'),
  ('alpha', false, '2026-01-05 09:00:02+00'), ('beta', true, '2026-01-05 09:00:02+00');
CREATE TABLE victim (id int PRIMARY KEY, name text);
INSERT INTO victim VALUES (1, 'untouched');
CREATE TABLE secret (id int);
CREATE FUNCTION overwrite() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN UPDATE public.victim SET name = 'overwritten'; RETURN 1; END $$;
CREATE FUNCTION overwrite_as_owner() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN UPDATE public.victim SET name = 'overwritten'; RETURN 1; END $$;
"""

# The queries of the documentation.
ERROR_RATE = """
  SELECT count(DISTINCT user_id) FILTER (WHERE delivery_status = 'failed') AS events,
         count(DISTINCT user_id) AS units
  FROM notifications
  WHERE created_at >= %(window_start)s AND created_at < %(window_end)s
"""
DELIVERY_TIME = """
  SELECT avg(extract(epoch FROM updated_at - created_at)) AS value, count(*) AS units
  FROM notifications
  WHERE created_at >= %(window_start)s AND created_at < %(window_end)s
"""
ADOPTION = """
  SELECT count(*) FILTER (WHERE enabled) AS events, count(*) AS units
  FROM feature_flag_usage
  WHERE flag_name = %(flag)s AND "timestamp" >= %(window_start)s AND "timestamp" < %(window_end)s
"""


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str:
    def prepare(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(TABLES.encode())

    return postgres_server.ensure_template("sql_metrics", prepare)


def windows(count: int) -> list[Window]:
    """So many that nobody has asked for."""
    starts = [START + timedelta(minutes=i) for i in range(1, count + 1)]
    return [Window(start, start + timedelta(seconds=30)) for start in starts]


@dataclass
class Metrics:
    """A reader with SELECT only, as documented, and what its queries answer."""

    database: Database
    role: str
    reader: SqlReader

    async def ask(self, text: str, type_: MetricType = RATIO, **params: str) -> Look:
        # Whoever asks here wants the database's answer, not that of a moment ago.
        self.reader.shared = Shared()
        source = SqlMetricSource(self.reader, {"m": SqlQuery(type_, text, params)})
        return await source.look("m", WINDOW)

    async def error(self, text: str, type_: MetricType = RATIO) -> str:
        look = await self.ask(text, type_)
        assert look.error is not None
        assert (look.events, look.units, look.value) == (None, None, None)
        return look.error

    def victim(self) -> list[dict[str, object]]:
        return self.database.query("SELECT * FROM victim")

    def sessions(self) -> int:
        rows = self.database.query("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", self.role)
        return int(rows[0]["count"])


@pytest.fixture(params=[False, True], ids=["session", "transaction-pooler"])
async def metrics(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Metrics]:
    role = database.role("reader")
    database.execute(f"GRANT SELECT ON notifications, feature_flag_usage, victim TO {role}")
    reader = SqlReader(database.uri(role), transaction_pooler=request.param)
    yield Metrics(database, role, reader)
    await reader.close()


async def test_the_documented_queries(metrics: Metrics) -> None:
    assert await metrics.ask(ERROR_RATE) == Look("m", WINDOW, events=2, units=50)
    delivery = await metrics.ask(DELIVERY_TIME, GAUGE)
    assert (delivery.value, delivery.units) == (1.5, 150)
    assert await metrics.ask(ADOPTION, flag="alpha") == Look("m", WINDOW, events=1, units=2)


TREATED_NOBODY = {"events": 0, "units": 0, "control_events": 9, "control_units": 2700}

LOOKS: list[tuple[MetricType, str, dict[str, float]]] = [
    (RATIO, "SELECT 3 AS events, 300::bigint AS units", {"events": 3, "units": 300}),
    (RATIO, "SELECT 2.5 AS events, 5::float8 AS units", {"events": 2.5, "units": 5}),
    (RATIO, "SELECT 1::smallint AS units, 1::float4 AS events;", {"events": 1, "units": 1}),
    (RATIO, "SELECT 0 AS events, 0 AS units", {"events": 0, "units": 0}),
    (GAUGE, "SELECT -0.41 AS value", {"value": -0.41}),
    (GAUGE, "SELECT 1 AS value, 300 AS units -- a comment at the end", {"value": 1, "units": 300}),
    (GAUGE, "WITH t AS (SELECT 7 AS value) SELECT * FROM t", {"value": 7}),
    (RATIO, "SELECT 10 % 4 AS events, 5 AS units WHERE 'a%b' LIKE 'a\\%b'", {"events": 2, "units": 5}),
    (
        RATIO,
        "SELECT 10 %% 4 AS events, 5 AS units WHERE now() > %(window_start)s OR true",
        {"events": 2, "units": 5},
    ),
    (RATIO, "SELECT sum(1) FILTER (WHERE false) AS events, count(*) AS units FROM victim WHERE false", {}),
    (RATIO, "SELECT NULL::int AS events, NULL::int AS units", {}),
    (RATIO, "SELECT 1 AS events, 1 AS units WHERE false", {}),
    (
        RATIO,
        "SELECT 3 AS events, 300 AS units, 9 AS control_events, 2700 AS control_units",
        {"events": 3, "units": 300, "control_events": 9, "control_units": 2700},
    ),
    (
        RATIO,
        "SELECT 3 AS events, 300 AS units, NULL::int AS control_events, 0 AS control_units",
        {"events": 3, "units": 300, "control_events": 0, "control_units": 0},
    ),
    (RATIO, "SELECT NULL::int AS events, 0 AS units, 9 AS control_events, 2700 AS control_units", TREATED_NOBODY),
    (GAUGE, "SELECT NULL::numeric AS value, 5 AS units", {}),
    (GAUGE, "SELECT 1 AS value WHERE false", {}),
    (GAUGE, "SELECT 1 AS value, -2 AS control_value", {"value": 1, "control_value": -2}),
    (GAUGE, "SELECT 1 AS value, NULL::int AS control_value", {"value": 1, "control_units": 0}),
    (GAUGE, "SELECT NULL::int AS value, 2 AS control_value, 7 AS units", {"control_value": 2}),
]


async def test_an_answer_that_is_a_look(metrics: Metrics) -> None:
    for type_, text, look in LOOKS:
        answer = await metrics.ask(text, type_)
        assert answer == Look("m", WINDOW, **look), text
        assert answer.is_measured == bool(look.get("value") is not None or look.get("units")), text


ERRORS = [
    (
        RATIO,
        "SELECT '3' AS events, 1 AS units",
        "column events is text, a number is wanted (cast a bare NULL: NULL::int)",
    ),
    (
        GAUGE,
        "SELECT true AS value",
        "column value is bool, a number is wanted (cast a bare NULL: NULL::int)",
    ),
    (
        GAUGE,
        "SELECT interval '1 second' AS value",
        "column value is interval, a number is wanted (cast a bare NULL: NULL::int)",
    ),
    (GAUGE, "SELECT 'NaN'::float8 AS value", "value is NaN"),
    (GAUGE, "SELECT 'NaN'::numeric AS value", "value is NaN"),
    (GAUGE, "SELECT 'Infinity'::float8 AS value", "value is infinite"),
    (GAUGE, "SELECT 1e400::numeric AS value", "value is infinite"),
    (RATIO, "SELECT 'NaN'::float8 AS events, 1 AS units", "events is NaN"),
    (RATIO, "SELECT 5 AS events, 3 AS units", "events (5) are more than units (3)"),
    (RATIO, "SELECT -1 AS events, 3 AS units", "events is -1, 0 or more is wanted"),
    (RATIO, "SELECT NULL::int AS events, 3 AS units", "column events is NULL and the other is not"),
    (RATIO, "SELECT 3 AS events, NULL::int AS units", "column units is NULL and the other is not"),
    (
        RATIO,
        "SELECT generate_series(1, 2) AS events, 9 AS units",
        "more than one row was returned, exactly one is wanted",
    ),
    (RATIO, "SELECT 1 AS events", "column units is missing; a Ratio has events and units"),
    (GAUGE, "SELECT 1", "column value is missing; a Gauge has value and units"),
    (RATIO, "SELECT 1 AS events, 1 AS units, 2 AS x", "column 3 is one too many; a Ratio has events and units"),
    (
        RATIO,
        "SELECT 1 AS events, 1 AS units, 2 AS units",
        "column 3 is one too many; a Ratio has events and units",
    ),
    (
        RATIO,
        "SELECT 1 AS events, 1 AS units, 2 AS control_units",
        "column control_events is missing; a control arm has control_events and control_units",
    ),
    (
        RATIO,
        "SELECT 1 AS events, 1 AS units, 5 AS control_events, 3 AS control_units",
        "control_events (5) are more than control_units (3)",
    ),
    (
        RATIO,
        "SELECT 1 AS events, 1 AS units, NULL::int AS control_events, 3 AS control_units",
        "column control_events is NULL and the other is not",
    ),
    (
        GAUGE,
        "SELECT 1 AS value, 1 AS control_events, 1 AS control_units",
        "column 2 is one too many; a Gauge has value and units",
    ),
    (GAUGE, "SELECT 1 AS value, 'NaN'::float8 AS control_value", "control_value is NaN"),
    (
        RATIO,
        "SELECT 1 AS events, 1 AS units, 2 AS control_value",
        "column 3 is one too many; a Ratio has events and units",
    ),
    (GAUGE, "SELECT 1/0 AS value", "SQLSTATE 22012: division by zero"),
    (GAUGE, "SELECT x AS value FROM nowhere", "SQLSTATE 42P01: a table in the query does not exist"),
    (GAUGE, "SELECT nothing AS value FROM victim", "SQLSTATE 42703: a column in the query does not exist"),
    (
        GAUGE,
        "SELECT id AS value FROM secret",
        "SQLSTATE 42501: the reader role lacks a privilege that the query needs",
    ),
    (
        GAUGE,
        "SELECT name::int AS value FROM victim",
        "SQLSTATE 22P02: a value in the query cannot be computed or converted",
    ),
    (GAUGE, "", "SQLSTATE 42601: a syntax error, or something else than one SELECT"),
    (GAUGE, "SELEC 1", "SQLSTATE 42601: a syntax error, or something else than one SELECT"),
    (
        GAUGE,
        "SELECT 1 AS value WHERE 'a' LIKE '%' AND now() > %(window_start)s",
        "a literal % must be doubled (%%) in a query that names a parameter",
    ),
    (
        GAUGE,
        "SELECT %(flag)s::int AS value",
        "the query names %(flag)s, which has no value: the metric has no such arg",
    ),
]


async def test_an_answer_that_is_an_error(metrics: Metrics) -> None:
    for type_, text, error in ERRORS:
        assert await metrics.error(text, type_) == error, text


async def test_the_servers_text_is_not_repeated(metrics: Metrics) -> None:
    error = await metrics.error("SELECT ('x' || name)::int AS value FROM victim", GAUGE)
    assert "untouched" not in error


async def test_a_result_without_end_is_not_read(metrics: Metrics) -> None:
    started = time.monotonic()
    error = await metrics.error("SELECT generate_series(1, 1000000000000) AS value", GAUGE)
    assert error == "more than one row was returned, exactly one is wanted"
    error = await metrics.error("SELECT repeat('x', 100000000) AS value FROM generate_series(1, 100)", GAUGE)
    assert error.startswith("column value is text")
    assert time.monotonic() - started < 5


WRITES = [
    "UPDATE victim SET name = 'overwritten'",
    "UPDATE victim SET name = 'overwritten' RETURNING 1 AS value",
    "SELECT 1 AS value; UPDATE victim SET name = 'overwritten'",
    "COMMIT; UPDATE victim SET name = 'overwritten'",
    "SELECT 1 AS value; COMMIT; UPDATE victim SET name = 'overwritten'; SELECT 1 AS value",
    "SET TRANSACTION READ WRITE; UPDATE victim SET name = 'overwritten'",
    "SET default_transaction_read_only = off",
    "ROLLBACK",
    "WITH w AS (UPDATE victim SET name = 'overwritten' RETURNING 1 AS value) SELECT * FROM w",
    "WITH w AS (DELETE FROM victim RETURNING 1 AS value) SELECT value FROM w",
    "SELECT 1 AS value INTO loot",
    "CREATE TABLE loot AS SELECT 1 AS value",
    "TRUNCATE victim",
    "DROP TABLE victim",
    "CALL overwrite()",
    "DO $$ BEGIN UPDATE public.victim SET name = 'overwritten'; END $$",
    "COPY victim TO PROGRAM 'touch /tmp/loot'",
    "SET ROLE none",
    "SELECT id AS value FROM victim FOR UPDATE",
    "SELECT overwrite() AS value",
    "SELECT overwrite_as_owner() AS value",
    "SELECT public.overwrite_as_owner() AS value FROM (SELECT set_config('transaction_read_only', 'off', false)) s",
    (
        "SELECT overwrite_as_owner() AS value "
        "FROM (SELECT set_config('transaction_read_only', 'off', true), set_config('role', 'none', false)) s"
    ),
]


@pytest.mark.parametrize("is_superuser", [False, True], ids=["reader", "superuser"])
async def test_a_query_that_writes_does_not(metrics: Metrics, is_superuser: bool) -> None:
    if is_superuser:
        # The documented role has no right to write. Nothing gets through where it has all rights either.
        metrics.database.execute(f"ALTER ROLE {metrics.role} SUPERUSER")
    before = metrics.victim()
    for text in WRITES:
        await metrics.error(text, GAUGE)
        assert metrics.victim() == before, text
        assert metrics.database.query("SELECT FROM pg_class WHERE relname = 'loot'") == [], text
        # Nor does it leave anything for the next one.
        assert (await metrics.error("SELECT overwrite() AS value", GAUGE)).startswith("SQLSTATE"), text
        assert metrics.victim() == before, text
        assert (await metrics.ask("SELECT 1 AS value", GAUGE)).value == 1, text


async def test_settings_of_one_query_do_not_reach_the_next(metrics: Metrics) -> None:
    await metrics.ask(
        "SELECT length(set_config('search_path', 'pg_temp', false) || set_config('role', 'none', false)) AS value",
        GAUGE,
    )
    await metrics.ask("SELECT pg_advisory_lock(1) IS NULL AS value", GAUGE)
    assert (await metrics.ask("SELECT count(*) AS value FROM victim", GAUGE)).value == 1
    assert (await metrics.ask("SELECT length(current_setting('search_path')) AS value", GAUGE)).value == len(
        "pg_catalog, public, pg_temp"
    )
    assert metrics.database.query(ADVISORY_LOCKS) == []


async def test_a_slow_query_is_ended(database: Database) -> None:
    reader = SqlReader(database.uri(), timeout_s=0.3)
    started = time.monotonic()
    look = await SqlMetricSource(reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value FROM pg_sleep(30)")}).look(
        "m", WINDOW
    )
    assert look.error == "timeout after 0.3s"
    assert time.monotonic() - started < 15
    await reader.close()


async def test_a_query_that_waits_for_its_turn_is_bounded_too(database: Database) -> None:
    reader = SqlReader(database.uri(), timeout_s=0.5)
    source = SqlMetricSource(reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value FROM pg_sleep(30)")})
    started = time.monotonic()
    looks = await asyncio.gather(*(source.look("m", window) for window in windows(6)))
    assert {look.error for look in looks} == {"timeout after 0.5s"}
    # Far less than the query takes, on however slow a machine.
    assert time.monotonic() - started < 15
    await reader.close()


async def test_two_queries_at_a_time_and_their_connections_are_used_again(database: Database) -> None:
    role = database.role("reader")
    reader = SqlReader(database.uri(role))
    text = f"SELECT count(*) AS value FROM pg_stat_activity, pg_sleep(0.05) WHERE usename = '{role}'"
    sources = [SqlMetricSource(reader, {"m": SqlQuery(GAUGE, text)}, f"shop/{i}") for i in range(8)]
    looks = await asyncio.gather(*(s.look("m", window) for s, window in zip(sources, windows(8), strict=True)))
    assert {look.error for look in looks} == {None}
    assert max(look.value or 0 for look in looks) == 2
    pids = database.query("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", role)
    assert pids == [{"count": 2}]
    await reader.close()


async def test_a_rollout_asks_one_query_at_a_time_and_delays_no_other(database: Database) -> None:
    role = database.role("reader")
    reader = SqlReader(database.uri(role), timeout_s=60)
    slow = SqlMetricSource(reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value FROM pg_sleep(600)")}, "shop/slow")
    tasks = [asyncio.create_task(slow.look("m", window)) for window in windows(10)]
    running = "SELECT FROM pg_stat_activity WHERE usename = %s AND query LIKE 'FETCH%%' AND state = 'active'"
    await wait_for_async(lambda: database.query(running, role))
    quick = SqlMetricSource(reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value")}, "shop/quick")
    assert [(await quick.look("m", window)).value for window in windows(3)] == [1, 1, 1]
    assert len(database.query(running, role)) == 1
    assert [task.done() for task in tasks] == [False] * 10
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await reader.close()


async def test_the_same_is_asked_once_for_all_rollouts(metrics: Metrics) -> None:
    """The same text, arguments and window; a number that is another each time tells how often it was asked."""
    text = "SELECT random() AS value, %(n)s::int AS units"

    def source(n: str) -> SqlMetricSource:
        return SqlMetricSource(metrics.reader, {"m": SqlQuery(GAUGE, text, {"n": n})})

    first, second = windows(2)
    looks = await asyncio.gather(*(source(n).look("m", window) for window in (first, second) for n in "12" * 20))
    assert {look.error for look in looks} == {None}
    assert len({look.value for look in looks}) == 4
    assert (await source("1").look("m", first)).value == looks[0].value


async def test_a_look_survives_the_end_of_an_idle_connection(metrics: Metrics) -> None:
    assert (await metrics.ask("SELECT 1 AS value", GAUGE)).value == 1
    metrics.database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", metrics.role)
    assert (await metrics.ask("SELECT 1 AS value", GAUGE)).value == 1


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_a_look_that_another_query_ended_is_asked_again(metrics: Metrics, end: str) -> None:
    text = "SELECT 1 AS value FROM pg_sleep((SELECT count(*) * 600 FROM victim))"
    task = asyncio.create_task(metrics.ask(text, GAUGE))
    running = "FROM pg_stat_activity WHERE usename = %s AND state = 'active' AND query LIKE 'FETCH%%'"
    await wait_for_async(lambda: metrics.database.query(f"SELECT {running}", metrics.role))
    metrics.database.execute("DELETE FROM victim")
    # A query may do this to sessions of its own role, which are other rollouts' looks.
    metrics.database.execute(f"SELECT {end}(pid) {running}", metrics.role)
    assert (await task).value == 1


async def test_a_query_that_ends_its_own_session_is_an_error(metrics: Metrics) -> None:
    error = await metrics.error("SELECT 1 AS value WHERE pg_terminate_backend(pg_backend_pid())", GAUGE)
    assert error in ("SQLSTATE 57P01: the server ended the query", "the connection to the database was lost")


async def test_a_refused_login_is_told_without_secrets(metrics: Metrics) -> None:
    uri = metrics.database.uri(metrics.role, "not-the-password")
    reader = SqlReader(uri)
    look = await SqlMetricSource(reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value")}).look("m", WINDOW)
    assert look.error is not None
    assert look.error.startswith("AuthenticationFailed: the server refused the login of role reader_")
    assert "not-the-password" not in look.error
    assert metrics.database.name not in look.error


async def test_an_unknown_metric_is_an_error(metrics: Metrics) -> None:
    look = await SqlMetricSource(metrics.reader, {}).look("other", WINDOW)
    assert look.error == "this rollout has no SQL metric of that name"


async def test_a_cancelled_look_ends_at_once(metrics: Metrics) -> None:
    task = asyncio.create_task(metrics.ask("SELECT 1 AS value FROM pg_sleep(30)", GAUGE))
    running = "SELECT FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
    await wait_for_async(lambda: metrics.database.query(running, metrics.role))
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # By itself psycopg would wait five seconds for the server.
    assert time.monotonic() - started < 4


async def test_a_history_is_a_look_for_each_window_in_order(metrics: Metrics) -> None:
    windows = [Window(START + i * timedelta(seconds=10), START + (i + 1) * timedelta(seconds=10)) for i in range(5)]
    source = SqlMetricSource(metrics.reader, {"m": SqlQuery(RATIO, ERROR_RATE)})
    looks = await source.history("m", windows)
    assert [look.window for look in looks] == windows
    assert list(looks) == [await source.look("m", window) for window in windows]


async def test_a_history_that_keeps_failing_is_given_up(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    ask = metrics.reader.ask

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(*args, **more)

    monkeypatch.setattr(metrics.reader, "ask", counted)
    source = SqlMetricSource(metrics.reader, {"m": SqlQuery(GAUGE, "SELECT 1/0 AS value")})
    looks = await source.history("m", windows(336))
    assert asked == 3
    assert {look.error for look in looks} == {"SQLSTATE 22012: division by zero"}
    assert len(looks) == 336


async def test_histories_leave_a_connection_for_looks(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rollouts ask for their past, one query of theirs is under way at a time."""
    running, most = 0, 0
    ask = metrics.reader.ask

    async def noted(statement: str, *args: Any, **more: Any) -> Any:
        nonlocal running, most
        if "pg_sleep" not in statement:
            return await ask(statement, *args, **more)
        running += 1
        most = max(most, running)
        try:
            return await ask(statement, *args, **more)
        finally:
            running -= 1

    monkeypatch.setattr(metrics.reader, "ask", noted)
    slow = SqlMetricSource(metrics.reader, {"m": SqlQuery(GAUGE, "SELECT 1 AS value FROM pg_sleep(0.05)")})
    histories = [asyncio.create_task(slow.history("m", windows(15)[i::5])) for i in range(5)]
    await wait_for_async(lambda: running > 0)
    quick = SqlMetricSource(metrics.reader, {"m": SqlQuery(GAUGE, "SELECT 2 AS value")})
    assert (await quick.look("m", WINDOW)).value == 2
    looks = await asyncio.gather(*histories)
    assert all(look.value == 1 for found in looks for look in found)
    assert most == 1
