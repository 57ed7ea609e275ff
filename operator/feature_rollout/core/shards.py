"""Which shard a rollout is in, and which shards a replica should have. Each shard has a Lease of its own.

How many shards there are is written in the Lease of the first one, by who holds it: so replicas that were told
different numbers agree all the same, but for the moments that it takes each of them to read it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

from feature_rollout.core.election import Lease

# Each replica looks at each Lease every other second.
SHARDS_MAX = 32


def shard_of(uid: str, shards: int) -> int:
    """The shard of the rollout with this UID; the same in every process and version."""
    return zlib.crc32(uid.encode()) % shards


def lease_of(name: str, shard: int) -> str:
    """The name of a shard's Lease. The first shard's is that of an operator that has no others."""
    return name if shard == 0 else f"{name}-{shard}"


def to_ask_for(me: str, leases: Sequence[Lease | None]) -> int | None:
    """The shard that this replica asks its holder for, because that one has at least two more; None when all is even.

    One at a time: who waits for a shard asks for no other. Each shard that is handed over makes the shares more alike,
    so this ends with shares that differ by one at most.
    """
    taken = [lease for lease in leases if lease is not None and lease.holder]
    if not taken or len(taken) < len(leases) or any(lease.wanted_by == me for lease in taken):
        return None
    # What was asked for is as good as handed over.
    shares = Counter(lease.wanted_by or lease.holder for lease in taken)
    richest, share = max(shares.items(), key=lambda item: (item[1], item[0]))
    if share < shares[me] + 2:
        return None
    # The last, because the first says how many there are.
    theirs = (shard for shard, lease in enumerate(taken) if (lease.holder, lease.wanted_by) == (richest, ""))
    return max(theirs, default=None)
