"""Where the rollouts stand that a stage waits for, read from their ledgers in the background.

Their database may be another one, and slow: nothing waits for it, least of all a revert.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from feature_rollout.core import reasons
from feature_rollout.core.decision import Standing, Trouble, View
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import aligned
from feature_rollout.core.plan import OnDrift, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.ports import Clock, FlagStore, Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Other:
    """A rollout of the same namespace as the runtime finds it: what its ledger row is read with."""

    key: str
    uid: str
    plan: Plan
    store: FlagStore
    suspended: bool = False
    on_drift: OnDrift = OnDrift.RESPECT
    trouble: Trouble | None = None


class Others(Protocol):
    """The rollouts of one namespace."""

    async def find(self, name: str) -> Other | str:
        """The rollout, or in words why there is nothing to read; raises Problem."""


class Readings:
    """What was read of others, and what is being read; kept between two reconciles of one rollout."""

    def __init__(self) -> None:
        self._known: dict[str, Standing] = {}
        self._reading: dict[str, asyncio.Task[Standing]] = {}

    def known(self) -> dict[str, Standing]:
        """The newest of each, by name."""
        for name, task in [(name, task) for name, task in self._reading.items() if task.done()]:
            del self._reading[name]
            if not task.cancelled():
                self._known[name] = task.result()
        return dict(self._known)

    def read(self, names: tuple[str, ...], others: Others, clock: Clock, wake: Callable[[], None]) -> None:
        """Begin to read these, unless that is under way; `wake` is called when one is there."""
        for name in names:
            if name not in self._reading:
                self._reading[name] = task = asyncio.create_task(_standing(others, name, clock))
                task.add_done_callback(lambda _: wake())

    def forget(self) -> None:
        for task in self._reading.values():
            task.cancel()
        self._reading, self._known = {}, {}


async def _standing(others: Others, name: str, clock: Clock) -> Standing:
    # What is read is true of when it was asked for, however long the answer takes.
    asked_at = clock.now()
    try:
        found = await others.find(name)
        if isinstance(found, str):
            return Standing(asked_at, unknown=found)
        return await _read(found, Standing(asked_at))
    except Problem as problem:
        return Standing(asked_at, unknown=problem.reason)
    except Exception as error:  # noqa: BLE001 - another rollout's objects must cost no more than an answer
        # Its text may hold anything, secrets too: only its type is told.
        log.error("where rollout %s is could not be read: %s", name, type(error).__name__)  # noqa: TRY400 - likewise
        return Standing(asked_at, unknown=f"reading it failed with {type(error).__name__}")


async def _read(other: Other, standing: Standing) -> Standing:
    try:
        flags = (await other.store.read(other.key, [])).ledger.written
        snapshot = await other.store.read(other.key, list(dict.fromkeys([*other.plan.flags, *flags])), progress=True)
    except Problem as problem:
        if problem.reason == reasons.LEDGER_MISSING:
            return replace(standing, unknown="it has not begun")
        raise
    ledger, stored = snapshot.ledger, snapshot.progress
    if ledger.uid != other.uid:
        return replace(standing, unknown="it has not begun")
    measured = Progress.from_json(stored[1]) if stored is not None and stored[0] == ledger.attempt else None
    # What was stored last may be of the stage before: its bake and its gates are not this one's.
    progress = aligned(measured, other.plan, ledger, standing.at)
    view = View(
        plan=other.plan,
        ledger=ledger,
        rows=snapshot.rows,
        progress=progress,
        guards=assess(other.plan, progress, standing.at),
        now=standing.at,
        suspended=other.suspended,
        trouble=other.trouble,
        on_drift=other.on_drift,
    )
    return replace(standing, view=view)
