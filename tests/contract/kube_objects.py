"""Valid objects of ours for tests against an API server, and the CRDs to serve them."""

import copy
from pathlib import Path
from typing import Any

from feature_rollout.kube.connection import Connection
from feature_rollout.sandbox.cluster import Cluster

CRDS = Path(__file__).parents[2] / "crds"

ROLLOUT: dict[str, Any] = {
    "apiVersion": "featurerollout.dev/v1alpha1",
    "kind": "FeatureRollout",
    "metadata": {"name": "checkout"},
    "spec": {
        "storeRef": {"name": "shop-db"},
        "metrics": [
            {
                "name": "error-rate",
                "interval": "30s",
                "template": {
                    "type": "Ratio",
                    "prometheus": {
                        "providerRef": {"name": "prometheus"},
                        "events": "sum(increase(http_errors_total[{{window}}]))",
                        "units": "sum(increase(http_requests_total[{{window}}]))",
                    },
                },
            }
        ],
        "matrix": {
            "rows": [
                {
                    "severity": "High",
                    "when": [{"metric": "error-rate", "above": "1%"}],
                    "respondWithin": "15m",
                    "action": {"type": "DisableFlags"},
                }
            ]
        },
        "stages": [{"name": "canary", "flags": [{"names": ["new_checkout"], "percentage": 5}], "bake": "1d"}],
    },
}

PROVIDER: dict[str, Any] = {
    "apiVersion": "featurerollout.dev/v1alpha1",
    "kind": "MetricProvider",
    "metadata": {"name": "prometheus"},
    "spec": {"prometheus": {"address": "http://prometheus.monitoring.svc:9090"}, "allowedNamespaces": ["*"]},
}


def rollout(name: str) -> dict[str, Any]:
    made = copy.deepcopy(ROLLOUT)
    made["metadata"]["name"] = name
    return made


def provider(name: str) -> dict[str, Any]:
    made = copy.deepcopy(PROVIDER)
    made["metadata"]["name"] = name
    return made


def path(namespace: str, name: str = "") -> str:
    collection = f"/apis/featurerollout.dev/v1alpha1/namespaces/{namespace}/featurerollouts"
    return f"{collection}/{name}" if name else collection


def create(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    status, made = cluster.request("POST", path(namespace), rollout(name))
    assert status == 201, made
    return dict(made)


def connection(cluster: Cluster, user: str = "admin") -> Connection:
    return Connection(kubeconfig=str(cluster.kubeconfig(user)))
