"""`featurerollout bucket SALT USER`."""

from __future__ import annotations

import click

from feature_rollout.core.exposure import bucket


@click.command("bucket")
@click.argument("salt")
@click.argument("user")
def command(salt: str, user: str) -> None:
    """Print the bucket of USER, 0 to 9999.

    SALT is the flag's name. The user has the flag when the bucket is below the
    percentage times 100.
    """
    click.echo(bucket(salt, user))
