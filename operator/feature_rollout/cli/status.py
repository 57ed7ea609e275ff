"""`featurerollout status`: where rollouts are."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from feature_rollout.cli import cluster
from feature_rollout.kube.client import Api
from feature_rollout.kube.resources import ROLLOUTS

FORMATS = ("table", "wide", "json", "yaml", "name")


@click.command("status")
@click.argument("name", required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="The rollouts of all namespaces.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@cluster.connection_options
def command(
    name: str | None,
    *,
    all_namespaces: bool,
    output: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Show one rollout, or all of a namespace.

    Exit code 3 when one of them is stalled or rolled back, 5 when it does not exist.
    """
    where = None if all_namespaces else cluster.namespace_of(namespace, kubeconfig, context)
    if name and where is None:
        raise click.UsageError("a NAME needs one namespace: use -n instead of -A")

    async def question(api: Api) -> list[dict[str, Any]]:
        if name and where is not None:
            return [await cluster.one_rollout(api, where, name)]
        return (await api.list(ROLLOUTS, where))[0]

    rollouts = cluster.ask(kubeconfig, context, question)
    _print(rollouts, output, single=name is not None)
    raise SystemExit(cluster.exit_code(rollouts))


def _print(rollouts: list[dict[str, Any]], output: str, *, single: bool) -> None:
    if output in {"json", "yaml"}:
        value = rollouts[0] if single else {"apiVersion": "v1", "kind": "List", "items": rollouts}
        click.echo(
            json.dumps(value, indent=2) if output == "json" else yaml.safe_dump(value, sort_keys=False), nl=False
        )
    elif output == "name":
        for rollout in rollouts:
            click.echo(f"featurerollout.featurerollout.dev/{rollout['metadata']['name']}")
    else:
        console = Console(highlight=False, soft_wrap=output == "wide")
        console.print(table(rollouts, wide=output == "wide") if rollouts else "No rollouts.")


def table(rollouts: list[dict[str, Any]], *, wide: bool) -> Table:
    """The columns of `kubectl get`, with the reason and the message when `wide`."""
    columns = (
        "NAMESPACE",
        "NAME",
        "PHASE",
        "STAGE",
        "EXPOSURE",
        "HEALTH",
        "READY",
        *(("REASON", "MESSAGE") if wide else ()),
    )
    grid = Table(*columns, box=None, pad_edge=False)
    for rollout in rollouts:
        metadata, status = rollout["metadata"], rollout.get("status") or {}
        summary, ready = status.get("summary") or {}, cluster.condition(rollout, "Ready")
        cells = [metadata["namespace"], metadata["name"], status.get("phase", "Pending")]
        cells += [summary.get(key, "-") for key in ("stage", "exposure", "health")]
        cells.append(ready.get("status", "Unknown"))
        grid.add_row(*cells, *((ready.get("reason", ""), ready.get("message", "")) if wide else ()))
    return grid
