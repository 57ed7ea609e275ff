"""What has been measured in this attempt: looks, evidence, and how long the stage has baked.

Looks go in one by one, in any order of metrics; what comes out depends on the looks
alone, not on when the process that made them was started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from feature_rollout.core.evidence import THRESHOLD_MIN, Evidence, Test, made_test
from feature_rollout.core.gauge import GaugeRule, GaugeRun, made_rule
from feature_rollout.core.looks import Look, Verdict, Window, known_at, next_window
from feature_rollout.core.measured import MetricProgress, read_time, with_arms
from feature_rollout.core.people import Lift
from feature_rollout.core.plan import Clause, Metric, MetricType, OnNoTraffic, Plan, Row, Sense
from feature_rollout.core.reference import Reference
from feature_rollout.core.relative import (
    Arms,
    dispersion_of,
    fires_on,
    is_by_signs,
    is_global,
    is_past,
    judged,
    judged_pair,
    limit_of,
    wanted_references,
)

# After an outage of the operator, so many of the missed windows are looked at; older ones stay unobserved.
CATCH_UP_WINDOWS = 10
# Without any guard, bake is the time between reconciles; more than this between two of them was not observed.
UNGUARDED_STEP_MAX = timedelta(minutes=1)

# What is there before anything was measured; made once, because it is asked for at every look.
_UNMEASURED = MetricProgress()
_NO_EVIDENCE = Evidence()
_NO_RUN = GaugeRun()


@dataclass(frozen=True, slots=True)
class Progress:
    """All that was measured since the attempt began.

    `stage_from` is when the present stage was entered: a look belongs to it when its
    window starts then or later. `baked_until` is up to where `baked` was accounted.
    `judged_from` is where guards look from when `stage_from` lies ahead, by a clock that was fast or was put back;
    bake and gates count from `stage_from` on all the same.
    `watching` is true from the first raise on: before it there is nothing to blame.
    `reference_until` is the end of the past that the attempt is compared with, and None
    where it is not asked for; `references` is what was found, by metric.
    """

    stage_from: datetime | None = None
    watching: bool = False
    baked: timedelta = timedelta(0)
    baked_until: datetime | None = None
    metrics: Mapping[str, MetricProgress] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    gauges: Mapping[str, GaugeRun] = field(default_factory=dict)
    reference_until: datetime | None = None
    references: Mapping[str, Reference] = field(default_factory=dict)
    lifted_at: datetime | None = None
    judged_from: datetime | None = None

    @property
    def looks_from(self) -> datetime | None:
        """The present stage is looked at in windows that start then or later."""
        return self.judged_from or self.stage_from

    def of(self, metric: str) -> MetricProgress:
        return self.metrics.get(metric, _UNMEASURED)

    def evidence_of(self, clause: Clause) -> Evidence:
        return self.evidence.get(clause.key, _NO_EVIDENCE)

    def gauge_of(self, clause: Clause) -> GaugeRun:
        return self.gauges.get(clause.key, _NO_RUN)

    def entered(self, plan: Plan, at: datetime, *, raised: bool) -> Progress:
        """A stage was entered: its looks and its bake start now, and every test is given the raise's weight."""
        evidence, gauges = self.evidence, self.gauges
        if raised:
            evidence = {
                clause.key: self._evidence(plan, clause).raised(self.test_of(plan, row, clause))
                for row, clause in plan.guards()
                if _is_ratio(plan, clause) or is_by_signs(clause, plan.metrics[clause.metric])
            }
            gauges = {}
        metrics = {
            name: replace(progress, events=0.0, units=0.0, values=(), healthy=(), sample=(0.0, 0.0))
            for name, progress in self.metrics.items()
        }
        references = {name: found.settled() if raised else found for name, found in self.references.items()}
        return replace(
            self,
            stage_from=at,
            judged_from=None,
            watching=self.watching or raised,
            baked=timedelta(0),
            baked_until=at,
            metrics=metrics,
            evidence=evidence,
            gauges=gauges,
            references=references,
        )

    def lifted(self, lift: Lift | None) -> Progress:
        """After a person has lifted the hold of clauses: what was measured against them before counts no more, once."""
        if lift is None or lift.at == self.lifted_at:
            return self
        return replace(
            self,
            evidence={key: e.reset() if key in lift.clauses else e for key, e in self.evidence.items()},
            gauges={key: run for key, run in self.gauges.items() if key not in lift.clauses},
            lifted_at=lift.at,
        )

    def observed(self, plan: Plan, look: Look, *, counting: bool, on_no_traffic: OnNoTraffic) -> Progress:
        """After a look. One that was seen already, or that began before the stage, changes nothing.

        `counting` is false while the bake must not go on: paused, suspended or reverted.
        """
        look, before = look.checked(), self.of(look.metric)
        if look.metric not in plan.metrics:
            return self
        if before.looked_until is not None and look.window.start < before.looked_until:
            return self
        if self.looks_from is not None and look.window.start < self.looks_from:
            return self
        arms = with_arms(before.arms, look)
        after = self._judged(plan, look, arms) if self.watching else self
        guards = plan.guards_on(look.metric)
        seen = look.is_measured or (look.error is None and on_no_traffic is OnNoTraffic.COUNT)
        held = any(after.holds(plan, row, clause, look.window.end) for row, clause in guards)
        of_stage = self.stage_from is None or look.window.start >= self.stage_from
        healthy = bool(guards) and counting and seen and not held and self.stage_from is not None and of_stage
        keep, key = of_stage and look.metric in plan.gated_metrics, plan.metrics[look.metric].key
        measured = before.observed(look, arms, healthy=healthy, keep_value=keep, of_stage=of_stage, key=key)
        return _with_bake(after.with_measured({**after.metrics, look.metric: measured}), plan)

    def with_measured(
        self,
        metrics: Mapping[str, MetricProgress],
        evidence: Mapping[str, Evidence] | None = None,
        gauges: Mapping[str, GaugeRun] | None = None,
    ) -> Progress:
        """As `replace` does, at a third of what that costs: three weeks have hundreds of thousands of looks."""
        return Progress(
            self.stage_from,
            self.watching,
            self.baked,
            self.baked_until,
            metrics,
            self.evidence if evidence is None else evidence,
            self.gauges if gauges is None else gauges,
            self.reference_until,
            self.references,
            self.lifted_at,
            self.judged_from,
        )

    def elapsed(self, plan: Plan, now: datetime, *, counting: bool) -> Progress:
        """Time went by in a plan without any guard to look at: that is its bake."""
        if plan.guards() or self.baked_until is None or now <= self.baked_until:
            return self
        step = min(now - self.baked_until, UNGUARDED_STEP_MAX)
        return replace(self, baked=self.baked + step if counting else self.baked, baked_until=now)

    def is_ahead_of(self, now: datetime) -> bool:
        """Whether something of it is of a time that is still to come."""
        times = (self.looks_from, self.baked_until, *(metric.looked_until for metric in self.metrics.values()))
        return any(time is not None and time > now for time in times)

    def rewound(self, plan: Plan, now: datetime, on_no_traffic: OnNoTraffic) -> Progress:
        """After the clock was put back, or was found to have been fast: what lies ahead is looked at when it comes.

        A window that had data was counted, and is not looked at again; those after it were empty. What they have
        added to the bake is taken back, for they may add it again.
        """
        metrics = {name: metric.rewound(now, self.baked_until) for name, metric in self.metrics.items()}
        is_early = self.looks_from is not None and self.looks_from > now
        baked, baked_until = self.baked, self.baked_until
        if baked_until is not None and baked_until > now:
            if on_no_traffic is OnNoTraffic.COUNT or not plan.guarded_metrics:
                again = baked_until - max([now, *(self.of(name).data_until or now for name in plan.guarded_metrics)])
                baked = max(baked - max(again, timedelta(0)), timedelta(0))
            baked_until = now
        return replace(
            self,
            metrics=metrics,
            judged_from=now if is_early else self.judged_from,
            baked=baked,
            baked_until=baked_until,
        )

    def is_breached(self, plan: Plan, row: Row, clause: Clause, at: datetime) -> bool:
        """Whether the clause is conclusively past its limit."""
        metric = plan.metrics[clause.metric]
        if clause.blocker is not None or metric.blocker is not None:
            return False
        by_signs, evidence = is_by_signs(clause, metric), self.evidence_of(clause)
        if metric.type is MetricType.GAUGE and not by_signs:
            return self.gauge_of(clause).breached(gauge_rule(metric, clause, clause.limit.value))
        if evidence.run is None and evidence.value < THRESHOLD_MIN:
            return False  # as after most looks, which is said without the test
        test = self.test_of(plan, row, clause)
        if by_signs:
            return evidence.conclusive(test)
        return evidence.conclusive(test) or evidence.overdue(test, row.respond_within, at)

    def holds(self, plan: Plan, row: Row, clause: Clause, at: datetime) -> bool:
        """Whether this clause alone keeps the rollout from advancing."""
        evidence = self.evidence_of(clause)
        return evidence.holds or evidence.is_vetoed or self.is_breached(plan, row, clause, at)

    def reference_of(self, metric: Metric) -> Reference | None:
        """What is known of the metric's past, unless it is that of an earlier query."""
        found = self.references.get(metric.name)
        return found if found is not None and found.key == metric.key else None

    def references_missing(self, plan: Plan) -> tuple[str, ...]:
        """The metrics whose past is asked for and not known yet."""
        if self.reference_until is None:
            return ()
        return tuple(name for name in wanted_references(plan) if self.reference_of(plan.metrics[name]) is None)

    def referred(self, metric: str, reference: Reference) -> Progress:
        """The past of a metric was found, or that there is none to be had."""
        known = reference.settled() if self.watching else reference
        return replace(self, references={**self.references, metric: known})

    def too_tight(self, plan: Plan) -> tuple[Clause, ...]:
        """Before the first raise: clauses that would have taken exposure back in the past, where no rollout was."""
        if self.watching:
            return ()
        found = []
        for row, clause in plan.guards():
            metric = plan.metrics[clause.metric]
            reference = self.reference_of(metric)
            if not row.action.type.lowers or reference is None or not reference.blocks or not _is_ratio(plan, clause):
                continue
            if fires_on(reference, self.test_of(plan, row, clause), clause, metric):
                found.append(clause)
        return tuple(found)

    def verdict(self, plan: Plan, look: Look) -> Verdict:
        """What one look says, taken alone, against the limits in force of the guards on its metric."""
        if look.error is not None:
            return Verdict.ERROR
        if look.number is None:
            return Verdict.NO_DATA
        metric = plan.metrics[look.metric]
        reference = self.reference_of(metric)
        clauses = (clause for _, clause in plan.guards_on(look.metric))
        return Verdict.FAIL if any(is_past(c, metric, reference, look) for c in clauses) else Verdict.PASS

    def test_of(self, plan: Plan, row: Row, clause: Clause) -> Test:
        """The test of a clause on a Ratio, `below` on the complement; or of a Gauge's blocks, which are its looks."""
        metric, by_signs = plan.metrics[clause.metric], is_by_signs(clause, plan.metrics[clause.metric])
        limit = None
        if clause.baseline is None:
            limit = clause.limit.value if clause.sense is Sense.ABOVE else clause.limit.complement
        return made_test(
            limit,
            plan.lowering_clauses,
            plan.alpha,
            plan.flag_stages,
            plan.bakes_s,
            gauge_rule(metric, clause, 0.0).block_length_s if by_signs else metric.interval.total_seconds(),
            # In an hour, which is the longest settle, signs cannot gain as much as settling allows.
            0.0 if by_signs else row.settle.total_seconds(),
            1.0 if by_signs else dispersion_of(metric, self.reference_of(metric)),
        )

    def due_window(self, metric: Metric, now: datetime) -> Window:
        """The next window to look at. It is due once `looks.known_at` is past."""
        oldest = now - metric.delay - CATCH_UP_WINDOWS * metric.interval
        newest_closed = now - metric.delay - 2 * metric.interval
        looked_until = self.of(metric.name).looked_until
        start = max(oldest, looked_until) if looked_until else newest_closed
        return next_window(metric, max(start, self.looks_from) if self.looks_from else start)

    def due_at(self, metric: Metric, now: datetime) -> datetime:
        return known_at(metric, self.due_window(metric, now))

    def _evidence(self, plan: Plan, clause: Clause) -> Evidence:
        """A clause's evidence; one that is new in mid-attempt starts from nothing, but its time has run on."""
        known = self.evidence.get(clause.key)
        if known is not None:
            return known
        others = list(self.evidence.values())
        fresh = Evidence.of_signs() if is_by_signs(clause, plan.metrics[clause.metric]) else Evidence()
        if not others:
            return fresh
        return replace(fresh, observed_s=max(e.observed_s for e in others), raises=max(e.raises for e in others))

    def _judged(self, plan: Plan, look: Look, arms: tuple[Arms, ...]) -> Progress:
        metric = plan.metrics[look.metric]
        reference = self.reference_of(metric)
        evidence, gauges = dict(self.evidence), dict(self.gauges)
        for row, clause in plan.guards_on(look.metric):
            if clause.blocker is not None:
                continue
            if metric.type is MetricType.GAUGE:
                limit = limit_of(clause, metric, reference, look)
                value = look.value if look.is_measured and limit is not None else None
                rule = gauge_rule(metric, clause, clause.limit.value if limit is None else limit)
                run = gauges.get(clause.key, _NO_RUN)
                if not is_by_signs(clause, metric):
                    gauges[clause.key] = run.looked(rule, value, look.window.start, look.window.end)
                    continue
                both = None if value is None or look.control_value is None else (value, look.control_value)
                gauges[clause.key], pair = run.paired(rule, both, look.window.start, look.window.end)
                if pair is not None:
                    known, test = self._evidence(plan, clause), self.test_of(plan, row, clause)
                    evidence[clause.key] = judged_pair(known, test, clause, pair)
            elif look.is_measured:
                test = self.test_of(plan, row, clause)
                found = judged(self._evidence(plan, clause), test, clause, look, metric=metric, reference=reference)
                is_incident = found.conclusive(test) and is_global(clause, arms)
                evidence[clause.key] = found.vetoed() if is_incident else found
        return self.with_measured(self.metrics, evidence, gauges)

    def to_json(self) -> dict[str, Any]:
        return {
            "stageFrom": self.stage_from.isoformat() if self.stage_from else None,
            "judgedFrom": self.judged_from.isoformat() if self.judged_from else None,
            "watching": self.watching,
            "bakedSeconds": self.baked.total_seconds(),
            "bakedUntil": self.baked_until.isoformat() if self.baked_until else None,
            "metrics": {name: progress.to_json() for name, progress in self.metrics.items()},
            "evidence": {key: evidence.to_json() for key, evidence in self.evidence.items()},
            "gauges": {key: run.to_json() for key, run in self.gauges.items()},
            "referenceUntil": self.reference_until.isoformat() if self.reference_until else None,
            "references": {name: reference.to_json() for name, reference in self.references.items()},
            "liftedAt": self.lifted_at.isoformat() if self.lifted_at else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Progress:
        return cls(
            stage_from=read_time(data["stageFrom"]),
            judged_from=read_time(data.get("judgedFrom")),
            watching=data["watching"],
            baked=timedelta(seconds=data["bakedSeconds"]),
            baked_until=read_time(data["bakedUntil"]),
            metrics={name: MetricProgress.from_json(value) for name, value in data["metrics"].items()},
            evidence={key: Evidence.from_json(value) for key, value in data["evidence"].items()},
            gauges={key: GaugeRun.from_json(value) for key, value in data["gauges"].items()},
            # Not there in what an earlier version has stored.
            reference_until=read_time(data.get("referenceUntil")),
            references={name: Reference.from_json(value) for name, value in data.get("references", {}).items()},
            lifted_at=read_time(data.get("liftedAt")),
        )


def _with_bake(progress: Progress, plan: Plan) -> Progress:
    """Account the bake up to where every guard has been looked at: the time in which all were healthy."""
    names = plan.guarded_metrics
    if progress.baked_until is None or not names:
        return progress
    until = None
    for name in names:
        known = progress.of(name).looked_until
        if known is None or known <= progress.baked_until:
            return progress
        until = known if until is None else min(until, known)
    assert until is not None  # noqa: S101 - there is a name
    counted = Window(progress.baked_until, until)
    healthy = overlap([progress.of(name).healthy for name in names], counted)
    metrics = {name: _after_bake(measured, until) for name, measured in progress.metrics.items()}
    return replace(progress, baked=progress.baked + healthy, baked_until=until, metrics=metrics)


def _after_bake(measured: MetricProgress, until: datetime) -> MetricProgress:
    """Without the spans that are accounted for."""
    spans = measured.healthy
    if not spans or spans[0].end > until:
        return measured
    return measured.with_healthy(tuple([span for span in spans if span.end > until]))


def overlap(spans: Iterable[tuple[Window, ...]], within: Window) -> timedelta:
    """How much of `within` lies in a span of every one of the given tuples; each is sorted and disjoint."""
    common: list[Window] = [within]
    for mine in spans:
        common = [
            Window(max(a.start, b.start), min(a.end, b.end))
            for a in common
            for b in mine
            if max(a.start, b.start) < min(a.end, b.end)
        ]
    return sum((window.end - window.start for window in common), timedelta(0))


def gauge_rule(metric: Metric, clause: Clause, limit: float) -> GaugeRule:
    """The rule of a clause on a Gauge with the limit in force."""
    persist = (clause.persist.failures, clause.persist.of) if clause.persist else None
    return made_rule(limit, clause.sense is Sense.ABOVE, persist, metric.interval.total_seconds())


def _is_ratio(plan: Plan, clause: Clause) -> bool:
    return clause.blocker is None and plan.metrics[clause.metric].type is MetricType.RATIO
