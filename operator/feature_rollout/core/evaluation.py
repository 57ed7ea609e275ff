"""Has this user the flag, and why: the one definition that services, the command line and tests share.

The same in SQL is `feature_rollout.has_flag`, in store/schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from feature_rollout.core.exposure import BUCKETS, FULL, NONE, Exposure, user_hash


class Reason(StrEnum):
    """Why a user has a flag or not; the first that holds."""

    ROWS_UNKNOWN = "RowsUnknown"  # nobody could read the table yet
    FLAG_MISSING = "FlagMissing"
    DISABLED = "Disabled"
    NOBODY = "Nobody"  # 0 %
    NOT_IN_GROUPS = "NotInGroups"
    EVERYBODY = "Everybody"  # 100 %, of the groups if there are some
    NO_USER = "NoUser"  # some have it, and this is no user
    BELOW_PERCENTAGE = "BelowPercentage"
    ABOVE_PERCENTAGE = "AbovePercentage"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a user gets. Compare `reason` with `Reason`; it is a text too."""

    enabled: bool
    reason: Reason


ROWS_UNKNOWN: Final = Evaluation(False, Reason.ROWS_UNKNOWN)
FLAG_MISSING: Final = Evaluation(False, Reason.FLAG_MISSING)
_DISABLED: Final = Evaluation(False, Reason.DISABLED)
_NOBODY: Final = Evaluation(False, Reason.NOBODY)
_NOT_IN_GROUPS: Final = Evaluation(False, Reason.NOT_IN_GROUPS)
_EVERYBODY: Final = Evaluation(True, Reason.EVERYBODY)
_NO_USER: Final = Evaluation(False, Reason.NO_USER)
_BELOW: Final = Evaluation(True, Reason.BELOW_PERCENTAGE)
_ABOVE: Final = Evaluation(False, Reason.ABOVE_PERCENTAGE)


def threshold(row: Exposure) -> int:
    """The first bucket that has the flag no more, 0 to 10000: of 33.33 % it is 3333, of 0.001 % it is 1."""
    return math.ceil(min(max(row.percentage, NONE), FULL) * BUCKETS / FULL)


def _hash_limit(first_without: int) -> bytes:
    """`bucket < first_without` said of the hash itself, which as bytes compares as its number does."""
    if first_without == BUCKETS:
        return b"\xff" * 33  # above every hash, of which 99.999 % has all too
    return (-(-(first_without << 32) // BUCKETS)).to_bytes(4, "big")


class Rule(Protocol):
    """A flag made ready for many evaluations."""

    def evaluate(self, user_id: str | None, groups: Iterable[str] = ()) -> Evaluation: ...


class RowRule:
    """One row. What does not depend on the user is worked out here, once."""

    __slots__ = ("_fixed", "_groups", "_limit", "_salt")

    def __init__(self, row: Exposure, flag: str) -> None:
        self._salt = flag
        self._fixed: Evaluation | None = None
        if not row.enabled:
            self._fixed = _DISABLED
        elif row.percentage <= NONE:
            self._fixed = _NOBODY
        # The empty name is a group that nobody is in: it stands for groups that cannot be read.
        self._groups: frozenset[str] | None = row.groups - {""} if row.groups else None
        # None is everybody, who are not hashed.
        self._limit = _hash_limit(threshold(row)) if row.percentage < FULL else None

    def evaluate(self, user_id: str | None, groups: Iterable[str] = ()) -> Evaluation:
        if self._fixed is not None:
            return self._fixed
        if self._groups is not None:
            if isinstance(groups, str):
                raise TypeError(f"groups must be a collection of names, not the text {groups!r}")
            if self._groups.isdisjoint(groups):
                return _NOT_IN_GROUPS
        if self._limit is None:
            return _EVERYBODY
        if user_id is None:
            return _NO_USER
        return _BELOW if user_hash(self._salt, user_id) < self._limit else _ABOVE


class _AnyRule:
    """A flag with several rows, which no rollout raises: a user has it who has it by one of them."""

    __slots__ = ("_rules",)

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def evaluate(self, user_id: str | None, groups: Iterable[str] = ()) -> Evaluation:
        answers = [rule.evaluate(user_id, groups) for rule in self._rules]
        return next((answer for answer in answers if answer.enabled), answers[0])


def rule(rows: Sequence[Exposure], flag: str) -> Rule:
    """The rule of a flag with at least one row."""
    rules = [RowRule(row, flag) for row in rows]
    return rules[0] if len(rules) == 1 else _AnyRule(rules)


def evaluate(row: Exposure | None, flag: str, user_id: str | None, groups: Iterable[str] = ()) -> Evaluation:
    """What a user gets from a row, None being a flag without one.

    `user_id` None is a visitor without an id, who has what everybody has. `flag` is the
    salt of the bucket. Raises TypeError when `groups` is a single text.
    """
    return FLAG_MISSING if row is None else RowRule(row, flag).evaluate(user_id, groups)
