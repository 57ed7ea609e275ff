"""docs/database.md and the README: their SQL, on a server that has nothing yet, is all that is needed and no more."""

import re

import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from postgres.commands import featurerollout
from postgres.documented import REPOSITORY, TABLES, Setup, blocks, role_blocks
from postgres.world import FLAG_TABLE
from support.databases import all_own_postgres

SOURCES = REPOSITORY / "operator" / "feature_rollout"
# The first makes the flag table too, with one flag in it.
PAGES = {"docs/database.md": (TABLES, "new_checkout"), "README.md": (FLAG_TABLE + TABLES, "alpha")}


@all_own_postgres
@pytest.mark.parametrize("page", PAGES)
async def test_the_documented_sql_is_all_that_is_needed(own_postgres: PostgresServer, page: str) -> None:
    tables, flag = PAGES[page]
    setup = Setup(own_postgres, tables)
    roles = role_blocks(page)
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
    assert (await featurerollout("kill", flag, "--reason", "documented", env=setup.env)).out == f"{flag}: already off\n"
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
