"""In-memory stand-ins for what the reconciler talks to, and plans to try it on.

| name | stands for |
|---|---|
| `FakeClock` | time; it moves only when told |
| `FakeStore` | one database: flag rows, ledger rows, ownership, audit, checkpoints (`support/fakestore.py`) |
| `FakeSource` | metrics: a function of (metric, window), which may be changed, made to fail or to hang |
| `FakeChecks` | checks that are not for people: a dict of name to answer; `asked` has every question |
| `FakeObjects` | the API server: objects, statuses, Events, finalizers |
| `World` | all of them with a `Reconciler`, run in virtual time |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.exposure import Exposure, FlagChange
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.people import Answer, Outcome, Request, RequestType
from feature_rollout.core.plan import (
    Action,
    ActionType,
    BaselineType,
    Clause,
    FlagEntry,
    Gate,
    Limit,
    Metric,
    MetricType,
    OnDelete,
    Plan,
    Row,
    Sense,
    Severity,
    Stage,
    digest,
)
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Problem
from feature_rollout.reconcile import Reconciler, Target
from support.fakestore import FakeStore

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
INTERVAL = timedelta(seconds=30)
BAKE = timedelta(minutes=5)
OFF = Exposure(False, Decimal(0))
NAMESPACE, NAME, KEY = "shop", "bell", "cluster/shop/bell"


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def exposure(percentage: float | str, *groups: str, enabled: bool = True) -> Exposure:
    return Exposure(enabled, Decimal(str(percentage)), frozenset(groups))


def percent(text: str) -> Limit:
    return Limit(float(text.removesuffix("%")) / 100, text)


def ratio(name: str = "errors", **changes: Any) -> Metric:
    return replace(Metric(name, MetricType.RATIO, INTERVAL, counts_users=True), **changes)


def gauge(name: str = "latency", **changes: Any) -> Metric:
    return replace(Metric(name, MetricType.GAUGE, INTERVAL, unit="s"), **changes)


def above(metric: str = "errors", limit: str = "1%", key: str = "", **changes: Any) -> Clause:
    value = percent(limit) if limit.endswith("%") else Limit(float(limit), limit)
    return replace(Clause(key or f"{metric}>{limit}", metric, Sense.ABOVE, value), **changes)


def below(metric: str = "hits", limit: str = "80%", **changes: Any) -> Clause:
    return replace(above(metric, limit, f"{metric}<{limit}"), sense=Sense.BELOW, **changes)


def relative(metric: str = "errors", change: str = "50%", **changes: Any) -> Clause:
    """An increase against the past, unless `changes` say otherwise."""
    made = above(metric, change, f"{metric}+{change}", baseline=BaselineType.BEFORE_ROLLOUT)
    return replace(made, **changes)


def row(severity: Severity, *clauses: Clause, action: Action | None = None, **changes: Any) -> Row:
    wanted = action or Action(ActionType.DISABLE_FLAGS)
    return replace(Row(severity, clauses, minutes(30), wanted, settle=timedelta(0)), **changes)


def stage(
    name: str,
    *entries: tuple[str, FlagChange] | tuple[str, float],
    bake: timedelta = BAKE,
    gates: tuple[Gate, ...] = (),
    **changes: Any,
) -> Stage:
    """A stage; an entry is a flag and its percentage, or its change. The digest is of all that is given here."""
    changed = [
        FlagEntry((flag,), to if isinstance(to, FlagChange) else FlagChange(percentage=Decimal(str(to))))
        for flag, to in entries
    ]
    made = replace(Stage(name, tuple(changed), bake, gates), **changes)
    return replace(made, digest=digest(repr(made)))


def plan(
    *stages: Stage,
    rows: Sequence[Row] = (row(Severity.HIGH, above()),),
    metrics: Sequence[Metric] = (ratio(),),
    **changes: Any,
) -> Plan:
    """A plan; by default a flag `bell` goes to 10, 50 and 100 % under one guard, errors above 1 %."""
    stages = stages or (stage("ten", ("bell", 10)), stage("half", ("bell", 50)), stage("all", ("bell", 100)))
    made = Plan(
        metrics={metric.name: metric for metric in metrics},
        rows=tuple(sorted(rows, key=lambda r: -r.severity)),
        stages=stages,
        plan_hash=digest([repr(stages), repr(rows), repr(metrics)]),
        spec_hash=digest([repr(stages)]),
    )
    return replace(made, **changes)


def ledger(**changes: Any) -> Ledger:
    return replace(Ledger(KEY, "uid-1", 1, 0, "v1:spec", "v1:plan"), **changes)


def ledger_in(of: Plan, stage: int, *, baseline: Exposure = OFF, entered_at: datetime = T0, **changes: Any) -> Ledger:
    """The ledger of a rollout that has entered the stage of that index, and all before it."""
    before = dict.fromkeys(of.flags, baseline)
    wanted = of.exposure_after(stage, before)
    entered = of.stages[: stage + 1]
    made = ledger(
        stage=stage,
        entered_at=entered_at,
        executed=tuple(s.digest for s in entered),
        baseline=before if any(s.entries for s in entered) else {},
        written={flag: wanted[flag] for s in entered for flag in s.flags},
        spec_hash=of.spec_hash,
        plan_hash=of.plan_hash,
    )
    return replace(made, **changes)


def look(metric: str, start: datetime, length: timedelta = INTERVAL, **numbers: Any) -> Look:
    return Look(metric, Window(start, start + length), **numbers)


@dataclass
class FakeClock:
    time: datetime = T0

    def now(self) -> datetime:
        return self.time


@dataclass
class FakeSource:
    """`answer` gives the look's numbers. While `hanging` it says nothing at all."""

    answer: Callable[[str, Window], Mapping[str, Any]] = lambda _metric, _window: {"events": 0.0, "units": 200.0}
    hanging: bool = False
    asked: list[tuple[str, Window]] = field(default_factory=list)
    past: Callable[[str, Window], Mapping[str, Any]] = lambda _metric, _window: {}
    hanging_history: bool = False
    histories: list[tuple[str, int]] = field(default_factory=list)

    async def look(self, metric: str, window: Window) -> Look:
        self.asked.append((metric, window))
        if self.hanging:
            await asyncio.Event().wait()
        return Look(metric, window, **self.answer(metric, window))

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        """The past before the rollout, by `past`; while `hanging` it says nothing either."""
        self.histories.append((metric, len(windows)))
        if self.hanging_history:
            await asyncio.Event().wait()
        return [Look(metric, window, **self.past(metric, window)) for window in windows]


@dataclass
class FakeChecks:
    """`answers` gives (passed, message) by full name; what is not there could not be asked."""

    clock: FakeClock
    answers: dict[str, tuple[bool | None, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def ask(self, name: str, attempt: int) -> CheckAnswer:
        self.asked.append(name)
        return CheckAnswer(name, *self.answers.get(name, (None, "the server does not answer")), self.clock.now())


@dataclass
class FakeObjects:
    """The API server's rollouts, by uid."""

    rollouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: list[Mapping[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    # What the status of each RolloutAction says, by its name.
    answers: dict[str, tuple[Answer, datetime]] = field(default_factory=dict)
    down: bool = False

    def _called(self) -> None:
        if self.down:
            raise Problem("ApiServerUnavailable", "The API server does not answer.", stalled=False)

    async def fresh(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        self._called()
        return next((r for r in self.rollouts.values() if r["metadata"]["name"] == name), None)

    async def add_finalizer(self, rollout: Mapping[str, Any]) -> None:
        metadata = self.rollouts[rollout["metadata"]["uid"]]["metadata"]
        if not metadata["finalizers"]:
            self._called()
            metadata["finalizers"] = ["featurerollout.dev/finalizer"]

    async def remove_finalizer(self, rollout: Mapping[str, Any]) -> None:
        self._called()
        self.rollouts[rollout["metadata"]["uid"]]["metadata"]["finalizers"] = []

    async def write_status(self, rollout: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self.statuses.append(json.loads(json.dumps(status, allow_nan=False)))
        self.rollouts[rollout["metadata"]["uid"]]["status"] = self.statuses[-1]

    def event(self, rollout: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str) -> None:
        self.events.append((kind, reason, note))

    def answer(self, rollout: Mapping[str, Any], request: Request, answer: Answer, at: datetime) -> None:
        if not self.down:
            self.answers[request.name] = (answer, at)


@dataclass
class FakeTelemetry:
    verdicts: list[str] = field(default_factory=list)
    reverts: list[tuple[str, float]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def looked(self, verdict: str) -> None:
        self.verdicts.append(verdict)

    def reverted(self, severity: str, seconds: float, look_to_commit_s: float | None, *, late: bool) -> None:
        self.reverts.append((severity, seconds))

    def violated(self, invariant: str) -> None:
        self.violations.append(invariant)


class World:
    """One rollout, its database, metrics and API server, in virtual time."""

    def __init__(self, of: Plan, **rows: Exposure) -> None:
        self.plan: Plan | None = of
        self.clock = FakeClock()
        self.store = FakeStore(self.clock.now, **(rows or dict.fromkeys(of.flags, OFF)))
        self.source = FakeSource()
        self.checks = FakeChecks(self.clock)
        self.requests: list[Request] = []
        self.asked = 0
        self.objects = FakeObjects()
        self.telemetry = FakeTelemetry()
        self.target_changes: dict[str, Any] = {}
        self.woken = False
        # How often it was woken before all others.
        self.urgent = 0
        self.create("uid-1")
        self.restart()

    def create(self, uid: str) -> None:
        metadata = {"uid": uid, "namespace": NAMESPACE, "name": NAME, "generation": 1, "finalizers": []}
        self.uid = uid
        self.objects.rollouts = {uid: {"metadata": metadata}}

    def restart(self) -> None:
        """A new process: nothing that was in memory is left."""
        self.reconciler = Reconciler(self.objects, self.clock, self.telemetry, self._wake)

    def _wake(self, namespace: str, name: str, *, urgent: bool = False) -> None:
        assert (namespace, name) == (NAMESPACE, NAME)
        self.woken = True
        self.urgent += urgent

    def edit(self, of: Plan | None, **changes: Any) -> None:
        """Another generation of the manifest; `changes` are of the `Target`."""
        self.plan = of
        self.target_changes |= changes
        self.rollout["metadata"]["generation"] += 1

    def delete(self, **annotations: str) -> None:
        self.rollout["metadata"] |= {"deletionTimestamp": "2026-01-05T10:00:00Z", "annotations": annotations}

    @property
    def rollout(self) -> dict[str, Any]:
        return self.objects.rollouts[self.uid]

    @property
    def ledger(self) -> Ledger:
        return self.store.ledgers[KEY]

    @property
    def status(self) -> Mapping[str, Any]:
        return self.rollout.get("status", {})

    @property
    def reasons(self) -> list[str]:
        """Of the Events, in order."""
        return [reason for _, reason, _ in self.objects.events]

    def condition(self, kind: str) -> str:
        return next((c["status"] for c in self.status["conditions"] if c["type"] == kind), "")

    def asks(self, kind: RequestType | str, by: str = "alice", **fields: Any) -> Request:
        """A person makes a RolloutAction; Approve and Confirm name the plan hash as it is."""
        kind = RequestType(kind)
        self.asked += 1
        number = self.asked
        if kind in (RequestType.APPROVE, RequestType.CONFIRM) and self.plan is not None:
            fields = {"plan_hash": self.plan.plan_hash, **fields}
        made = Request(f"action-{number}", kind, self.clock.time, f"{kind}-{number}".lower(), requested_by=by, **fields)
        self.requests.append(made)
        return made

    def answer(self, request: Request) -> tuple[str, str]:
        """Outcome and reason, as the action's status has them."""
        answer, _ = self.objects.answers[request.name]
        return str(answer.outcome), answer.reason

    def target(self) -> Target:
        copy = json.loads(json.dumps(self.rollout))
        made = Target(copy, KEY, OnDelete.KEEP, self.plan, store=self.store, source=self.source, checks=self.checks)
        return replace(made, requests=self._unanswered(), **self.target_changes)

    def _unanswered(self) -> tuple[Request, ...]:
        """Those whose status does not say yet what became of them."""
        said = {name for name, (answer, _) in self.objects.answers.items() if answer.outcome is not Outcome.PENDING}
        return tuple(request for request in self.requests if request.name not in said)

    async def step(self) -> timedelta | None:
        """One reconcile, and everything that it started."""
        due = await self.reconciler.reconcile(self.target())
        for _ in range(5):
            await asyncio.sleep(0)
        return due

    async def run(self, duration: timedelta, until: Callable[[], bool] = lambda: False) -> None:
        """Reconcile when it is due, as the scheduler does, and checkpoint as often."""
        end = self.clock.time + duration
        for _ in range(20_000):
            if until():
                return
            self.woken = False
            due = await self.step()
            await self.reconciler.checkpoint()
            if self.woken or due == timedelta(0):
                continue
            if due is None or self.clock.time + due > end:
                self.clock.time = end
                return
            self.clock.time += due
        raise AssertionError("it never comes to rest")
