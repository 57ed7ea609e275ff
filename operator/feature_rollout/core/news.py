"""What others are told of although nothing was done: a rollout that is held or needs a person, and the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Verb

# Stands where a verb would: what held the rollout is over, and nobody had to do anything for it.
RECOVER: Final = "Recover"
# What waits for people, and ends with what they do.
WAITS: Final = frozenset({reasons.AWAITING_APPROVAL, reasons.AWAITING_CONFIRMATION, reasons.MANUAL_CHANGE})
# A row of the matrix says so. Other holds come and go with a look, and Events have them.
HELD: Final = frozenset({reasons.HOLD_ACTION, reasons.GLOBAL_INCIDENT})


def news(now: Decision, previous: Mapping[str, Any]) -> str:
    """The verb that others are to be told under, by the status that was written last; "" when it is no news to them."""
    told: Mapping[str, Any] = next((c for c in previous.get("conditions", []) if c.get("type") == "Stalled"), {})
    was_trouble = _is_trouble(str(told.get("reason")), stalled=told.get("status") == "True")
    is_trouble = _is_trouble(now.reason, stalled=now.stalled)
    is_other = now.reason != told.get("reason")
    if (is_trouble and (is_other or not was_trouble)) or (now.reason in WAITS and is_other):
        return str(Verb.HOLD)
    # A revert is told by itself, and ends with a new attempt.
    if was_trouble and not is_trouble and now.reason != reasons.ROLLED_BACK:
        return RECOVER
    return ""


def _is_trouble(reason: str, *, stalled: bool) -> bool:
    return reason in HELD or (stalled and reason != reasons.ROLLED_BACK)
