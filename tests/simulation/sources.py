"""Metrics, checks and other rollouts as one replica is answered: with latency, time-outs, errors that hold a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.reconcile.others import Other
from simulation.traffic import SECRET, Kind

if TYPE_CHECKING:
    from simulation.replica import Replica

# A source's own limit.
TIMEOUT_S = 10.0


class MemorySource:
    def __init__(self, replica: Replica, rollout: str) -> None:
        self._replica = replica
        self._rollout = rollout
        self._world = replica.world

    async def look(self, metric: str, window: Window) -> Look:
        look = await self._answer(metric, window)
        await self._replica.travel()
        self._world.witness.looked(self._replica, self._rollout, look)
        return look

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        await self._replica.travel()
        bound, level = self._world.metric(self._rollout, metric), self._world.traffic[self._rollout].levels[metric]
        if not self._world.has_past:
            return [Look(metric, window) for window in windows]
        if bound.type is MetricType.GAUGE:
            return [Look(metric, window, value=level.healthy) for window in windows]
        hours = [(window.end - window.start).total_seconds() / 3600 for window in windows]
        return [
            Look(metric, window, events=round(1e6 * h * level.healthy), units=1e6 * h)
            for window, h in zip(windows, hours, strict=True)
        ]

    async def _answer(self, metric: str, window: Window) -> Look:
        await self._replica.travel()
        traffic = self._world.traffic[self._rollout]
        if window.end > self._world.now():
            # Asked by a clock that is fast: nothing has been measured yet.
            return Look(metric, window)
        spell = traffic.spell(metric, window)
        kind = spell.kind if spell is not None else None
        if kind is Kind.HANGS:
            await asyncio.sleep(TIMEOUT_S)
            return Look(metric, window, error="no answer in time")
        if kind is Kind.ERROR:
            return Look(metric, window, error="HTTP 500")
        if kind is Kind.RAISES:
            await self._replica.travel()
            self._world.witness.looked(self._replica, self._rollout, Look(metric, window, error="raised"))
            raise RuntimeError(f"cannot log in with {SECRET}")
        return Look(metric, window, **traffic.numbers(self._world.metric(self._rollout, metric), window))


class MemoryOthers:
    """`reconcile.others.Others`, as `runtime.targets` has it."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def find(self, name: str) -> Other | str:
        await self._replica.travel()
        target = await self._replica.target(name)
        if target is None:
            return "there is no such FeatureRollout"
        if target.deleting:
            return "it is being deleted"
        if target.plan is None or target.store is None:
            return "InvalidPlan"
        return Other(
            target.key,
            target.uid,
            target.plan,
            target.store,
            target.suspended,
            target.on_drift,
            target.trouble,
        )


class MemoryChecks:
    """Checks fail or cannot be asked while the world says so; a Job runs for a while first."""

    def __init__(self, replica: Replica, rollout: str) -> None:
        self._replica = replica
        self._rollout = rollout

    async def ask(self, name: str, attempt: int) -> CheckAnswer:
        world, replica = self._replica.world, self._replica
        await replica.travel()
        state = world.checks.get(name, "passes")
        await replica.travel()
        answer = {
            "passes": CheckAnswer(name, True, "as expected", replica.now()),
            "fails": CheckAnswer(name, False, "not as expected", replica.now()),
            "errors": CheckAnswer(name, None, "the server does not answer", replica.now()),
            "runs": CheckAnswer(name, None, "its Job runs", replica.now() + timedelta(0), running=True),
        }
        if state == "raises":
            raise RuntimeError(f"cannot log in with {SECRET}")
        world.witness.checked(replica, self._rollout, answer[state])
        return answer[state]
