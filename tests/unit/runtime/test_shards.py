"""Replicas that share the Leases of several shards, in virtual time.

| subject | cases |
|---|---|
| one shard | one Lease of the old name, nothing else is looked at |
| even shares | one that starts later, a third, one that ends, one that is killed, one without a database |
| a request that nobody follows up | the shard is left free for some tries only |
| another number | what the first Lease's holder was told counts for all: more, fewer, at once with its take-over |
| rights | a Lease that a replica was not told of does not make it unready |
| at no time | do two replicas lead one shard, whatever becomes of them |
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.election import Lease, Role, Times
from feature_rollout.core.shards import shard_of
from feature_rollout.kube.errors import PermissionDenied, Stale
from feature_rollout.runtime.shards import Shards
from simulation.loop import run

TIMES = Times(lease_s=15, renew_deadline_s=10.0, retry_s=2.0)
UIDS = [f"uid-{number}" for number in range(50)]
# A Lease that runs out, and some tries.
TAKEOVER_S = 20.0


class Connection:
    """One Lease, as every replica's connection finds it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self._cluster = cluster

    async def get(self, timeout_s: float) -> Lease | None:
        await self._called()
        return self._cluster.leases.get(self.name)

    async def write(self, lease: Lease, timeout_s: float) -> Lease:
        await self._called()
        now = self._cluster.leases.get(self.name)
        version = now.source["version"] if now else 0
        if lease.source.get("version", 0) != version:
            raise Stale("PUT", 409)
        self._cluster.leases[self.name] = replace(lease, source={"version": version + 1})
        return self._cluster.leases[self.name]

    async def _called(self) -> None:
        self._cluster.asked.add(self.name)
        await asyncio.sleep(0.01)
        if self.name in self._cluster.forbidden:
            raise PermissionDenied("GET", 403)


class Cluster:
    """An API server, and the replicas that run."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.asked: set[str] = set()
        self.forbidden: set[str] = set()
        self.unfit: set[str] = set()
        self.replicas: dict[str, Shards] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, me: str, told: int) -> Shards:
        def fit() -> bool:
            return me not in self.unfit

        shards = Shards("operator", told, TIMES, lambda name: Connection(self, name), me=me, fit=fit)
        self.replicas[me] = shards
        self._tasks[me] = asyncio.create_task(shards.run())
        return shards

    def kill(self, me: str) -> None:
        self._tasks.pop(me).cancel()
        del self.replicas[me]

    async def stop(self, me: str) -> None:
        await self.replicas[me].release()
        self.kill(me)

    async def pass_s(self, seconds: float) -> None:
        """So much time, in which no rollout ever has two that lead it while all agree on how many shards there are."""
        end_s = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.25)
            if len({replica.number() for replica in self.replicas.values()}) == 1:
                assert all(len(self.leaders(uid)) <= 1 for uid in UIDS)

    def leaders(self, uid: str | None) -> list[str]:
        return [me for me, replica in self.replicas.items() if replica.role(uid) is Role.LEADING]

    def shares(self) -> list[int]:
        """How many shards each replica leads, when each rollout is led by exactly one."""
        assert all(len(self.leaders(uid)) == 1 for uid in UIDS)
        return [replica.led() for replica in self.replicas.values()]


def virtual(test: Coroutine[Any, Any, None]) -> None:
    random.seed(7)
    run(test)


def test_without_shards_there_is_one_lease() -> None:
    async def live() -> None:
        cluster = Cluster()
        first, _ = cluster.start("a", 1), cluster.start("b", 1)
        await cluster.pass_s(10)
        assert cluster.shares() == [1, 0]
        assert cluster.asked == {"operator"}
        assert {first.role(uid) for uid in UIDS} == {first.role()}

    virtual(live())


def test_who_scrapes_the_metrics_asks_from_a_thread_before_anything_else_has() -> None:
    async def test() -> None:
        cluster = Cluster()
        shards = Shards("operator", 2, TIMES, lambda name: Connection(cluster, name))
        assert await asyncio.to_thread(shards.led) == 0

    asyncio.run(test())


def test_replicas_come_to_even_shares_and_take_over_from_each_other() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("a", 4)
        await cluster.pass_s(6)
        assert cluster.shares() == [4]
        cluster.start("b", 4)
        await cluster.pass_s(30)
        assert cluster.shares() == [2, 2]
        cluster.start("c", 4)
        await cluster.pass_s(30)
        assert sorted(cluster.shares()) == [1, 1, 2]
        await cluster.stop("a")
        await cluster.pass_s(5)
        assert sum(cluster.shares()) == 4, "what was given up needs no waiting"
        cluster.kill("c")
        await cluster.pass_s(TAKEOVER_S)
        assert cluster.shares() == [4]

    virtual(live())


def test_a_replica_that_is_about_to_end_asks_for_nothing() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("a", 4)
        await cluster.pass_s(6)
        cluster.start("b", 4).retire()
        await cluster.pass_s(30)
        assert cluster.shares() == [4, 0]

    virtual(live())


def test_a_replica_without_a_database_asks_for_nothing_and_leaves_what_it_has() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.unfit.add("b")
        cluster.start("a", 4)
        await cluster.pass_s(6)
        cluster.start("b", 4)
        await cluster.pass_s(30)
        assert cluster.shares() == [4, 0]
        cluster.unfit.clear()
        await cluster.pass_s(30)
        assert cluster.shares() == [2, 2]
        cluster.unfit.add("a")
        await cluster.pass_s(TAKEOVER_S)
        assert cluster.shares() == [0, 4]

    virtual(live())


def test_a_shard_is_not_kept_for_a_replica_that_has_gone() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("a", 2)
        await cluster.pass_s(6)
        lease = cluster.leases["operator-1"]
        cluster.leases["operator-1"] = replace(lease, wanted_by="gone", source={"version": lease.source["version"] + 1})
        await cluster.pass_s(5)
        assert cluster.replicas["a"].led() == 1
        await cluster.pass_s(10)
        assert cluster.shares() == [2]

    virtual(live())


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 4), (4, 1)])
def test_the_number_changes_with_the_first_lease(before: int, after: int) -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("a", before)
        await cluster.pass_s(6)
        cluster.start("b", before)
        await cluster.pass_s(30)
        # Replicas with another number start, and the old ones end after them.
        cluster.start("c", after)
        await cluster.pass_s(30)
        assert {replica.number() for replica in cluster.replicas.values()} == {before}
        assert sum(cluster.shares()) == before
        cluster.start("d", after)
        for old in ("a", "b"):
            await cluster.stop(old)
            await cluster.pass_s(30)
        assert {replica.number() for replica in cluster.replicas.values()} == {after}
        assert sum(cluster.shares()) == after
        assert max(cluster.shares()) - min(cluster.shares()) <= 1
        unused = {name for name, lease in cluster.leases.items() if lease.holder not in cluster.replicas}
        assert unused == {f"operator-{shard}" for shard in range(after, before)}

    virtual(live())


def test_who_held_a_shard_that_there_is_no_more_gives_it_up() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("a", 3)
        await cluster.pass_s(6)
        cluster.start("b", 2)
        await cluster.pass_s(30)
        held = {name for name, lease in cluster.leases.items() if lease.holder == "b"}
        assert held == {"operator-2"}, "the first is not asked for"
        lease = cluster.leases["operator"]
        # It comes into the hands of the other one.
        cluster.leases["operator"] = replace(lease, wanted_by="b", source={"version": lease.source["version"] + 1})
        await cluster.pass_s(30)
        assert [replica.number() for replica in cluster.replicas.values()] == [2, 2]
        assert cluster.leases["operator-2"].holder == ""
        assert cluster.shares() == [1, 1]

    virtual(live())


def test_rollouts_that_change_their_shard_are_told() -> None:
    async def live() -> None:
        cluster, told = Cluster(), list[int]()
        shards = Shards(
            "operator", 3, TIMES, lambda name: Connection(cluster, name), resized=lambda: told.append(shards.number())
        )
        task = asyncio.create_task(shards.run())
        await asyncio.sleep(6)
        assert told == [1, 3]
        assert {shard_of(uid, 3) for uid in UIDS} == {0, 1, 2}
        task.cancel()

    virtual(live())


def test_a_right_that_only_older_replicas_need_makes_nobody_unready() -> None:
    async def live() -> None:
        cluster = Cluster()
        cluster.start("old", 3)
        await cluster.pass_s(6)
        cluster.forbidden.add("operator-2")
        new = cluster.start("new", 2)
        await cluster.pass_s(TAKEOVER_S)
        assert new.problems() == []
        assert cluster.replicas["old"].problems() == ["the Lease operator-2 cannot be had: GET: 403"]

    virtual(live())


@pytest.mark.parametrize("seed", range(5))
def test_there_are_never_two_whatever_becomes_of_them(seed: int) -> None:
    async def live() -> None:
        cluster, drawn = Cluster(), random.Random(seed)
        for number in range(30):
            if cluster.replicas and drawn.random() < 0.5:
                me = drawn.choice(sorted(cluster.replicas))
                if drawn.random() < 0.5:
                    cluster.kill(me)
                else:
                    await cluster.stop(me)
            else:
                cluster.start(f"r{number}", 5)
            await cluster.pass_s(drawn.uniform(0.0, 15.0))
        cluster.start("last", 5)
        await cluster.pass_s(90)
        assert sum(cluster.shares()) == 5
        assert max(cluster.shares()) - min(cluster.shares()) <= 1

    virtual(live())
