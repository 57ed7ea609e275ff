"""`featurerollout evaluate FLAG`: what would this user get, and why?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from feature_rollout.cli import database, exits
from feature_rollout.core.evaluation import Reason, rule, threshold
from feature_rollout.core.exposure import bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feature_rollout.store.config import TableMapping
    from feature_rollout.store.flags import Row


@click.command("evaluate")
@click.argument("flag")
@click.option("--user", metavar="ID", help="The user's id; without it a visitor, who has what everybody has.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group that the user is in; may be repeated.")
@database.uri_options
@database.table_options
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", show_default=True)
def command(
    flag: str,
    *,
    user: str | None,
    groups: tuple[str, ...],
    database_uri_env: str | None,
    uri_file: str | None,
    output: str,
    **columns: str,
) -> None:
    """Say whether a user has FLAG now, and why.

    It reads the flag's row with the rights of the connection string's role, and decides as the
    function feature_rollout.flag_enabled and the Python evaluator do. Nothing is written.

    Exit codes: 0 answered, whatever the answer is, 1 error, 5 there is no such flag.
    """
    from feature_rollout.connectionstring import parse_uri
    from feature_rollout.ports import Problem

    table = database.mapping(**columns)
    uri = database.uri(database_uri_env, uri_file, database.DATABASE_URI, "FEATUREROLLOUT_WRITER_URI")
    try:
        server = parse_uri(uri, "reader of the flags")
    except Problem as problem:
        exits.fail(str(problem))

    async def question() -> list[Row]:
        from feature_rollout.store import flags

        return await flags.read_as(server, table, [flag])

    rows = database.ask(question)
    if not rows:
        exits.fail(f"there is no flag {flag} in {table}: nobody has it", exits.NOT_FOUND)
    answer = _answer(table, flag, rows, user, groups)
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False) if output == "json" else _text(answer))


def _answer(
    table: TableMapping, flag: str, rows: Sequence[Row], user: str | None, groups: Sequence[str]
) -> dict[str, Any]:
    exposures = [row.widest() for row in rows]
    evaluation = rule(exposures, flag).evaluate(user, groups)
    return {
        "flag": flag,
        "user": user,
        "groups": list(groups),
        "enabled": evaluation.enabled,
        "reason": str(evaluation.reason),
        "bucket": None if user is None else bucket(flag, user),
        "rows": [{**row.to_json(), "bucketsBelow": threshold(row)} for row in exposures],
        "warnings": _warnings(table, rows),
    }


def _warnings(table: TableMapping, rows: Sequence[Row]) -> list[str]:
    """What is wrong with the rows, which are read at the widest that a service may read from them."""
    from feature_rollout.ports import Problem

    found = [f"the flag has {len(rows)} rows; a user has it by any of them"] if len(rows) > 1 else []
    for row in rows:
        try:
            row.exposure(table)
        except Problem as problem:
            found.append(f"{problem.message}; read as full exposure, or as a group that nobody is in")
    return found


_WHY = {
    Reason.DISABLED: "the row is disabled",
    Reason.NOBODY: "the row says 0 %",
    Reason.NOT_IN_GROUPS: "the user is in none of the row's groups",
    Reason.EVERYBODY: "everybody whom the row's groups allow has it",
    Reason.NO_USER: "some users have it, and a visitor without an id is none of them",
    Reason.BELOW_PERCENTAGE: "the user's bucket is below the percentage",
    Reason.ABOVE_PERCENTAGE: "the user's bucket is not below the percentage",
}


def _text(answer: dict[str, Any]) -> str:
    who = "a visitor without an id" if answer["user"] is None else f"user {answer['user']}"
    has = "has" if answer["enabled"] else "does not have"
    lines = [f"{who} {has} {answer['flag']}: {_WHY[answer['reason']]} ({answer['reason']})"]
    for row in answer["rows"]:
        state = "enabled" if row["enabled"] else "disabled"
        lines.append(f"row:    {state}, {row['percentage']} %, groups: {', '.join(row['groups']) or 'everyone'}")
        if answer["bucket"] is not None:
            lines.append(f"bucket: {answer['bucket']} of 10000; those below {row['bucketsBelow']} have it")
    lines.append(f"groups: {', '.join(answer['groups']) or 'none'} (of the user)")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in answer["warnings"])])
