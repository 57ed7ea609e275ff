"""What the verbs that ask the API server share: options, errors, exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from feature_rollout.cli import exits
from feature_rollout.cli.exits import fail
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection, NoConnection
from feature_rollout.kube.errors import ApiError, Gone, PermissionDenied, Refused
from feature_rollout.kube.resources import ROLLOUTS

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def connection_options(function: F) -> F:
    """`--kubeconfig`, `--context` and `-n`, as kubectl has them."""
    for option in (
        click.option("--kubeconfig", envvar="KUBECONFIG", help="The kubeconfig file."),
        click.option("--context", help="A context of the kubeconfig; by default its current one."),
        click.option("-n", "--namespace", help="The namespace; by default that of the context."),
    ):
        function = option(function)
    return function


def ask(kubeconfig: str | None, context: str | None, question: Callable[[Api], Awaitable[T]]) -> T:
    """Open a connection, ask, close it. Ends the program with a message when there is no answer."""

    async def run() -> T:
        async with Api(Connection(kubeconfig, context)) as api:
            return await question(api)

    try:
        return asyncio.run(run())
    except Gone:
        fail("the API server has no FeatureRollouts: install the CRDs (featurerollout crds | kubectl apply -f -)")
    except NoConnection as error:
        fail(str(error))
    except PermissionDenied as error:
        fail(error.detail or f"forbidden: {error}")
    except Refused as error:
        fail(error.detail or f"the API server refuses it: {error}")
    except ApiError as error:
        fail(f"the API server gave no answer: {error}")


async def one_rollout(api: Api, namespace: str, name: str) -> dict[str, Any]:
    """The rollout; ends the program with 5 when there is none."""
    rollout = await api.get(ROLLOUTS, namespace, name)
    if rollout is None:
        fail(f"there is no FeatureRollout {name} in namespace {namespace}", exits.NOT_FOUND)
    return rollout


def namespace_of(namespace: str | None, kubeconfig: str | None, context: str | None) -> str:
    """The namespace asked for, else the context's, else `default`."""
    if namespace:
        return namespace
    from kubernetes.config import ConfigException, list_kube_config_contexts

    try:
        contexts, active = list_kube_config_contexts(config_file=kubeconfig)
    except ConfigException:
        return "default"
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen.get("context", {}).get("namespace") or "default")


def duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """A callback of options such as `--timeout 30s`: seconds."""
    import durationpy

    try:
        return float(durationpy.from_str(value).total_seconds())
    except durationpy.DurationError:
        raise click.BadParameter(f'"{value}" is not a duration: write numbers with s, m or h, such as 30s') from None


def condition(rollout: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of the rollout, or an empty one."""
    conditions = (rollout.get("status") or {}).get("conditions") or []
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def exit_code(rollouts: list[dict[str, Any]]) -> int:
    """3 when one of them is stalled or rolled back, else 0."""
    stalled = any(condition(rollout, "Stalled").get("status") == "True" for rollout in rollouts)
    return exits.DEGRADED if stalled else 0
