"""What is stored in the database, key by key: a later version reads it, and an earlier one may have written it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.evidence import Arm, Evidence, Run
from feature_rollout.core.gauge import GaugeRun
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.people import Consent, Lift, Order, Pause, People, Promotion, RollBackTo
from feature_rollout.core.plan import Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import Block, Reference
from feature_rollout.core.state import Breach, Latch
from support.fakes import T0, minutes, seconds

AT = "2026-01-05T09:00:00+00:00"
LATER, LATER_AT = T0 + minutes(1), "2026-01-05T09:01:00+00:00"
LATEST, LATEST_AT = T0 + minutes(2), "2026-01-05T09:02:00+00:00"
SEVEN = tuple(float(i) for i in range(7))
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.25, T0, seconds(90), "DisableFlags")
BREACH_JSON = {
    "severity": "High",
    "metric": "errors",
    "clause": "errors above 1%",
    "value": "20%",
    "limit": "1%",
    "logEvidence": 5.25,
    "onsetAt": AT,
    "respondWithinSeconds": 90.0,
    "action": "DisableFlags",
}
ORDER = Order("alice", RollBackTo.BASELINE, "complaints", T0, "ReducePercentage")
ORDER_JSON = {"by": "alice", "to": "Baseline", "reason": "complaints", "askedAt": AT, "action": "ReducePercentage"}
CONSENT = Consent("alice", T0, "uid-1", "v1:plan", "read it")
CONSENT_JSON = {"by": "alice", "at": AT, "uid": "uid-1", "planHash": "v1:plan", "reason": "read it"}
PEOPLE = People(
    paused=Pause("bob", T0, "lunch"),
    approvals={"half": (CONSENT,)},
    confirmations={"preflight/on-call": CONSENT},
    promoted=Promotion(2, "carol", "calm"),
    lifted=Lift(LATER, ("a", "b")),
    preflight_done=True,
)
PEOPLE_JSON = {
    "paused": {"by": "bob", "at": AT, "reason": "lunch"},
    "approvals": {"half": [CONSENT_JSON]},
    "confirmations": {"preflight/on-call": CONSENT_JSON},
    "promoted": {"stage": 2, "by": "carol", "reason": "calm"},
    "lifted": {"at": LATER_AT, "clauses": ["a", "b"]},
    "preflightDone": True,
}
RUN = Run(T0, 3, SEVEN)
EVIDENCE = Evidence(SEVEN, (SEVEN, SEVEN), 90.0, 2, RUN, is_vetoed=True)
EVIDENCE_JSON = {
    "mixture": list(SEVEN),
    "remembered": [list(SEVEN), list(SEVEN)],
    "observedSeconds": 90.0,
    "raises": 2,
    "run": {"onset": AT, "looksWithUnits": 3, "logSums": list(SEVEN)},
    "vetoed": True,
}
GAUGE = GaugeRun(T0, (True, False), LATER, (1.0, 2.0), (3.0,), 4, 5)
GAUGE_JSON = {
    "pastLimit": AT,
    "recent": [True, False],
    "blockStart": LATER_AT,
    "blockValues": [1.0, 2.0],
    "controlValues": [3.0],
    "farBlocks": 4,
    "nearBlocks": 5,
}
REFERENCE = Reference("key", "few", 2.5, ((1.0, 2.0), (3.0, 4.0)), (Block(T0, 1.0, 2.0, None),))
REFERENCE_JSON = {
    "key": "key",
    "note": "few",
    "dispersion": 2.5,
    "hours": [[1.0, 2.0], [3.0, 4.0]],
    "blocks": [[AT, 1.0, 2.0, None]],
}
LOOK = Look("errors", Window(T0, LATER), 1.0, 2.0)
METRIC = MetricProgress(
    looked_until=LATER,
    latest=LOOK,
    events=1.0,
    units=2.0,
    values=(0.5,),
    healthy=(Window(T0, LATER),),
    failures=4,
    failing_since=LATEST,
    key="key",
    arms=((Arm(1.0, 2.0), Arm(3.0, 4.0)),),
    data_until=T0,
    sample=(5.0, 6.0),
)
METRIC_JSON = {
    "lookedUntil": LATER_AT,
    "latest": LOOK.to_json(),
    "events": 1.0,
    "units": 2.0,
    "values": [0.5],
    "healthy": [[AT, LATER_AT]],
    "failures": 4,
    "failingSince": LATEST_AT,
    "key": "key",
    "arms": [[1.0, 2.0, 3.0, 4.0]],
    "dataUntil": AT,
    "sample": [5.0, 6.0],
}
PROGRESS = Progress(
    stage_from=T0,
    watching=True,
    baked=seconds(90),
    baked_until=LATER,
    metrics={"errors": METRIC},
    evidence={"a": EVIDENCE},
    gauges={"b": GAUGE},
    reference_until=LATEST,
    references={"errors": REFERENCE},
    lifted_at=T0,
    judged_from=LATER,
)
PROGRESS_JSON = {
    "stageFrom": AT,
    "watching": True,
    "bakedSeconds": 90.0,
    "bakedUntil": LATER_AT,
    "metrics": {"errors": METRIC_JSON},
    "evidence": {"a": EVIDENCE_JSON},
    "gauges": {"b": GAUGE_JSON},
    "referenceUntil": LATEST_AT,
    "references": {"errors": REFERENCE_JSON},
    "liftedAt": AT,
    "judgedFrom": LATER_AT,
}
NOTHING_YET = {
    "stageFrom": None,
    "watching": False,
    "bakedSeconds": 0.0,
    "bakedUntil": None,
    "metrics": {},
    "evidence": {},
    "gauges": {},
    "referenceUntil": None,
    "references": {},
    "liftedAt": None,
    "judgedFrom": None,
}
NO_METRIC_YET = {
    "lookedUntil": None,
    "latest": None,
    "events": 0.0,
    "units": 0.0,
    "values": [],
    "healthy": [],
    "failures": 0,
    "failingSince": None,
    "key": "",
    "arms": [],
    "dataUntil": None,
    "sample": [0.0, 0.0],
}
NO_RUN_YET = {**EVIDENCE_JSON, "run": None, "vetoed": False}
NO_GAUGE_YET = {
    "pastLimit": None,
    "recent": [],
    "blockStart": None,
    "blockValues": [],
    "controlValues": [],
    "farBlocks": 0,
    "nearBlocks": 0,
}
NOBODY = {
    "paused": None,
    "approvals": {},
    "confirmations": {},
    "promoted": None,
    "lifted": None,
    "preflightDone": False,
}
STORED: dict[str, tuple[Any, dict[str, Any]]] = {
    "a latch by a breach": (
        Latch(BREACH, "ten", "v1:spec", LATER),
        {"breach": BREACH_JSON, "stage": "ten", "specHash": "v1:spec", "actedAt": LATER_AT},
    ),
    "a latch by a person": (
        Latch(ORDER, "ten", "v1:spec", LATER),
        {"order": ORDER_JSON, "stage": "ten", "specHash": "v1:spec", "actedAt": LATER_AT},
    ),
    "what people have decided": (PEOPLE, PEOPLE_JSON),
    "nobody has decided anything": (People(), NOBODY),
    "evidence with a run": (EVIDENCE, EVIDENCE_JSON),
    "evidence without one": (replace(EVIDENCE, run=None, is_vetoed=False), NO_RUN_YET),
    "a gauge": (GAUGE, GAUGE_JSON),
    "a gauge that was not looked at": (GaugeRun(), NO_GAUGE_YET),
    "a past": (REFERENCE, REFERENCE_JSON),
    "a metric": (METRIC, METRIC_JSON),
    "a metric that was not looked at": (MetricProgress(), NO_METRIC_YET),
    "progress": (PROGRESS, PROGRESS_JSON),
    "no progress": (Progress(), NOTHING_YET),
}


@pytest.mark.parametrize(("value", "stored"), STORED.values(), ids=STORED.keys())
def test_what_is_stored_is_read_as_it_was(value: Any, stored: dict[str, Any]) -> None:
    assert value.to_json() == stored
    assert type(value).from_json(json.loads(json.dumps(stored, allow_nan=False))) == value


@pytest.mark.parametrize(
    ("value", "missing", "read"),
    [
        pytest.param(EVIDENCE, ["vetoed"], replace(EVIDENCE, is_vetoed=False), id="evidence before there were vetoes"),
        pytest.param(GAUGE, ["controlValues"], replace(GAUGE, control_values=()), id="a gauge before there were arms"),
        pytest.param(
            METRIC,
            ["key", "arms", "dataUntil", "sample"],
            replace(METRIC, key="", arms=(), data_until=None, sample=(0.0, 0.0)),
            id="a metric before there were arms",
        ),
        pytest.param(
            PROGRESS,
            ["referenceUntil", "references", "liftedAt", "judgedFrom"],
            replace(PROGRESS, reference_until=None, references={}, lifted_at=None, judged_from=None),
            id="progress before there was a past",
        ),
    ],
)
def test_what_an_earlier_version_has_stored_is_read(value: Any, missing: list[str], read: Any) -> None:
    stored = {key: part for key, part in value.to_json().items() if key not in missing}
    assert type(value).from_json(stored) == read


def test_nothing_stored_is_nobodys_word() -> None:
    assert People.from_json({}) == People()
