"""Transitions as the store hands them out."""

from datetime import UTC, datetime
from typing import Any

from feature_rollout.ports import Transition

KEY = "prod/shop/new-checkout"
OFF = {"enabled": False, "percentage": "0", "groups": []}


def percent(percentage: int, *groups: str) -> dict[str, Any]:
    return {"enabled": True, "percentage": str(percentage), "groups": list(groups)}


def transition(kind: str = "Advance", number: int = 1, *, key: str = KEY, **payload: Any) -> Transition:
    full = {
        "rollout": key,
        "uid": "uid-1",
        "generation": 1,
        "attempt": 1,
        "stage": "canary",
        "verb": kind,
        "reason": "StageEntered",
        "message": f"Step {number} was made.",
        "actor": "operator",
        "flags": {"new_checkout": {"before": OFF, "after": percent(5)}},
        **payload,
    }
    return Transition(f"{key}@{number}", number, datetime(2026, 1, 5, 9, tzinfo=UTC), key, kind, full)
