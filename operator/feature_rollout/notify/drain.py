"""Draining an outbox: one recipient is told of one transition at a time, as fast as it takes them.

What goes wrong is tried again with growing pauses, which the database keeps, so that no
restart forgets them. A recipient that is in trouble itself is asked about one transition
at a time until it is well again, and only its own transitions wait for that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from feature_rollout.notify.recipient import Recipient, Sent, Undelivered
from feature_rollout.ports import Backlog, Delivery, Outbox, Problem

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
SWEEP_S: Final = 60.0
BACKLOG_S: Final = 5.0
BACKOFF_S_MAX: Final = 60.0
# A transition that the recipient refuses is tried so often: perhaps it is mended meanwhile.
REFUSED_MAX: Final = 10
# All that one delivery may take; the lease is longer.
DELIVERY_TIMEOUT_S: Final = 30.0
# How often it is tried to record that somebody was told; all of it within the lease, unless the server hangs.
RECORD_MAX: Final = 4
# A message, its thread; and once more when the message is gone.
STEPS_MAX: Final = 4


class Counts(Protocol):
    """What is measured of deliveries; all by the recipient's name."""

    def delivered(self, recipient: str) -> None: ...

    def failed(self, recipient: str) -> None: ...

    def gave_up(self, recipient: str) -> None: ...


def backoff_s(failures: int) -> float:
    """1, 2, 4 … 60 s after so many failures in a row, less up to half of it: many do not come back at once."""
    return min(2.0 ** min(failures - 1, 16), BACKOFF_S_MAX) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Line:
    """The way to one recipient, shared by all outboxes: whether it is in trouble, and until when it is left alone."""

    def __init__(self, recipient: Recipient, counts: Counts) -> None:
        self.recipient = recipient
        self._counts = counts
        self._failures = 0
        self._closed_until_s = 0.0

    @property
    def name(self) -> str:
        return self.recipient.name

    def wait_s(self) -> float:
        """How long nothing is to be sent; 0 when something may be."""
        return max(self._closed_until_s - asyncio.get_running_loop().time(), 0.0)

    async def deliver(self, outbox: Outbox, delivery: Delivery) -> None:
        """Send it and record what has come of it; raises Problem."""
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT_S):
                sent = await self._sent(outbox, delivery)
        except TimeoutError:
            await self._failed(outbox, delivery, Undelivered(f"not delivered in {DELIVERY_TIMEOUT_S:g} s"))
        except Undelivered as failure:
            await self._failed(outbox, delivery, failure)
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - a transition that cannot be put into words must not end the others
            refused = Undelivered(f"it cannot be put into words: {type(error).__name__}", refused=True)
            await self._failed(outbox, delivery, refused)
        else:
            self._well()
            if sent is not None:
                await _told(outbox, delivery, sent)
                self._counts.delivered(self.name)

    async def _sent(self, outbox: Outbox, delivery: Delivery) -> Sent | None:
        """Send it step by step; None when the lease was lost: then somebody else has it."""
        memory = delivery.memory
        for _ in range(STEPS_MAX):
            sent = await self.recipient.send(delivery.transition, memory)
            if sent.whole:
                return sent
            memory = sent.memory
            if not await outbox.remember(delivery, memory):
                return None
        raise Undelivered("it forgets what it was told")

    async def _failed(self, outbox: Outbox, delivery: Delivery, failure: Undelivered) -> None:
        self._counts.failed(self.name)
        attempts, problem = delivery.attempts + 1, str(failure)
        retry_s = failure.retry_after_s or backoff_s(attempts)
        if failure.refused:
            self._well()
        else:
            self._troubled(problem, failure.retry_after_s)
        extra = {"rollout": delivery.transition.key, "operation": delivery.transition.id}
        if failure.refused and attempts >= REFUSED_MAX:
            log.error("%s is never told: %s", self.name, problem, extra=extra)
            self._counts.gave_up(self.name)
            await outbox.give_up(delivery, problem)
        else:
            if failure.refused:
                log.warning("%s is not told yet: %s", self.name, problem, extra=extra)
            await outbox.failed(delivery, problem, retry_s)

    def _troubled(self, problem: str, retry_after_s: float | None) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s cannot be told: %s", self.name, problem)
        pause_s = retry_after_s or backoff_s(self._failures)
        self._closed_until_s = asyncio.get_running_loop().time() + pause_s

    def _well(self) -> None:
        if self._failures:
            log.warning("%s can be told again", self.name)
        self._failures, self._closed_until_s = 0, 0.0


async def _told(outbox: Outbox, delivery: Delivery, sent: Sent) -> None:
    """Record it, also when the database is away for a moment: what is not recorded is told again."""
    for attempt in range(1, RECORD_MAX):
        try:
            return await outbox.told(delivery, sent.memory)
        except Problem:
            await asyncio.sleep(backoff_s(attempt))
    return await outbox.told(delivery, sent.memory)


async def drain(outbox: Outbox, line: Line) -> None:
    """Tell a recipient of what is in an outbox, until cancelled. A database that is away is waited for."""
    failures = 0
    while True:
        wait_s = line.wait_s()
        if wait_s == 0.0:
            try:
                delivery = await outbox.next(line.name)
                if delivery is not None:
                    await line.deliver(outbox, delivery)
                    failures = 0
                    continue
                wait_s, failures = POLL_S, 0
            except Problem as problem:
                failures += 1
                wait_s = backoff_s(failures)
                log.debug("an outbox cannot be read: %s", problem)
        await asyncio.sleep(wait_s)


async def keep(outbox: Outbox, lines: Sequence[Line], counts: Counts, waiting: Callable[[str, Backlog], None]) -> None:
    """Register the recipients, give up what is too old, and tell how much waits for each, until cancelled."""
    clock = asyncio.get_running_loop().time
    sweep_at_s, failures = clock(), 0
    while True:
        try:
            if clock() >= sweep_at_s:
                for recipient, operation, key in await outbox.sweep([line.name for line in lines]):
                    counts.gave_up(recipient)
                    log.error("%s is never told: it took too long", recipient, extra=_extra(key, operation))
                sweep_at_s = clock() + SWEEP_S
            for line in lines:
                waiting(line.name, await outbox.backlog(line.name))
        except Problem as problem:
            failures += 1
            log.debug("an outbox cannot be swept: %s", problem)
        else:
            failures = 0
        await asyncio.sleep(backoff_s(failures) if failures else BACKLOG_S)


def _extra(key: str, operation: str) -> dict[str, str]:
    return {"rollout": key, "operation": operation}
