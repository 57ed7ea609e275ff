"""Tokens rotate in their files, in a pod every hour: the one that is there now is used, without a restart.

A token cannot be made to live for less than ten minutes, so the old one ends here with its ServiceAccount, for which
the API server, which remembers for some seconds whom it knows, answers 401 just as for one that has expired.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.aio.config import incluster_config

from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.sandbox.cluster import Cluster

Setting = Callable[[pytest.MonkeyPatch, Cluster, Path, Path], Connection]


def by_kubeconfig(_: pytest.MonkeyPatch, cluster: Cluster, folder: Path, token: Path) -> Connection:
    file = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url, "certificate-authority": str(cluster.ca_file)}}],
        "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Connection(kubeconfig=str(file))


def in_a_pod(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, _: Path, token: Path) -> Connection:
    parts = urlsplit(cluster.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(parts.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(parts.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(cluster.ca_file))
    return Connection()


@pytest.mark.parametrize("setting", [by_kubeconfig, in_a_pod])
async def test_a_new_token_in_the_file_is_used(
    control_plane: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Setting
) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    for name in ("old", "new"):
        assert control_plane.request("POST", accounts, {"metadata": {"name": name}})[0] == 201
    token = tmp_path / "token"
    token.write_text(control_plane.create_token(namespace, "old"), encoding="utf-8")
    async with Api(setting(monkeypatch, control_plane, tmp_path, token)) as api:
        assert await api.user() == f"system:serviceaccount:{namespace}:old"
        token.write_text(control_plane.create_token(namespace, "new"), encoding="utf-8")
        assert control_plane.request("DELETE", f"{accounts}/old")[0] == 200
        async with asyncio.timeout(90.0):
            while await api.user() != f"system:serviceaccount:{namespace}:new":  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.2)
