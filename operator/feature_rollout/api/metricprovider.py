"""MetricProvider: a metric back end, and who may ask it."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.conditions import ObjectStatus
from feature_rollout.api.rules import Rule, matches
from feature_rollout.api.values import AS_SET

Address = Annotated[
    str,
    Field(max_length=512),
    matches(
        r"https?://[^\s/?#@]+(/[^\s?#]*)?",
        '"{value}" is not an address: write http:// or https://, a host and perhaps a port and a path',
    ),
]
_NAMESPACE = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NamespaceOrAll = Annotated[
    str,
    Field(max_length=63),
    Rule[str](
        f"self == '*' || self.matches('^{_NAMESPACE}$')",
        '"{value}" is not a namespace: name one, or write "*" for all',
        lambda text: None if text == "*" or re.fullmatch(_NAMESPACE, text) else {"value": text},
        value="self",
    ),
]


class Prometheus(ApiModel):
    """A Prometheus, or whatever answers its HTTP API."""

    address: Address
    """Where it is, such as http://prometheus.monitoring.svc:9090."""


class MetricProviderSpec(ApiModel):
    """A connection to a metric back end."""

    prometheus: Prometheus
    """The back end."""
    allowed_namespaces: Annotated[tuple[NamespaceOrAll, ...], Field(max_length=256), AS_SET] = ()
    """The namespaces whose metrics may ask it; "*" is all, an empty list is none."""

    def allows(self, namespace: str) -> bool:
        return "*" in self.allowed_namespaces or namespace in self.allowed_namespaces


class MetricProvider(Resource):
    """A metric back end and the namespaces that may use it.

    It belongs to the cluster, so that only administrators decide which hosts are called, and for whom.
    """

    plural: ClassVar = "metricproviders"
    short_names: ClassVar = ("mp",)
    scope: ClassVar = "Cluster"

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["MetricProvider"]
    spec: MetricProviderSpec
    """The connection."""
    status: ObjectStatus | None = None
    """What the operator found out about the provider."""
