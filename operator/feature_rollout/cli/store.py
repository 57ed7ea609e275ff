"""`featurerollout store install`."""

from __future__ import annotations

import click


@click.group("store")
def command() -> None:
    """Look after the bookkeeping in the database."""


@command.command("install")
@click.option("--print", "print_only", is_flag=True, required=True, help="Print the SQL, to be run by the owner role.")
def install(*, print_only: bool) -> None:  # noqa: ARG001 - without it the command would seem to act
    """Print the SQL that creates the schema feature_rollout, or brings it up to date.

    Run it as the owner of the database: featurerollout store install --print | psql "$OWNER_URI"
    """
    from feature_rollout.store.migrations import script

    click.echo(script())
