"""`featurerollout demo`."""

from __future__ import annotations

import click


@click.command("demo")
def command() -> None:
    """Show a rollout and its revert, on this machine and with nothing made up but the traffic.

    It starts a real kube-apiserver with etcd, a real PostgreSQL and the operator, walks the
    notification system's rollout with bakes of seconds, lets a regression in, and shows the
    operator take exposure back. The first run builds the control plane, which takes
    minutes. Nothing outside a temporary folder and a cache folder is touched.

    Exit code 0, and a last line `demo: ok`, only if the flag table itself shows the revert.
    """
    from feature_rollout.demo.play import play

    raise SystemExit(play())
