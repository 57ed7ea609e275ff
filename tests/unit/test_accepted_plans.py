"""A plan that `lint` accepts never makes `decide` raise an exception, whatever has become of it.

Manifests are drawn, and those that lint refuses are left out. The ledger, the rows, the looks, what people ask and what
checks answer are drawn too, and need not fit: the rollout may have been edited since, and the database is everybody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from feature_rollout.api.lint import Level, lint, plans
from feature_rollout.api.manifests import Document
from feature_rollout.core import reasons
from feature_rollout.core.checks import CheckAnswer
from feature_rollout.core.clearance import to_ask
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Trouble, View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import taken_in
from feature_rollout.core.invariants import violations
from feature_rollout.core.looks import Look, next_window
from feature_rollout.core.past import begun
from feature_rollout.core.people import Consent, Pause, People, Promotion, Request, RequestType, RollBackTo
from feature_rollout.core.plan import MetricType, OnDrift, Plan, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Breach, Latch, Ledger
from feature_rollout.core.status import picture
from support.depth import properties

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
FLAGS, GROUPS, STAGES = ("bell", "menu", "old"), ("staff", "beta"), ("one", "two", "three", "four")
RATIOS, GAUGES = ("errors", "hits"), ("latency",)
METRICS = (*RATIOS, *GAUGES)
DURATIONS = st.sampled_from(["0s", "30s", "10m", "1d"])


def some(drawn: st.SearchStrategy[Any], at_most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(drawn, max_size=at_most)


def maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object in which each field is there or not."""
    return st.fixed_dictionaries({}, optional=fields)


def seldom(value: Any, otherwise: Any = None) -> st.SearchStrategy[Any]:
    return st.sampled_from([otherwise] * 7 + [value])


def limits(metric: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["0.1%", "1%", "50%", "99%"] if metric in RATIOS else ["0.5", "2", "-1"])


@st.composite
def bindings(draw: st.DrawFn, name: str) -> dict[str, Any]:
    query = "SELECT 1 AS events, 2 AS units" if name in RATIOS else "SELECT 1 AS value"
    template: dict[str, Any] = {"type": "Ratio" if name in RATIOS else "Gauge", "sql": {"query": query}}
    template |= draw(maybe(delay=DURATIONS, **({"counts": st.just("Users")} if name in RATIOS else {})))
    return {
        "name": name,
        "template": template,
        **draw(maybe(interval=st.sampled_from(["10s", "30s", "5m"]), mode=st.sampled_from(["Observe", "Enforce"]))),
    }


@st.composite
def clauses(draw: st.DrawFn, metrics: tuple[str, ...]) -> dict[str, Any]:
    metric = draw(st.sampled_from(metrics))
    if draw(seldom(False, True)):
        clause: dict[str, Any] = {"metric": metric, draw(st.sampled_from(["above", "below"])): draw(limits(metric))}
        if metric in GAUGES and draw(st.booleans()):
            clause["persist"] = {"failures": draw(st.integers(1, 3)), "of": draw(st.integers(3, 5))}
        return clause
    baseline = {"type": draw(st.sampled_from(["BeforeRollout", "Control"]))}
    change = draw(st.sampled_from(["50%", "90%"]))
    return {"metric": metric, draw(st.sampled_from(["increase", "decrease"])): change, "baseline": baseline}


ACTIONS = st.one_of(
    st.just({"type": "DisableFlags"}),
    st.just({"type": "Hold"}),
    st.fixed_dictionaries({"type": st.just("DisableFlags"), "flags": st.just(["bell"])}),
    st.fixed_dictionaries({"type": st.just("ReducePercentage"), "to": st.sampled_from(["PreviousStage", "Baseline"])}),
    st.fixed_dictionaries({"type": st.just("ReducePercentage"), "percentage": st.integers(0, 100)}),
    st.fixed_dictionaries(
        {"type": st.just("RestrictToGroups"), "groups": some(st.sampled_from(GROUPS)).map(lambda g: ["staff", *g][:1])}
    ),
)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    severities = draw(st.lists(st.sampled_from(["Critical", "High", "Medium", "Low"]), unique=True, min_size=1))
    made = []
    for severity in severities:
        within = draw(st.sampled_from(["0s", "15m", "1h", "1d"]))
        # A Gauge cannot be judged in minutes.
        judged = clauses(METRICS if within in ("1h", "1d") else RATIOS)
        made.append(
            {
                "severity": severity,
                "when": draw(st.lists(judged, min_size=1, max_size=2)),
                "respondWithin": within,
                "action": draw(ACTIONS),
                **draw(maybe(settle=st.sampled_from(["0s", "2m", "10m"]))),
            }
        )
    return made


CHECKS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from(["backup", "on-call"]), "sql": st.just("SELECT true")}),
        st.fixed_dictionaries({"name": st.sampled_from(["backup", "on-call"]), "confirm": st.just("Somebody looked.")}),
    ),
    max_size=2,
    unique_by=lambda check: check["name"],
)


@st.composite
def stages(draw: st.DrawFn) -> list[dict[str, Any]]:
    made = []
    for name in STAGES[: draw(st.integers(1, len(STAGES)))]:
        flags = draw(st.lists(st.sampled_from(FLAGS), unique=True, max_size=2))
        change = st.one_of(
            st.fixed_dictionaries({"percentage": st.integers(0, 100)}),
            st.fixed_dictionaries({"groups": some(st.sampled_from(GROUPS), 1)}),
        )
        metric = draw(st.sampled_from(METRICS))
        gate = {"metric": metric, draw(st.sampled_from(["atMost", "atLeast"])): draw(limits(metric))}
        made.append(
            {
                "name": name,
                "flags": [{"names": [flag], **draw(change)} for flag in flags],
                "gates": draw(some(st.just(gate), 1)),
                "checks": draw(CHECKS),
                **draw(
                    maybe(
                        bake=DURATIONS,
                        deadline=DURATIONS,
                        onNoTraffic=st.sampled_from(["Wait", "Count"]),
                        approval=maybe(required=st.integers(1, 2), allowServiceAccounts=st.booleans()),
                    )
                ),
            }
        )
    return made


CALENDARS = maybe(
    timeZone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
    windows=some(st.just({"days": ["Mon", "Tue"], "from": "09:00", "to": "17:00"}), 1),
    freezes=some(st.just({"from": "2026-01-05", "to": "2026-01-07", "reason": "holidays"}), 1),
)


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Any]:
    spec = {
        "storeRef": {"name": "shop"},
        "metrics": [draw(bindings(name)) for name in METRICS],
        "matrix": {"rows": draw(rows())},
        "preflight": draw(CHECKS),
        "stages": draw(stages()),
        **draw(
            maybe(
                calendar=CALENDARS,
                onBlind=st.sampled_from(["Hold", "Revert"]),
                suspend=st.booleans(),
            )
        ),
    }
    return {
        "apiVersion": "featurerollout.dev/v1alpha1",
        "kind": "FeatureRollout",
        "metadata": {"name": "checkout"},
        "spec": spec,
    }


def accepted(manifest: dict[str, Any]) -> Plan | None:
    """The plan, if lint finds no error."""
    documents = [Document("drawn.yaml:1", manifest)]
    if any(finding.level is Level.ERROR for finding in lint(documents, stores=False)):
        return None
    (found,) = plans(documents)
    return found.plan


EXPOSURES = st.builds(
    Exposure,
    st.booleans(),
    st.sampled_from([Decimal(0), Decimal(1), Decimal(50), Decimal(100)]),
    st.frozensets(st.sampled_from([*GROUPS, "others"])),
)
ROWS = st.dictionaries(st.sampled_from([*FLAGS, "gone"]), EXPOSURES)
TIMES = st.integers(-3, 3 * 24 * 60).map(lambda minutes: T0 + timedelta(minutes=minutes))
PEOPLE = ("alice", "bob", "system:serviceaccount:ci:robot", "")
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", None, T0, timedelta(0), "DisableFlags")


@st.composite
def people(draw: st.DrawFn, of: Plan) -> People:
    consents = st.builds(
        Consent,
        st.sampled_from(PEOPLE),
        st.just(T0),
        st.sampled_from(["uid", "other"]),
        st.sampled_from([of.plan_hash, "v1:other"]),
    )
    return People(
        paused=draw(seldom(Pause("alice", T0))),
        approvals=draw(st.dictionaries(st.sampled_from(STAGES), st.lists(consents, max_size=2).map(tuple))),
        confirmations=draw(st.dictionaries(st.sampled_from(["preflight/on-call", "stages/two/on-call"]), consents)),
        promoted=draw(st.sampled_from([None, Promotion(0, "alice"), Promotion(1, "bob"), Promotion(5, "")])),
        preflight_done=draw(seldom(False, True)),
    )


@st.composite
def ledgers(draw: st.DrawFn, of: Plan) -> Ledger:
    """Of a rollout that went as planned, and in half of the cases of one that nobody could have had."""
    stage = draw(st.integers(-1, len(of.stages) - 1))
    digests = tuple(s.digest for s in of.stages)
    baseline = {flag: draw(EXPOSURES) for flag in of.flags}
    planned = Ledger(
        "cluster/shop/checkout",
        "uid",
        1,
        0,
        of.spec_hash,
        of.plan_hash,
        stage=stage,
        entered_at=T0 if stage >= 0 else None,
        executed=digests[: stage + 1],
        baseline=baseline,
        written={flag: of.exposure_after(stage, baseline)[flag] for s in of.stages[: stage + 1] for flag in s.flags},
        latch=draw(seldom(Latch(BREACH, "one", of.spec_hash, T0))),
        completed_at=draw(seldom(T0)),
        people=draw(people(of)),
    )
    if draw(st.booleans()):
        return planned
    return replace(
        planned,
        spec_hash=draw(st.sampled_from([of.spec_hash, "v1:other"])),
        plan_hash=draw(st.sampled_from([of.plan_hash, "v1:other"])),
        attempt=draw(st.integers(1, 3)),
        stage=draw(st.integers(-1, 5)),
        entered_at=draw(st.none() | TIMES),
        baked=timedelta(minutes=draw(st.integers(0, 60))),
        executed=draw(st.sampled_from([digests, (*digests, "x"), ("x",) * 6])),
        baseline=draw(ROWS),
        written=draw(ROWS),
        acted=draw(st.frozensets(st.sampled_from(Severity))),
    )


OF_RATIO: list[dict[str, Any]] = [
    {"events": 0.0, "units": 1000.0, "control_events": 5.0, "control_units": 1000.0},
    {"events": 900.0, "units": 1000.0, "control_events": 1.0, "control_units": 1000.0},
    {"events": 90.0, "units": 100.0, "control_events": 90.0, "control_units": 100.0},
    {"events": 0.0, "units": 0.0, "control_events": 0.0, "control_units": 0.0},
    {"events": 0.0, "units": 100.0},
]
OF_GAUGE: list[dict[str, Any]] = [
    {"value": 0.1, "control_value": 0.1},
    {"value": 9.0, "control_value": 1.0},
    {"value": -5.0, "control_value": 0.0},
    {"value": 1.0, "control_units": 0.0},
    {"value": 0.0},
]
OF_NONE: list[dict[str, Any]] = [
    {},
    {"error": "timeout"},
    {"value": float("nan")},
    {"events": 1.0, "control_units": 1.0},
]


@st.composite
def looks(draw: st.DrawFn, of: Plan, since: datetime) -> list[Look]:
    """Of most metrics a run of looks that are all alike, so that there can be evidence; some have no such numbers."""
    found = []
    for name, metric in {**of.metrics, "unbound": next(iter(of.metrics.values()))}.items():
        fitting = OF_RATIO if metric.type is MetricType.RATIO else OF_GAUGE
        numbers = draw(st.sampled_from([*fitting * 3, *OF_RATIO, *OF_GAUGE, *OF_NONE]))
        window = next_window(metric, since)
        for _ in range(draw(st.integers(0, 15))):
            found.append(Look(name, window, **numbers))
            window = next_window(metric, window.end)
    return found


REQUESTS = st.builds(
    Request,
    st.uuids().map(str),
    st.sampled_from(RequestType),
    TIMES,
    stage=st.sampled_from([None, *STAGES, "unknown"]),
    check=st.sampled_from([None, "on-call", "backup", "guards-quiet", "unknown"]),
    plan_hash=st.sampled_from([None, "v1:other"]),
    to=st.sampled_from(RollBackTo),
    requested_by=st.sampled_from(PEOPLE),
)
ANSWERS = st.builds(
    CheckAnswer,
    st.sampled_from(["preflight/backup", "preflight/on-call", "stages/two/backup"]),
    st.sampled_from([True, False, None]),
    st.sampled_from(["", "it is old."]),
    TIMES,
    st.booleans(),
)


@st.composite
def views(draw: st.DrawFn) -> View:
    manifest, earlier = draw(rollouts()), draw(rollouts())
    of, before = accepted(manifest), accepted(earlier)
    assume(of is not None and before is not None)
    assert of is not None
    assert before is not None
    entered_under = draw(seldom(before, of))
    ledger = draw(ledgers(entered_under))
    found = draw(looks(of, ledger.entered_at or T0))
    # Mostly just after the newest look.
    now = draw(seldom(draw(TIMES), max((look.window.end for look in found), default=T0)))
    answers = draw(st.lists(ANSWERS, max_size=3))
    bare = View(
        of,
        ledger,
        {**ledger.baseline, **ledger.written, **(draw(ROWS) if draw(st.booleans()) else {})},
        Progress(),
        (),
        now,
        suspended=draw(seldom(True, False)),
        hold_at=draw(seldom("two")),
        trouble=draw(seldom(Trouble("InvalidPlan", "it names no metric"))),
        on_drift=draw(st.sampled_from(OnDrift)),
        unfinished=draw(st.booleans()),
        requests=tuple(draw(some(REQUESTS, 2)) if draw(st.booleans()) else ()),
        checks={answer.name: answer for answer in answers},
    )
    start = ledger.entered_at or T0
    known = begun(taken_in(replace(bare, plan=entered_under, now=start), None), ledger, start)
    progress = taken_in(bare, draw(seldom(None, known)), found)
    return replace(bare, progress=progress, guards=assess(of, progress, now))


@settings(properties(80), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(views())
def test_whatever_has_become_of_an_accepted_plan_it_is_decided_on(seen: View) -> None:
    decision = decide(seen)
    assert decision.reason in reasons.DESCRIPTIONS
    assert decision.message.strip()
    assert violations(seen, decision) == ()
    assert set(to_ask(seen, decision)) <= set(_checks(seen.plan))
    status = picture(seen, decision, {}, 1, acted=decision)
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    stored = json.dumps(seen.progress.to_json(), allow_nan=False)
    assert Progress.from_json(json.loads(stored)) == seen.progress


def _checks(of: Plan) -> Iterator[str]:
    yield from (check.key for check in of.preflight)
    yield from (check.key for stage in of.stages for check in stage.checks)


def test_most_of_what_is_drawn_is_accepted() -> None:
    """Or the property would be about nothing."""
    kept: list[bool] = []

    @settings(properties(60), suppress_health_check=[HealthCheck.too_slow])
    @given(rollouts())
    def draws(manifest: dict[str, Any]) -> None:
        kept.append(accepted(yaml.safe_load(yaml.safe_dump(manifest))) is not None)

    draws()
    assert sum(kept) > len(kept) / 4, f"{sum(kept)} of {len(kept)}"
