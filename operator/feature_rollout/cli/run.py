"""`featurerollout run`: the operator."""

from __future__ import annotations

import click


@click.command("run")
def command() -> None:
    """Run the operator until SIGTERM or SIGINT.

    It is configured by environment variables that begin with FEATUREROLLOUT_; see the
    reference.
    """
    from feature_rollout.runtime.main import main

    raise SystemExit(main())
