"""One rule, told twice: to the API server in CEL, to Python as a function, with one message.

The API server refuses what breaks a rule when it is applied; `lint` and the operator run
the same rule without a server. A rule stands either in an annotation, for one value, or in
a model's `rules`, for the relation between its fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

T = TypeVar("T")
# The words for a message's placeholders where a rule is broken, None where it is kept.
Found = Mapping[str, str] | None


class Rule(Generic[T]):
    """`find` and `cel` decide the same thing; a test holds both to the same cases.

    `message` has placeholders in braces. `names` gives each of them a CEL expression of a
    string, `find` returns their values in Python. A rule without `find` compares with the
    object as it was before, which only the API server knows.
    """

    def __init__(self, cel: str, message: str, find: Callable[[T], Found] | None = None, **names: str) -> None:
        self.cel = " ".join(cel.split())
        self.message = message
        self.find = find
        self.names = names

    def problem(self, value: T) -> str | None:
        found = self.find(value) if self.find else None
        return None if found is None else self.message.format_map(found)

    def check(self, value: T) -> T:
        problem = self.problem(value)
        if problem is not None:
            raise PydanticCustomError("rule", "{problem}", {"problem": problem})
        return value

    def to_crd(self) -> dict[str, str]:
        """One entry of `x-kubernetes-validations`."""
        if not self.names:
            return {"rule": self.cel, "message": self.message}
        return {"rule": self.cel, "messageExpression": self._message_cel()}

    def _message_cel(self) -> str:
        parts: list[str] = []
        for text, name, _, _ in Formatter().parse(self.message):
            if text:
                parts.append(json.dumps(text, ensure_ascii=False))
            if name is not None:
                parts.append(" ".join(self.names[name].split()))
        return " + ".join(parts)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return with_rules(handler(schema), self)


def with_rules(schema: dict[str, Any], *rules: Rule[Any]) -> dict[str, Any]:
    """A JSON schema with the rules added to those that it has."""
    entries = [*schema.get("x-kubernetes-validations", ()), *(rule.to_crd() for rule in rules)]
    return {**schema, "x-kubernetes-validations": entries} if entries else schema


def matches(pattern: str, message: str) -> Rule[str]:
    """The whole text matches `pattern`, which both RE2 and Python read; `{value}` is the text.

    Used instead of a schema's `pattern`, which would print the expression at people.
    """
    compiled = re.compile(pattern)

    def find(value: str) -> Found:
        return None if compiled.fullmatch(value) else {"value": value}

    return Rule(f"self.matches(r'^(?:{pattern})$')", message, find, value="self")


def index_of(items: str, size_max: int, condition: str, variable: str = "i") -> str:
    """CEL for the index of the first of `items` for which `condition` holds, written with `variable` as its index.

    For messages: a string that was found by `filter` has no known bound, so that the API
    server thinks its message too dear; one that was found by an index has its field's.
    """
    indexes = ", ".join(str(index) for index in range(size_max))
    return f"[{indexes}].filter({variable}, {variable} < {items}.size() && {condition})[0]"


def immutable(what: str) -> Rule[Any]:
    """The value never changes once it is there."""
    return Rule("self == oldSelf", f"{what} cannot be changed: delete the object and create it again")
