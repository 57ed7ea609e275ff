"""`featurerollout store`: install, list, release."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from feature_rollout.cli import database, exits

if TYPE_CHECKING:
    from feature_rollout.connectionstring import Server
    from feature_rollout.store.admin import Bookkeeping, Key

T = TypeVar("T")
OWNER_URI = "FEATUREROLLOUT_OWNER_URI"
WRITER_URI = "FEATUREROLLOUT_WRITER_URI"


@click.group("store")
def command() -> None:
    """Look after the bookkeeping in the database."""


@command.command("install")
@click.option("--print", "print_only", is_flag=True, help="Print the SQL instead, to be run by the owner role.")
@database.table_options
@database.uri_options
def install(*, print_only: bool, database_uri_env: str | None, uri_file: str | None, **names: str) -> None:
    """Create the schema feature_rollout, or bring it up to date, as the owner role.

    Where that role owns the flag table, a trigger on it records changes by others and tells
    the operator at once; elsewhere the operator sees them when it reads the rows. The function
    feature_rollout.flag_enabled is made for the table: services ask it who has a flag.

    The connection string is by default that of FEATUREROLLOUT_OWNER_URI, else of
    FEATUREROLLOUT_DATABASE_URI. By hand: featurerollout store install --print | psql "$OWNER_URI"

    Exit codes: 0 installed, or nothing to do, 1 error.
    """
    from feature_rollout.store import drift, migrations, serving

    table = database.mapping(**names)
    if print_only:
        click.echo(migrations.script() + drift.watch_statement(table) + serving.serve_statement(table))
        return
    server = _server(database.uri(database_uri_env, uri_file, OWNER_URI, database.DATABASE_URI), "owner")

    async def question() -> tuple[bool, str, str]:
        await migrations.install_as(server)
        usable = await migrations.writer_role_is_usable(server)
        return usable, await drift.watch_as(server, table), await serving.serve_as(server, table)

    usable, watched, served = database.ask(question)
    click.echo(f"schema feature_rollout is at version {migrations.newest()}")
    if served == serving.TAKEN:
        click.echo(f"feature_rollout.flag_enabled: reads another table, and still does; {_CALL_HAS_FLAG.format(table)}")
    else:
        click.echo(f"feature_rollout.flag_enabled: reads {table}")
    click.echo(f"changes of {table} by others: {_WATCH_OUTCOMES[watched]}")
    if not usable:
        role = migrations.WRITER_ROLE
        exits.fail(f"no role {role}, and the owner may not create it: CREATE ROLE {role} NOLOGIN, then run this again")


_CALL_HAS_FLAG = "for {} call feature_rollout.has_flag (docs/evaluation.md), or drop the function and run this again"
# By what `drift.watch_as` answers.
_WATCH_OUTCOMES = {
    "watched": "recorded by a trigger from now on",
    "unchanged": "recorded by a trigger",
    "missing": "the table is not there yet; run this again when it is, until then they are polled",
    "refused": "polled; to see them at once, run this as the role that owns the table",
    "busy": "polled, because the table is locked just now; run this again to see them at once",
}


@command.command("list")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@database.uri_options
def list_keys(*, output: str, database_uri_env: str | None, uri_file: str | None) -> None:
    """Show every key of the ledger: cluster/namespace/name, how far it is, and which flags it owns.

    The connection string is that of --database-uri-env NAME or of --uri-file FILE (- is standard
    input); without both that of FEATUREROLLOUT_DATABASE_URI, else of FEATUREROLLOUT_WRITER_URI.
    The rights of the writer are enough.
    """
    keys = _ask(database_uri_env, uri_file, lambda bookkeeping, _role: bookkeeping.keys())
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(key) for key in keys], indent=2, default=str))
        return
    click.echo(lines([HEADER, *(_cells(key) for key in keys)]) if keys else "No keys.")


@command.command("release")
@click.argument("key")
@click.option("--reason", required=True, callback=database.reason_text, help="Why; it stands in the audit.")
@click.option("--force", is_flag=True, help="Also when the key's writer was active within two minutes.")
@database.uri_options
def release(key: str, *, reason: str, force: bool, database_uri_env: str | None, uri_file: str | None) -> None:
    """Give up the flags of a KEY whose cluster is gone, so that another rollout may own them.

    The flags' rows are not touched. A revert that was latched stays latched: the same plan does
    not raise these flags again. The connection string is given as to `store list`.

    Exit codes: 0 released (also when it was before), 1 refused because the key's writer was
    active, or another error, 4 its row stayed locked, 5 there is no such key.
    """
    flags = _ask(
        database_uri_env,
        uri_file,
        lambda bookkeeping, role: bookkeeping.release(key, actor=database.actor(role), reason=reason, force=force),
    )
    if flags is None:
        click.echo(f"{key}: was closed already, and owns no flag")
    else:
        click.echo(f"{key}: closed; released, their rows as they were: {', '.join(flags) or 'no flag'}")


def _ask(database_uri_env: str | None, uri_file: str | None, work: Callable[[Bookkeeping, str], Awaitable[T]]) -> T:
    from feature_rollout.store.admin import Bookkeeping

    server = _server(database.uri(database_uri_env, uri_file, database.DATABASE_URI, WRITER_URI), "writer")

    async def question() -> T:
        bookkeeping = Bookkeeping(server)
        try:
            return await work(bookkeeping, server.role)
        finally:
            await bookkeeping.close()

    return database.ask(question)


def _server(uri: str, purpose: str) -> Server:
    from feature_rollout.connectionstring import parse_uri
    from feature_rollout.ports import Problem

    try:
        return parse_uri(uri, purpose, database.access())
    except Problem as problem:
        exits.fail(str(problem))


HEADER = ("KEY", "UID", "STAGE", "ATTEMPT", "LATCHED", "LAST ACTIVITY", "CLOSED", "OWNS")


def _cells(key: Key) -> tuple[str, ...]:
    return (
        key.key,
        key.uid,
        str(key.stage or "-"),
        str(key.attempt),
        "yes" if key.latched else "-",
        f"{key.active_at:%Y-%m-%dT%H:%M:%S%z}",
        f"{key.closed_at:%Y-%m-%dT%H:%M:%S%z}" if key.closed_at else "-",
        ", ".join(key.flags) or "-",
    )


def lines(rows: list[tuple[str, ...]]) -> str:
    """Columns side by side, never wrapped: what stands in them is to be copied."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows
    )
