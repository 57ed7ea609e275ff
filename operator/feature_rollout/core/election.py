"""Who leads: the rules by which replicas share a Lease, as client-go has them. Each shard has one.

Nobody believes another's clock. A replica measures by its own monotonic clock for how long
the Lease stayed the same, and how long ago it began the last write of its own that is known
to have succeeded. A Lease alone keeps nobody from writing: the epoch in the ledger does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Any

# However much time is left: the API server answers in milliseconds or it does not.
REQUEST_S_MAX = 2.0
# The wait before the next try is up to this much longer, so that replicas do not come all at once.
JITTER = 0.2
# As client-go has it for a Lease that was given up; the API server refuses 0.
RELEASED_S = 1
# For how many tries a Lease that was given up for one replica is left to it by the others.
KEPT_FOR_TRIES = 3


class Role(StrEnum):
    """What a replica is: the one that leads, one that waits, or one that sees nobody lead."""

    LEADING = "Leading"
    STANDBY = "Standby"
    UNLED = "Unled"


class Step(Enum):
    """What a replica does about the Lease next."""

    LOOK = "look at it"
    WRITE = "take it or renew it"
    YIELD = "give it up"


@dataclass(frozen=True, slots=True)
class Times:
    """How long a Lease is good for, until when its holder must have renewed it, how often everybody tries, in s."""

    lease_s: int = 15
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease as it was read; `holder` is empty when it was given up. Its times are never calculated with.

    `wanted_by` is the replica that has asked its holder for it; that says nothing about whether the holder is alive.
    `shards` is how many there are, which the first one's says. `source` is the whole object, to be written back with
    what is not ours.
    """

    holder: str
    duration_s: float
    acquired_at: str = ""
    renewed_at: str = ""
    transitions: int = 0
    shards: int = 1
    wanted_by: str = field(default="", compare=False)
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """What one replica knows of the Lease. All times are seconds of its own monotonic clock.

    `same_since_s` is since when the Lease was seen to be as it is, at first when the replica began to look.
    `renewed_s` is when its last successful write was begun. `unfit_since_s` is since when it could not work if
    it led, because it reaches no database. `shards` is how many it says that there are when it holds the Lease.
    """

    me: str
    times: Times
    same_since_s: float
    lease: Lease | None = None
    renewed_s: float | None = None
    unfit_since_s: float | None = None
    shards: int = 1

    @property
    def holds(self) -> bool:
        """Whether the Lease is this replica's own as far as it knows, in time or not."""
        return self.renewed_s is not None and self.lease is not None and self.lease.holder == self.me

    def saw(self, lease: Lease | None, now_s: float) -> Standing:
        """After the Lease was read; None says that there is none."""
        if lease == self.lease:
            # Another version of it may differ in what says nothing about who leads.
            return replace(self, lease=lease)
        return replace(self, lease=lease, same_since_s=now_s)

    def wrote(self, lease: Lease, begun_s: float) -> Standing:
        """After a write has succeeded: one that took the Lease, renewed it or gave it up."""
        renewed_s = begun_s if lease.holder == self.me else None
        return replace(self, lease=lease, same_since_s=begun_s, renewed_s=renewed_s)

    def resigned(self) -> Standing:
        """Before the Lease is given up: the answer may be lost, and another lead by then."""
        return replace(self, renewed_s=None)

    def works(self, fit: bool, now_s: float) -> Standing:
        """After it was found out whether the replica could work now."""
        if fit:
            return replace(self, unfit_since_s=None)
        return self if self.unfit_since_s is not None else replace(self, unfit_since_s=now_s)

    def role(self, now_s: float) -> Role:
        """What the replica is at this time, also when it has slept until now."""
        if self.holds and self.renewed_s is not None and now_s < self.renewed_s + self.times.renew_deadline_s:
            return Role.LEADING
        # While it is handed over, whoever had it goes on measuring.
        given_up = self.lease is not None and not self.lease.holder and now_s >= self._free_s()
        if given_up or now_s >= self.same_since_s + self.times.renew_deadline_s:
            return Role.UNLED
        return Role.STANDBY

    def step(self, now_s: float) -> Step:
        """What to do about the Lease as it was last seen."""
        if self.holds:
            is_idle = self._unfit_s(now_s) >= self.times.renew_deadline_s / 2
            return Step.YIELD if is_idle or self._is_anothers else Step.WRITE
        # Who cannot work leaves it to the others, unless none of them comes for it.
        patience_s = self.times.lease_s if self._unfit_s(now_s) > 0.0 else 0.0
        return Step.WRITE if now_s >= self._free_s() + patience_s else Step.LOOK

    def turns_in_s(self, now_s: float) -> float | None:
        """When the role becomes another one if nothing is heard until then; None when it stays."""
        role = self.role(now_s)
        if role is Role.UNLED:
            return None
        since_s = self.same_since_s if role is Role.STANDBY or self.renewed_s is None else self.renewed_s
        return since_s + self.times.renew_deadline_s - now_s

    def request_s(self, now_s: float) -> float:
        """How long a call may take: an answer that comes after the deadline is none."""
        if self.role(now_s) is not Role.LEADING or self.renewed_s is None:
            return REQUEST_S_MAX
        return min(REQUEST_S_MAX, self.renewed_s + self.times.renew_deadline_s - now_s)

    def wait_s(self, now_s: float, random: float) -> float:
        """How long to wait before the next try; `random` is in [0, 1). A Lease that runs out is tried for at once."""
        retry_s = self.times.retry_s * (1.0 + JITTER * random)
        free_in_s = self._free_s() - now_s
        return min(retry_s, free_in_s) if not self.holds and free_in_s > 0.0 else retry_s

    def wanted(self, wall: str, *, released: bool = False) -> Lease:
        """The Lease as this replica writes it; `wall` is the time now, for people to read."""
        old = self.lease
        if released:
            old = old or Lease("", RELEASED_S)
            return replace(old, holder="", duration_s=RELEASED_S, acquired_at=wall, renewed_at=wall)
        if old is None:
            return Lease(self.me, self.times.lease_s, wall, wall, shards=self.shards)
        mine = old.holder == self.me
        return Lease(
            self.me,
            self.times.lease_s,
            acquired_at=old.acquired_at if mine else wall,
            renewed_at=wall,
            transitions=old.transitions if mine else old.transitions + 1,
            shards=self.shards,
            source=old.source,
        )

    @property
    def may_ask(self) -> bool:
        """Whether another has it, and nobody has asked for it yet."""
        return self.lease is not None and self.lease.holder not in ("", self.me) and not self.lease.wanted_by

    def asking(self) -> Lease:
        """The Lease of another as this replica writes it to have it given up; there must be one."""
        assert self.lease is not None  # noqa: S101 - what nobody holds need not be asked for
        return replace(self.lease, wanted_by=self.me)

    @property
    def _is_anothers(self) -> bool:
        """Whether another replica has asked for it."""
        return self.lease is not None and self.lease.wanted_by not in ("", self.me)

    def _free_s(self) -> float:
        """From when on it may be taken: at once when there is none, it was given up to all, or it bears our name."""
        if self.lease is None or self.lease.holder == self.me:
            return self.same_since_s
        if not self.lease.holder:
            return self.same_since_s + (KEPT_FOR_TRIES * self.times.retry_s if self._is_anothers else 0.0)
        return self.same_since_s + self.lease.duration_s

    def _unfit_s(self, now_s: float) -> float:
        """For how long it could not have worked; never 0 for one that cannot."""
        return 0.0 if self.unfit_since_s is None else max(now_s - self.unfit_since_s, 1e-9)
