"""Where our objects name others, as Kustomize wants to know it: read from the schemas of the CRDs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from feature_rollout.api.crd import crd
from feature_rollout.kube.resources import GROUP, RESOURCES

# The kind that is named, and its group, by the field that has its name.
TARGETS = {
    "storeRef/name": ("FlagStore", GROUP),
    "matrixRef/name": ("RollbackMatrix", GROUP),
    "templateRef/name": ("MetricTemplate", GROUP),
    "providerRef/name": ("MetricProvider", GROUP),
    "rolloutRef/name": ("FeatureRollout", GROUP),
    "after/rollout": ("FeatureRollout", GROUP),
    "secretKeyRef/name": ("Secret", ""),
    "configMapKeyRef/name": ("ConfigMap", ""),
}


def name_references() -> dict[str, Any]:
    """The field `nameReference` of a configuration of Kustomize."""
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for resource in RESOURCES.values():
        for path in _paths(resource.kind):
            target = next((TARGETS[end] for end in TARGETS if path.endswith(f"/{end}")), None)
            if target is not None:
                found[target].append({"group": GROUP, "kind": resource.kind, "path": path})
            elif path.endswith("Ref/name"):
                raise ValueError(f"{resource.kind} {path} names a kind that TARGETS does not have")
    entries = [
        {"kind": kind, **({"group": group} if group else {}), "fieldSpecs": specs}
        for (kind, group), specs in sorted(found.items())
    ]
    return {"nameReference": entries}


def _paths(kind: str) -> Iterator[str]:
    """Of every field of a spec; Kustomize says nothing of lists in between."""
    (version,) = crd(kind)["spec"]["versions"]
    return _below("spec", version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def _below(path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield path
    for name, inner in (schema.get("items") or schema).get("properties", {}).items():
        yield from _below(f"{path}/{name}", inner)
