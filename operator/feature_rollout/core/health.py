"""What the phases and conditions of a FeatureRollout mean, and what other tools read out of them.

`kstatus` is what Helm's `--wait`, Flux and `kubectl wait`-like tools go by, `argocd` what
Argo CD shall show. Both look at the object alone, as those tools do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from feature_rollout.core.decision import Phase

CONDITIONS: Mapping[str, str] = {
    "Ready": "The rows are what the plan says they shall be now, and the guards can be evaluated. True during the "
    "whole of a healthy rollout, so that nothing waits three weeks for it.",
    "Reconciling": "It is being seen to: for seconds, or until the past that guards are compared with is read.",
    "Stalled": "A person is needed: waiting alone will not heal it.",
    "GuardsHealthy": "Every guard can be evaluated. False when one is blind, Unknown before its first look and while "
    "it has no traffic.",
    "FlagsInSync": "The rows are as the operator left them. Unknown when they could not be read.",
    "Completed": "Every stage is in, baked and gated; the guards have ended.",
    "RolledBack": "Exposure was taken back, and stays so until Retry or another plan.",
    "FieldsInEffect": "Every field of the plan has an effect in this version; the message lists those that have none.",
}

PHASES: Mapping[Phase, str] = {
    Phase.PENDING: "It was seen, and waits for seconds: for the first looks, or for what it names.",
    Phase.PREFLIGHT: "The first stage, or the next one, waits for its checks or for the past to be read.",
    Phase.AWAITING_APPROVAL: "The next stage waits for the approval of people.",
    Phase.AWAITING_WINDOW: "The next stage waits for the calendar.",
    Phase.MIGRATING: "In no status of this version, which runs no migrations.",
    Phase.BAKING: "A stage collects healthy time.",
    Phase.GATING: "The bake is over, and a gate is not passed yet.",
    Phase.HELD: "Something keeps it from advancing: evidence, blind guards, no traffic, another rollout, `holdAt`.",
    Phase.PAUSED: "Paused or suspended by a person, or a person has changed a row.",
    Phase.ROLLED_BACK: "A revert was made and stays.",
    Phase.COMPLETED: "Every stage is in.",
    Phase.STALLED: "A person must mend something.",
    Phase.TERMINATING: "In no status: who is deleted has what was said last, and a `deletionTimestamp`.",
}


class KStatus(StrEnum):
    """The results of kstatus, of the library cli-utils."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"


class ArgoHealth(StrEnum):
    """Those healths of Argo CD that a FeatureRollout can have. A sync wave waits for Healthy."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SUSPENDED = "Suspended"


def kstatus(rollout: Mapping[str, Any]) -> KStatus:
    """What kstatus says of an object of any kind with these conditions, by its generic rules, in their order."""
    metadata, status = rollout.get("metadata") or {}, rollout.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return KStatus.TERMINATING
    if status.get("observedGeneration", -1) != metadata.get("generation"):
        return KStatus.IN_PROGRESS
    if _is_true(status, "Reconciling"):
        return KStatus.IN_PROGRESS
    if _is_true(status, "Stalled"):
        return KStatus.FAILED
    return KStatus.CURRENT if _is_true(status, "Ready") else KStatus.IN_PROGRESS


def argocd(rollout: Mapping[str, Any]) -> tuple[ArgoHealth, str]:
    """The health that Argo CD shall show, and its message.

    It is what kstatus says, so that no two tools disagree, but for one word: who is paused is
    neither healthy nor in progress, because a person has said so. A rollout that bakes, or
    waits for people, for the calendar or for others, is Healthy: the sync has done its part.
    """
    status = rollout.get("status") or {}
    found = kstatus(rollout)
    said = (c.get("message") for c in status.get("conditions") or () if c.get("type") == "Ready")
    message = str(next(said, None) or _UNSEEN)
    if found is KStatus.TERMINATING:
        return ArgoHealth.PROGRESSING, "It is being deleted."
    if status.get("observedGeneration", -1) != (rollout.get("metadata") or {}).get("generation"):
        return ArgoHealth.PROGRESSING, _UNSEEN
    if status.get("phase") == Phase.PAUSED and found is not KStatus.FAILED:
        return ArgoHealth.SUSPENDED, message
    return _AS[found], message


_UNSEEN = "The operator has not seen this yet."
_AS = {
    KStatus.CURRENT: ArgoHealth.HEALTHY,
    KStatus.IN_PROGRESS: ArgoHealth.PROGRESSING,
    KStatus.FAILED: ArgoHealth.DEGRADED,
}


def _is_true(status: Mapping[str, Any], kind: str) -> bool:
    return any(c.get("type") == kind and c.get("status") == "True" for c in status.get("conditions") or ())
