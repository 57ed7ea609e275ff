"""What all models share: strictness, rules, an object's metadata, and errors as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

from feature_rollout.api.rules import Rule, with_rules

GROUP = "featurerollout.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class ApiModel(BaseModel):
    """Part of a spec: an unknown field is refused, and nothing changes after parsing."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule[Any], ...]] = ()
    # Fields that say nothing about what is done with the flags: they are in no hash.
    unhashed: ClassVar[frozenset[str]] = frozenset()
    # Lists whose order means nothing: they are sorted before they are hashed.
    unordered: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """The API server drops nulls before it does anything else."""
        if isinstance(data, Mapping):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _keeps_rules(self) -> Self:
        problems = [problem for rule in self.rules if (problem := rule.problem(self)) is not None]
        if problems:
            raise PydanticCustomError("rule", "{problem}", {"problem": "; ".join(problems)})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        produced = handler(schema)
        target = handler.resolve_ref_schema(produced)
        target.update(with_rules(target, *cls.rules))
        return produced


class StatusModel(BaseModel):
    """Part of a status: written by the operator, so a field of a newer version is only left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> dict[str, Any]:
        """As the API server takes it: camelCase, without empty fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(BaseModel):
    """What the operator reads of an object's metadata."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    finalizers: tuple[str, ...] = ()
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class InvalidObject(Exception):
    """A manifest that is not what its kind demands.

    `problems` are (path, message) pairs; the text also says which object it is, as in
    `RollbackMatrix/guards spec.rows: is required`.
    """

    def __init__(self, problems: Sequence[tuple[str, str]], subject: str = "") -> None:
        self.problems = tuple(problems)
        prefix = f"{subject} " if subject else ""
        super().__init__("; ".join(f"{prefix}{path}: {message}" for path, message in self.problems))


class Resource(ApiModel):
    """An object of one of our kinds."""

    # Set by each kind; the names under which the API server serves it.
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    scope: ClassVar[str] = "Namespaced"

    metadata: ObjectMeta

    @classmethod
    def parse(cls, manifest: Mapping[str, Any]) -> Self:
        """The object as `yaml` or the API server gives it. Raises InvalidObject.

        Its status is left out: it is the operator's own writing and never an input.
        """
        try:
            return cls.model_validate({name: value for name, value in manifest.items() if name != "status"})
        except ValidationError as error:
            metadata = manifest.get("metadata")
            name = metadata.get("name") if isinstance(metadata, Mapping) else None
            raise InvalidObject(problems(error), f"{cls.__name__}/{name or '?'}") from None

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name


def problems(error: ValidationError) -> list[tuple[str, str]]:
    """Each error as a path of the manifest and a message that names the value."""
    errors = error.errors(include_url=False)
    # A list whose only entry is wrong counts as empty for Pydantic; that says nothing new.
    lengths = {"too_short", "too_long"}
    told = [d for d in errors if d["type"] not in lengths or not any(_is_inside(o["loc"], d["loc"]) for o in errors)]
    return [(_path(details["loc"]), _message(details)) for details in told]


def _is_inside(location: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(location) > len(outer) and location[: len(outer)] == outer


def _path(location: tuple[str | int, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "object"


def _message(details: ErrorDetails) -> str:
    kind, message, value = details["type"], details["msg"], details["input"]
    if kind == "rule":
        return message
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not a field of this kind: correct its name or remove it"
    if kind in {"too_short", "too_long"}:
        bound = "at least" if kind == "too_short" else "at most"
        count = details["ctx"]["min_length" if kind == "too_short" else "max_length"]
        return f"has {len(value)}, and must have {bound} {count} item{'' if count == 1 else 's'}"
    shown = repr(value) if isinstance(value, (str, int, float)) else f"this {type(value).__name__}"
    return f"{shown} is refused: {message[:1].lower()}{message[1:]}"
