"""The status as a whole, field by field; what is cut when it is too long; which changes are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.evidence import Evidence
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.plan import Notice, Plan, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.reasons import DESCRIPTIONS
from feature_rollout.core.reference import Reference
from feature_rollout.core.state import Breach, Latch
from feature_rollout.core.status import SIZE_MAX_BYTES, differs, fitted, picture, size_bytes, trouble_picture
from support.fakes import OFF, T0, above, exposure, gauge, ledger, ledger_in, minutes, plan, ratio, row, seconds, stage

PLAN = plan(
    stage("ten", ("bell", 10), ("menu", 2.5)),
    stage("half", ("bell", 50)),
    rows=[row(Severity.HIGH, above()), row(Severity.LOW, above(limit="0.5%"))],
    metrics=[ratio(key="k"), gauge("latency")],
)
NOW = T0 + minutes(2)
AT, NOW_AT = "2026-01-05T09:00:00Z", "2026-01-05T09:02:00Z"
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
LATCH = Latch(BREACH, "ten", PLAN.spec_hash, T0 + seconds(42))
LOOK = Look("errors", Window(T0, NOW), 3.0, 1000.0, control_events=1.0, control_units=500.0)
SLOW = Look("latency", Window(T0, NOW), value=0.25, error="timeout")
PROGRESS = Progress(
    stage_from=T0,
    watching=True,
    baked=minutes(1),
    metrics={"errors": MetricProgress(NOW, LOOK, key="k"), "latency": MetricProgress(NOW, SLOW)},
    evidence={"errors>1%": Evidence((2.0,) * 7), "errors>0.5%": Evidence((3.0,) * 7)},
    references={"errors": Reference("k", dispersion=2.34567)},
)


def guards(of: Plan, *states: GuardState, **changes: Any) -> tuple[Guard, ...]:
    found = zip(of.guards(), states, (0.693147, 1.098612), strict=False)
    return tuple(
        replace(Guard(row_of, clause, state, 0.003, log, T0, note=f"{state} note", limit="1%"), **changes)
        for (row_of, clause), state, log in found
    )


def view(of: Plan = PLAN, index: int = 0, states: tuple[GuardState, ...] | None = None, **changes: Any) -> View:
    entered = replace(ledger_in(of, index) if index >= 0 else ledger(), **changes.pop("ledger", {}))
    rows = {**dict.fromkeys(of.flags, OFF), **entered.written}
    states = (GuardState.QUIET, GuardState.PAST_LIMIT) if states is None else states
    return replace(View(of, entered, rows, PROGRESS, guards(of, *states), NOW), **changes)


def drawn(seen: View, previous: dict[str, Any] | None = None, acted: Decision | None = None) -> dict[str, Any]:
    decision = decide(seen)
    return picture(seen, decision, previous or {}, 7, acted=acted or decision)


def condition(kind: str, status: str, reason: str, message: str, at: str = NOW_AT) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 7,
        "lastTransitionTime": at,
    }


BAKES = ("Baking", "Stage ten bakes for 5m of healthy time.")


def test_a_bake_as_a_whole() -> None:
    earlier = {
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": AT},
            {"type": "Stalled", "status": "True", "lastTransitionTime": AT},
        ]
    }
    began = Decision(Verb.ADVANCE, Phase.BAKING, "StageEntered", "It began.")
    assert drawn(view(), earlier, began) == {
        "observedGeneration": 7,
        "planHash": PLAN.plan_hash,
        "attempt": 1,
        "phase": "Baking",
        "stage": {"name": "ten", "index": 1, "of": 2, "since": AT, "bakeEndsAt": "2026-01-05T09:06:00Z"},
        "exposure": [
            {"flag": "bell", "enabled": True, "percentage": 10, "groups": []},
            {"flag": "menu", "enabled": True, "percentage": 2.5, "groups": []},
        ],
        "metrics": [
            {
                "name": "errors",
                "verdict": "Pass",
                "at": NOW_AT,
                "events": 3.0,
                "units": 1000.0,
                "value": "0.3%",
                "control": "0.2%",
                "dispersion": 2.346,
                "limit": "errors above 0.5%",
                "limitInForce": "1%",
                "test": "one-sample",
                "evidence": 1.099,
            },
            {"name": "latency", "verdict": "Error", "at": NOW_AT, "value": "0.25s", "message": "timeout"},
        ],
        "next": {
            "action": "Advance to half",
            "at": "2026-01-05T09:06:00Z",
            "waitingFor": ["5m of healthy time in ten"],
        },
        "history": [
            {"at": NOW_AT, "action": "Advance", "reason": "StageEntered", "stage": "ten", "message": "It began."}
        ],
        "summary": {"stage": "1/2 ten", "exposure": "mixed, 2 flags", "health": "Healthy", "next": "Baking ten"},
        "conditions": [
            condition("Ready", "True", *BAKES, at=AT),
            condition("Reconciling", "False", *BAKES),
            condition("Stalled", "False", *BAKES),
            condition("GuardsHealthy", "True", "GuardsWatching", DESCRIPTIONS["GuardsWatching"]),
            condition("FlagsInSync", "True", "AsPlanned", DESCRIPTIONS["AsPlanned"]),
            condition("Completed", "False", *BAKES),
            condition("RolledBack", "False", *BAKES),
            condition("FieldsInEffect", "True", "AllFieldsInEffect", DESCRIPTIONS["AllFieldsInEffect"]),
        ],
    }


def test_nothing_was_entered_and_nothing_was_looked_at() -> None:
    bare = view(index=-1, states=(GuardState.UNSEEN,), progress=Progress())
    status = drawn(bare)
    assert "stage" not in status
    assert "rollback" not in status
    assert status["history"] == []
    assert status["summary"] == {"stage": "-", "exposure": "off", "health": "Unseen", "next": "Pending"}
    assert status["metrics"] == [
        {
            "name": "errors",
            "verdict": "NoData",
            "dispersion": 1.0,
            "limit": "errors above 1%",
            "limitInForce": "1%",
            "test": "one-sample",
            "evidence": 0.693,
        },
        {"name": "latency", "verdict": "NoData"},
    ]


def test_without_a_limit_in_force_none_is_shown() -> None:
    bare = guards(PLAN, GuardState.QUIET, limit="")
    (metric, _) = drawn(view(guards=bare))["metrics"]
    assert (metric["limit"], "limitInForce" in metric) == ("errors above 1%", False)


def test_of_two_guards_on_a_metric_that_with_more_evidence_is_shown_and_else_the_more_severe() -> None:
    without = guards(PLAN, GuardState.QUIET, GuardState.QUIET, log_evidence=None)
    (metric, _) = drawn(view(guards=without))["metrics"]
    assert metric["limit"] == "errors above 1%"
    assert "evidence" not in metric
    (metric, _) = drawn(view())["metrics"]
    assert metric["limit"] == "errors above 0.5%"


# (phase, what comes next)
APPROVAL = Decision(Verb.HOLD, Phase.AWAITING_APPROVAL, "AwaitingApproval", "Waits for 1.", waiting_for=("1 approval",))
NEXT: dict[str, tuple[View, Decision, dict[str, Any] | None]] = {
    "people are waited for": (view(), APPROVAL, {"action": "Advance to half", "waitingFor": ["1 approval"]}),
    "the calendar is": (
        view(),
        replace(APPROVAL, due_at=NOW),
        {"action": "Advance to half", "at": NOW_AT, "waitingFor": ["1 approval"]},
    ),
    "nothing is named": (
        view(),
        replace(APPROVAL, waiting_for=()),
        {"action": "Advance to half", "waitingFor": ["Waits for 1."]},
    ),
    "the last stage": (view(index=1), APPROVAL, {"action": "Complete", "waitingFor": ["1 approval"]}),
    "a revert": (
        view(),
        replace(APPROVAL, phase=Phase.ROLLED_BACK),
        {"action": "Hold", "waitingFor": ["1 approval"]},
    ),
    "the first looks": (
        view(index=-1),
        replace(APPROVAL, phase=Phase.BAKING),
        {"action": "Advance to ten", "waitingFor": ["1 approval"]},
    ),
    "a bake that is over": (
        view(progress=replace(PROGRESS, baked=minutes(9))),
        replace(APPROVAL, phase=Phase.BAKING),
        {"action": "Advance to half", "at": NOW_AT, "waitingFor": ["1 approval"]},
    ),
    "many": (
        view(),
        replace(APPROVAL, waiting_for=tuple("x" * 2000 for _ in range(20))),
        {"action": "Advance to half", "waitingFor": ["x" * 1024] * 16},
    ),
    "it is over": (view(), replace(APPROVAL, phase=Phase.COMPLETED), None),
    "it is gone": (view(), replace(APPROVAL, verb=Verb.RELEASE), None),
}


@pytest.mark.parametrize(("seen", "decision", "expected"), NEXT.values(), ids=NEXT.keys())
def test_what_comes_next(seen: View, decision: Decision, expected: dict[str, Any] | None) -> None:
    assert picture(seen, decision, {}, 7, acted=decision).get("next") == expected


@pytest.mark.parametrize(
    ("seen", "health"),
    [
        pytest.param(view(states=(GuardState.QUIET, GuardState.PAST_LIMIT)), "Healthy", id="a look past the limit"),
        pytest.param(view(states=(GuardState.NO_DATA,)), "NoData", id="no data"),
        pytest.param(view(states=(GuardState.NO_DATA, GuardState.UNSEEN)), "Unseen", id="not looked at"),
        pytest.param(view(states=(GuardState.UNSEEN, GuardState.HOLDING)), "Holding", id="evidence"),
        pytest.param(view(states=(GuardState.HOLDING, GuardState.BLIND)), "Blind", id="blind"),
        pytest.param(view(states=(GuardState.BLIND, GuardState.INCIDENT)), "GlobalIncident", id="everybody's"),
        pytest.param(view(states=(GuardState.INCIDENT, GuardState.BREACHED)), "Breached", id="breached"),
        pytest.param(view(states=(GuardState.BREACHED,), ledger={"latch": LATCH}), "RolledBack", id="rolled back"),
        pytest.param(view(index=1, states=(GuardState.BLIND,), ledger={"completed_at": T0}), "Healthy", id="over"),
    ],
)
def test_health_is_the_worst_that_a_guard_says(seen: View, health: str) -> None:
    assert drawn(seen)["summary"]["health"] == health


BLIND = "Guards cannot be evaluated, nothing is raised and nothing reverted: Blind note."
CONDITIONS: dict[str, tuple[View, str, tuple[str, str, str]]] = {
    "not ready while blind": (view(states=(GuardState.BLIND,)), "Ready", ("False", "GuardsBlind", "Blind note")),
    "not ready with a row changed by hand": (
        view(rows={"bell": exposure(3), "menu": exposure(2.5)}),
        "Ready",
        ("False", "ManualChange", "Changed by somebody else: bell."),
    ),
    "two rows were changed by hand": (
        view(rows={"bell": exposure(3), "menu": exposure(3)}),
        "FlagsInSync",
        ("False", "ManualChange", "Changed by somebody else: bell, menu."),
    ),
    "not ready when rolled back, for that reason": (
        view(ledger={"latch": LATCH}, states=(GuardState.BLIND,)),
        "Ready",
        (
            "False",
            "RolledBack",
            (
                "Rolled back in stage ten: errors was 20%, limit 1% (High). "
                "It stays so until Retry, or until the plan is changed."
            ),
        ),
    ),
    "not ready before the first look": (
        view(index=-1, states=(GuardState.UNSEEN,)),
        "Ready",
        ("False", "AwaitingLook", "Waits for Unseen note."),
    ),
    "reconciling before the first look": (
        view(index=-1, states=(GuardState.UNSEEN,)),
        "Reconciling",
        ("True", "AwaitingLook", "Waits for Unseen note."),
    ),
    "stalled when rolled back": (
        view(ledger={"latch": LATCH}),
        "Stalled",
        (
            "True",
            "RolledBack",
            (
                "Rolled back in stage ten: errors was 20%, limit 1% (High). "
                "It stays so until Retry, or until the plan is changed."
            ),
        ),
    ),
    "guards are blind": (view(states=(GuardState.BLIND,)), "GuardsHealthy", ("False", "GuardsBlind", "Blind note")),
    "guards were not looked at": (
        view(states=(GuardState.UNSEEN, GuardState.NO_DATA)),
        "GuardsHealthy",
        ("Unknown", "AwaitingLook", "Unseen note"),
    ),
    "guards have no data": (
        view(states=(GuardState.NO_DATA, GuardState.NO_DATA)),
        "GuardsHealthy",
        ("Unknown", "NoTraffic", "NoData note"),
    ),
    "guards have ended": (
        view(index=1, states=(GuardState.BLIND,), ledger={"completed_at": T0}),
        "GuardsHealthy",
        ("True", "Completed", DESCRIPTIONS["Completed"]),
    ),
    "a row is gone": (
        view(rows={"menu": exposure(2.5)}),
        "FlagsInSync",
        ("False", "FlagMissing", "No row in the table: bell."),
    ),
    "all rows are gone": (view(rows={}), "FlagsInSync", ("False", "FlagMissing", "No row in the table: bell, menu.")),
    "nobody could read the rows": (
        view(rows={}, trouble=Trouble("StoreUnreachable", "it is away")),
        "FlagsInSync",
        ("Unknown", "StoreUnreachable", "it is away"),
    ),
    "fields without effect": (
        view(of=replace(PLAN, notices=(Notice("spec.a", "not yet"), Notice("spec.b", "never")))),
        "FieldsInEffect",
        ("False", "NotInEffect", "spec.a (not yet); spec.b (never)"),
    ),
}


@pytest.mark.parametrize(("seen", "kind", "expected"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_conditions(seen: View, kind: str, expected: tuple[str, str, str]) -> None:
    (found,) = (c for c in drawn(seen)["conditions"] if c["type"] == kind)
    assert found == condition(kind, *expected)


# Trouble.


@pytest.mark.parametrize(
    ("stalled", "rolled_back", "phase", "statuses"),
    [
        pytest.param(False, False, "Pending", ("False", "True", "False"), id="it may heal"),
        pytest.param(True, False, "Stalled", ("False", "False", "True"), id="it needs a person"),
        pytest.param(False, True, "RolledBack", ("False", "False", "True"), id="a revert needs one too"),
        pytest.param(True, True, "Stalled", ("False", "False", "True"), id="both"),
    ],
)
def test_trouble_as_a_whole(stalled: bool, rolled_back: bool, phase: str, statuses: tuple[str, str, str]) -> None:
    kept = {"type": "RolledBack", "status": str(rolled_back), "lastTransitionTime": AT}
    before = {
        "planHash": "v1:plan",
        "metrics": [1],
        "summary": {"stage": "1/2 ten", "health": "Healthy"},
        "conditions": [kept, {"type": "Ready", "status": "False", "lastTransitionTime": AT}],
    }
    hold = Decision(
        Verb.HOLD, Phase.STALLED if stalled else Phase.PENDING, "StoreUnreachable", "It is away.", stalled=stalled
    )
    told = ("StoreUnreachable", "It is away.")
    assert trouble_picture(hold, before, 7, NOW) == {
        "planHash": "v1:plan",
        "observedGeneration": 7,
        "phase": phase,
        "next": {"action": "Wait", "waitingFor": ["It is away."]},
        "summary": {"stage": "1/2 ten", "health": "Unknown", "next": "StoreUnreachable"},
        "conditions": [
            condition("Ready", statuses[0], *told, at=AT),
            condition("Reconciling", statuses[1], *told),
            condition("Stalled", statuses[2], *told),
            condition("GuardsHealthy", "Unknown", *told),
            condition("FlagsInSync", "Unknown", *told),
            kept,
        ],
    }


# Size.


def entries(count: int, size: int) -> list[dict[str, Any]]:
    return [{"name": "n" * 100, "index": index, "other": index * 10 ** (size - 1)} for index in range(count)]


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        pytest.param(
            {"history": entries(10, 10), "metrics": entries(32, 10)}, {"history": 10, "metrics": 32}, id="all"
        ),
        pytest.param({"history": entries(10, 4000)}, {"history": 3}, id="the newest of the history"),
        pytest.param(
            {"history": entries(10, 100), "metrics": entries(32, 1500), "exposure": entries(30, 10)},
            {"history": 3, "metrics": 16, "exposure": 30},
            id="then metrics",
        ),
        pytest.param(
            {"history": entries(4, 10), "metrics": entries(32, 100), "exposure": entries(100, 500)},
            {"history": 3, "metrics": 16, "exposure": 30},
            id="then flags",
        ),
        pytest.param(
            {"metrics": entries(32, 2500), "exposure": entries(100, 200)},
            {"metrics": 0, "exposure": 30},
            id="then all metrics",
        ),
        pytest.param(
            {"metrics": entries(32, 2500), "exposure": entries(100, 2000)},
            {"metrics": 0, "exposure": 0},
            id="then all flags",
        ),
    ],
)
def test_what_is_left_out_when_it_is_too_long(status: dict[str, Any], kept: dict[str, int]) -> None:
    found = fitted(status)
    assert {key: len(found[key]) for key in status} == kept
    assert size_bytes(found) <= SIZE_MAX_BYTES
    for key, entries_ in status.items():
        count = kept[key]
        newest = entries_[len(entries_) - count :]
        assert found[key] == (newest if key == "history" else entries_[:count])


@pytest.mark.parametrize(
    ("count", "longest"),
    [
        pytest.param(10, 1000, id="nothing is cut that fits"),
        pytest.param(100, 256, id="to 256 letters"),
        pytest.param(300, 96, id="to 96"),
        pytest.param(500, 48, id="to 48"),
    ],
)
def test_long_texts_are_cut_and_names_are_not(count: int, longest: int) -> None:
    text = "x" * 1000
    found = fitted({"conditions": [text] * count, "planHash": "h" * 300, "rollback": {"name": "n" * 300}})
    assert found["conditions"] == [text if longest == 1000 else "x" * (longest - 1) + "…"] * count
    assert found["planHash"] == "h" * 300
    assert found["rollback"] == {"name": "n" * 300}


# What is no difference.


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({"metrics": [{"value": "1%"}]}, False),
        ({"stage": {"name": "ten", "bakeEndsAt": "later"}}, False),
        ({"next": {"action": "Complete", "at": "later"}}, False),
        ({"stage": {"name": "half", "bakeEndsAt": AT}}, True),
        ({"next": {"action": "Hold", "at": AT}}, True),
        ({"phase": "Held"}, True),
    ],
    ids=str,
)
def test_live_numbers_make_no_difference(change: dict[str, Any], is_one: bool) -> None:
    status = {
        "phase": "Baking",
        "metrics": [],
        "stage": {"name": "ten", "bakeEndsAt": AT},
        "next": {"action": "Complete", "at": AT},
    }
    assert differs(status, status | change) is is_one
    assert differs({"phase": "Baking"}, {"phase": "Baking", "metrics": []}) is False
