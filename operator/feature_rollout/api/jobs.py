"""Manifests of Jobs, which are checks: what may stand in one, read from text that anybody may have written.

The operator creates the Job with its own rights, so it decides the namespace, the name and the
owner, and takes nothing else of the metadata than labels and annotations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from feature_rollout.api import manifests

# Characters of YAML; a Job of this size is no Job any more, and reading takes time.
SIZE_MAX: Final = 64 * 1024
# Levels of YAML; a Job has some ten. The time to read grows with their square: minutes for brackets of SIZE_MAX.
DEPTH_MAX: Final = 64
# Below this the Job could be gone before its end was seen, and would be run again and again.
TTL_S_MIN: Final = 3600
API_VERSION: Final = "batch/v1"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_CHARACTERS_MAX: Final = 63
_SHOWN_CHARACTERS_MAX: Final = 63
_METADATA: Final = ("name", "namespace", "labels", "annotations")
# A Job that selects other Pods than its own would count, and end, those of others.
_SPEC_REFUSED: Final = ("selector", "manualSelector")


class InvalidJob(Exception):
    """A text that is not the manifest of a Job that a check may run; the message begins with the field."""


@dataclass(frozen=True, slots=True)
class JobManifest:
    """A Job to be: its spec is the API server's to check. `name` is empty when the manifest has none."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]


def parse(text: str, namespace: str) -> JobManifest:
    """The manifest for a rollout of this namespace, which is empty where nobody knows it yet. Raises InvalidJob."""
    job = _document(text)
    kind = (job.get("apiVersion"), job.get("kind"))
    if kind != (API_VERSION, "Job"):
        raise InvalidJob(f"apiVersion, kind: {_shown(kind[0])}, {_shown(kind[1])}: write {API_VERSION}, Job")
    for name in job.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        raise InvalidJob(f"{_shown(name)}: is not a field of a Job: remove it")
    metadata, spec = _mapping(job, "metadata", ""), _mapping(job, "spec", "")
    for problem in (*_metadata_problems(metadata, namespace), *_spec_problems(spec)):
        raise InvalidJob(problem)
    return JobManifest(
        name=metadata.get("name") or "",
        labels=_texts(metadata, "labels"),
        annotations=_texts(metadata, "annotations"),
        spec=spec,
    )


def _document(text: str) -> dict[str, Any]:
    """The one document, of plain JSON values."""
    if len(text) > SIZE_MAX:
        raise InvalidJob(f"the text has {len(text)} characters: {SIZE_MAX} is the most")
    try:
        _check_structure(text)
        documents = manifests.load(text, "")
        found = [json.loads(json.dumps(document.manifest, allow_nan=False)) for document in documents]
    except (manifests.ManifestError, yaml.YAMLError, RecursionError, TypeError, ValueError):
        # What the parser says has parts of the text in it, which not everybody may read who sees this.
        raise InvalidJob(
            "the text is not YAML of plain values: kubectl create --dry-run=client -f says where"
        ) from None
    if len(found) != 1:
        raise InvalidJob(f"the text has {len(found)} documents: write one Job, and a check for each other")
    document: dict[str, Any] = found[0]
    return document


def _check_structure(text: str) -> None:
    """Before it is loaded: a few aliases of aliases are more than a memory holds, and depth takes time."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InvalidJob("the text has a YAML alias (*name): write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise InvalidJob(f"the text has more than {DEPTH_MAX} levels: a Job has some ten")


def _metadata_problems(metadata: Mapping[str, Any], namespace: str) -> Iterator[str]:
    if metadata.get("generateName") is not None:
        yield "metadata.generateName: the operator makes the name, so that the Job runs once: write name, or neither"
    for field in sorted(name for name, value in metadata.items() if value is not None and name not in _METADATA):
        yield f"metadata.{_shown(field)}: is not taken over: remove it"
    name, where = metadata.get("name") or "", metadata.get("namespace") or namespace
    if name and not (isinstance(name, str) and len(name) <= _NAME_CHARACTERS_MAX and _NAME.fullmatch(name)):
        yield f"metadata.name: {_shown(name)}: write at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
    if namespace and where != namespace:
        yield f"metadata.namespace: {_shown(where)}: a Job runs in the rollout's namespace, {namespace}: remove it"


def _spec_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in _SPEC_REFUSED:
        if spec.get(field) is not None:
            yield f"spec.{field}: a Job has no Pods but its own: remove it"
    ttl_s = spec.get("ttlSecondsAfterFinished")
    if ttl_s is not None and not (isinstance(ttl_s, int) and ttl_s >= TTL_S_MIN):
        yield (
            f"spec.ttlSecondsAfterFinished: {_shown(ttl_s)}: the Job must stay to be seen, for {TTL_S_MIN} seconds "
            "at least: raise it, or remove it for a week"
        )


def _mapping(of: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    value = of.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidJob(f"{path}{name}: {_shown(value)}: write an object")
    return value or {}


def _texts(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    found = _mapping(metadata, name, "metadata.")
    for key, value in found.items():
        if not isinstance(value, str):
            raise InvalidJob(f"metadata.{name}: {_shown(key)} is not a text: write it in quotes")
    return found


def _shown(value: object) -> str:
    """A value for a message that many may read: short, and words only."""
    if isinstance(value, (str, int, float)):
        text = str(value)
        if len(text) <= _SHOWN_CHARACTERS_MAX and text.isprintable():
            return f'"{text}"' if isinstance(value, str) else text
    return "nothing" if value is None else f"this {type(value).__name__}"
