"""`featurerollout explain`: why a rollout is where it is, and what it waits for."""

from __future__ import annotations

import math
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from feature_rollout.cli import cluster
from feature_rollout.kube.client import Api


@click.command("explain")
@click.argument("name")
@cluster.connection_options
def command(name: str, *, namespace: str | None, kubeconfig: str | None, context: str | None) -> None:
    """Say in one sentence why rollout NAME is where it is, and show its guards.

    The numbers are those of the last decision. Exit code 3 when it is stalled or rolled
    back, 5 when it does not exist.
    """
    where = cluster.namespace_of(namespace, kubeconfig, context)

    async def question(api: Api) -> dict[str, Any]:
        return await cluster.one_rollout(api, where, name)

    rollout = cluster.ask(kubeconfig, context, question)
    console = Console(highlight=False)
    console.print(sentence(rollout))
    for line in details(rollout):
        console.print(f"  {line}")
    metrics = (rollout.get("status") or {}).get("metrics") or []
    if metrics:
        console.print()
        console.print(guards(metrics))
    raise SystemExit(cluster.exit_code([rollout]))


def sentence(rollout: dict[str, Any]) -> str:
    """One sentence: the rollout, its phase, and the message of the last decision."""
    metadata, status = rollout["metadata"], rollout.get("status") or {}
    name = f"{metadata['namespace']}/{metadata['name']}"
    if status.get("observedGeneration", -1) < 0:
        return f"{name} was not seen by an operator yet: is one running that watches its namespace?"
    message = cluster.condition(rollout, "Reconciling").get("message", "")
    text = f"{name} is {status.get('phase', 'Pending')}: {message}"
    if status["observedGeneration"] < metadata["generation"]:
        text += f" (Generation {metadata['generation']} was not looked at yet.)"
    return text


def details(rollout: dict[str, Any]) -> list[str]:
    """The lines below the sentence: stage, what is next, the revert, fields without effect."""
    status = rollout.get("status") or {}
    lines = []
    if stage := status.get("stage"):
        until = f", bakes until {stage['bakeEndsAt']} if it stays healthy" if "bakeEndsAt" in stage else ""
        lines.append(
            f"stage     {stage['name']} ({stage['index']} of {stage['of']}), since {stage.get('since', '?')}{until}"
        )
    if exposure := (status.get("summary") or {}).get("exposure"):
        lines.append(f"exposure  {exposure}")
    if following := status.get("next"):
        lines.append(f"next      {following['action']}")
        lines += [f"          waits for {words}" for words in following.get("waitingFor", [])]
    if revert := status.get("rollback"):
        lines += _revert(revert)
    unused = cluster.condition(rollout, "FieldsInEffect")
    if unused.get("status") == "False":
        lines.append(f"no effect {unused['message']}")
    return lines


def _revert(revert: dict[str, Any]) -> list[str]:
    """What took exposure back: a person, or a breach and how soon."""
    if "requestedBy" in revert:
        because = f': "{revert["reason"]}"' if revert.get("reason") else ""
        return [f"revert    {revert['action']} (to {revert['to']}) by {revert['requestedBy']}{because}"]
    breach = f"{revert['metric']} was {revert['value']}, limit {revert['limit']}"
    return [
        f"revert    {revert['action']} ({revert['severity']}): {breach}",
        f"          {revert['respondedIn']} after onset; {revert['respondWithin']} were allowed",
    ]


def guards(metrics: list[dict[str, Any]]) -> Table:
    """A line a metric: its newest value, its nearest limit, and how strong the evidence is."""
    grid = Table("METRIC", "VERDICT", "VALUE", "GUARD", "TEST", "EVIDENCE", "AT", "NOTE", box=None, pad_edge=False)
    for metric in metrics:
        log_evidence = metric.get("evidence")
        strength = f"{math.exp(min(float(log_evidence), 700)):.3g}" if log_evidence is not None else "-"
        grid.add_row(
            metric["name"],
            metric.get("verdict", "-"),
            _with(metric.get("value", "-"), "control", metric.get("control")),
            _with(metric.get("limit", "-"), "now", None if _is_absolute(metric) else metric.get("limitInForce")),
            metric.get("test", "-"),
            strength,
            metric.get("at", "-"),
            metric.get("message", ""),
        )
    return grid


def _with(text: str, word: str, value: str | None) -> str:
    return text if value is None else f"{text} ({word} {value})"


def _is_absolute(metric: dict[str, Any]) -> bool:
    """Whether the limit in force is the one that the clause names anyway."""
    return str(metric.get("limit", "")).endswith(str(metric.get("limitInForce", "")))
