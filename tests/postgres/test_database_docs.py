"""docs/database.md and the README: their SQL, on a server that has nothing yet, is all that is needed and no more."""

import re
import secrets
from pathlib import Path

import psycopg
import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from postgres.commands import featurerollout
from postgres.world import FLAG_TABLE
from support.databases import all_own_postgres

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "operator" / "feature_rollout"
TABLES = "CREATE TABLE notifications (id int); CREATE TABLE feature_flag_usage (id int);"
PAGES = ("docs/database.md", "README.md")


def blocks(page: str, language: str = "sql") -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Setup:
    """A database `app` with its users' tables, and the documented roles with the one password that is filled in."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._password = secrets.token_urlsafe(12)
        server.create_database("app")
        self.run(FLAG_TABLE + TABLES)

    def run(self, statements: str) -> None:
        with psycopg.connect(self._server.uri("app"), autocommit=True) as connection:
            connection.execute(statements.replace("'…'", f"'{self._password}'").encode())

    @property
    def env(self) -> dict[str, str]:
        roles = ("writer", "reader", "owner")
        return {
            f"FEATUREROLLOUT_{role.upper()}_URI": self._server.uri("app", f"flags_{role}", self._password)
            for role in roles
        }


@all_own_postgres
@pytest.mark.parametrize("page", PAGES)
async def test_the_documented_sql_is_all_that_is_needed(own_postgres: PostgresServer, page: str) -> None:
    setup = Setup(own_postgres)
    roles = [block for block in blocks(page) if "feature_rollout." not in block]
    questions = [block for block in blocks(page) if block not in roles]
    for block in roles:
        setup.run(block)
    before = await featurerollout("doctor", env=setup.env)
    assert (before.code, before.err) == (0, ""), before.out
    assert (await featurerollout("store", "install", env=setup.env)).code == 0
    after = await featurerollout("doctor", env=setup.env)
    assert after.code == 0, after.out
    assert re.findall("warning|error|skipped", after.out) == []
    for block in questions:
        setup.run(block)
    assert (
        await featurerollout("kill", "alpha", "--reason", "documented", env=setup.env)
    ).out == "alpha: already off\n"
    assert (await featurerollout("store", "list", env=setup.env)).out == "No keys.\n"


def test_every_reason_of_the_store_is_explained() -> None:
    files = [SOURCES / "postgres.py", *(SOURCES / "store").glob("*.py")]
    constant = re.compile(r'^[A-Z_]+: Final = "([A-Z][a-z]+(?:[A-Z][a-z]+)+)"$', re.MULTILINE)
    reasons = {reason for file in files for reason in constant.findall(file.read_text(encoding="utf-8"))}
    explained = re.findall(
        r"^\| `(\w+)` \|", (REPOSITORY / "docs/database.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    # These two are what an audit row says, not a fault.
    assert reasons - set(explained) - {"ReleasedByHand", "Killed"} == set()
