"""Whether the CRDs that the API server serves know every field of this program's.

A CRD that is older drops what it does not know from every object without a word. Anybody may
ask for the schemas that are served; the CRDs themselves need a right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from feature_rollout.api.crd import crd
from feature_rollout.api.kinds import KINDS
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import Gone
from feature_rollout.kube.resources import GROUP, GROUP_PATH

# The API server's own, and not in our schemas.
_OF_EVERY_OBJECT: Final = {"apiVersion", "kind", "metadata"}


async def unknown_fields(api: Api) -> list[str]:
    """Fields that the API server would drop, such as `FeatureRollout.spec.stages[].bake`; the outermost only.

    Empty too while it has not published a kind yet. Raises ApiError.
    """
    try:
        answer = await api.request("GET", f"/openapi/v3{GROUP_PATH}")
    except Gone:
        return []
    served = {}
    for schema in ((answer.get("components") or {}).get("schemas") or {}).values():
        for kind in schema.get("x-kubernetes-group-version-kind") or ():
            if kind.get("group") == GROUP:
                served[kind.get("kind")] = schema
    return [
        field
        for kind in KINDS
        if kind in served
        for field in _missing(crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"], served[kind], kind)
    ]


def _missing(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[str]:
    known = theirs.get("properties") or {}
    for name, schema in (ours.get("properties") or {}).items():
        if name in _OF_EVERY_OBJECT:
            continue
        if name in known:
            yield from _missing(schema, known[name], f"{path}.{name}")
        elif not theirs.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name}"
    for within, sign in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(ours.get(within), Mapping) and isinstance(theirs.get(within), Mapping):
            yield from _missing(ours[within], theirs[within], path + sign)
