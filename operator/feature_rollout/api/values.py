"""Values that manifests share: durations, limits, names and references.

A text is kept as it was written, because messages quote it; its number is computed.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

import durationpy
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StrictBool, StrictFloat, StrictInt
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from feature_rollout.api.base import ApiModel
from feature_rollout.api.rules import Rule, matches, with_rules
from feature_rollout.core.plan import Limit

# Strict, because the API server takes no "5" for 5 either.
Int = StrictInt
Bool = StrictBool
Number = StrictFloat

DURATION = matches(
    r"([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)|[0-9]{1,4}(d|w)){1,4}",
    '"{value}" is not a duration: write numbers with ms, s, m, h, d or w, such as 30s, 1h30m or 2d',
)
_INTERVAL = r"([0-9]{1,6}(s|m|h)|[0-9]{1,4}d)+"
# A pattern and not a comparison, because CEL's duration() knows no days.
INTERVAL: Rule[str] = Rule(
    f"self.matches(r'^{_INTERVAL}$') && self.matches('[1-9]')",
    '"{value}" is not an interval: write at least 1s in whole numbers with s, m, h or d, such as 30s or 5m',
    lambda text: None if re.fullmatch(_INTERVAL, text) and re.search("[1-9]", text) else {"value": text},
    value="self",
)
_FRACTION = r"(\.[0-9]{1,9})?"
_PERCENT = rf"([0-9]{{1,2}}{_FRACTION}|100(\.0{{1,9}})?)%"
_DECIMAL = rf"-?[0-9]{{1,12}}{_FRACTION}"
LIMIT = matches(
    f"{_PERCENT}|{_DECIMAL}",
    '"{value}" is not a limit: write a percentage up to 100% such as "0.1%" for a Ratio, '
    'or a decimal number such as "0.8" for a Gauge',
)
INSIDE: Rule[str] = Rule(
    r"!self.matches(r'^0+(\.0+)?%$') && !self.matches(r'^100(\.0+)?%$')",
    '"{value}" leaves no room for a breach or for health: a guard\'s limit is more than 0% and less than 100%',
    lambda text: {"value": text} if LimitText(text).is_percent and LimitText(text).number in {0, 1} else None,
    value="self",
)
CHANGE = matches(rf"[0-9]{{1,5}}{_FRACTION}%", '"{value}" is not a relative change: write a percentage such as "50%"')
_BUDGET = rf"[0-4]?[0-9]{_FRACTION}%|50(\.0{{1,9}})?%"
BUDGET: Rule[str] = Rule(
    f"self.matches(r'^({_BUDGET})$') && self.matches('[1-9]')",
    '"{value}" is not a chance to take: write a percentage of more than 0% and at most 50%, such as "5%"',
    lambda text: None if re.fullmatch(_BUDGET, text) and re.search("[1-9]", text) else {"value": text},
    value="self",
)


class RuledText(str):
    """A string that is checked by rules and knows what it means."""

    __slots__ = ()
    rules: ClassVar[tuple[Rule[str], ...]]
    length_max: ClassVar[int] = 32

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls._checked,
            core_schema.str_schema(strict=True, max_length=cls.length_max),
            serialization=core_schema.to_string_ser_schema(),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return with_rules(handler(schema), *cls.rules)

    @classmethod
    def _checked(cls, text: str) -> Self:
        for rule in cls.rules:
            rule.check(text)
        return cls(text)

    @property
    def canonical(self) -> str:
        """The same for every way to write the same thing."""
        raise NotImplementedError


class Duration(RuledText):
    """A time span."""

    __slots__ = ()
    rules = (DURATION,)

    @property
    def delta(self) -> timedelta:
        delta = durationpy.from_str(str(self))
        assert isinstance(delta, timedelta)  # noqa: S101 - durationpy has no types
        return delta

    @property
    def canonical(self) -> str:
        return f"{self.delta // timedelta(microseconds=1)}us"


class Interval(Duration):
    """A time span of at least a second, between the starts of two looks."""

    __slots__ = ()
    rules = (INTERVAL,)


class LimitText(RuledText):
    """A limit: a percentage on a Ratio, a decimal number on a Gauge."""

    __slots__ = ()
    rules: ClassVar[tuple[Rule[str], ...]] = (LIMIT,)

    @property
    def is_percent(self) -> bool:
        return self.endswith("%")

    @property
    def number(self) -> Decimal:
        """A fraction of 1, or the number itself; exact."""
        return Decimal(self.removesuffix("%")) / 100 if self.is_percent else Decimal(self)

    @property
    def canonical(self) -> str:
        return f"{self.number.normalize():f}{'/1' if self.is_percent else ''}"

    def to_core(self) -> Limit:
        return Limit(float(self.number), str(self))


class GuardLimitText(LimitText):
    """A guard's limit: a percentage between 0% and 100%, or a decimal number."""

    __slots__ = ()
    rules = (LIMIT, INSIDE)


class ChangeText(LimitText):
    """A relative change, in percent."""

    __slots__ = ()
    rules = (CHANGE,)


class BudgetText(LimitText):
    """A chance, in percent."""

    __slots__ = ()
    rules = (BUDGET,)


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_MESSAGE = '"{value}" is not a name: use lower-case letters, digits and hyphens, such as ten-percent'
Name = Annotated[str, Field(max_length=63), matches(_LABEL, _LABEL_MESSAGE)]
ObjectName = Annotated[
    str,
    Field(max_length=253),
    matches(rf"{_LABEL}(\.{_LABEL})*", '"{value}" is not the name of an object: use lower-case letters, digits and -'),
]
Key = Annotated[
    str,
    Field(max_length=253),
    matches("[-._a-zA-Z0-9]+", '"{value}" is not a key: use letters, digits, -, _ and .'),
]
_BLANK: Rule[str] = Rule(
    "self.trim() == self && self != ''",
    '"{value}" is not a flag: a flag\'s name is not empty and neither starts nor ends with a blank',
    lambda text: None if text and text.strip() == text else {"value": text},
    value="self",
)
FlagName = Annotated[str, Field(max_length=100), _BLANK]
_GROUP: Rule[str] = Rule(
    "self.trim() == self && self != ''",
    '"{value}" is not a group: name one, or write groups: [] for everyone',
    lambda text: None if text and text.strip() == text else {"value": text},
    value="self",
)
Group = Annotated[str, Field(max_length=63), _GROUP]
Identifier = Annotated[
    str,
    Field(max_length=63),
    matches(
        "[a-zA-Z_][a-zA-Z0-9_]*", '"{value}" is not an identifier: use letters, digits and _, such as feature_flags'
    ),
]
PlanHash = Annotated[
    str,
    Field(max_length=67),
    matches("v1:[0-9a-f]{64}", '"{value}" is not a plan hash: copy it from status.planHash, such as v1:3b0c...'),
]
Sha256 = Annotated[
    str,
    Field(max_length=64),
    matches("[0-9a-f]{64}", '"{value}" is not a SHA-256: write the 64 hexadecimal digits that sha256sum prints'),
]
Line = Annotated[str, Field(min_length=1, max_length=256)]
Prose = Annotated[str, Field(min_length=1, max_length=1024)]
Sql = Annotated[str, Field(min_length=1, max_length=8192)]


class UniqueList:
    """A list without doubles: of texts, or of entries by their `name`.

    A schema says so with the list type, and the API server names the double.
    """

    def __init__(self, *, by_name: bool) -> None:
        self.by_name = by_name

    def check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [item.name if self.by_name else item for item in items]
        double = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if double is not None:
            raise PydanticCustomError("rule", "{problem}", {"problem": f'"{double}" is there twice: write it once'})
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if not self.by_name:
            return {**handler(schema), "x-kubernetes-list-type": "set"}
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


AS_SET = UniqueList(by_name=False)
BY_NAME = UniqueList(by_name=True)


class Reference(ApiModel):
    """An object of this namespace, or of the cluster for a kind without one."""

    name: ObjectName
    """The object's name."""


class KeyReference(ApiModel):
    """One key of a Secret or ConfigMap of this namespace."""

    name: ObjectName
    """The object's name."""
    key: Key
    """The key in its data."""


class SecretSource(ApiModel):
    """A value that is kept in a Secret."""

    secret_key_ref: KeyReference
    """Where the value is."""


class ConfigMapSource(ApiModel):
    """A text that is kept in a ConfigMap."""

    config_map_key_ref: KeyReference
    """Where the text is."""


class CertificateSource(ApiModel):
    """Certificates in PEM, kept in a Secret or a ConfigMap."""

    secret_key_ref: KeyReference | None = None
    """Where they are, in a Secret."""
    config_map_key_ref: KeyReference | None = None
    """Where they are, in a ConfigMap."""

    rules: ClassVar = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "certificates come from one place and these from {count}: "
            "write exactly one of secretKeyRef and configMapKeyRef",
            lambda source: (
                {"count": "none" if source.secret_key_ref is None else "two"}
                if (source.secret_key_ref is None) == (source.config_map_key_ref is None)
                else None
            ),
            count="(has(self.secretKeyRef) ? 'two' : 'none')",
        ),
    )


class Approval(ApiModel):
    """Consent of people, given by RolloutActions of type Approve."""

    required: Annotated[Int, Field(ge=1, le=10)] = 1
    """How many different people must approve."""
    allow_service_accounts: Bool = False
    """Whether a service account counts as one of them."""
