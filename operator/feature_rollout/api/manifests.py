"""Manifests as kubectl reads them: several YAML documents a file, lists unpacked, nothing guessed."""

from __future__ import annotations

import io
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml


class ManifestError(Exception):
    """A text that is not YAML, or a document in it that is not an object."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest and where it stands, such as `examples/quickstart.yaml:3`."""

    source: str
    manifest: Mapping[str, Any]
    node: yaml.Node | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> str:
        return self.source.rpartition(":")[0]

    def line(self, path: str) -> int | None:
        """The line, from 1, of a field such as `spec.stages[0].name`, or of what is there of the way to it."""
        node = self.node
        for step in _STEP.findall(path):
            below = _below(node, step)
            if below is None:
                break
            node = below
        return node.start_mark.line + 1 if node is not None else None

    def __str__(self) -> str:
        metadata = self.manifest.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        return f"{self.source}/{self.manifest.get('kind') or '?'}/{name or '?'}"


def load(text: str, source: str) -> list[Document]:
    """The documents of a text, numbered from 1; empty ones are left out. Raises ManifestError."""
    documents: list[Document] = []
    try:
        # Made from SafeLoader, so it builds plain data only.
        loaded = list(_loaded(text, source))
    except yaml.YAMLError as error:
        raise ManifestError(f"{source}: {error}") from None
    for number, (node, value) in enumerate(loaded, start=1):
        if value is None:
            continue
        if not isinstance(value, dict):
            raise ManifestError(f"{source}:{number}: this is a {type(value).__name__}, where an object should be")
        documents += _unpacked(Document(f"{source}:{number}", value, node))
    return documents


class _Named(io.StringIO):
    """A text with the name that errors call it by."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def _loaded(text: str, source: str) -> Iterator[tuple[yaml.Node | None, Any]]:
    """What `yaml.load_all` gives, with the nodes, which know their lines."""
    loader = _Loader(_Named(text, source))
    try:
        while loader.check_node():
            node = loader.get_node()
            yield node, loader.construct_document(node)
    finally:
        loader.dispose()


# `stages`, or `0` of `[0]`.
_STEP = re.compile(r"[^.\[\]]+")


def _below(node: yaml.Node | None, step: str) -> yaml.Node | None:
    """The value of a key, or the item of an index."""
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if getattr(key, "value", None) == step), None)
    if isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
        return cast(yaml.Node, node.value[int(step)])
    return None


def _unpacked(document: Document) -> list[Document]:
    items = document.manifest.get("items")
    if document.manifest.get("kind") != "List" or not isinstance(items, list):
        return [document]
    return [
        Document(document.source, item, _below(_below(document.node, "items"), str(index)))
        for index, item in enumerate(items)
        if isinstance(item, dict)
    ]


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
