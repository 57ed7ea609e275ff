"""The status of a FeatureRollout: a picture of the ledger and of the last decision.

JSON as it stands in the object. Messages hold no live numbers, so that a healthy look
changes nothing in it but `metrics`, which alone is no reason to write.

Which phase goes with which conditions is in docs/reference.md, in a table that is made by this
code; what each of them means is in `health`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import Exposure, format_percentage
from feature_rollout.core.guards import GuardState
from feature_rollout.core.looks import Verdict
from feature_rollout.core.people import Order
from feature_rollout.core.plan import Metric, MetricType, format_duration
from feature_rollout.core.relative import dispersion_of, test_name

HISTORY_MAX = 10
SIZE_MAX_BYTES = 32 * 1024
# How long a message may be; and if the status is too long with that, how long each has to be instead.
_TEXT_MAX = 1024
_TEXT_WHEN_FULL = (256, 96, 48)
_WAITING_MAX = 16
_GROUPS_MAX = 16
_COLUMN_MAX = 64


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
    return fitted({key: value for key, value in status.items() if value is not None})


def trouble_picture(decision: Decision, previous: Mapping[str, Any], generation: int, now: datetime) -> dict[str, Any]:
    """The status while there is no plan or no ledger to draw: what was known, and what is wrong."""
    status = {key: value for key, value in previous.items() if key not in {"conditions", "metrics"}}
    kept = [dict(c) for c in previous.get("conditions", []) if c.get("type") in {"Completed", "RolledBack"}]
    # A revert needs a person also while the database is away.
    rolled_back = any((c["type"], c.get("status")) == ("RolledBack", "True") for c in kept)
    stalled = "True" if decision.stalled or rolled_back else "False"
    conditions = [
        ("Ready", "False", decision.reason, decision.message),
        ("Reconciling", "False" if decision.stalled or rolled_back else "True", decision.reason, decision.message),
        ("Stalled", stalled, decision.reason, decision.message),
        ("GuardsHealthy", "Unknown", decision.reason, decision.message),
        ("FlagsInSync", "Unknown", decision.reason, decision.message),
    ]
    drawn = {
        "observedGeneration": generation,
        "phase": str(decision.phase if decision.stalled or not rolled_back else Phase.ROLLED_BACK),
        "next": {"action": "Wait", "waitingFor": [decision.message[:_TEXT_MAX]]},
        "summary": {**previous.get("summary", {}), "health": "Unknown", "next": decision.reason},
        "conditions": with_transition_times([*_typed(conditions, generation), *kept], previous, now),
    }
    return fitted(status | drawn)


def differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two statuses differ in anything but live numbers."""
    return _without_live(a) != _without_live(b)


def exposure_json(row: Exposure) -> dict[str, Any]:
    percentage, groups = float(row.percentage), sorted(row.groups)
    if len(groups) > _GROUPS_MAX:
        groups = [*groups[:_GROUPS_MAX], f"and {len(groups) - _GROUPS_MAX} more"]
    return {
        "enabled": row.enabled,
        "percentage": int(percentage) if percentage.is_integer() else percentage,
        "groups": groups,
    }


def fitted(status: dict[str, Any]) -> dict[str, Any]:
    """The status in at most 32 KiB: long texts are cut first, then history, metrics and flags are left out."""
    for longest in _TEXT_WHEN_FULL:
        if size_bytes(status) <= SIZE_MAX_BYTES:
            return status
        status = {key: value if key in _KEPT_WHOLE else _cut(value, longest) for key, value in status.items()}
    for key, kept in (("history", 3), ("metrics", 16), ("exposure", 30), ("metrics", 0), ("exposure", 0)):
        if size_bytes(status) > SIZE_MAX_BYTES:
            entries = status.get(key, [])
            status = {**status, key: entries[max(len(entries) - kept, 0) :] if key == "history" else entries[:kept]}
    return status


def size_bytes(status: Mapping[str, Any]) -> int:
    return len(json.dumps(status, separators=(",", ":")).encode())


_KEPT_WHOLE = frozenset({"planHash", "phase", "stage", "observedGeneration", "attempt"})
# Cut, these would be the names of something else.
_NAMES = frozenset({"flag", "name", "metric", "type", "status", "reason", "lastTransitionTime"})


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else value[: longest - 1] + "…"
    if isinstance(value, Mapping):
        return {k: v if k in _NAMES else _cut(v, longest) for k, v in value.items()}
    if isinstance(value, list):
        return [_cut(v, longest) for v in value]
    return value


def with_transition_times(
    conditions: Sequence[dict[str, Any]], previous: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Each condition with the time at which its status became what it is."""
    before = {(c.get("type"), c.get("status")): c.get("lastTransitionTime") for c in previous.get("conditions", [])}
    return [
        {**condition, "lastTransitionTime": before.get((condition["type"], condition["status"])) or kube_time(now)}
        for condition in conditions
    ]


def kube_time(at: datetime) -> str:
    """RFC 3339 in whole seconds, as metav1.Time writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    if remaining.total_seconds() > 0 and ledger.latch is None and not view.is_over:
        picture["bakeEndsAt"] = kube_time(view.now + remaining)
    return picture


def _metric(view: View, metric: Metric) -> dict[str, Any]:
    guards = [guard for guard in view.guards if guard.clause.metric == metric.name]
    latest = view.progress.of(metric.name).latest
    picture: dict[str, Any] = {"name": metric.name, "verdict": str(Verdict.NO_DATA)}
    if latest is not None:
        picture["verdict"] = str(view.progress.verdict(view.plan, latest))
        picture["at"] = kube_time(latest.window.end)
        picture |= {k: v for k, v in (("events", latest.events), ("units", latest.units)) if v is not None}
        if latest.number is not None:
            picture["value"] = metric.format(latest.number)
        if latest.control_number is not None:
            picture["control"] = metric.format(latest.control_number)
        if latest.error is not None:
            picture["message"] = latest.error[:_TEXT_MAX]
    if guards:
        picture |= _reference(view, metric) | picture
    worst = max(guards, key=lambda g: (g.log_evidence or float("-inf"), g.row.severity), default=None)
    if worst is not None:
        picture["limit"] = str(worst.clause)
        picture |= {"limitInForce": worst.limit} if worst.limit else {}
        picture["test"] = test_name(worst.clause, metric)
        if worst.log_evidence is not None:
            picture["evidence"] = round(worst.log_evidence, 3)
    blocker = metric.blocker or next((guard.clause.blocker for guard in guards if guard.clause.blocker), None)
    if blocker is not None:
        picture |= {"verdict": str(Verdict.ERROR), "message": blocker[:_TEXT_MAX]}
    return picture


def _reference(view: View, metric: Metric) -> dict[str, Any]:
    """What is known of a guarded metric's past; it matters that there was none."""
    reference = view.progress.reference_of(metric)
    picture: dict[str, Any] = {}
    if metric.type is MetricType.RATIO:
        picture["dispersion"] = round(dispersion_of(metric, reference), 3)
    if reference is not None and reference.note:
        picture["message"] = f"no reference: {reference.note}"[:_TEXT_MAX]
    return picture


def _next(view: View, decision: Decision) -> dict[str, Any] | None:
    if decision.phase is Phase.COMPLETED or decision.verb is Verb.RELEASE:
        return None
    stage = view.next_stage
    following = f"Advance to {stage.name}" if stage is not None else "Complete"
    picture: dict[str, Any] = {"action": following if decision.phase is not Phase.ROLLED_BACK else "Hold"}
    if decision.phase is Phase.BAKING and view.stage is not None:
        picture["at"] = kube_time(view.now + max(view.stage.bake - view.progress.baked, timedelta(0)))
    elif decision.due_at is not None:
        picture["at"] = kube_time(decision.due_at)
    waiting = [words[:_TEXT_MAX] for words in decision.waiting_for] or [decision.message[:_TEXT_MAX]]
    return picture | {"waitingFor": waiting[:_WAITING_MAX]}


def _rollback(view: View) -> dict[str, Any] | None:
    latch = view.ledger.latch
    if latch is None:
        return None
    if isinstance(latch.cause, Order):
        order = latch.cause
        return {
            "action": order.action,
            "to": str(order.to),
            "requestedBy": order.by,
            "reason": order.reason,
            "actedAt": kube_time(latch.acted_at),
        }
    breach = latch.cause
    return {
        "severity": str(breach.severity),
        "metric": breach.metric,
        "value": breach.value,
        "limit": breach.limit,
        "action": breach.action,
        "onsetAt": kube_time(breach.onset_at),
        "actedAt": kube_time(latch.acted_at),
        "respondWithin": format_duration(breach.respond_within),
        "respondedIn": f"{max((latch.acted_at - breach.onset_at).total_seconds(), 0):.3f}s",
    }


def _history(view: View, decision: Decision, previous: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The last transitions, oldest first."""
    entries = list(previous.get("history", []))
    # A refusal is told to the person who asked; nothing of the rollout is different after it.
    if decision.verb.acts and decision.verb is not Verb.REFUSE:
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
    baking = decision.phase is Phase.BAKING
    return {
        "stage": stage,
        "exposure": _exposure_summary([view.rows[f] for f in view.ledger.written if f in view.rows])[:_COLUMN_MAX],
        "health": _health(view),
        "next": f"{decision.reason} {view.stage.name}" if baking and view.stage else str(decision.phase),
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
    states = {guard.state for guard in view.guards if not view.is_over}
    order = (
        GuardState.BREACHED,
        GuardState.INCIDENT,
        GuardState.BLIND,
        GuardState.HOLDING,
        GuardState.UNSEEN,
        GuardState.NO_DATA,
    )
    return next((str(state) for state in order if state in states), "Healthy")


def _conditions(view: View, decision: Decision, generation: int) -> list[dict[str, Any]]:
    rolled_back = view.ledger.latch is not None
    stalled = decision.stalled or rolled_back
    guards, in_sync = _guards_healthy(view), _flags_in_sync(view)
    starting = decision.phase is Phase.PENDING or decision.reason == reasons.AWAITING_REFERENCE
    ready = not (stalled or starting) and guards[1] != "False" and in_sync[1] == "True"
    why_not = next(((c[2], c[3]) for c in (in_sync, guards) if c[1] == "False"), None)
    cause = (decision.reason, decision.message) if ready or stalled or why_not is None else why_not
    notices = view.plan.notices
    rows: list[tuple[str, str, str, str]] = [
        ("Ready", "True" if ready else "False", *cause),
        ("Reconciling", "True" if starting else "False", decision.reason, decision.message),
        ("Stalled", "True" if stalled else "False", decision.reason, decision.message),
        guards,
        in_sync,
        ("Completed", "True" if view.is_over else "False", decision.reason, decision.message),
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


def _guards_healthy(view: View) -> tuple[str, str, str, str]:
    def notes(state: GuardState) -> str:
        return "; ".join(dict.fromkeys(guard.note for guard in view.guards if guard.state is state))

    if view.is_over:
        return ("GuardsHealthy", "True", reasons.COMPLETED, reasons.DESCRIPTIONS[reasons.COMPLETED])
    for state, status, reason in (
        (GuardState.BLIND, "False", reasons.GUARDS_BLIND),
        (GuardState.UNSEEN, "Unknown", reasons.AWAITING_LOOK),
        (GuardState.NO_DATA, "Unknown", reasons.NO_TRAFFIC),
    ):
        if notes(state):
            return ("GuardsHealthy", status, reason, notes(state))
    return ("GuardsHealthy", "True", reasons.GUARDS_WATCHING, reasons.DESCRIPTIONS[reasons.GUARDS_WATCHING])


def _flags_in_sync(view: View) -> tuple[str, str, str, str]:
    if view.missing and view.trouble is not None and not view.rows:
        return ("FlagsInSync", "Unknown", view.trouble.reason, view.trouble.message)
    if view.missing:
        return ("FlagsInSync", "False", reasons.FLAG_MISSING, f"No row in the table: {', '.join(view.missing)}.")
    if view.drifted:
        return ("FlagsInSync", "False", reasons.MANUAL_CHANGE, f"Changed by somebody else: {', '.join(view.drifted)}.")
    return ("FlagsInSync", "True", reasons.AS_PLANNED, reasons.DESCRIPTIONS[reasons.AS_PLANNED])
