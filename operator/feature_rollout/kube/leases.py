"""The Leases that replicas share (`coordination.k8s.io/v1`), and where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from feature_rollout.core.election import Lease
from feature_rollout.core.shards import SHARDS_MAX
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import Gone

API_VERSION: Final = "coordination.k8s.io/v1"
# How many shards there are, on the Lease of the first one; no annotation says that it is the only one.
SHARDS: Final = "featurerollout.dev/shards"
# The replica that has asked the holder for the Lease.
WANTED_BY: Final = "featurerollout.dev/wanted-by"
# Where the kubelet tells a container which namespace its pod is in.
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def pod_namespace(file: Path = NAMESPACE_FILE) -> str | None:
    """The namespace of the pod that this process runs in, or None outside of one."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class KubeLease:
    """One Lease: `get`, and `write` under the resourceVersion that was read. Both raise an ApiError."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self._api = api
        self._collection = f"/apis/{API_VERSION}/namespaces/{quote(namespace, safe='')}/leases"

    async def get(self, timeout_s: float) -> Lease | None:
        """The Lease as it is now, or None when there is none."""
        try:
            return _lease(await self._api.request("GET", self._path, timeout_s=timeout_s))
        except Gone:
            return None

    async def write(self, lease: Lease, timeout_s: float) -> Lease:
        """Make it this; raises Stale when it is another than was read, also when somebody has created it."""
        body = _manifest(lease, self.namespace, self.name)
        if lease.source:
            return _lease(await self._api.request("PUT", self._path, body=body, timeout_s=timeout_s))
        return _lease(await self._api.request("POST", self._collection, body=body, timeout_s=timeout_s))

    @property
    def _path(self) -> str:
        return f"{self._collection}/{quote(self.name, safe='')}"


def micro_time(at: datetime) -> str:
    """As the API server writes a MicroTime; with fewer digits it would refuse it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _lease(obj: Mapping[str, Any]) -> Lease:
    spec = obj.get("spec") or {}
    annotations = obj["metadata"].get("annotations") or {}
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
        acquired_at=str(spec.get("acquireTime") or ""),
        renewed_at=str(spec.get("renewTime") or ""),
        transitions=int(spec.get("leaseTransitions") or 0),
        shards=_count(annotations.get(SHARDS, "1")),
        wanted_by=annotations.get(WANTED_BY, ""),
        source=obj,
    )


def _count(text: str) -> int:
    """As many shards as it says, within bounds: its holder corrects what somebody else has written there."""
    return min(max(int(text), 1), SHARDS_MAX) if re.fullmatch("[0-9]{1,3}", text) else 1


def _manifest(lease: Lease, namespace: str, name: str) -> dict[str, Any]:
    spec = {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": int(lease.duration_s),
        "acquireTime": lease.acquired_at,
        "renewTime": lease.renewed_at,
        "leaseTransitions": lease.transitions,
    }
    known = {field: value for field, value in spec.items() if value != "" or field == "holderIdentity"}
    source = lease.source or {
        "apiVersion": API_VERSION,
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
    }
    ours = {SHARDS: str(lease.shards) if lease.shards > 1 else None, WANTED_BY: lease.wanted_by or None}
    annotations = {**(source["metadata"].get("annotations") or {}), **ours}
    kept = {name: text for name, text in annotations.items() if text is not None}
    metadata = {**source["metadata"], "annotations": kept}
    return {**source, "metadata": metadata, "spec": {**(source.get("spec") or {}), **known}}
