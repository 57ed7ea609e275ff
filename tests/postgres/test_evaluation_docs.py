"""docs/evaluation.md: its grants are all that its examples need, and each example runs as it stands."""

import asyncio
import contextlib
import io
import os
import re
import secrets
from pathlib import Path
from unittest import mock

import psycopg

from feature_rollout.core.evaluation import Reason
from postgres.commands import featurerollout
from postgres.world import World, only
from support.databases import all_postgres

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@all_postgres
async def test_the_examples_run_with_the_documented_rights(world: World) -> None:
    database = world.database
    grants, queries = blocks("sql")
    # The role is the server's, which other tests share.
    role, password = f"shop_service_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    database.execute(grants.replace("shop_service", role).replace("'…'", f"'{password}'"))
    database.execute("UPDATE feature_flags SET name = 'new_checkout' WHERE name = 'alpha'")
    world.set_row("new_checkout", only(100, "beta"))
    uri = database.uri(role, password)
    try:
        with psycopg.connect(uri, autocommit=True) as connection:
            answers = [connection.execute(query.encode()).fetchall() for query in queries.split(";\n") if query.strip()]
        assert answers[:3] == [[(True,)], [(False,)], [("new_checkout",)]]
        assert await asyncio.to_thread(printed, blocks("python")[0], uri) == [
            "the new checkout",
            f"False {Reason.NOT_IN_GROUPS}",
            "True None",
        ]
        words = blocks("sh")[0].split()[1:]
        answer = await featurerollout(*words, env={"FEATUREROLLOUT_DATABASE_URI": uri})
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("user user-1 has new_checkout: ")
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def printed(program: str, uri: str) -> list[str]:
    said = io.StringIO()
    with mock.patch.dict(os.environ, FLAGS_URI=uri), contextlib.redirect_stdout(said):
        exec(compile(program, "docs/evaluation.md", "exec"), {})
    return said.getvalue().splitlines()


def test_every_reason_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [str(reason) for reason in Reason]
