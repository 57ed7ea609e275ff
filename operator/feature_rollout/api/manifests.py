"""Manifests as kubectl reads them: several YAML documents a file, lists unpacked, nothing guessed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml


class ManifestError(Exception):
    """A text that is not YAML, or a document in it that is not an object."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest and where it stands, such as `examples/quickstart.yaml:3`."""

    source: str
    manifest: Mapping[str, Any]

    def __str__(self) -> str:
        metadata = self.manifest.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        return f"{self.source}/{self.manifest.get('kind') or '?'}/{name or '?'}"


def load(text: str, source: str) -> list[Document]:
    """The documents of a text, numbered from 1; empty ones are left out. Raises ManifestError."""
    documents: list[Document] = []
    try:
        # Made from SafeLoader, so it builds plain data only.
        loaded = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ManifestError(f"{source}: {error}") from None
    for number, value in enumerate(loaded, start=1):
        if value is None:
            continue
        if not isinstance(value, dict):
            raise ManifestError(f"{source}:{number}: this is a {type(value).__name__}, where an object should be")
        documents += _unpacked(Document(f"{source}:{number}", value))
    return documents


def _unpacked(document: Document) -> list[Document]:
    items = document.manifest.get("items")
    if document.manifest.get("kind") != "List" or not isinstance(items, list):
        return [document]
    return [Document(document.source, item) for item in items if isinstance(item, dict)]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, as a strict apply does, and leaves dates as they were written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is there twice: remove one', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
