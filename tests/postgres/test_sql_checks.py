"""SQL checks: what passes, what does not, what could not be asked, and what is said of it (S9, S17)."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import psycopg
import pytest

from feature_rollout.metrics.checks import SqlCheck, SqlChecks
from feature_rollout.metrics.reader import SqlReader
from feature_rollout.sandbox.database import PostgresAccess
from support.databases import Database, all_postgres
from support.waiting import wait_for_async

pytestmark = all_postgres

TABLES = """
CREATE TABLE verification (position int, check_name varchar(100), status char(8), note text);
INSERT INTO verification VALUES (1, 'columns are there', 'PASS', ''), (2, 'indexes are there', 'PASS', '');
CREATE TABLE secret (word text);
INSERT INTO secret VALUES ('hunter2');
CREATE TABLE closed (id int);
"""


@pytest.fixture
def database_template(postgres_server: PostgresAccess) -> str:
    def prepare(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(TABLES.encode())

    return postgres_server.ensure_template("sql_checks", prepare)


@pytest.fixture
def role(database: Database) -> str:
    role = database.role("reader")
    database.execute(f"GRANT SELECT ON verification, secret TO {role}")
    return role


@pytest.fixture
async def reader(database: Database, role: str) -> AsyncIterator[SqlReader]:
    reader = SqlReader(database.uri(role))
    yield reader
    await reader.close()


async def ask(reader: SqlReader, text: str, expect: str | None = None) -> tuple[bool | None, str]:
    return await SqlChecks(reader, {"c": SqlCheck(text, expect)}).ask("c")


class Case(NamedTuple):
    text: str
    expect: str | None
    passed: bool | None
    message: str


FAIL = "SELECT 'a' AS name, 'PASS' AS status UNION ALL SELECT 'b', 'FAIL' UNION ALL SELECT 'c', NULL"
NO_ROW = "no row was returned, exactly one is wanted"
SYNTAX = "SQLSTATE 42601: a syntax error, or something else than one SELECT"
CASES = {
    "true by default": Case("SELECT true", None, True, "the answer is true"),
    "true, said": Case("SELECT count(*) = 2 FROM verification", "true", True, "the answer is true"),
    "false": Case("SELECT false", None, False, "the answer is not true"),
    "NULL": Case("SELECT NULL::bool", None, False, "the answer is not true"),
    "1 is not true": Case("SELECT 1", None, False, "the answer is not true"),
    "no row": Case("SELECT true WHERE false", None, False, NO_ROW),
    "two rows": Case(
        "SELECT true FROM verification", None, False, "more than one row was returned, exactly one is wanted"
    ),
    "two columns": Case("SELECT true, true", None, None, "2 columns were returned, exactly one is wanted"),
    "no column": Case("SELECT", None, None, "0 columns were returned, exactly one is wanted"),
    "a number": Case("SELECT count(*) FROM verification", "2", True, "the answer is 2"),
    "a number with a scale": Case("SELECT 2.00", "2", False, "the answer is not 2"),
    "another number": Case("SELECT 3", "2", False, "the answer is not 2"),
    "a text": Case("SELECT 'a%b {c}'", "a%b {c}", True, "the answer is a%b {c}"),
    "a text that begins like it": Case("SELECT repeat('x', 300)", "x" * 256, False, f"the answer is not {'x' * 256}"),
    "a text of 100 MB": Case("SELECT repeat('x', 100000000)", "x", False, "the answer is not x"),
    "a date": Case("SELECT date '2026-01-05'", "2026-01-05", True, "the answer is 2026-01-05"),
    "an array": Case("SELECT array[1,2]", "{1,2}", True, "the answer is {1,2}"),
    "rows": Case("SELECT FROM verification", "Rows", True, "there are rows"),
    "a million rows": Case("SELECT generate_series(1, 1000000)", "Rows", True, "there are rows"),
    "no rows": Case(
        "SELECT 1 FROM verification WHERE false", "Rows", False, "no row was returned, at least one is wanted"
    ),
    "all pass": Case("SELECT * FROM verification", "AllPass", True, "PASS in 2 of 2 rows"),
    "all of 1,000": Case(
        "SELECT 'PASS' AS status FROM generate_series(1, 1000)", "AllPass", True, "PASS in 1000 of 1000 rows"
    ),
    "all of 1,001": Case(
        "SELECT 'PASS' AS status FROM generate_series(1, 1001)", "AllPass", None, "more than 1000 rows were returned"
    ),
    "a billion rows": Case(
        "SELECT 'PASS' AS status, i FROM (SELECT 1 AS i UNION ALL SELECT 2) a CROSS JOIN LATERAL "
        "(WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 1000000000) SELECT n FROM r) b",
        "AllPass",
        None,
        "more than 1000 rows were returned",
    ),
    "none pass": Case(
        "SELECT 'PASS' AS status WHERE false", "AllPass", False, "no row was returned, at least one is wanted"
    ),
    "some fail": Case(FAIL, "AllPass", False, "2 of 3 rows are not PASS, the first is b"),
    "it has no name": Case("SELECT 'pass' AS status, 'x' AS note", "AllPass", False, "1 of 1 rows are not PASS"),
    "its name is NULL": Case("SELECT '' AS status, NULL AS name", "AllPass", False, "1 of 1 rows are not PASS"),
    "its name is long": Case(
        "SELECT 'FAIL' AS status, repeat('é', 200) AS name, 'n' AS check_name",
        "AllPass",
        False,
        f"1 of 1 rows are not PASS, the first is {'é' * 80}",
    ),
    "its name has two lines": Case(
        "SELECT 'FAIL' AS status, E'a\\nb' AS \"check\"", "AllPass", False, "1 of 1 rows are not PASS, the first is a b"
    ),
    "a number is a name too": Case(
        "SELECT 'FAIL' AS status, 7 AS check_name, 1 AS x, 2 AS x",
        "AllPass",
        False,
        "1 of 1 rows are not PASS, the first is 7",
    ),
    "no status": Case("SELECT 'PASS'", "AllPass", None, "one column status is wanted, PASS in every row"),
    "two of them": Case(
        "SELECT 'PASS' AS status, 'PASS' AS status",
        "AllPass",
        None,
        "one column status is wanted, PASS in every row",
    ),
    "a comment at the end": Case("SELECT true -- is it?", None, True, "the answer is true"),
    "a semicolon": Case("SELECT true ; \n", None, True, "the answer is true"),
    "a comment after it": Case("SELECT true;-- is it?\n -- yes;\n", None, True, "the answer is true"),
    "order and limit": Case(
        "SELECT status FROM verification ORDER BY position LIMIT 1;", "PASS    ", False, "the answer is not PASS    "
    ),
    "WITH": Case("WITH t AS (SELECT true AS a) SELECT a FROM t", None, True, "the answer is true"),
    "VALUES": Case("VALUES (true)", None, True, "the answer is true"),
    "a table": Case("TABLE verification", "Rows", True, "there are rows"),
    "no SQL": Case("", None, None, SYNTAX),
    "a syntax error": Case("SELEC true", None, None, SYNTAX),
    "two statements": Case("SELECT true; SELECT true", None, None, SYNTAX),
    "a sub-query that closes ours": Case("SELECT true) q UNION SELECT (true", None, None, SYNTAX),
    "and hides the rest": Case("SELECT repeat('x', 9)) q(c) --", "x", None, SYNTAX),
    "no such table": Case(
        "SELECT true FROM nowhere", None, None, "SQLSTATE 42P01: a table in the query does not exist"
    ),
    "no right": Case(
        "SELECT true FROM closed", None, None, "SQLSTATE 42501: the reader role lacks a privilege that the query needs"
    ),
    "a cast that quotes data": Case(
        "SELECT (SELECT word FROM secret)::int = 1",
        None,
        None,
        "SQLSTATE 22P02: a value in the query cannot be computed or converted",
    ),
    "a type without text": Case("SELECT row(1, 'a')", "(1,a)", True, "the answer is (1,a)"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_what_a_check_answers(reader: SqlReader, case: Case) -> None:
    assert await ask(reader, case.text, case.expect) == (case.passed, case.message)


async def test_a_slow_check_is_ended(database: Database, role: str) -> None:
    reader = SqlReader(database.uri(role), timeout_s=0.5)
    assert await ask(reader, "SELECT true FROM pg_sleep(600)") == (None, "timeout after 0.5s")
    assert await ask(reader, "SELECT true") == (True, "the answer is true")
    await reader.close()


async def test_a_server_that_is_not_there(database: Database, role: str) -> None:
    reader = SqlReader(database.uri(role, "wrong-word"))
    passed, message = await ask(reader, "SELECT true")
    assert passed is None
    assert message.startswith("AuthenticationFailed: ")
    assert "wrong-word" not in message


async def test_an_unknown_check(reader: SqlReader) -> None:
    assert await SqlChecks(reader, {}).ask("c") == (None, "this rollout has no SQL check of that name")


async def test_a_cancelled_check_ends(reader: SqlReader, database: Database, role: str) -> None:
    task = asyncio.create_task(ask(reader, "SELECT true FROM pg_sleep(600)"))
    running = "SELECT FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
    await wait_for_async(lambda: database.query(running, role))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
