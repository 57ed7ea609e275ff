"""A transition in words, for people."""

from __future__ import annotations

from feature_rollout.core.decision import Verb
from feature_rollout.core.exposure import Exposure
from feature_rollout.ports import Transition

TEXT_CHARS_MAX = 2_000
FLAGS_MAX = 20


def verb(transition: Transition) -> Verb | None:
    """What was done; None for what only the store knows of, such as a kill."""
    return next((one for one in Verb if one == transition.kind), None)


def title(transition: Transition) -> str:
    """The rollout: `shop/new-checkout`."""
    place = transition.place
    return f"{place[1]}/{place[2]}" if place else transition.key


def sentence(transition: Transition) -> str:
    """What was done, and why."""
    payload = transition.payload
    said = str(payload.get("message", ""))
    if transition.place is None:
        names = ", ".join(sorted(payload.get("flags", {}))[:FLAGS_MAX])
        return cut(f"{payload.get('actor')} switched off {names}: {said}")
    return cut(said or f"{transition.kind} ({payload.get('reason')})")


def changes(transition: Transition) -> list[str]:
    """A line for each flag that was changed."""
    flags = sorted(transition.payload.get("flags", {}).items())
    lines = [
        f"{flag}: {Exposure.from_json(row['before'])} → {Exposure.from_json(row['after'])}"
        for flag, row in flags[:FLAGS_MAX]
    ]
    return [*lines, f"and {len(flags) - FLAGS_MAX} more"] if len(flags) > FLAGS_MAX else lines


def cut(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
