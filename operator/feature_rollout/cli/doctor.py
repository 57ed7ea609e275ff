"""`featurerollout doctor`: is the database set up as the operator needs it?"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from feature_rollout.cli import database, exits
from feature_rollout.cli.store import lines
from feature_rollout.core.shards import SHARDS_MAX, lease_of

if TYPE_CHECKING:
    from feature_rollout.connectionstring import Server
    from feature_rollout.store.findings import Finding

ROLES = ("writer", "reader", "owner")


@click.command("doctor")
@click.option("--writer-uri-file", metavar="FILE", help="The writer's connection string, instead of the environment.")
@click.option("--reader-uri-file", metavar="FILE", help="The reader's.")
@click.option("--owner-uri-file", metavar="FILE", help="The owner's.")
@database.table_options
@click.option("--cluster", is_flag=True, help="Check the cluster too: CRDs, Secrets, rights, admission policies.")
@click.option(
    "--as",
    "operator",
    metavar="USER",
    help="With --cluster: whose rights, such as system:serviceaccount:NAMESPACE:feature-rollout-operator.",
)
@click.option(
    "--cluster-name",
    envvar="FEATUREROLLOUT_CLUSTER_NAME",
    help="With --cluster: the operator's setting, where it has one.",
)
@click.option(
    "--lease-name",
    envvar="FEATUREROLLOUT_LEASE_NAME",
    default="",
    help="With --cluster: the Lease that the operator's replicas share, in the namespace of its service account.",
)
@click.option(
    "--shards",
    envvar="FEATUREROLLOUT_SHARDS",
    type=click.IntRange(1, SHARDS_MAX),
    default=1,
    help="With --cluster: the operator's setting; each shard has a Lease of its own.",
)
@click.option("--kubeconfig", envvar="KUBECONFIG", help="The kubeconfig file.")
@click.option("--context", help="A context of the kubeconfig; by default its current one.")
@click.option("-n", "--namespace", help="The namespace of the FlagStores; by default that of the context.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def command(
    *,
    writer_uri_file: str | None,
    reader_uri_file: str | None,
    owner_uri_file: str | None,
    cluster: bool,
    operator: str | None,
    cluster_name: str | None,
    lease_name: str,
    shards: int,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    output: str,
    **columns: str,
) -> None:
    """Check the database, the flag table and the three roles, and the cluster, and say what to do.

    Connection strings are those of FEATUREROLLOUT_WRITER_URI, FEATUREROLLOUT_READER_URI and
    FEATUREROLLOUT_OWNER_URI, or in files; a role without one is skipped. Nothing is written.

    Exit codes: 0 all is well, 3 there are warnings, 1 there are errors.
    """
    from feature_rollout.store import doctor

    table = database.mapping(**columns)
    files = dict(zip(ROLES, (writer_uri_file, reader_uri_file, owner_uri_file), strict=True))
    uris = {role: _uri(role, file) for role, file in files.items()}
    if operator and not cluster:
        raise click.UsageError("--as names whose rights --cluster asks for: add --cluster")
    if not any(uris.values()) and not cluster:
        names = ", ".join(_variable(role) for role in ROLES)
        raise click.UsageError(f"no connection string: set {names}, or name files with them")
    servers, findings = _parsed(uris)
    if any(servers.values()):
        findings += asyncio.run(doctor.examine(doctor.Roles(**servers), table))
    if cluster:
        leases = [lease_of(lease_name, shard) for shard in range(shards)] if lease_name else []
        findings += _cluster(kubeconfig, context, namespace, operator, named=bool(cluster_name), leases=leases)
    unusable = {finding.check for finding in findings if finding.check.endswith(": connection string")}
    # One whose string cannot be used was given: it is not skipped.
    findings = [f for f in findings if f"{f.check}: connection string" not in unusable]
    _print(findings, output)
    raise SystemExit(exit_code(findings))


def _cluster(
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    operator: str | None,
    *,
    named: bool,
    leases: Sequence[str],
) -> list[Finding]:
    from feature_rollout.cli import doctor_cluster
    from feature_rollout.cli.cluster import namespace_of
    from feature_rollout.kube.client import Api
    from feature_rollout.kube.connection import Connection
    from feature_rollout.kube.errors import ApiError

    async def run() -> list[Finding]:
        async with Api(Connection(kubeconfig, context)) as api:
            where = namespace_of(namespace, kubeconfig, context)
            return await doctor_cluster.examine(api, where, operator, named=named, leases=leases)

    try:
        return asyncio.run(run())
    except ApiError as error:
        return [doctor_cluster.unreachable(error)]


def _variable(role: str) -> str:
    return f"FEATUREROLLOUT_{role.upper()}_URI"


def _uri(role: str, file: str | None) -> str | None:
    return database.from_file(file) if file else os.environ.get(_variable(role), "").strip() or None


def _parsed(uris: dict[str, str | None]) -> tuple[dict[str, Server | None], list[Finding]]:
    from feature_rollout.connectionstring import parse_uri
    from feature_rollout.ports import Problem
    from feature_rollout.store.findings import Finding, Result

    servers: dict[str, Server | None] = dict.fromkeys(uris)
    findings = []
    for role, uri in uris.items():
        try:
            servers[role] = parse_uri(uri, role, database.access()) if uri else None
        except Problem as problem:
            message = f"{problem.reason}: {problem.message}"
            findings.append(Finding(f"{role}: connection string", Result.ERROR, message))
    return servers, findings


def _print(findings: list[Finding], output: str) -> None:
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return
    rows = [(finding.check, str(finding.result), finding.message) for finding in findings]
    click.echo(lines([("CHECK", "RESULT", "WHAT WAS FOUND, AND WHAT TO DO"), *rows]))


def exit_code(findings: list[Finding]) -> int:
    """1 for an error, 3 for a warning, else 0."""
    results = {str(finding.result) for finding in findings}
    if "error" in results:
        return exits.ERROR
    return exits.DEGRADED if "warning" in results else 0
