"""The form of a spec that is hashed: the same for every way to write the same thing.

Durations and limits are numbers, lists whose order means nothing are sorted, and fields
that say nothing about what is done are left out. A new field is hashed unless its model
lists it in `unhashed`. What is at its default is left out too: written or not, it is the
same, and a field that a later version adds does not change the hash of every plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from feature_rollout.api.base import ApiModel
from feature_rollout.api.values import RuledText
from feature_rollout.core.exposure import format_percentage


def canonical(value: Any) -> Any:
    """JSON data of strings, booleans, integers, lists and objects; never a float."""
    if isinstance(value, ApiModel):
        return _object(value)
    if isinstance(value, RuledText):
        return value.canonical
    if isinstance(value, float):
        return format_percentage(Decimal(str(value)))
    if isinstance(value, tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): canonical(item) for name, item in value.items()}
    return str(value) if isinstance(value, str) else value


def _object(model: ApiModel) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name in model.unhashed:
            continue
        plain = canonical(value)
        if not field.is_required() and plain == canonical(field.default):
            continue
        data[field.alias or name] = sorted(plain, key=_sort_key) if name in model.unordered else plain
    return data


def _sort_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
