"""Every situation that a status may tell of, made by the engine itself; docs/reference.md has the table.

A handful of rollouts, each at a place of its own in the chain of decisions, are seen with
guards and rows in every state that those may have. What is told of them is drawn by the
code that draws it in the operator.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

from feature_rollout.core.calendar import Calendar, Freeze
from feature_rollout.core.checks import Check, CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Standing, Trouble, Verb, View
from feature_rollout.core.exposure import OFF, Exposure, FlagChange
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.health import argocd, kstatus
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.people import Order, Pause, People, RollBackTo
from feature_rollout.core.plan import (
    Action,
    ActionType,
    After,
    Approval,
    BaselineType,
    Clause,
    FlagEntry,
    Gate,
    Limit,
    Metric,
    MetricType,
    OnDrift,
    Plan,
    Row,
    Sense,
    Severity,
    Stage,
)
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import Block, Reference
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.core.status import picture, trouble_picture

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
BAKE = timedelta(days=1)
FLAG = "flag"
# Past a limit without proof is as quiet.
GUARDS = tuple(state for state in GuardState if state is not GuardState.PAST_LIMIT)
# The rows: as planned, changed by hand under either policy, and gone.
ROWS = ("as planned", "changed", "changed and reported", "gone")
# Conditions that are columns of the table by themselves, and those of which it has all values.
LEADING = ("Ready", "Reconciling", "Stalled")
OTHERS = ("GuardsHealthy", "FlagsInSync", "Completed", "RolledBack")


def clause(baseline: BaselineType | None = None) -> Clause:
    return Clause("errors", "errors", Sense.ABOVE, Limit(0.01, "1%"), baseline=baseline)


def stage(name: str, percentage: int, **more: Any) -> Stage:
    entry = FlagEntry((FLAG,), FlagChange(percentage=Decimal(percentage)))
    return replace(Stage(name, (entry,), BAKE, digest=name), **more)


def plan(
    following: Stage | None = None,
    first: Stage | None = None,
    guard: Clause | None = None,
    action: ActionType = ActionType.DISABLE_FLAGS,
    **more: Any,
) -> Plan:
    row = Row(Severity.HIGH, (guard or clause(),), timedelta(minutes=15), Action(action))
    metric = Metric("errors", MetricType.RATIO, timedelta(seconds=30), sample_ratio=True)
    stages = (first or stage("first", 10), following or stage("second", 50))
    return replace(Plan({"errors": metric}, (row,), stages, "v1:plan", "v1:spec"), **more)


def view(of: Plan, index: int, baked: timedelta = BAKE, **ledger: Any) -> View:
    """A rollout in the stage of that index, -1 before the first."""
    written = {FLAG: Exposure(True, Decimal(10))} if index >= 0 else {}
    row_in = Ledger(
        "cluster/team/rollout",
        "uid",
        1,
        1,
        of.spec_hash,
        of.plan_hash,
        stage=index,
        entered_at=NOW if index >= 0 else None,
        executed=tuple(entered.digest for entered in of.stages[: index + 1]),
        baseline={FLAG: OFF} if index >= 0 else {},
        written=written,
        people=People(preflight_done=index >= 0),
    )
    progress = replace(Progress(), baked=baked)
    return View(of, replace(row_in, **ledger), {FLAG: OFF, **written}, progress, (), NOW)


def begun(of: Plan | None = None, **changes: Any) -> View:
    """In its first stage, which is over: what keeps it from the second shows."""
    return replace(view(of or plan(), 0), **changes)


def measured(of: View, **progress: Any) -> View:
    return replace(of, progress=replace(of.progress, **progress))


# Half of all failed in the days before the rollout, which is past every limit.
HARMFUL = Reference("", blocks=tuple(Block(NOW - timedelta(minutes=30 * i), 500.0, 1000.0) for i in range(30, 0, -1)))
# Of ten in a hundred users it was half.
UNEQUAL = MetricProgress(sample=(500.0, 500.0))
FROZEN = Calendar("UTC", (), (Freeze(date(2026, 1, 1), date(2026, 2, 1), "frozen"),))
GATE = Gate("errors", at_most=Limit(0.01, "1%"), min_units=1000)
ASKED = Check("stages/second/asked")
ORDER = Order("somebody", RollBackTo.OFF, "it is wrong", NOW, str(ActionType.DISABLE_FLAGS))
AFTER = plan(stage("second", 50, after=(After("other", "first"),)))
CYCLE = {"other": (Stage("first", after=(After("rollout", "second"),)),)}
PLACES: tuple[View, ...] = (
    view(plan(), -1, timedelta(0)),
    view(plan(first=stage("first", 10, after=(After("other", "first"),))), -1),
    view(plan(preflight=(Check("preflight/confirmed", "Is it?"),)), -1),
    view(plan(preflight=(Check("preflight/asked"),)), -1),
    measured(view(plan(guard=clause(BaselineType.BEFORE_ROLLOUT)), -1), reference_until=NOW),
    measured(view(plan(), -1), reference_until=NOW, references={"errors": HARMFUL}),
    view(plan(), 0, timedelta(0)),
    view(plan(action=ActionType.HOLD), 0, timedelta(0)),
    replace(
        view(plan(first=stage("first", 10, deadline=timedelta(hours=1))), 0, timedelta(0)),
        now=NOW + timedelta(hours=2),
    ),
    begun(plan(first=stage("first", 10, gates=(GATE,)))),
    measured(begun(plan(guard=clause(BaselineType.BEFORE_ROLLOUT))), reference_until=NOW),
    measured(begun(), metrics={"errors": UNEQUAL}),
    begun(hold_at="first"),
    begun(plan(stage("second", 50, approval=Approval(service_accounts=True)))),
    begun(AFTER),
    begun(AFTER, others={"other": Standing(NOW, unknown="it has not begun")}),
    begun(AFTER, others={"other": Standing(NOW, replace(begun(), plan=plan(first=stage("another", 10))))}),
    begun(AFTER, order=CYCLE),
    begun(plan(calendar=FROZEN)),
    begun(plan(stage("second", 50, blockers=("migrations",)))),
    begun(plan(stage("second", 50, checks=(ASKED,)))),
    begun(plan(stage("second", 50, checks=(ASKED,))), checks={ASKED.key: CheckAnswer(ASKED.key, False, "no", NOW)}),
    begun(plan(first=stage("first", 20, digest="edited")), ledger=view(plan(), 0).ledger),
    begun(suspended=True),
    view(plan(), 0, people=People(paused=Pause("somebody", NOW))),
    view(plan(), 0, latch=Latch(ORDER, "first", "v1:spec", NOW)),
    begun(trouble=Trouble("StoreUnreachable", "away", stalled=False)),
    begun(trouble=Trouble("InvalidPlan", "broken")),
    view(plan(), 1, completed_at=NOW),
)


@dataclass(slots=True)
class Line:
    """What goes together with a phase: the other conditions' values, and the reasons."""

    others: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    reasons: set[str] = field(default_factory=set)


Key = tuple[str, ...]


def key(status: Mapping[str, Any]) -> Key:
    """The phase, the leading conditions, and what kstatus and Argo CD make of them."""
    rollout = {"metadata": {"generation": 1}, "status": {**status, "observedGeneration": 1}}
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    leading = (conditions[kind] for kind in LEADING)
    return (str(status["phase"]), *leading, str(kstatus(rollout)), str(argocd(rollout)[0]))


def table() -> dict[Key, Line]:
    """Every row, in the order of the phases."""
    lines: dict[Key, Line] = defaultdict(Line)
    for _, status in situations():
        line = lines[key(status)]
        conditions = {condition["type"]: condition for condition in status["conditions"]}
        for kind in OTHERS:
            line.others[kind].add(conditions[kind]["status"] if kind in conditions else "-")
        line.reasons.add(conditions["Stalled"]["reason"])
    order = [str(phase) for phase in Phase]
    return {one: lines[one] for one in sorted(lines, key=lambda one: (order.index(one[0]), one[1:]))}


def situations() -> Iterator[tuple[View | None, Mapping[str, Any]]]:
    """Every situation and its status, without a view where there is no plan; what is about to be done is none."""
    for place, guards, rows in product(PLACES, GUARDS, ROWS):
        seen = _with_rows(_with_guards(place, guards), rows)
        decision = decide(seen)
        if not decision.verb.acts:
            yield seen, picture(seen, decision, {}, 1, acted=decision)
    # Without a plan or a ledger there is nothing to draw but what is wrong, and a revert that was made before.
    reverted = view(plan(), 0, latch=Latch(ORDER, "first", "v1:spec", NOW))
    before = picture(reverted, decide(reverted), {}, 1, acted=decide(reverted))
    for stalled, previous in product((False, True), ({}, before)):
        phase = Phase.STALLED if stalled else Phase.PENDING
        reason = "InvalidPlan" if stalled else "StoreUnreachable"
        decision = Decision(Verb.HOLD, phase, reason, "It is wrong.", stalled=stalled)
        yield None, trouble_picture(decision, previous, 1, NOW)


def _with_guards(place: View, state: GuardState) -> View:
    guards = place.plan.guards()
    return replace(place, guards=tuple(Guard(row, clause, state, note="why") for row, clause in guards))


def _with_rows(place: View, how: str) -> View:
    if not place.ledger.written or how == "as planned":
        return place
    rows = {} if how == "gone" else {FLAG: Exposure(True, Decimal(99))}
    return replace(place, rows=rows, on_drift=OnDrift.REPORT if "reported" in how else OnDrift.RESPECT)
