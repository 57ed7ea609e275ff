"""The status picture: phase and conditions for each situation, what makes it differ, and its size.

Ready, Reconciling and Stalled are read by kstatus (Helm --wait, Flux, Argo CD): Stalled
needs a person, Reconciling is for seconds, Ready says that the rows are as planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest

from feature_rollout.api.status import FeatureRolloutStatus
from feature_rollout.core.checks import Check
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import aligned
from feature_rollout.core.people import Order, RollBackTo
from feature_rollout.core.plan import BaselineType, Clause, Gate, Metric, Notice, OnNoTraffic, Persist, Plan, Severity
from feature_rollout.core.reference import Reference
from feature_rollout.core.state import Breach, Latch
from feature_rollout.core.status import (
    HISTORY_MAX,
    SIZE_MAX_BYTES,
    differs,
    exposure_json,
    kube_time,
    picture,
    size_bytes,
    trouble_picture,
    with_transition_times,
)
from support.fakes import (
    INTERVAL,
    OFF,
    T0,
    above,
    exposure,
    gauge,
    ledger,
    ledger_in,
    look,
    minutes,
    percent,
    plan,
    ratio,
    relative,
    row,
    seconds,
    stage,
)

GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
PLAN = plan()
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
PREFLIGHT = replace(PLAN, preflight=(Check("preflight/a", "Somebody is there."),))
LATCH = Latch(BREACH, "ten", PLAN.spec_hash, T0 + seconds(42))
TROUBLE = Trouble("StoreUnreachable", "The database does not answer.", stalled=False)


def view(of: Plan = PLAN, index: int = 0, looks: list[dict[str, Any]] | None = None, **changes: Any) -> View:
    row_in = changes.pop("ledger", None) or (ledger_in(of, index) if index >= 0 else ledger())
    progress = aligned(None, of, row_in, T0)
    for i, numbers in enumerate([GOOD] if looks is None else looks):
        for name in of.metrics:
            seen = look(name, T0 + i * INTERVAL, **numbers)
            progress = progress.observed(of, seen, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    now = changes.pop("now", T0 + len(looks or [GOOD]) * INTERVAL)
    rows = {**dict.fromkeys(of.flags, OFF), **row_in.written}
    return replace(View(of, row_in, rows, progress, assess(of, progress, now), now), **changes)


def drawn(of: View, previous: Mapping[str, Any] | None = None, acted: Decision | None = None) -> dict[str, Any]:
    decision = decide(of)
    status = picture(of, decision, previous or {}, 7, acted=acted or decision)
    FeatureRolloutStatus.model_validate(status)
    return status


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(c for c in status["conditions"] if c["type"] == kind)
    return found


SITUATIONS = [
    pytest.param(view(index=-1, looks=[]), "Pending", "False", "True", "False", id="the first looks are under way"),
    pytest.param(view(PREFLIGHT, -1), "Preflight", "True", "False", "False", id="a preflight"),
    pytest.param(view(), "Baking", "True", "False", "False", id="baking: a long rollout does not keep a sync waiting"),
    pytest.param(
        view(
            plan(
                stage("a", ("bell", 1), bake=minutes(0), gates=(Gate("errors", at_most=percent("1%"), min_units=9**9),))
            )
        ),
        "Gating",
        "True",
        "False",
        "False",
        id="a gate is not passed",
    ),
    pytest.param(view(looks=[{"error": "timeout"}]), "Held", "False", "False", "False", id="blind"),
    pytest.param(view(looks=[GOOD, *[{}] * 4]), "Held", "True", "False", "False", id="no traffic"),
    pytest.param(view(suspended=True), "Paused", "True", "False", "False", id="suspended"),
    pytest.param(view(rows={"bell": exposure(99)}), "Paused", "False", "False", "False", id="changed by hand"),
    pytest.param(
        view(ledger=replace(ledger_in(PLAN, 0), executed=("x",))), "Held", "False", "False", "True", id="edited"
    ),
    pytest.param(
        view(ledger=replace(ledger_in(PLAN, 0), latch=LATCH)), "RolledBack", "False", "False", "True", id="rolled back"
    ),
    pytest.param(
        view(ledger=ledger_in(PLAN, 2, completed_at=T0), now=T0 + timedelta(days=9)),
        "Completed",
        "True",
        "False",
        "False",
        id="completed, and nobody looks any more",
    ),
    pytest.param(view(rows={}), "Stalled", "False", "False", "True", id="a row is missing"),
    pytest.param(
        view(trouble=Trouble("InvalidPlan", "x")), "Stalled", "False", "False", "True", id="a broken manifest"
    ),
]


@pytest.mark.parametrize(("of", "phase", "ready", "reconciling", "stalled"), SITUATIONS)
def test_phase_and_conditions(of: View, phase: str, ready: str, reconciling: str, stalled: str) -> None:
    status = drawn(of)
    assert status["phase"] == phase
    told = [condition(status, kind)["status"] for kind in ("Ready", "Reconciling", "Stalled")]
    assert told == [ready, reconciling, stalled]
    assert all(c["observedGeneration"] == 7 for c in status["conditions"])
    assert not (ready == "True" and stalled == "True")


@pytest.mark.parametrize(
    ("of", "kind", "status", "reason"),
    [
        pytest.param(view(), "GuardsHealthy", "True", "GuardsWatching", id="guards that can be evaluated"),
        pytest.param(view(looks=[]), "GuardsHealthy", "Unknown", "AwaitingLook", id="guards not looked at"),
        pytest.param(view(looks=[{"error": "x"}]), "GuardsHealthy", "False", "GuardsBlind", id="blind guards"),
        pytest.param(view(looks=[{}]), "GuardsHealthy", "Unknown", "NoTraffic", id="guards without data"),
        pytest.param(view(), "FlagsInSync", "True", "AsPlanned", id="rows as planned"),
        pytest.param(view(rows={"bell": OFF}), "FlagsInSync", "False", "ManualChange", id="a row changed by hand"),
        pytest.param(view(rows={}), "FlagsInSync", "False", "FlagMissing", id="a row removed"),
        pytest.param(view(rows={}, trouble=TROUBLE), "FlagsInSync", "Unknown", "StoreUnreachable", id="rows not read"),
        pytest.param(view(), "Completed", "False", "Baking", id="not completed"),
        pytest.param(
            view(ledger=ledger_in(PLAN, 2, completed_at=T0)), "Completed", "True", "Completed", id="completed"
        ),
        pytest.param(
            view(ledger=replace(ledger_in(PLAN, 0), latch=LATCH)), "RolledBack", "True", "RolledBack", id="rolled back"
        ),
        pytest.param(view(), "FieldsInEffect", "True", "AllFieldsInEffect", id="every field has an effect"),
        pytest.param(
            view(plan(notices=(Notice("spec.calendar", "ignored"),))),
            "FieldsInEffect",
            "False",
            "NotInEffect",
            id="a field that has none",
        ),
    ],
)
def test_a_condition(of: View, kind: str, status: str, reason: str) -> None:
    found = condition(drawn(of), kind)
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["message"]


def test_the_picture_of_a_persons_roll_back() -> None:
    order = Order("alice", RollBackTo.BASELINE, "users complain", T0, "ReducePercentage")
    status = drawn(view(ledger=replace(ledger_in(PLAN, 0), latch=replace(LATCH, cause=order))))
    assert status["rollback"] == {
        "action": "ReducePercentage",
        "to": "Baseline",
        "requestedBy": "alice",
        "reason": "users complain",
        "actedAt": "2026-01-05T09:00:42Z",
    }
    FeatureRolloutStatus.model_validate(status)


def test_a_refusal_is_no_part_of_the_history() -> None:
    for verb, entries in ((Verb.REFUSE, 0), (Verb.APPROVE, 1)):
        acted = Decision(verb, Phase.PENDING, "Approved", "")
        status = picture(view(), decide(view()), {}, 1, acted=acted)
        assert len(status["history"]) == entries


def test_the_picture_of_a_revert() -> None:
    status = drawn(view(ledger=replace(ledger_in(PLAN, 0), latch=LATCH, attempt=2)))
    assert status["rollback"] == {
        "severity": "High",
        "metric": "errors",
        "value": "20%",
        "limit": "1%",
        "action": "DisableFlags",
        "onsetAt": "2026-01-05T09:00:00Z",
        "actedAt": "2026-01-05T09:00:42Z",
        "respondWithin": "5m",
        "respondedIn": "42.000s",
    }
    assert (status["attempt"], status["summary"]["health"], status["next"]["action"]) == (2, "RolledBack", "Hold")
    assert "bakeEndsAt" not in status["stage"]


def test_a_revert_by_a_clock_that_was_behind_took_no_time() -> None:
    early = replace(LATCH, acted_at=T0 - minutes(1))
    status = drawn(view(ledger=replace(ledger_in(PLAN, 0), latch=early)))
    assert status["rollback"]["respondedIn"] == "0.000s"


def test_the_picture_of_a_bake() -> None:
    status = drawn(view())
    assert status["stage"] == {
        "name": "ten",
        "index": 1,
        "of": 3,
        "since": "2026-01-05T09:00:00Z",
        "bakeEndsAt": "2026-01-05T09:05:00Z",
    }
    assert status["next"] == {
        "action": "Advance to half",
        "at": "2026-01-05T09:05:00Z",
        "waitingFor": ["5m of healthy time in ten"],
    }
    assert status["exposure"] == [{"flag": "bell", "enabled": True, "percentage": 10, "groups": []}]
    assert status["summary"] == {"stage": "1/3 ten", "exposure": "10%", "health": "Healthy", "next": "Baking ten"}
    (metric,) = status["metrics"]
    assert (metric["verdict"], metric["value"], metric["limit"]) == ("Pass", "0%", "errors above 1%")
    assert "rollback" not in status


def test_a_metric_that_cannot_be_measured_says_why() -> None:
    (metric,) = drawn(view(plan(metrics=[ratio(blocker="Datadog is not in effect")]), looks=[]))["metrics"]
    assert (metric["verdict"], metric["message"]) == ("Error", "Datadog is not in effect")
    (metric,) = drawn(view(looks=[{"error": "timeout"}]))["metrics"]
    assert (metric["verdict"], metric["message"]) == ("Error", "timeout")


def test_a_metric_shows_its_control_arm_the_limit_in_force_and_which_test_judges_it() -> None:
    against_control = relative(change="5%", baseline=BaselineType.CONTROL)
    of = plan(rows=[row(Severity.HIGH, against_control)], metrics=[ratio(counts_users=False)])
    look = {"events": 2.0, "units": 100.0, "control_events": 10.0, "control_units": 1000.0}
    (metric,) = drawn(view(of, looks=[look]))["metrics"]
    shown = {name: metric[name] for name in ("value", "control", "limitInForce", "test", "dispersion")}
    assert shown == {
        "value": "2%",
        "control": "1%",
        "limitInForce": "1.05%",
        "test": "two-sample, against the control arm",
        "dispersion": 10.0,
    }
    assert metric["limit"] == "errors increase 5% against Control"


@pytest.mark.parametrize(
    ("clause", "metric", "test"),
    [
        (above(), ratio(), "one-sample"),
        (relative(), ratio(), "one-sample, against the past of the hour"),
        (above("latency", "2"), gauge(), "blocks of looks"),
        (relative("latency"), gauge(), "blocks of looks, against the past of the hour"),
        (above("latency", "2", persist=Persist(8, 10)), gauge(), "8 of 10 looks"),
        (relative("latency", baseline=BaselineType.CONTROL), gauge(), "sign test of blocks, against the control arm"),
    ],
    ids=str,
)
def test_which_test_judges_a_clause(clause: Clause, metric: Metric, test: str) -> None:
    (shown,) = drawn(view(plan(rows=[row(Severity.HIGH, clause)], metrics=[metric]), looks=[]))["metrics"]
    assert shown["test"] == test


def test_a_metric_without_a_reference_says_so() -> None:
    seen = view(plan(metrics=[ratio(key="k")]))
    known = replace(
        seen.progress, references={"errors": Reference("k", note="it has no data in the seven days before")}
    )
    (metric,) = drawn(replace(seen, progress=known))["metrics"]
    assert metric["message"] == "no reference: it has no data in the seven days before"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        pytest.param({"bell": OFF, "menu": OFF}, "off", id="nobody"),
        pytest.param({"bell": exposure(10), "menu": exposure(10)}, "10%", id="all alike"),
        pytest.param({"bell": exposure(10, "b", "a"), "menu": OFF}, "10% a,b", id="groups"),
        pytest.param({"bell": exposure(10), "menu": exposure(20)}, "mixed, 2 flags", id="not alike"),
    ],
)
def test_exposure_in_a_column(rows: dict[str, Exposure], text: str) -> None:
    of = plan(stage("a", ("bell", 10), ("menu", 10)))
    assert drawn(view(of, rows=rows))["summary"]["exposure"] == text


# What makes it differ.


def test_a_healthy_look_makes_no_difference() -> None:
    first = drawn(view(looks=[GOOD]))
    assert not differs(drawn(view(looks=[GOOD, GOOD, {"events": 1.0, "units": 900.0}]), first), first)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(view(looks=[GOOD, {"error": "x"}]), id="a guard that has gone blind"),
        pytest.param(view(suspended=True), id="a suspension"),
        pytest.param(view(rows={"bell": OFF}), id="a row that was changed"),
        pytest.param(view(index=1), id="another stage"),
    ],
)
def test_a_transition_makes_one(changed: View) -> None:
    first = drawn(view())
    assert differs(drawn(changed, first), first)


def test_transition_times_are_those_of_the_change_of_status() -> None:
    then = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}, {"type": "odd"}]
    now = [{"type": "Ready", "status": "True"}, {"type": "Stalled", "status": "False"}]
    timed = with_transition_times(now, {"conditions": then}, T0)
    assert [c["lastTransitionTime"] for c in timed] == ["2026-01-01T00:00:00Z", "2026-01-05T09:00:00Z"]
    changed = with_transition_times([{"type": "Ready", "status": "False"}], {"conditions": then}, T0)
    assert changed[0]["lastTransitionTime"] == "2026-01-05T09:00:00Z"


def test_times_are_utc() -> None:
    assert kube_time(T0.astimezone(timezone(timedelta(hours=2)))) == "2026-01-05T09:00:00Z"


def test_history_has_the_last_ten_transitions_and_nothing_else() -> None:
    status: dict[str, Any] = {}
    acted = Decision(Verb.ADVANCE, Phase.BAKING, "StageEntered", "began")
    for number in range(HISTORY_MAX + 3):
        status = drawn(view(), status, replace(acted, message=f"began {number}"))
        status = drawn(view(), status)
    assert [entry["message"] for entry in status["history"]] == [f"began {i}" for i in range(3, 13)]
    assert status["history"][0]["action"] == "Advance"


# Trouble.


def test_trouble_keeps_what_was_known_and_says_what_is_wrong() -> None:
    before = drawn(view())
    hold = Decision(Verb.HOLD, Phase.PENDING, TROUBLE.reason, TROUBLE.message)
    status = trouble_picture(hold, before, 8, T0)
    FeatureRolloutStatus.model_validate(status)
    assert (status["phase"], status["observedGeneration"], status["stage"]) == ("Pending", 8, before["stage"])
    told = {c["type"]: c["status"] for c in status["conditions"]}
    assert told == {
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
        "GuardsHealthy": "Unknown",
        "FlagsInSync": "Unknown",
        "Completed": "False",
        "RolledBack": "False",
    }
    assert "metrics" not in status


def test_trouble_without_any_status_before() -> None:
    hold = Decision(Verb.HOLD, Phase.STALLED, "InvalidPlan", "x", stalled=True)
    status = trouble_picture(hold, {"observedGeneration": -1}, 1, T0)
    assert condition(status, "Stalled")["status"] == "True"
    assert not differs(trouble_picture(hold, status, 1, T0 + minutes(1)), status)


# Size.


def huge(groups: int = 70, note: str = "x" * 3000) -> View:
    name = "n" * 60
    metrics = [ratio(f"{name}{i:02}", blocker=note) for i in range(32)]
    rows = [row(Severity.HIGH, *(above(m.name) for m in metrics))]
    flags = [(f"{'f' * 60}{i:03}", 10) for i in range(100)]
    of = plan(stage("s" * 60, *flags), metrics=metrics, rows=rows, notices=tuple(Notice(note, note) for _ in range(50)))
    many = frozenset(f"{'g' * 50}{i}" for i in range(groups))
    rows_now = {flag: Exposure(True, exposure(10).percentage, many) for flag, _ in flags}
    row_in = replace(ledger_in(of, 0), written=rows_now, latch=LATCH)
    return view(of, looks=[], ledger=row_in)


def test_it_fits_a_hundred_flags_and_thirty_two_metrics() -> None:
    status: dict[str, Any] = {}
    acted = Decision(Verb.ADVANCE, Phase.BAKING, "StageEntered", "m" * 3000)
    for _ in range(HISTORY_MAX):
        status = drawn(huge(), status, acted)
    assert size_bytes(status) <= SIZE_MAX_BYTES
    assert condition(status, "Stalled")["status"] == "True"
    assert len(status["planHash"]) == len(PLAN.plan_hash)
    assert size_bytes(trouble_picture(decide(huge()), status, 1, T0)) <= SIZE_MAX_BYTES


def test_what_is_usual_is_not_cut() -> None:
    flags = [(f"notifications_feature_{i:03}", 10) for i in range(100)]
    metrics = [ratio(f"metric-{i:02}") for i in range(32)]
    of = plan(stage("a", *flags), metrics=metrics, rows=[row(Severity.HIGH, *(above(m.name) for m in metrics))])
    status = drawn(view(of))
    assert (len(status["exposure"]), len(status["metrics"])) == (100, 32)
    assert size_bytes(status) < SIZE_MAX_BYTES


def test_many_groups_are_counted() -> None:
    told = exposure_json(exposure(10, *(f"g{i:02}" for i in range(40))))["groups"]
    assert (len(told), told[-1]) == (17, "and 24 more")
