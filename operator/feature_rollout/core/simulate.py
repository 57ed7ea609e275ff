"""A rollout in virtual time: the same core, given looks and what people do, and nothing else.

One moment after the other at which something may be different: a look is known, somebody
acts, the calendar opens, a deadline is there, a metric was not looked at for too long. At
each of them the looks go in, and decisions are made and carried out until nothing more is
to be done, as the reconcile loop does it. There is no clock, no I/O and no chance: the
same scenario gives the same lines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from feature_rollout.core import reasons, steps
from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import OFF, Exposure
from feature_rollout.core.gauge import median
from feature_rollout.core.guards import GuardState, assess, stale_at
from feature_rollout.core.intake import taken_in
from feature_rollout.core.invariants import violations
from feature_rollout.core.looks import Look, Window, known_at
from feature_rollout.core.past import begun, inherited, of_blocks, without_blocks
from feature_rollout.core.people import EXPIRES_AFTER, Outcome, Request
from feature_rollout.core.plan import Metric, MetricType, OnBlind, Plan, Severity
from feature_rollout.core.progress import UNGUARDED_STEP_MAX, Progress
from feature_rollout.core.reference import BLOCKS_MIN, Reference, windows_before
from feature_rollout.core.relative import wanted_references
from feature_rollout.core.standstill import stands_still
from feature_rollout.core.state import Ledger
from feature_rollout.core.status import exposure_json

# A metric is blind when its newest look is older than a bound: this is the first moment after it.
_JUST_AFTER = timedelta(seconds=1)
_UID = "simulated"
# A line of the output: JSON data.
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a simulation starts from.

    `looks` may be of any windows, in any order; those that end at `start` or before are the
    past. `rows` are the flags as they are before; what is missing is disabled, at 0 % and
    without groups. `key` is that of the ledger, `cluster/namespace/name`.
    """

    plan: Plan
    start: datetime
    key: str
    looks: tuple[Look, ...] = ()
    requests: tuple[Request, ...] = ()
    rows: Mapping[str, Exposure] = field(default_factory=dict)
    until: datetime | None = None
    suspended: bool = False
    hold_at: str | None = None


def simulate(scenario: Scenario) -> Iterator[Line]:
    """A line for every look, and one for every change of the decision, in the order of time.

    It ends at `until`; without it when the rollout is completed, or rolled back with
    nothing left to take back, and nobody acts any more, or with the last look or action.
    """
    return _Simulation(scenario).lines()


class _Simulation:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._plan = plan = scenario.plan
        self._ledger = Ledger(scenario.key, _UID, 1, 0, plan.spec_hash, plan.plan_hash)
        self._rows = {flag: scenario.rows.get(flag, OFF) for flag in plan.flags}
        self._progress: Progress | None = None
        self._earlier: Progress | None = None
        looks = [look.checked() for look in scenario.looks]
        known = [(known_at(plan.metrics[k.metric], k.window), k.window.end, k.metric, k) for k in looks]
        ahead = sorted((one for one in known if one[1] > scenario.start), key=lambda one: one[:3])
        self._looks = [(at, look) for at, _, _, look in ahead]
        self._next_look = 0
        self._past = _Past(looks)
        self._requests = sorted(scenario.requests, key=lambda request: (request.created_at, request.uid))
        self._answered: set[str] = set()
        self._told: tuple[object, ...] | None = None

    def lines(self) -> Iterator[Line]:
        now: datetime | None = self._scenario.start
        end = self._end()
        while now is not None and (end is None or now <= end):
            view, decision = yield from self._moment(now)
            now = self._following(view, decision)

    def _end(self) -> datetime | None:
        """When it ends at the latest; None for a plan without guards, which goes on by itself until it is completed."""
        last = [at for at, _ in self._looks[-1:]] + [request.created_at for request in self._requests[-1:]]
        if self._scenario.until is not None or not self._plan.guards():
            return self._scenario.until
        return max([self._scenario.start, *last])

    def _moment(self, now: datetime) -> Generator[Line, None, tuple[View, Decision]]:
        """Everything that is to be done now; the view after it, and what is waited for then."""
        looks = self._arrived(now)
        view = self._view(now, looks)
        if looks and not view.is_over:
            yield from self._look_lines(view, looks)
        decision = self._decide(view)
        # It ends: each of them enters a stage, answers a request, or is a graver revert than the last.
        while decision.verb.acts:
            self._carry_out(view, decision)
            yield from self._news(view, decision)
            view = self._view(now)
            decision = self._decide(view)
        yield from self._news(view, decision)
        return view, decision

    def _arrived(self, now: datetime) -> list[Look]:
        first = self._next_look
        while self._next_look < len(self._looks) and self._looks[self._next_look][0] <= now:
            self._next_look += 1
        return [look for _, look in self._looks[first : self._next_look]]

    def _view(self, now: datetime, looks: Sequence[Look] = ()) -> View:
        view = View(
            plan=self._plan,
            ledger=self._ledger,
            rows=self._rows,
            progress=Progress(),
            guards=(),
            now=now,
            suspended=self._scenario.suspended,
            hold_at=self._scenario.hold_at,
            requests=self._open_requests(now),
            checks=self._passed(now),
        )
        progress = self._progress
        if not view.is_over:
            progress = taken_in(view, progress, looks)
            progress = begun(inherited(progress, self._earlier), self._ledger, now)
            for name in progress.references_missing(self._plan):
                progress = progress.referred(name, self._past.reference(self._plan, name, progress.reference_until))
        self._progress = progress
        progress = progress or Progress()
        return replace(view, progress=progress, guards=assess(self._plan, progress, now))

    def _open_requests(self, now: datetime) -> tuple[Request, ...]:
        return tuple(r for r in self._requests if r.created_at <= now and r.uid not in self._answered)

    def _passed(self, now: datetime) -> dict[str, CheckAnswer]:
        """There is no database to ask: every check that it would answer is taken as passed."""
        checks = (*self._plan.preflight, *(check for stage in self._plan.stages for check in stage.checks))
        return {c.key: CheckAnswer(c.key, True, "taken as passed", now) for c in checks if c.confirm is None}

    def _decide(self, view: View) -> Decision:
        decision = decide(view)
        broken = violations(view, decision)
        if broken:
            raise RuntimeError(f"{decision.verb} at {view.now.isoformat()} would break {', '.join(broken)}: a bug")
        return decision

    def _carry_out(self, view: View, decision: Decision) -> None:
        if decision.verb.reverts:
            written = {flag: self._rows[flag].meet(target) for flag, target in decision.targets.items()}
            severity = decision.breach.severity if decision.breach else None
            ledger = steps.lowered(self._ledger, written, steps.latch_of(view, decision), severity)
        else:
            assert decision.ledger is not None  # noqa: S101 - what acts and is no revert moves the ledger
            written, ledger = dict(decision.after), decision.ledger
        if ledger.attempt != self._ledger.attempt:
            self._earlier, self._progress = self._progress, None
        self._rows = {**self._rows, **written}
        self._ledger = replace(ledger, sequence=self._ledger.sequence + 1)
        if decision.answered is not None:
            self._answered.add(decision.answered.request.uid)

    def _following(self, view: View, decision: Decision) -> datetime | None:
        """The next moment at which something may be different; None when none is in sight."""
        ahead = [request.created_at for request in self._requests if request.created_at > view.now]
        if not ahead and not view.requests and self._is_settled(view):
            return None
        times = [*ahead[:1], *(request.created_at + EXPIRES_AFTER for request in view.requests)]
        times += [at for at, _ in self._looks[self._next_look : self._next_look + 1]]
        if decision.due_at is not None:
            times.append(decision.due_at)
        if not view.is_over:
            times += _deadlines(view)
        return min((at for at in times if at > view.now), default=None)

    def _is_settled(self, view: View) -> bool:
        """Whether nothing but a person can change anything any more."""
        rolled_back = view.ledger.latch is not None and not view.ledger.raised and self._scenario.until is None
        return view.is_over or rolled_back

    def _look_lines(self, view: View, looks: Sequence[Look]) -> Iterator[Line]:
        # The guard of the most severe row is what is told of a metric.
        guards = {guard.clause.metric: guard for guard in reversed(view.guards)}
        at, stage = self._time(view.now), view.stage.name if view.stage else None
        for look in looks:
            guard = guards.get(look.metric)
            yield {
                "at": at,
                "kind": "look",
                "stage": stage,
                "metric": look.metric,
                "verdict": str(view.progress.verdict(self._plan, look)),
                "log_e": guard.log_evidence if guard else None,
                "limit": (guard.limit or None) if guard else None,
                "severity": str(guard.row.severity) if guard else None,
            }

    def _news(self, view: View, decision: Decision) -> Iterator[Line]:
        """The line of a decision, when it is another than the one before.

        What a person was granted shows in the next one; that an act stays is no news beside it.
        """
        answered = decision.answered
        granted = answered is not None and answered.answer.outcome is Outcome.APPLIED and not decision.verb.reverts
        stage = self._plan.stages[self._ledger.stage].name if self._ledger.stage >= 0 else None
        severity = _severity(view, decision)
        now = (_action(decision), stage, severity, decision.reason)
        told, stays = self._told, decision.reason in (reasons.COMPLETED, reasons.ROLLED_BACK)
        if granted:
            self._told = None
        elif now != told and not (told is not None and stays and told[0] in _LASTING):
            self._told = now
            yield {
                "at": self._time(view.now),
                "kind": "decision",
                "action": now[0],
                "stage": stage,
                "severity": str(severity) if severity is not None else None,
                "reason": decision.reason,
                "message": decision.message,
                "exposure": [_row(flag, row) for flag, row in self._rows.items()],
            }

    def _time(self, at: datetime) -> str:
        """As the start was written: a zone that changes its offset would make times of one day look like two."""
        return at.astimezone(self._scenario.start.tzinfo).isoformat()


def _deadlines(view: View) -> list[datetime]:
    """When the same looks would lead to another decision."""
    plan, progress, stage = view.plan, view.progress, view.stage
    times = []
    for guard in view.guards:
        stale = stale_at(plan.metrics[guard.clause.metric], progress)
        if stale is not None:
            times.append(stale + _JUST_AFTER)
        if guard.onset_at is not None:
            times.append(guard.onset_at + guard.row.respond_within)
        if guard.blind_since is not None and plan.on_blind is OnBlind.REVERT:
            times.append(guard.blind_since + guard.row.respond_within)
    if stage is not None and stage.deadline is not None and view.ledger.entered_at is not None:
        times.append(view.ledger.entered_at + stage.deadline)
    if stage is not None and not view.guards and progress.baked < stage.bake and not stands_still(view):
        times.append(view.now + min(stage.bake - progress.baked, UNGUARDED_STEP_MAX))
    return times


_HELD_BY_GUARD = {reasons.HOLD_ACTION, reasons.GLOBAL_INCIDENT, reasons.EVIDENCE_AGAINST}
_AGAINST = {GuardState.BREACHED, GuardState.INCIDENT, GuardState.HOLDING}
# After one of these, that the rollout is rolled back or completed has been said.
_LASTING = {str(verb) for verb in Verb if verb.reverts or verb is Verb.COMPLETE}


def _severity(view: View, decision: Decision) -> Severity | None:
    """That of the row that acts, or whose guard holds."""
    if decision.breach is not None:
        return decision.breach.severity
    if decision.verb is not Verb.HOLD or decision.reason not in _HELD_BY_GUARD:
        return None
    return next((guard.row.severity for guard in view.guards if guard.state in _AGAINST), None)


def _action(decision: Decision) -> str:
    """What is printed as the action; what a person asked for and did not get is a Wait with its reason."""
    if decision.verb is Verb.REFUSE:
        return str(Verb.WAIT)
    if decision.reason == reasons.AWAITING_CONFIRMATION:
        return "AwaitConfirmation"
    return "AwaitApproval" if decision.phase is Phase.AWAITING_APPROVAL else str(decision.verb)


def _row(flag: str, row: Exposure) -> Line:
    return {"flag": flag, **exposure_json(row), "groups": sorted(row.groups)}


class _Past:
    """The recorded looks, checked, as the past of their metrics, in half hours."""

    def __init__(self, looks: Sequence[Look]) -> None:
        by_metric: dict[str, list[Look]] = defaultdict(list)
        for look in sorted(looks, key=lambda look: look.window.start):
            if look.error is None:
                by_metric[look.metric].append(look)
        self._looks = dict(by_metric)
        self._starts = {name: [look.window.start for look in found] for name, found in by_metric.items()}

    def reference(self, plan: Plan, name: str, until: datetime | None) -> Reference:
        """What the seven days before `until` say of a metric."""
        metric = plan.metrics[name]
        assert until is not None  # noqa: S101 - or nothing would be missing
        windows = windows_before(until - metric.delay)
        first, last, early = windows[0].start, windows[-1].end, windows[-BLOCKS_MIN].end
        whole, older = (self._of(metric, Window(first, end), until) for end in (last, early))
        known = without_blocks(metric, whole, older, needed=wanted_references(plan)[name])
        return (
            known if known is not None else of_blocks(metric, [self._of(metric, window, until) for window in windows])
        )

    def _of(self, metric: Metric, window: Window, until: datetime) -> Look:
        """One look at all that began in a window and ended by then, but for errors."""
        looks, starts = self._looks.get(metric.name, []), self._starts.get(metric.name, [])
        found = looks[bisect_left(starts, window.start) : bisect_left(starts, window.end)]
        found = [look for look in found if look.window.end <= until]
        is_ratio = metric.type is MetricType.RATIO
        values = tuple(look.value for look in found if look.value is not None)
        with_arms = any(look.control_units is not None for look in found)
        return Look(
            metric.name,
            window,
            events=sum(look.events or 0.0 for look in found) if found and is_ratio else None,
            units=sum(look.units or 0.0 for look in found) if found else None,
            value=median(values) if values else None,
            control_events=sum(look.control_events or 0.0 for look in found) if with_arms else None,
            control_units=sum(look.control_units or 0.0 for look in found) if with_arms else None,
        )
