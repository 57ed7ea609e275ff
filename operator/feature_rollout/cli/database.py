"""What the verbs that go straight to the database share: options, errors, exit codes.

A connection string is a secret: it comes from the environment or from a file, never from
an argument, which everybody on the machine can read, and it is never printed.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from feature_rollout.cli import exits

if TYPE_CHECKING:
    from feature_rollout.connectionstring import Access
    from feature_rollout.ports import Problem
    from feature_rollout.store.config import TableMapping

DATABASE_URI = "FEATUREROLLOUT_DATABASE_URI"
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_NOT_FOUND = frozenset({"FlagMissing", "LedgerMissing"})


def uri_options(function: F) -> F:
    """`--database-uri-env` and `--uri-file`."""
    for option in (
        click.option("--uri-file", metavar="FILE", help="A file with the connection string; - is standard input."),
        click.option(
            "--database-uri-env",
            metavar="NAME",
            help=f"The environment variable with the connection string; by default {DATABASE_URI}.",
        ),
    ):
        function = option(function)
    return function


def table_options(function: F) -> F:
    """`--table` and the names of its columns, with the defaults of a FlagStore."""
    for option, default in (
        ("--groups-column", "user_groups"),
        ("--percentage-column", "rollout_percentage"),
        ("--enabled-column", "enabled"),
        ("--name-column", "name"),
        ("--table", "public.feature_flags"),
    ):
        what = "The flag table." if option == "--table" else "A column of it."
        function = click.option(option, default=default, show_default=True, metavar="NAME", help=what)(function)
    return function


def mapping(
    table: str, name_column: str, enabled_column: str, percentage_column: str, groups_column: str
) -> TableMapping:
    """The values of `table_options`; a table without a schema is in `public`."""
    from feature_rollout.store.config import TableMapping

    schema, dot, name = table.partition(".")
    if not dot:
        schema, name = "public", table
    if not (schema and name):
        raise click.UsageError(f"--table {table}: schema.table is wanted")
    return TableMapping(schema, name, name_column, enabled_column, percentage_column, groups_column)


def uri(database_uri_env: str | None, uri_file: str | None, *variables: str) -> str:
    """The connection string of `uri_options`; without them that of the first of these variables that is set."""
    if database_uri_env and uri_file:
        raise click.UsageError("--database-uri-env and --uri-file exclude each other")
    if uri_file:
        return from_file(uri_file)
    names = (database_uri_env,) if database_uri_env else variables or (DATABASE_URI,)
    found = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if found is None:
        raise click.UsageError(
            f"no connection string: set {' or '.join(names)}, or name a file with it by --uri-file; "
            "as an argument everybody on this machine could read it"
        )
    return found.strip()


def from_file(name: str) -> str:
    """The connection string in a file; ends the program with an error that does not show it."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"{name} cannot be read: {reason}") from None
    if not text.strip():
        raise click.UsageError(f"{name} holds no connection string")
    return text.strip()


def access() -> Access:
    """What a person at this machine may connect to: everything, and sockets too."""
    from feature_rollout.connectionstring import Access

    return Access(sockets=True)


def actor(role: str) -> str:
    """Who is at it, for the audit: the database's role, and the user of the operating system and its host.

    The user is that of the process, not of $USER, which anybody may set.
    """
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return f"{role} ({user}@{socket.gethostname()})"


def ask(question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The answer; ends the program with a message when there is none."""
    import asyncio

    from feature_rollout.ports import Problem

    try:
        return asyncio.run(question())
    except Problem as problem:
        exits.fail(str(problem), exit_code(problem))


def exit_code(problem: Problem) -> int:
    """5 for what does not exist, 4 for what stayed locked, else 1."""
    if problem.reason in _NOT_FOUND:
        return exits.NOT_FOUND
    return exits.TIMEOUT if problem.reason == "LockTimeout" else exits.ERROR


def reason_text(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A callback of `--reason`: something must be said."""
    if not value.strip():
        raise click.BadParameter("say why: it stands in the audit")
    return value.strip()
