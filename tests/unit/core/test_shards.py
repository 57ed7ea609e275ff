"""Shards: where a rollout is, and how replicas come to even shares.

| subject | cases |
|---|---|
| a rollout's shard | the same for ever; all in the only one; spread over many |
| names | the first shard's Lease is that of an operator without shards |
| asking | even and nearly even shares, a richer one, one that waits already, a shard that nobody has, two that ask |
| any start | every share ends within one of the others, and then nobody asks |
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.election import Lease
from feature_rollout.core.shards import lease_of, shard_of, to_ask_for
from support.depth import properties

UIDS = [f"5f0c2c1e-8d7b-4b1e-9a55-{number:012x}" for number in range(3000)]


def test_where_a_rollout_is_never_changes() -> None:
    assert [shard_of(uid, 3) for uid in UIDS[:8]] == [1, 0, 0, 2, 0, 2, 1, 1]
    assert {shard_of(uid, 1) for uid in UIDS} == {0}


def test_rollouts_are_spread_over_the_shards() -> None:
    counts = Counter(shard_of(uid, 4) for uid in UIDS)
    assert sorted(counts) == [0, 1, 2, 3]
    assert min(counts.values()) > 0.8 * len(UIDS) / 4


def test_the_first_lease_is_that_of_an_operator_without_shards() -> None:
    assert [lease_of("operator", shard) for shard in range(3)] == ["operator", "operator-1", "operator-2"]


def held(holders: str, wanted: str = "") -> list[Lease | None]:
    """Leases by their holders: `-` for a Lease without one, `.` for no Lease; and who has asked for each."""
    wanted = wanted.ljust(len(holders))
    return [
        None if holder == "." else Lease(holder.strip("-"), 15, wanted_by=by.strip())
        for holder, by in zip(holders, wanted, strict=True)
    ]


@pytest.mark.parametrize(
    ("leases", "shard"),
    [
        (held("a"), None),
        (held("aa"), 1),
        (held("ab"), None),
        (held("aab"), None),
        (held("aabc"), None),
        (held("aaab"), 2),
        (held("aacc"), 3),
        (held("bbaa"), None),
        # It waits for one already, or may have what nobody has.
        (held("aaaa", "b   "), None),
        (held("aa-a"), None),
        (held("aa.a"), None),
        # What another has asked for is as good as gone.
        (held("aa", "c "), None),
        (held("aaa", "  c"), 1),
    ],
)
def test_who_has_too_few_asks_who_has_the_most(leases: list[Lease | None], shard: int | None) -> None:
    assert to_ask_for("b", leases) == shard


@given(st.text("abcd", min_size=1, max_size=12), st.permutations("abcd"))
@properties(300)
def test_shares_end_even_from_any_start(holders: str, order: list[str]) -> None:
    now = list(holders)
    for _ in range(len(now) * len(order)):
        for me in order:
            shard = to_ask_for(me, held("".join(now)))
            if shard is not None:
                now[shard] = me
    shares = [now.count(me) for me in order]
    assert max(shares) - min(shares) <= 1
    assert [to_ask_for(me, held("".join(now))) for me in order] == [None] * 4
