"""Who has a flag: against the definition by buckets, and what a change of a row does to the users who have it.

| what | where it is said |
|---|---|
| enabled, and (no groups or in one), and bucket below percentage x 100 | the definition |
| raising a percentage only adds users, lowering removes those who came last | the salt never changes |
| 0 is nobody and 100 everybody without hashing; no user id in between is nobody | buckets |
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.evaluation import FLAG_MISSING, Evaluation, Reason, RowRule, evaluate, rule, threshold
from feature_rollout.core.exposure import Exposure, bucket
from support.depth import properties

deterministic = properties(300)

GROUPS = ("admins", "beta", "staff", "")
percentages = st.sampled_from(
    [Decimal(p) for p in ("0", "0.001", "0.01", "5.78", "5.79", "33.33", "50", "99.99", "99.999", "100")]
)
groups = st.frozensets(st.sampled_from(GROUPS))
rows = st.builds(Exposure, st.booleans(), percentages, groups)
users = st.one_of(st.none(), st.text(max_size=20), st.integers().map(str))
IDS = [*(f"user-{n}" for n in range(3000)), *(str(n) for n in range(500)), "", "é", "用户", "x" * 5000]


def row(percentage: str, *groups: str, enabled: bool = True) -> Exposure:
    return Exposure(enabled, Decimal(percentage), frozenset(groups))


def by_definition(row: Exposure, flag: str, user: str | None, groups: frozenset[str]) -> bool:
    if not row.enabled or (row.groups and not row.groups & groups - {""}):
        return False
    if user is None:
        return row.percentage >= 100
    return bucket(flag, user) < row.percentage * 100


@deterministic
@given(row=rows, flag=st.text(max_size=10), user=users, groups=groups)
def test_it_is_the_definition(row: Exposure, flag: str, user: str | None, groups: frozenset[str]) -> None:
    assert evaluate(row, flag, user, groups).enabled is by_definition(row, flag, user, groups)


@pytest.mark.parametrize("percentage", ["0.01", "5.78", "5.79", "33.33", "50", "75.27", "75.28", "99.99", "99.999"])
def test_comparing_hashes_is_comparing_buckets(percentage: str) -> None:
    prepared = RowRule(row(percentage), "notifications_new_bell_ui")
    have = [user for user in IDS if prepared.evaluate(user).enabled]
    assert have == [user for user in IDS if bucket("notifications_new_bell_ui", user) < Decimal(percentage) * 100]


@pytest.mark.parametrize(("below", "at"), [(578, 579), (7527, 7528)])
def test_the_pinned_users_come_in_with_their_bucket(below: int, at: int) -> None:
    user = {578: "user-1", 7527: "user-2"}[below]
    without, with_it = (row(str(Decimal(bound) / 100)) for bound in (below, at))
    assert evaluate(without, "notifications_new_bell_ui", user) == Evaluation(False, Reason.ABOVE_PERCENTAGE)
    assert evaluate(with_it, "notifications_new_bell_ui", user) == Evaluation(True, Reason.BELOW_PERCENTAGE)


def test_every_raise_adds_users_and_every_lowering_removes_those_who_came_last() -> None:
    steps = [RowRule(row(p), "flag") for p in ("0", "0.01", "1", "5", "33.33", "50", "99.99", "100")]
    having = [frozenset(user for user in IDS if step.evaluate(user).enabled) for step in steps]
    assert having[0] == frozenset()
    assert having[-1] == frozenset(IDS)
    came_with = {user: min(n for n, users in enumerate(having) if user in users) for user in IDS}
    for n, (fewer, more) in enumerate(pairwise(having)):
        assert fewer <= more
        assert all(came_with[user] == n + 1 for user in more - fewer)


@deterministic
@given(low=rows, high=rows, flag=st.text(max_size=5), user=users, groups=groups)
def test_nobody_gains_by_a_lower_row(
    low: Exposure, high: Exposure, flag: str, user: str | None, groups: frozenset[str]
) -> None:
    met = high.meet(low)
    assert evaluate(met, flag, user, groups).enabled <= evaluate(high, flag, user, groups).enabled


REASONS = {
    "a flag without a row": (None, "user-1", (), False, Reason.FLAG_MISSING),
    "disabled goes before everything": (row("100", enabled=False), "user-1", (), False, Reason.DISABLED),
    "0 % is nobody": (row("0"), "user-1", (), False, Reason.NOBODY),
    "0 % of a group is nobody": (row("0", "beta"), "user-1", ("beta",), False, Reason.NOBODY),
    "not in a group": (row("100", "beta"), "user-1", ("staff",), False, Reason.NOT_IN_GROUPS),
    "no groups at all": (row("100", "beta"), "user-1", (), False, Reason.NOT_IN_GROUPS),
    "the empty name is no group": (row("100", ""), "user-1", ("",), False, Reason.NOT_IN_GROUPS),
    "in one of the groups": (row("100", "beta", "staff"), "user-1", ["x", "staff"], True, Reason.EVERYBODY),
    "100 % without a user": (row("100"), None, (), True, Reason.EVERYBODY),
    "so nearly 100 % that every bucket has it": (row("99.999"), "user-1", (), True, Reason.BELOW_PERCENTAGE),
    "and who has no bucket has it not": (row("99.999"), None, (), False, Reason.NO_USER),
    "less than 100 % without a user": (row("99.99"), None, (), False, Reason.NO_USER),
    "the smallest share": (row("0.001"), "user-1", (), False, Reason.ABOVE_PERCENTAGE),
    "a lone surrogate is a user": (row("99.99"), "\ud800", (), True, Reason.BELOW_PERCENTAGE),
}


@pytest.mark.parametrize(("row", "user", "groups", "enabled", "reason"), REASONS.values(), ids=REASONS.keys())
def test_reasons(row: Exposure | None, user: str | None, groups: list[str], enabled: bool, reason: Reason) -> None:
    assert evaluate(row, "flag", user, groups) == Evaluation(enabled, reason)


def test_a_text_in_place_of_groups_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match="collection of names, not the text 'beta'"):
        evaluate(row("100", "b"), "flag", "user-1", "beta")


def test_a_flag_with_two_rows_is_had_by_whom_one_of_them_gives_it() -> None:
    both = rule([row("0"), row("100", "beta")], "flag")
    assert both.evaluate("user-1", ["beta"]) == Evaluation(True, Reason.EVERYBODY)
    assert both.evaluate("user-1") == Evaluation(False, Reason.NOBODY)
    assert FLAG_MISSING.enabled is False


@pytest.mark.parametrize(
    ("percentage", "first_without"),
    [("0", 0), ("0.001", 1), ("0.01", 1), ("33.33", 3333), ("33.331", 3334), ("99.999", 10_000), ("100", 10_000)],
)
def test_threshold(percentage: str, first_without: int) -> None:
    assert threshold(row(percentage)) == first_without
