"""The demo's stage: a control plane, a database, the operator as a process, and what it needs to work."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from string import Template

from psycopg import sql

from feature_rollout.api.crd import files
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.sandbox.processes import Process

NAMESPACE = "notifications"
OPERATOR_NAMESPACE = "feature-rollout-system"
SERVICE_ACCOUNT = "feature-rollout-operator"
SECRET = "supabase-db"  # noqa: S105 - its name, not its content
DATABASE = "supabase"
ROLES = ("flags_writer", "flags_reader", "flags_owner")


def resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with our CRDs, the namespaces and the operator's rights."""
    with ControlPlane() as cluster, tempfile.TemporaryDirectory() as folder:
        for name, text in files().items():
            Path(folder, name).write_text(text, encoding="utf-8")
        cluster.install_crds(Path(folder))
        for namespace in (NAMESPACE, OPERATOR_NAMESPACE):
            cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("create", "serviceaccount", SERVICE_ACCOUNT, "-n", OPERATOR_NAMESPACE)
        cluster.kubectl("apply", "-f", "-", input=rbac(NAMESPACE, OPERATOR_NAMESPACE, SECRET))
        yield cluster


def rbac(namespace: str, operator_namespace: str, secret: str) -> str:
    """The operator's rights as manifests, for one namespace with one Secret."""
    return Template(resource("rbac.yaml")).substitute(
        NAMESPACE=namespace, OPERATOR_NAMESPACE=operator_namespace, SECRET=secret
    )


def create_database(server: PostgresAccess) -> dict[str, str]:
    """The notification system's database and the operator's three roles; return their connection strings."""
    server.create_database(DATABASE)
    passwords = {role: secrets.token_urlsafe(18) for role in ROLES}
    for role, password in passwords.items():
        server.psql(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
    # The owner makes the bookkeeping schema; the writer may use it as a member of this group.
    server.psql("CREATE ROLE feature_rollout_writer NOLOGIN")
    server.psql("GRANT feature_rollout_writer TO flags_writer")
    server.psql(f"GRANT CREATE ON DATABASE {DATABASE} TO flags_owner", database=DATABASE)
    writer, reader, _ = ROLES
    server.psql(resource("schema.sql").replace("{writer}", writer).replace("{reader}", reader), database=DATABASE)
    uris = {role: server.uri(DATABASE, role, password) for role, password in passwords.items()}
    return {"writer-uri": uris[ROLES[0]], "reader-uri": uris[ROLES[1]], "owner-uri": uris[ROLES[2]]}


def operator(cluster: ControlPlane, folder: Path) -> Process:
    """Start the operator as a process, with the rights of its ServiceAccount and no others."""
    env = {
        "FEATUREROLLOUT_KUBECONFIG": str(cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, SERVICE_ACCOUNT)),
        "FEATUREROLLOUT_WATCH_NAMESPACES": NAMESPACE,
        "FEATUREROLLOUT_HTTP_HOST": "127.0.0.1",
        "FEATUREROLLOUT_HTTP_PORT": "0",
        # Its database is on this machine.
        "FEATUREROLLOUT_DENIED_ADDRESSES": "169.254.0.0/16,fe80::/10",
    }
    argv = [sys.executable, "-m", "feature_rollout.cli", "run"]
    return Process(argv, log=folder / "operator.log", folder=folder, env=env)
