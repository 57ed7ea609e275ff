"""Exposure: the order and its meet, buckets, rows as JSON and as text.

The order is checked against what it is about: which users have the flag.
"""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.exposure import DISABLED, Exposure, FlagChange, bucket, format_percentage, raises
from support.depth import properties

deterministic = properties(200)

GROUPS = ("admins", "beta", "staff")
exposures = st.builds(
    Exposure,
    st.booleans(),
    st.sampled_from([Decimal(text) for text in ("0", "0.5", "1", "10", "25", "99.99", "100")]),
    st.frozensets(st.sampled_from(GROUPS)),
)


def row(percentage: str, *groups: str, enabled: bool = True) -> Exposure:
    return Exposure(enabled, Decimal(percentage), frozenset(groups))


def has_flag(row: Exposure, user_groups: frozenset[str], user_bucket: int) -> bool:
    """The definition, as the application evaluates it."""
    return row.enabled and (not row.groups or bool(row.groups & user_groups)) and user_bucket < row.percentage * 100


# Every kind of user that these rows can tell apart.
USERS = [
    (frozenset(groups), user_bucket)
    for groups in chain.from_iterable(combinations(GROUPS, size) for size in range(4))
    for user_bucket in (0, 49, 50, 99, 100, 999, 1000, 2499, 2500, 9998, 9999)
]


def who(row: Exposure) -> frozenset[tuple[frozenset[str], int]]:
    return frozenset(user for user in USERS if has_flag(row, *user))


# ── The order ────────────────────────────────────────────────────────────────────────────────────


@deterministic
@given(a=exposures, b=exposures)
def test_within_means_that_nobody_gains_the_flag(a: Exposure, b: Exposure) -> None:
    assert a.is_within(b) == (who(a) <= who(b))
    assert raises(b, a) == (not who(a) <= who(b))


@deterministic
@given(a=exposures, b=exposures, c=exposures)
def test_the_order_is_a_partial_order(a: Exposure, b: Exposure, c: Exposure) -> None:
    assert a.is_within(a)
    if a.is_within(b) and b.is_within(c):
        assert a.is_within(c)
    if a.is_within(b) and b.is_within(a):
        assert who(a) == who(b)
        assert a.is_off == b.is_off
        assert a.is_off or a == b, "two rows for the same users differ only where nobody has the flag"


@deterministic
@given(a=exposures, b=exposures, c=exposures)
def test_the_meet_is_the_greatest_lower_bound(a: Exposure, b: Exposure, c: Exposure) -> None:
    meet = a.meet(b)
    assert meet.is_within(a)
    assert meet.is_within(b)
    # Two lists without a common member meet in nothing, though a member of both groups is in each:
    # no row of the table can say "in both", and a revert errs on the side of fewer users.
    if c.is_within(a) and c.is_within(b):
        assert c.is_within(meet)


@deterministic
@given(a=exposures, b=exposures)
def test_the_meet_is_idempotent_and_raises_nothing(a: Exposure, b: Exposure) -> None:
    assert a.meet(a) == a
    assert a.meet(b).meet(b) == a.meet(b)
    assert who(a.meet(b)) == who(b.meet(a))
    assert not raises(a, a.meet(b))


@deterministic
@given(a=exposures)
def test_the_meet_with_disabled_changes_enabled_only(a: Exposure) -> None:
    assert a.meet(DISABLED) == Exposure(False, a.percentage, a.groups)


MEETS = {
    "the smaller percentage": (row("50"), row("10"), row("10")),
    "the common groups": (row("50", "admins", "beta"), row("50", "beta", "staff"), row("50", "beta")),
    "groups win over everyone": (row("50"), row("100", "admins"), row("50", "admins")),
    "everyone does not widen groups": (row("50", "admins"), row("100"), row("50", "admins")),
    "no common group is disabled, and keeps the groups": (
        row("50", "admins"),
        row("10", "beta"),
        row("10", "admins", enabled=False),
    ),
    "disabled stays disabled": (row("50", enabled=False), row("100"), row("50", enabled=False)),
}


@pytest.mark.parametrize(("row_now", "target", "expected"), MEETS.values(), ids=MEETS.keys())
def test_meet(row_now: Exposure, target: Exposure, expected: Exposure) -> None:
    assert row_now.meet(target) == expected


RAISES = {
    "a larger percentage": (row("10"), row("11"), True),
    "a smaller percentage": (row("10"), row("9"), False),
    "a group more": (row("10", "admins"), row("10", "admins", "beta"), True),
    "from groups to everyone": (row("10", "admins"), row("10"), True),
    "from everyone to groups": (row("10"), row("10", "admins"), False),
    "other groups": (row("10", "admins"), row("10", "beta"), True),
    "enabled": (row("10", enabled=False), row("10"), True),
    "enabled for nobody": (row("10", enabled=False), row("0"), False),
    "more, but disabled": (row("10"), row("100", enabled=False), False),
    "restricted, at a larger percentage": (row("10"), row("100", "admins"), True),
}


@pytest.mark.parametrize(("before", "after", "expected"), RAISES.values(), ids=RAISES.keys())
def test_raises(before: Exposure, after: Exposure, expected: bool) -> None:
    assert raises(before, after) is expected


# ── Changes, JSON, text ──────────────────────────────────────────────────────────────────────────

CHANGES = {
    "a named flag is enabled, the rest stays": (FlagChange(), row("5", "admins")),
    "a percentage": (FlagChange(percentage=Decimal(25)), row("25", "admins")),
    "zero percent": (FlagChange(percentage=Decimal(0)), row("0", "admins")),
    "groups": (FlagChange(groups=frozenset({"beta"})), row("5", "beta")),
    "everyone": (FlagChange(groups=frozenset()), row("5")),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_change(change: FlagChange, expected: Exposure) -> None:
    assert change.applied_to(row("5", "admins", enabled=False)) == expected


@deterministic
@given(a=exposures)
def test_json_round_trip(a: Exposure) -> None:
    assert Exposure.from_json(json.loads(json.dumps(a.to_json()))) == a


def test_json() -> None:
    assert row("2.50", "beta", "admins").to_json() == {
        "enabled": True,
        "percentage": "2.5",
        "groups": ["admins", "beta"],
    }


@pytest.mark.parametrize(("text", "expected"), [("100", "100"), ("1E+1", "10"), ("2.50", "2.5"), ("0.00", "0")])
def test_percentage_as_text(text: str, expected: str) -> None:
    assert format_percentage(Decimal(text)) == expected


def test_text() -> None:
    assert str(row("10")) == "10 % of everyone"
    assert str(row("2.50", "beta", "admins")) == "2.5 % of admins, beta"
    assert str(row("10", enabled=False)) == "off"


# ── Buckets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("salt", "user", "expected"),
    [("notifications_new_bell_ui", "user-1", 578), ("notifications_new_bell_ui", "user-2", 7527), ("flag", "a", 5086)],
)
def test_bucket_pins(salt: str, user: str, expected: int) -> None:
    assert bucket(salt, user) == expected


@deterministic
@given(salt=st.text(max_size=20), user=st.text(max_size=20), low=exposures, high=exposures)
def test_raising_a_percentage_only_adds_users(salt: str, user: str, low: Exposure, high: Exposure) -> None:
    place = bucket(salt, user)
    assert 0 <= place <= 9999
    smaller, larger = sorted((low.percentage, high.percentage))
    assert (place < smaller * 100) <= (place < larger * 100)


def test_buckets_are_even() -> None:
    tenths = [0] * 10
    for user in range(10_000):
        tenths[bucket("flag", f"user-{user}") // 1000] += 1
    assert min(tenths) > 900
    assert max(tenths) < 1100
