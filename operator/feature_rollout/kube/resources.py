"""The six resources of our API group, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

GROUP = "featurerollout.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
GROUP_PATH = f"/apis/{GROUP}/{VERSION}"

ROLLOUTS = "featurerollouts"
MATRICES = "rollbackmatrices"
TEMPLATES = "metrictemplates"
PROVIDERS = "metricproviders"
STORES = "flagstores"
ACTIONS = "rolloutactions"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of ours: its name in paths, its name in manifests, and its scope."""

    plural: str
    kind: str
    namespaced: bool


RESOURCES = {
    resource.plural: resource
    for resource in (
        Resource(ROLLOUTS, "FeatureRollout", namespaced=True),
        Resource(MATRICES, "RollbackMatrix", namespaced=True),
        Resource(TEMPLATES, "MetricTemplate", namespaced=True),
        Resource(PROVIDERS, "MetricProvider", namespaced=False),
        Resource(STORES, "FlagStore", namespaced=True),
        Resource(ACTIONS, "RolloutAction", namespaced=True),
    )
}


def path_of(plural: str, namespace: str | None, name: str | None = None) -> str:
    """The path of a collection, or of one object of it; every part is quoted.

    No namespace names the whole cluster, and is the only place of a cluster-scoped kind.
    """
    if plural not in RESOURCES:
        raise ValueError(f"{plural!r} is not a resource of {GROUP}")
    scoped = namespace is not None and RESOURCES[plural].namespaced
    parts = ["namespaces", namespace or "", plural] if scoped else [plural]
    if name is not None:
        parts.append(name)
    return "/".join([GROUP_PATH, *(quote(part, safe="") for part in parts)])
