"""How the database is reached: a CA of one's own, and addresses that an administrator denies."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from feature_rollout.demo import stage as demo
from feature_rollout.sandbox.postgres import PostgresServer
from support.manifests import SECRET, STORE, A, key_of, rollout, stage, store
from support.operatorprocess import Operator
from support.tls import Authority, tls_postgres
from support.world import World

# Secrets and FlagStores are looked at every ten seconds.
HEAL_S = 40.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def own_postgres(authority: Authority):
    with PostgresServer(tls_postgres().bin_dir, tls=authority.issue("localhost")) as server:
        yield server


def with_authority(source: dict[str, Any]) -> dict[str, Any]:
    manifest = store()
    manifest["spec"]["postgres"]["caCertificate"] = source
    return manifest


def say(world: World, certificate: str) -> None:
    uris = {name: uri.replace("127.0.0.1", "localhost") for name, uri in world.uris().items()}
    world.secret(SECRET, {**uris, "ca.crt": certificate})


def create(world: World, group: str, plural: str, obj: dict[str, Any]) -> None:
    status, answer = world.cluster.request("POST", f"{group}/namespaces/{world.namespace}/{plural}", obj)
    assert status == HTTPStatus.CREATED, answer


def allow_config_map(world: World, name: str) -> None:
    metadata, group = {"name": "ca"}, "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": demo.SERVICE_ACCOUNT, "namespace": world.namespace}
    binding = {"roleRef": {"apiGroup": group, "kind": "Role", "name": "ca"}, "subjects": [subject]}
    create(world, f"/apis/{group}/v1", "roles", {"metadata": metadata, "rules": [rule]})
    create(world, f"/apis/{group}/v1", "rolebindings", {"metadata": metadata, **binding})


def test_a_ca_of_ones_own(own_world: World, authority: Authority, operator: Operator, tmp_path: Path) -> None:
    world = own_world

    def wait_store(status: str, reason: str) -> Any:
        return world.wait_condition("Ready", status, reason, name=STORE, kind="FlagStore", timeout_s=HEAL_S)

    say(world, Authority(tmp_path / "other").certificate)
    world.apply(with_authority(key_of("ca.crt")), rollout(stages=[stage("ten", 10, "60s")]))
    assert "another CA than the one named by spec.postgres.caCertificate" in wait_store("False", "TlsFailed")["message"]
    say(world, "none at all")
    assert "is no certificate in PEM" in wait_store("False", "ConnectionInvalid")["message"]
    say(world, authority.certificate)
    wait_store("True", "StoreUsable")
    world.wait_row(A, (True, 10, frozenset()))
    encrypted = world.database.query(
        "SELECT DISTINCT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = ANY(%s)",
        [world.writer, world.reader],
    )
    assert encrypted == [{"ssl": True}]

    world.apply(with_authority({"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}))
    assert "may not read ConfigMap ca" in wait_store("False", "ApiServerForbidden")["message"]
    allow_config_map(world, "ca")
    assert "there is no ConfigMap ca" in wait_store("False", "ConfigMapNotFound")["message"]
    create(world, "/api/v1", "configmaps", {"metadata": {"name": "ca"}, "data": {"ca.crt": authority.certificate}})
    wait_store("True", "StoreUsable")


def test_an_address_that_is_denied(world: World, idle_operator: Operator) -> None:
    idle_operator.start(denied_addresses="127.0.0.0/8,169.254.0.0/16")
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    found = world.wait_condition("Ready", "False", "AddressDenied", name=STORE, kind="FlagStore")
    assert "127.0.0.0/8" in found["message"]
    idle_operator.kill()
    idle_operator.start()
    world.wait_condition("Ready", "True", "StoreUsable", name=STORE, kind="FlagStore", timeout_s=HEAL_S)
    world.wait_row(A, (True, 10, frozenset()))
