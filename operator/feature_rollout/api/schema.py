"""From Pydantic's JSON schema to the structural schema that a CustomResourceDefinition takes.

No `$ref`, no `anyOf`, no `additionalProperties: false` (the API server refuses or prunes
unknown fields by itself), no `const`, no null.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

# What is copied as it is; anything else that Pydantic might emit must be looked at first.
_COPIED = frozenset(
    {
        "type",
        "format",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "required",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
    }
)
_DROPPED = frozenset({"title", "additionalProperties", "propertyNames", "default", "description"})


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a model, by its fields' aliases."""
    produced = model.model_json_schema(by_alias=True, mode="validation")
    return _converted(produced, produced.get("$defs", {}), in_list=False)


def _converted(node: Mapping[str, Any], definitions: Mapping[str, Any], *, in_list: bool) -> dict[str, Any]:
    node = _plain(node, definitions)
    schema = {key: value for key, value in node.items() if key in _COPIED}
    unknown = node.keys() - _COPIED - _DROPPED - {"properties", "items"}
    if unknown:
        raise ValueError(f"{sorted(unknown)} of {node} has no place in a structural schema yet")
    if description := _description(node, in_list=in_list):
        schema["description"] = description
    if _has_default(node) and not in_list:
        schema["default"] = node["default"]
    if "properties" in node:
        properties = node["properties"].items()
        schema["properties"] = {name: _converted(value, definitions, in_list=in_list) for name, value in properties}
    if "items" in node:
        schema["items"] = _converted(node["items"], definitions, in_list=True)
        # Two managers' lists merged would be a plan that nobody wrote.
        schema.setdefault("x-kubernetes-list-type", "atomic")
    if isinstance(node.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _converted(node["additionalProperties"], definitions, in_list=True)
    return schema


def _plain(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The node without references, without the alternative of null, and with `const` as an enum."""
    plain = dict(node)
    plain.pop("$defs", None)
    if "anyOf" in plain:
        (chosen,) = (choice for choice in plain.pop("anyOf") if choice.get("type") != "null")
        plain = _merged(chosen, plain)
    if "$ref" in plain:
        target = definitions[plain.pop("$ref").rpartition("/")[2]]
        return _plain(_merged(target, plain), definitions)
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    return plain


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins, and rules of both count."""
    rules = [*base.get("x-kubernetes-validations", ()), *over.get("x-kubernetes-validations", ())]
    return {**base, **over, **({"x-kubernetes-validations": rules} if rules else {})}


def _has_default(node: Mapping[str, Any]) -> bool:
    return node.get("default") not in (None, "", [])


def _description(node: Mapping[str, Any], *, in_list: bool) -> str:
    """As `kubectl explain` shows it: paragraphs of one line each.

    In a list a default is only told, not set: Argo CD compares lists as a whole, and would
    find each entry with a default different from what is in Git, for ever.
    """
    paragraphs = inspect.cleandoc(node.get("description", "")).split("\n\n")
    if in_list and _has_default(node):
        value = node["default"]
        paragraphs.append(f"Default: {str(value).lower() if isinstance(value, bool) else value}.")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph)
