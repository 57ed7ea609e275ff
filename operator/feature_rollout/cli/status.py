"""`featurerollout status`: where rollouts are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import click
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from feature_rollout.cli import cluster, exits, explain
from feature_rollout.cli.exits import fail
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiUnavailable
from feature_rollout.kube.resources import ROLLOUTS

TABLES = ("table", "wide")
FORMATS = (*TABLES, "json", "yaml", "name")
POLL_S = 1.0

Question = Callable[[], Awaitable[list[dict[str, Any]]]]


@click.command("status")
@click.argument("name", required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="The rollouts of all namespaces.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-w", "--watch", is_flag=True, help="Go on showing them until Ctrl-C: in place, or a line a change.")
@click.option("--wait", is_flag=True, help="Wait until NAME is ready: rows as planned, guards watching.")
@click.option("--timeout", default="5m", show_default=True, callback=cluster.duration, help="How long --wait waits.")
@cluster.connection_options
def command(
    name: str | None,
    *,
    all_namespaces: bool,
    output: str,
    watch: bool,
    wait: bool,
    timeout: float,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Show one rollout, or all of a namespace.

    Exit code 3 when one of them is stalled or rolled back, 4 when --wait came to no end, 5 when
    it does not exist.
    """
    where = None if all_namespaces else cluster.namespace_of(namespace, kubeconfig, context)
    if name and where is None:
        raise click.UsageError("a NAME needs one namespace: use -n instead of -A")
    if watch and (wait or output not in TABLES):
        raise click.UsageError("--watch shows tables and has no end: leave out --wait, and -o but for wide")
    if wait and not name:
        raise click.UsageError("--wait waits for one rollout: name it")

    async def question(api: Api) -> list[dict[str, Any]]:
        if name and where is not None:
            return [await cluster.one_rollout(api, where, name)]
        return (await api.list(ROLLOUTS, where))[0]

    if watch:
        _watch(lambda show: cluster.ask(kubeconfig, context, lambda api: _follow(partial(question, api), show)), output)
        return
    rollouts = cluster.ask(
        kubeconfig, context, lambda api: _ready(partial(question, api), timeout) if wait else question(api)
    )
    _print(rollouts, output, single=name is not None)
    raise SystemExit(cluster.exit_code(rollouts))


async def _follow(question: Question, show: Callable[[list[dict[str, Any]]], None]) -> NoReturn:
    """Show what there is, again and again; while the API server is away, what there was."""
    while True:
        with suppress(ApiUnavailable):
            show(await question())
        await asyncio.sleep(POLL_S)


def _watch(follow: Callable[[Callable[[list[dict[str, Any]]], None]], None], output: str) -> None:
    console, wide = Console(highlight=False), output == "wide"
    # Ctrl-C is how it ends, and no failure.
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                follow(lambda rollouts: live.update(table(rollouts, wide=wide), refresh=True))
        else:
            told: dict[str, str] = {}
            follow(lambda rollouts: _tell_changes(rollouts, told))


def _tell_changes(rollouts: list[dict[str, Any]], told: dict[str, str]) -> None:
    """A line for each rollout that is not as it was `told`."""
    for rollout in rollouts:
        line = explain.sentence(rollout)
        if told.get(rollout["metadata"]["uid"]) != line:
            told[rollout["metadata"]["uid"]] = line
            click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}")


async def _ready(question: Question, timeout_s: float) -> list[dict[str, Any]]:
    """Until the rollout, as it stands now, is ready or stalled; ends the program when the time is over."""
    clock = asyncio.get_running_loop()
    deadline, last = clock.time() + timeout_s, "the API server gave no answer"
    while True:
        with suppress(ApiUnavailable):
            rollouts = await question()
            if _is_settled(rollouts[0]):
                return rollouts
            last = explain.sentence(rollouts[0])
        if clock.time() >= deadline:
            fail(f"not ready within {timeout_s:g}s: {last}", exits.TIMEOUT)
        await asyncio.sleep(POLL_S)


def _is_settled(rollout: dict[str, Any]) -> bool:
    seen = (rollout.get("status") or {}).get("observedGeneration", -1) >= rollout["metadata"]["generation"]
    return seen and any(cluster.condition(rollout, kind).get("status") == "True" for kind in ("Ready", "Stalled"))


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
