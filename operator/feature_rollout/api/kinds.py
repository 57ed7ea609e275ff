"""The six kinds by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_rollout.api.base import API_VERSION, InvalidObject, Resource
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.metricprovider import MetricProvider
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.rollbackmatrix import RollbackMatrix
from feature_rollout.api.rolloutaction import RolloutAction

KINDS: Mapping[str, type[Resource]] = {
    "FeatureRollout": FeatureRollout,
    "RollbackMatrix": RollbackMatrix,
    "MetricTemplate": MetricTemplate,
    "MetricProvider": MetricProvider,
    "FlagStore": FlagStore,
    "RolloutAction": RolloutAction,
}


def is_ours(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest belongs to our API group, in whatever version."""
    version = manifest.get("apiVersion")
    return isinstance(version, str) and version.partition("/")[0] == API_VERSION.partition("/")[0]


def parse(manifest: Mapping[str, Any]) -> Resource:
    """An object of one of our kinds. Raises InvalidObject."""
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidObject([("kind", f"{kind!r} is not one of {', '.join(KINDS)}")])
    return KINDS[kind].parse(manifest)
