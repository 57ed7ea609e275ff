"""`featurerollout bucket FLAG USER`."""

from __future__ import annotations

import click

from feature_rollout.core.exposure import bucket


@click.command("bucket")
@click.argument("salt", metavar="FLAG")
@click.argument("user")
def command(salt: str, user: str) -> None:
    """Print the bucket of USER for FLAG, 0 to 9999.

    A user has a flag when the bucket is below its percentage times 100.
    """
    click.echo(bucket(salt, user))
