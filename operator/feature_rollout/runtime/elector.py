"""The replica's part in the election: it tries for the Lease, renews it, and gives it up."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from feature_rollout.core.election import REQUEST_S_MAX, Lease, Role, Standing, Step, Times
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Stale
from feature_rollout.kube.leases import micro_time

log = logging.getLogger(__name__)

SAID = {
    Role.LEADING: "this replica leads (Lease %s)",
    Role.STANDBY: "this replica stands by: %s leads (Lease %s)",
    Role.UNLED: "nobody is seen to lead (Lease %s): this replica measures, and raises nothing",
}


class Leases(Protocol):
    """One Lease, as `kube.leases.KubeLease` has it."""

    name: str

    async def get(self, timeout_s: float) -> Lease | None: ...

    async def write(self, lease: Lease, timeout_s: float) -> Lease: ...


def identity() -> str:
    """The name of this process, as client-go makes it: another container of the same pod is somebody else."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Elector:
    """`role()` at any time, `run()` as a task, `release()` at the end.

    `shards` is how many there are, for the Lease that says so. `fit()` says whether this replica could do the work,
    `used()` whether there is any for who has this Lease; `changed(role)` is called when its role is another. What is
    asked of `role()` is right at that moment, however long the process was stopped before.
    """

    def __init__(
        self,
        lease: Leases,
        times: Times,
        *,
        me: str | None = None,
        shards: int = 1,
        fit: Callable[[], bool] = lambda: True,
        used: Callable[[], bool] = lambda: True,
        changed: Callable[[Role], None] = lambda _role: None,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._lease = lease
        self._fit = fit
        self._used = used
        self._changed = changed
        self._now_s = now_s or asyncio.get_running_loop().time
        self._standing = Standing(me or identity(), times, self._now_s(), shards=shards)
        self._told = Role.STANDBY
        # The version that is known may not be the newest: an answer was lost, or somebody else has written.
        self._must_read = True
        self._failure = ""
        self._problem = ""
        self._trying = asyncio.Lock()
        self._ending = False

    def role(self) -> Role:
        return self._standing.role(self._now_s())

    @property
    def lease(self) -> Lease | None:
        """The Lease as it was last seen or written."""
        return self._standing.lease

    def problems(self) -> list[str]:
        """What a person must mend before anybody can lead."""
        return [self._problem] if self._problem else []

    async def run(self) -> None:
        """Try for the Lease until cancelled."""
        while True:
            await self.attempt()
            wait_s = self._standing.wait_s(self._now_s(), random.random())  # noqa: S311 - no secret depends on it
            turn_s = self._standing.turns_in_s(self._now_s())
            if turn_s is not None and turn_s < wait_s:
                await asyncio.sleep(turn_s)
                self._tell()
                wait_s -= turn_s
            await asyncio.sleep(wait_s)

    async def attempt(self) -> None:
        """Look at the Lease or write it, once. Whatever goes wrong, it was not renewed."""
        async with self._trying:
            if self._ending:
                return
            was_fit = self._standing.unfit_since_s is None
            self._standing = self._standing.works(self._fit(), self._now_s())
            if was_fit and self._standing.unfit_since_s is not None:
                log.info("this replica reaches no database")
            try:
                await (self._try() if self._used() else self._give_up())
            except Exception as error:  # noqa: BLE001 - one that nobody has thought of is no renewal either
                self._failed(error)
            else:
                self._failure = self._problem = ""
        self._tell()

    async def ask(self) -> None:
        """Have its holder give the Lease up to this replica. That it was not asked is seen in the Lease."""
        async with self._trying:
            if self._ending:
                return
            try:
                async with asyncio.timeout(REQUEST_S_MAX):
                    # As it is now: its holder writes it all the time.
                    await self._read(REQUEST_S_MAX)
                    if self._standing.may_ask:
                        await self._lease.write(self._standing.asking(), REQUEST_S_MAX)
                        log.info("the Lease %s was asked for", self._lease.name)
            except Exception as error:  # noqa: BLE001 - it is asked for again, and the others are not given up for it
                log.info("the Lease %s was not asked for: %s", self._lease.name, _text(error))

    async def release(self) -> None:
        """Give the Lease up, so that another need not wait for its end. The last thing that is done with it."""
        self._ending = True
        async with self._trying:
            await self._give_up()

    async def _give_up(self) -> None:
        if not self._standing.holds:
            return
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                if self._must_read:
                    await self._read(REQUEST_S_MAX)
                if self._standing.holds:
                    await self._write(REQUEST_S_MAX, released=True)
                    log.info("the Lease %s was given up", self._lease.name)
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease %s was not given up: %s", self._lease.name, _text(error))

    async def _try(self) -> None:
        timeout_s = self._standing.request_s(self._now_s())
        async with asyncio.timeout(timeout_s):
            if self._must_read or not self._standing.holds:
                await self._read(timeout_s)
            step = self._standing.step(self._now_s())
            if step is Step.YIELD and self._standing.unfit_since_s is not None:
                log.warning("this replica reaches no database, and leaves the Lease %s to others", self._lease.name)
            elif step is Step.YIELD:
                log.info("the Lease %s is given up to a replica that has asked for it", self._lease.name)
            if step is not Step.LOOK:
                await self._write(timeout_s, released=step is Step.YIELD)

    async def _read(self, timeout_s: float) -> None:
        self._standing = self._standing.saw(await self._lease.get(timeout_s), self._now_s())
        self._must_read = False

    async def _write(self, timeout_s: float, *, released: bool) -> None:
        begun_s = self._now_s()
        self._must_read = True
        wanted = self._standing.wanted(micro_time(datetime.now(UTC)), released=released)
        if released:
            self._standing = self._standing.resigned()
        self._standing = self._standing.wrote(await self._lease.write(wanted, timeout_s), begun_s)
        self._must_read = False

    def _failed(self, error: Exception) -> None:
        """Say it once. That another was quicker is no failure, and needs no words."""
        if isinstance(error, Stale):
            return
        text = f"the Lease {self._lease.name} cannot be had: {_text(error)}"
        passing = isinstance(error, ApiUnavailable | TimeoutError)
        self._problem = "" if passing else text
        if text != self._failure:
            log.warning("%s", text)
        self._failure = text

    def _tell(self) -> None:
        role = self.role()
        if not self._used():
            # It is news again when there is this Lease again.
            self._told = Role.STANDBY
            return
        if role is self._told:
            return
        self._told = role
        lease = self._standing.lease
        holder = lease.holder or lease.wanted_by if lease is not None else "nobody"
        level = logging.WARNING if role is Role.UNLED else logging.INFO
        log.log(level, SAID[role], *((holder,) if role is Role.STANDBY else ()), self._lease.name)
        self._changed(role)


def _text(error: Exception) -> str:
    # The text of what is no error of ours may hold anything.
    return str(error) if isinstance(error, ApiError) else type(error).__name__
