"""Between a replica and the servers: latency, outages, and traps that are sprung once by a matching call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from feature_rollout.kube.errors import ApiError, ApiUnavailable
from feature_rollout.ports import Drifted, Fenced, Problem, Unconfirmed
from feature_rollout.postgres import STORE_UNREACHABLE

if TYPE_CHECKING:
    from simulation.database import Tables
    from simulation.replica import Replica

T = TypeVar("T")
# How long a server that answers takes.
LATENCY_S = (0.001, 0.004, 0.02, 0.15)
LATE_COMMIT_S = 0.7


class Dead(BaseException):
    """The process is no more; nothing of it goes on."""


class Trap(StrEnum):
    """What becomes of a call. The first two are for the API server too."""

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    LOST_MADE = "answer lost, made"
    LOST_UNMADE = "answer lost, not made"
    LATE = "answer lost, made later"
    STALE_GET = "stale get"


# What a write to the database, a question to the API server and a write to it can fall into.
DATABASE_TRAPS = frozenset(Trap) - {Trap.STALE_GET}
API_READ_TRAPS = frozenset({Trap.STALE_GET})
API_WRITE_TRAPS = frozenset({Trap.CRASH_BEFORE, Trap.CRASH_AFTER, Trap.LOST_MADE})


@dataclass(frozen=True, slots=True)
class Armed:
    """`what` is how the names of the calls begin. `sprung` is told when it was met."""

    trap: Trap
    what: tuple[str, ...]
    sprung: Callable[[], None]


def unreachable() -> Problem:
    return Problem(STORE_UNREACHABLE, "the database server does not answer", stalled=False)


def unconfirmed() -> Problem:
    return Unconfirmed(STORE_UNREACHABLE, "the database server does not answer", stalled=False)


class DatabaseWire:
    """`store.Wire` with everything that can happen on the way."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._world = replica.world

    @property
    def no_room(self) -> Problem | None:
        if not self._world.weather.no_room:
            return None
        return Problem("DiskFull", "the database has no room left (SQLSTATE 53100)")

    async def read(self, what: str, work: Callable[[], T]) -> T:
        await self._reach()
        try:
            result = work()
        except Problem as problem:
            self._replica.note(f"{what}: {problem}")
            raise
        if what == "read":
            self._world.witness.read(self._replica)
        await self._replica.travel(slow=self._world.weather.slow_reads)
        return result

    async def write(self, what: str, work: Callable[[], T]) -> T:
        self._world.calls(self._replica, what)
        try:
            await self._reach()
        except Problem:
            self._world.witness.unanswered(self._replica, what)
            raise
        no_room = self.no_room
        if no_room is not None and what != "lower flags only":
            raise no_room
        trap = self._replica.trapped(what, DATABASE_TRAPS)
        if trap is Trap.CRASH_BEFORE:
            self._replica.crash(f"before {what}")
        while self._world.late is not None:
            await self._world.late
            await self._reach()
        try:
            result = self._transaction(what, work, trap)
        except (Problem, Fenced, Drifted):
            self._world.witness.unanswered(self._replica, what)
            raise
        if trap is Trap.CRASH_AFTER:
            self._replica.crash(f"after {what}")
        await self._replica.travel()
        self._world.witness.answered(self._replica, what, result)
        return result

    def _transaction(self, what: str, work: Callable[[], T], trap: Trap | None) -> T:
        database, replica = self._world.database, self._replica
        before = database.begin()
        try:
            result = work()
        except (Problem, Fenced, Drifted) as error:
            database.rollback(before)
            replica.note(f"{what}: {type(error).__name__} {error}")
            raise
        if trap is Trap.LOST_UNMADE:
            database.rollback(before)
            replica.note(f"{what}: not made, and no answer")
            raise unconfirmed()
        if trap is Trap.LATE:
            self._later(what, before)
            raise unconfirmed()
        database.commit(replica.name, what, before)
        if trap is Trap.LOST_MADE:
            replica.note(f"{what}: made, and no answer")
            raise unconfirmed()
        return result

    def _later(self, what: str, before: Tables) -> None:
        """The COMMIT is on its way: others see nothing of it yet, and wait for its locks."""
        database, world, name = self._world.database, self._world, self._replica.name
        after, rows = database.tables, dict(before.flags)
        database.rollback(before)
        self._replica.note(f"{what}: no answer, and still on its way")
        loop = asyncio.get_running_loop()
        late = world.late = loop.create_future()

        def arrive() -> None:
            world.late = None
            if not late.done():
                late.set_result(None)
                # One that has found a row changed meanwhile ends there, which is as if it had never come.
                if database.tables is before and before.flags == rows:
                    database.tables = after
                    database.commit(name, what, before)

        loop.call_later(LATE_COMMIT_S, arrive)

    async def _reach(self) -> None:
        await self._replica.travel()
        if self._world.weather.store_down:
            raise unreachable()


class ApiWire:
    """Calls to the API server: `ask` may be given an old version, `tell` changes something."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._world = replica.world

    async def ask(self, what: str, work: Callable[[bool], T]) -> T:
        self._world.calls(self._replica, what)
        await self._reach()
        is_stale = self._replica.trapped(what, API_READ_TRAPS) is Trap.STALE_GET
        if is_stale:
            self._world.witness.misled(self._replica)
        result = work(is_stale)
        await self._replica.travel()
        return result

    async def tell(self, what: str, work: Callable[[], T]) -> T:
        await self._reach(slow=self._world.weather.slow_statuses and what.startswith("status "))
        trap = self._replica.trapped(what, API_WRITE_TRAPS)
        if trap is Trap.CRASH_BEFORE:
            self._replica.crash(f"before {what}")
        try:
            result = work()
        except ApiError as error:
            self._replica.note(f"{what}: {type(error).__name__}")
            raise
        self._replica.note(what)
        if trap is Trap.CRASH_AFTER:
            self._replica.crash(f"after {what}")
        if trap is Trap.LOST_MADE:
            raise ApiUnavailable(what)
        await self._replica.travel()
        return result

    async def _reach(self, *, slow: bool = False) -> None:
        await self._replica.travel(slow=slow)
        if self._world.weather.api_down:
            raise ApiUnavailable("the API server does not answer")
