"""Which rollouts this replica leads: one elector a shard, and shards that are shared evenly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from feature_rollout.core.election import Role, Times
from feature_rollout.core.shards import lease_of, shard_of, to_ask_for
from feature_rollout.runtime.elector import Elector, Leases, identity


class Shards:
    """`role(uid)` at any time and in any thread, `run()` as a task, `release()` at the end.

    `told` is how many shards this replica was told that there are; it counts when this replica has the first one's
    Lease. `open_lease(name)` makes the connection to a Lease; `fit` and `changed` are as an `Elector` has them.
    `resized()` is called when there are more or fewer than before, and rollouts are in other ones.
    """

    def __init__(
        self,
        name: str,
        told: int,
        times: Times,
        open_lease: Callable[[str], Leases],
        *,
        me: str | None = None,
        fit: Callable[[], bool] = lambda: True,
        changed: Callable[[Role], None] = lambda _role: None,
        resized: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._name = name
        self._told = told
        self._times = times
        self._open_lease = open_lease
        self._me = me or identity()
        self._fit = fit
        self._changed = changed
        self._resized = resized
        self._now_s = now_s or asyncio.get_running_loop().time
        # More than there are, when there were more. Who scrapes the metrics looks from a thread.
        self._electors: list[Elector] = []
        self._adding = threading.Lock()
        self._retiring = False

    def number(self) -> int:
        """How many there are: what the first one's Lease says. Until it was read there is nothing to lead but that."""
        lease = self._elector(0).lease
        return lease.shards if lease is not None else 1

    def role(self, uid: str | None = None) -> Role:
        """What this replica is for the rollout with this UID; without one for whatever belongs to no rollout."""
        return self._elector(shard_of(uid, self.number()) if uid is not None else 0).role()

    def led(self) -> int:
        """How many shards this replica leads."""
        return sum(elector.role() is Role.LEADING for elector in self._there())

    def problems(self) -> list[str]:
        """What a person must mend. That a shard is lacking that goes with the next replica is none of it."""
        return [problem for elector in self._there()[: self._told] for problem in elector.problems()]

    async def run(self) -> None:
        """Try for every Lease, and see to even shares, until cancelled."""
        running = number = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                if self.number() != number:
                    number = len(self._there())
                    self._resized()
                for elector in self._electors[running:]:
                    tasks.create_task(elector.run())
                running = len(self._electors)
                await self.balance()
                await asyncio.sleep(self._times.retry_s)

    async def balance(self) -> None:
        """Ask for a shard of a replica that has more of them, if there is one."""
        there = self._there()
        may_ask = self._fit() and not self._retiring
        shard = to_ask_for(self._me, [elector.lease for elector in there]) if may_ask else None
        if shard is not None:
            await there[shard].ask()

    def retire(self) -> None:
        """Ask for no more: this replica is about to end, and leads what it has until it has finished."""
        self._retiring = True

    async def release(self) -> None:
        """Give every Lease up; the last thing that is done with them."""
        await asyncio.gather(*(elector.release() for elector in self._electors))

    def _there(self) -> list[Elector]:
        """The electors of the shards that there are."""
        return [self._elector(shard) for shard in range(self.number())]

    def _elector(self, shard: int) -> Elector:
        with self._adding:
            while len(self._electors) <= shard:
                self._electors.append(self._made(len(self._electors)))
        return self._electors[shard]

    def _made(self, shard: int) -> Elector:
        return Elector(
            self._open_lease(lease_of(self._name, shard)),
            self._times,
            me=self._me,
            shards=self._told if shard == 0 else 1,
            fit=self._fit,
            used=lambda: shard < self.number(),
            changed=self._changed,
            now_s=self._now_s,
        )
