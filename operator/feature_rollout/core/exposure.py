"""Exposure: who has a flag, and the order on it.

A user has a flag when it is enabled, and (groups is empty or the user is in one of
them), and the user's bucket is below the percentage. `a` is within `b` when everybody
who has the flag under `a` has it under `b`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

FULL = Decimal(100)
NONE = Decimal(0)
BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Exposure:
    """One flag row: `percentage` is 0 to 100, empty `groups` means everyone."""

    enabled: bool
    percentage: Decimal
    groups: frozenset[str] = frozenset()

    @property
    def is_off(self) -> bool:
        """Whether nobody has the flag."""
        return not self.enabled or self.percentage <= NONE

    def is_within(self, other: Exposure) -> bool:
        """The order on exposure: nobody gains the flag by going from `other` to `self`."""
        if self.is_off:
            return True
        return (
            not other.is_off
            and self.percentage <= other.percentage
            and (not other.groups or (bool(self.groups) and self.groups <= other.groups))
        )

    def meet(self, other: Exposure) -> Exposure:
        """The greatest exposure within both.

        Two groups lists without a common member meet in a disabled row that keeps this
        row's groups: an empty list would be everyone.
        """
        enabled = self.enabled and other.enabled
        groups = self.groups & other.groups if self.groups and other.groups else self.groups | other.groups
        if self.groups and other.groups and not groups:
            enabled, groups = False, self.groups
        return Exposure(enabled, min(self.percentage, other.percentage), groups)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `percentage` is a string, so that no digit is lost."""
        return {
            "enabled": self.enabled,
            "percentage": format_percentage(self.percentage),
            "groups": sorted(self.groups),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Exposure:
        return cls(data["enabled"], Decimal(data["percentage"]), frozenset(data["groups"]))

    def __str__(self) -> str:
        if not self.enabled:
            return "off"
        who = ", ".join(sorted(self.groups)) or "everyone"
        return f"{format_percentage(self.percentage)} % of {who}"


# The target of an action that disables: the meet with it changes `enabled` and nothing else.
DISABLED = Exposure(False, FULL)
# Stands for a row of which nothing is known: nobody has the flag, and what a change leaves alone gives it to nobody.
OFF = Exposure(False, NONE)


def raises(before: Exposure, after: Exposure) -> bool:
    """Whether going from `before` to `after` may give the flag to somebody who had it not."""
    return not after.is_within(before)


def format_percentage(percentage: Decimal) -> str:
    """Without trailing zeros or an exponent: `10`, `2.5`, `100`."""
    return f"{percentage.normalize():f}"


@dataclass(frozen=True, slots=True)
class FlagChange:
    """What a stage's entry says about its flags; `None` leaves the column as it was.

    A flag that an entry names is enabled by it.
    """

    percentage: Decimal | None = None
    groups: frozenset[str] | None = None

    def applied_to(self, row: Exposure) -> Exposure:
        row = replace(row, enabled=True)
        if self.percentage is not None:
            row = replace(row, percentage=self.percentage)
        if self.groups is not None:
            row = replace(row, groups=self.groups)
        return row


def user_hash(salt: str, user: str) -> bytes:
    """SHA-256 of `salt:user`. A lone surrogate, which is no character, is hashed as if it were one."""
    return hashlib.sha256(f"{salt}:{user}".encode("utf-8", "surrogatepass")).digest()


def bucket(salt: str, user: str) -> int:
    """0 to 9999: a user has a flag when this is below `percentage * 100`.

    The first four bytes of `user_hash` as a big-endian unsigned integer, times 10000,
    shifted right by 32.
    """
    return int.from_bytes(user_hash(salt, user)[:4], "big") * BUCKETS >> 32
