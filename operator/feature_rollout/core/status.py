"""The status of a FeatureRollout: a picture of the ledger and of the last decision.

JSON as it stands in the object. Messages hold no live numbers, so that a healthy look
changes nothing in it but `metrics`, which alone is no reason to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import Exposure, format_percentage
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.looks import Verdict
from feature_rollout.core.plan import Metric
from feature_rollout.core.progress import verdict

HISTORY_MAX = 10
# Verbs after which something is different, which people want to find in the history.
TRANSITIONS = frozenset({Verb.ADVANCE, Verb.COMPLETE, Verb.REARM, Verb.RELEASE, *(v for v in Verb if v.reverts)})


def picture(
    view: View, decision: Decision, previous: Mapping[str, Any], generation: int, *, acted: Decision
) -> dict[str, Any]:
    """The whole status: `decision` is what the view says now, `acted` what was carried out to get there.

    `previous` gives the history and the transition times.
    """
    status = {
        "observedGeneration": generation,
        "planHash": view.plan.plan_hash,
        "attempt": view.ledger.attempt,
        "phase": str(decision.phase),
        "stage": _stage(view),
        "exposure": [{"flag": f, **exposure_json(view.rows[f])} for f in view.plan.flags if f in view.rows],
        "metrics": [_metric(view, metric) for metric in view.plan.metrics.values()],
        "next": _next(view, decision),
        "rollback": _rollback(view),
        "history": _history(view, acted, previous),
        "summary": _summary(view, decision),
        "conditions": with_transition_times(_conditions(view, decision, generation), previous, view.now),
    }
    return {key: value for key, value in status.items() if value is not None}


def trouble_picture(decision: Decision, previous: Mapping[str, Any], generation: int, now: datetime) -> dict[str, Any]:
    """The status while there is no plan or no ledger to draw: what was known, and what is wrong."""
    status = {key: value for key, value in previous.items() if key not in {"conditions", "metrics"}}
    stalled = "True" if decision.stalled else "False"
    conditions = [
        ("Ready", "False", decision.reason, decision.message),
        ("Reconciling", "False" if decision.stalled else "True", decision.reason, decision.message),
        ("Stalled", stalled, decision.reason, decision.message),
    ]
    kept = [dict(c) for c in previous.get("conditions", []) if c["type"] in {"Completed", "RolledBack"}]
    return status | {
        "observedGeneration": generation,
        "phase": str(decision.phase),
        "next": {"action": "Wait", "waitingFor": [decision.message[:_TEXT_MAX]]},
        "summary": {**previous.get("summary", {}), "health": "Unknown", "next": decision.reason},
        "conditions": with_transition_times([*_typed(conditions, generation), *kept], previous, now),
    }


def differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two statuses differ in anything but live numbers."""
    return _without_live(a) != _without_live(b)


def exposure_json(row: Exposure) -> dict[str, Any]:
    percentage = float(row.percentage)
    return {
        "enabled": row.enabled,
        "percentage": int(percentage) if percentage.is_integer() else percentage,
        "groups": sorted(row.groups),
    }


def with_transition_times(
    conditions: Sequence[dict[str, Any]], previous: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Each condition with the time at which its status became what it is."""
    before = {c["type"]: c for c in previous.get("conditions", [])}
    timed = []
    for condition in conditions:
        old = before.get(condition["type"])
        same = old is not None and old["status"] == condition["status"]
        at = old["lastTransitionTime"] if old is not None and same else kube_time(now)
        timed.append({**condition, "lastTransitionTime": at})
    return timed


def kube_time(at: datetime) -> str:
    """RFC 3339 in whole seconds, as metav1.Time writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


_TEXT_MAX = 1024
_LIVE = {"metrics"}


def _without_live(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in status.items() if key not in _LIVE}
    if "stage" in kept:
        kept["stage"] = {k: v for k, v in kept["stage"].items() if k != "bakeEndsAt"}
    if "next" in kept:
        kept["next"] = {k: v for k, v in kept["next"].items() if k != "at"}
    return kept


def _stage(view: View) -> dict[str, Any] | None:
    if view.stage is None:
        return None
    ledger, stage = view.ledger, view.stage
    picture = {"name": stage.name, "index": ledger.stage + 1, "of": len(view.plan.stages)}
    if ledger.entered_at is not None:
        picture["since"] = kube_time(ledger.entered_at)
    remaining = stage.bake - view.progress.baked
    if remaining.total_seconds() > 0 and ledger.latch is None and ledger.completed_at is None:
        picture["bakeEndsAt"] = kube_time(view.now + remaining)
    return picture


def _metric(view: View, metric: Metric) -> dict[str, Any]:
    guards = [guard for guard in view.guards if guard.clause.metric == metric.name]
    latest = view.progress.of(metric.name).latest
    picture: dict[str, Any] = {"name": metric.name, "verdict": str(Verdict.NO_DATA)}
    if latest is not None:
        picture["verdict"] = str(verdict(latest, [guard.clause for guard in guards]))
        picture["at"] = kube_time(latest.window.end)
        picture |= {k: v for k, v in (("events", latest.events), ("units", latest.units)) if v is not None}
        if latest.number is not None:
            picture["value"] = metric.format(latest.number)
        if latest.error is not None:
            picture["message"] = latest.error[:_TEXT_MAX]
    worst = max(guards, key=lambda g: (g.log_evidence or float("-inf"), g.row.severity), default=None)
    if worst is not None:
        picture["limit"] = str(worst.clause)
        if worst.log_evidence is not None:
            picture["evidence"] = f"{worst.log_evidence:.3f}"
    blocker = metric.blocker or next((guard.clause.blocker for guard in guards if guard.clause.blocker), None)
    if blocker is not None:
        picture |= {"verdict": str(Verdict.ERROR), "message": blocker}
    return picture


def _next(view: View, decision: Decision) -> dict[str, Any] | None:
    if decision.phase is Phase.COMPLETED or decision.verb is Verb.RELEASE:
        return None
    stage = view.next_stage
    following = f"Advance to {stage.name}" if stage is not None else "Complete"
    picture: dict[str, Any] = {"action": following if decision.phase is not Phase.ROLLED_BACK else "Hold"}
    if decision.phase is Phase.BAKING and view.stage is not None:
        picture["at"] = kube_time(view.now + max(view.stage.bake - view.progress.baked, view.stage.bake * 0))
    waiting = [words[:_TEXT_MAX] for words in decision.waiting_for] or [decision.message[:_TEXT_MAX]]
    return picture | {"waitingFor": waiting[:16]}


def _rollback(view: View) -> dict[str, Any] | None:
    latch = view.ledger.latch
    if latch is None:
        return None
    breach = latch.breach
    return {
        "severity": str(breach.severity),
        "metric": breach.metric,
        "value": breach.value,
        "limit": breach.limit,
        "action": breach.action,
        "onsetAt": kube_time(breach.onset_at),
        "actedAt": kube_time(latch.acted_at),
        "respondWithin": f"{breach.respond_within.total_seconds():g}s",
        "respondedIn": f"{max((latch.acted_at - breach.onset_at).total_seconds(), 0):.3f}s",
    }


def _history(view: View, decision: Decision, previous: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = list(previous.get("history", []))
    if decision.verb in TRANSITIONS:
        entries.append(
            {
                "at": kube_time(view.now),
                "action": str(decision.verb),
                "reason": decision.reason,
                "stage": view.stage.name if view.stage else "",
                "message": decision.message[:_TEXT_MAX],
            }
        )
    return entries[-HISTORY_MAX:]


def _summary(view: View, decision: Decision) -> dict[str, Any]:
    """Short strings for the columns of `kubectl get`."""
    stage = f"{view.ledger.stage + 1}/{len(view.plan.stages)} {view.stage.name}" if view.stage else "-"
    return {
        "stage": stage,
        "exposure": _exposure_summary([view.rows[f] for f in view.raised if f in view.rows]),
        "health": _health(view),
        "next": str(decision.phase)
        if decision.phase is not Phase.BAKING
        else f"{decision.reason} {view.stage.name}"
        if view.stage
        else decision.reason,
    }


def _exposure_summary(rows: Sequence[Exposure]) -> str:
    exposed = [row for row in rows if not row.is_off]
    if not exposed:
        return "off"
    texts = {
        f"{format_percentage(row.percentage)}%" + (f" {','.join(sorted(row.groups))}" if row.groups else "")
        for row in exposed
    }
    return texts.pop() if len(texts) == 1 else f"mixed, {len(exposed)} flags"


def _health(view: View) -> str:
    if view.ledger.latch is not None:
        return "RolledBack"
    states = {guard.state for guard in view.guards}
    for state in (GuardState.BREACHED, GuardState.BLIND, GuardState.HOLDING, GuardState.NO_DATA):
        if state in states:
            return str(state)
    return "Healthy"


def _conditions(view: View, decision: Decision, generation: int) -> list[dict[str, Any]]:
    rolled_back = view.ledger.latch is not None
    stalled = decision.stalled or rolled_back
    guards, in_sync = _guards_healthy(view.guards), _flags_in_sync(view)
    ready = not stalled and guards[1] != "False" and in_sync[1] == "True"
    why_not = next(((c[2], c[3]) for c in (in_sync, guards) if c[1] == "False"), None)
    cause = (decision.reason, decision.message) if ready or stalled or why_not is None else why_not
    starting = "True" if decision.phase is Phase.PENDING else "False"
    notices = view.plan.notices
    rows: list[tuple[str, str, str, str]] = [
        ("Ready", "True" if ready else "False", *cause),
        ("Reconciling", starting, decision.reason, decision.message),
        ("Stalled", "True" if stalled else "False", decision.reason, decision.message),
        guards,
        in_sync,
        ("Completed", "True" if view.ledger.completed_at else "False", decision.reason, decision.message),
        ("RolledBack", "True" if rolled_back else "False", decision.reason, decision.message),
        (
            "FieldsInEffect",
            "False" if notices else "True",
            reasons.NOT_IN_EFFECT if notices else reasons.ALL_FIELDS_IN_EFFECT,
            "; ".join(map(str, notices)) or reasons.DESCRIPTIONS[reasons.ALL_FIELDS_IN_EFFECT],
        ),
    ]
    return _typed(rows, generation)


def _typed(rows: Sequence[tuple[str, str, str, str]], generation: int) -> list[dict[str, Any]]:
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message[:_TEXT_MAX],
            "observedGeneration": generation,
        }
        for kind, status, reason, message in rows
    ]


def _guards_healthy(guards: Sequence[Guard]) -> tuple[str, str, str, str]:
    def notes(state: GuardState) -> str:
        return "; ".join(dict.fromkeys(guard.note for guard in guards if guard.state is state))

    if notes(GuardState.BLIND):
        return ("GuardsHealthy", "False", reasons.GUARDS_BLIND, notes(GuardState.BLIND))
    if notes(GuardState.NO_DATA):
        return ("GuardsHealthy", "Unknown", reasons.NO_TRAFFIC, notes(GuardState.NO_DATA))
    return ("GuardsHealthy", "True", reasons.GUARDS_WATCHING, reasons.DESCRIPTIONS[reasons.GUARDS_WATCHING])


def _flags_in_sync(view: View) -> tuple[str, str, str, str]:
    missing = [flag for flag in view.raised if flag not in view.rows]
    changed = [flag for flag in view.raised if flag in view.rows and view.rows[flag] != view.ledger.written[flag]]
    if missing:
        return ("FlagsInSync", "False", reasons.FLAG_MISSING, f"No row in the table: {', '.join(missing)}.")
    if changed:
        return ("FlagsInSync", "False", reasons.MANUAL_CHANGE, f"Changed by somebody else: {', '.join(changed)}.")
    return ("FlagsInSync", "True", reasons.AS_PLANNED, reasons.DESCRIPTIONS[reasons.AS_PLANNED])
