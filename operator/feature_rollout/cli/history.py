"""`featurerollout history`: what happened to a rollout, when, by whom and why."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feature_rollout.cli import cluster, database, exits
from feature_rollout.kube.client import Api
from feature_rollout.kube.resources import ROLLOUTS

if TYPE_CHECKING:
    from feature_rollout.store.admin import Audited

WRITER_URI = "FEATUREROLLOUT_WRITER_URI"
COLUMNS = ("at", "by", "action", "flag", "change", "stage", "reason", "message")


@click.command("history")
@click.argument("name")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Rows of the audit.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@database.uri_options
@cluster.connection_options
def command(
    name: str,
    *,
    limit: int,
    output: str,
    database_uri_env: str | None,
    uri_file: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Show what happened to rollout NAME, oldest first.

    The last ten decisions are in its status. Every change of a flag's row, by the operator
    and by others, is in the audit of its database: it is shown when a connection string
    of the writer is given, or is in FEATUREROLLOUT_DATABASE_URI or FEATUREROLLOUT_WRITER_URI.
    Exit code 5 when there is neither the rollout nor a trace of it.
    """
    where = cluster.namespace_of(namespace, kubeconfig, context)

    async def question(api: Api) -> dict[str, Any] | None:
        return await api.get(ROLLOUTS, where, name)

    rollout = cluster.ask(kubeconfig, context, question)
    entries = _of_status(rollout or {})
    variables = (database.DATABASE_URI, WRITER_URI)
    if database_uri_env or uri_file or any(os.environ.get(variable) for variable in variables):
        uri = database.uri(database_uri_env, uri_file, *variables)
        entries += map(_of_audit, _audit(uri, where, name, limit))
    if rollout is None and not entries:
        exits.fail(f"there is no FeatureRollout {name} in namespace {where}, and no trace of one", exits.NOT_FOUND)
    entries.sort(key=lambda entry: datetime.fromisoformat(entry["at"]))
    if output == "json":
        click.echo(json.dumps(entries, indent=2))
    else:
        Console(highlight=False, soft_wrap=True).print(_table(entries) if entries else "Nothing has happened yet.")


def _audit(uri: str, namespace: str, name: str, limit: int) -> list[Audited]:
    from feature_rollout.connectionstring import parse_uri
    from feature_rollout.ports import Problem
    from feature_rollout.store.admin import Bookkeeping

    try:
        server = parse_uri(uri, "writer")
    except Problem as problem:
        exits.fail(str(problem))

    async def question() -> list[Audited]:
        bookkeeping = Bookkeeping(server)
        try:
            return await bookkeeping.history(namespace, name, limit=limit)
        finally:
            await bookkeeping.close()

    return database.ask(question)


def _of_status(rollout: dict[str, Any]) -> list[dict[str, str]]:
    history = (rollout.get("status") or {}).get("history") or []
    return [{"by": "operator", **{key: str(value) for key, value in entry.items()}} for entry in history]


def _of_audit(row: Audited) -> dict[str, str]:
    return {
        "at": row.at.isoformat(timespec="milliseconds"),
        "by": row.actor,
        "action": row.kind,
        "flag": row.flag,
        "change": f"{row.before} -> {row.after}",
        "stage": row.stage,
        "reason": row.reason,
        "message": row.message,
    }


def _table(entries: list[dict[str, str]]) -> Table:
    grid = Table(*(column.upper() for column in COLUMNS), box=None, pad_edge=False)
    for entry in entries:
        # What stands in brackets is no markup.
        grid.add_row(*(Text(entry.get(column, "")) for column in COLUMNS))
    return grid
