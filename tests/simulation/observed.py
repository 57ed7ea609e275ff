"""What a stage's looks have shown, by all that the processes were answered: sound windows, healthy time, gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import Gate, OnNoTraffic, Plan, Stage

if TYPE_CHECKING:
    from feature_rollout.core.state import Ledger
    from simulation.memory import Past
    from simulation.witness import Witness


def is_sound(look: Look) -> bool:
    """Whether there is something in it that can be judged."""
    numbers = (look.events, look.units, look.value)
    given = [number for number in numbers if number is not None]
    if look.error is not None or not given or not all(math.isfinite(number) and number >= 0 for number in given):
        return False
    return look.value is not None or bool(look.units)


def is_empty(look: Look) -> bool:
    return look.error is None and look.value is None and not look.units and not (look.events or 0)


def since(witness: Witness, ledger: Ledger, past: Past) -> datetime | None:
    """When the stage began: by the clock of who began it, or by the true time where that was fast."""
    if ledger.entered_at is None or past.entered_s is None:
        return ledger.entered_at
    return min(ledger.entered_at, witness.world.at(past.entered_s))


def in_stage(witness: Witness, rollout: str, metric: str, since: datetime) -> list[Look]:
    return [look for look in witness.looks[rollout].get(metric, ()) if look.window.start >= since]


def baked(witness: Witness, rollout: str, plan: Plan, stage: Stage, since: datetime) -> set[Window]:
    """The windows that count for the bake; all metrics of a plan have one interval here, and the same windows."""
    counts = stage.on_no_traffic is OnNoTraffic.COUNT
    guarded = sorted({clause.metric for _, clause in plan.guards()})
    spans = [
        {
            look.window
            for look in in_stage(witness, rollout, metric, since)
            if is_sound(look) or (counts and is_empty(look))
        }
        for metric in guarded
    ]
    return set.intersection(*spans) if spans else set()


def baked_s(witness: Witness, rollout: str, plan: Plan, stage: Stage, since: datetime) -> float | None:
    """When the last look was answered that the bake needs; None when it has not all of them."""
    guarded = {clause.metric for _, clause in plan.guards()}
    answered = [
        (max(witness.answered_s[rollout, metric, window] for metric in guarded), window)
        for window in baked(witness, rollout, plan, stage, since)
    ]
    healthy = timedelta(0)
    for at_s, window in sorted(answered, key=lambda one: one[0]):
        healthy += window.end - window.start
        if healthy >= stage.bake:
            return at_s
    return None


def length(windows: set[Window]) -> timedelta:
    return sum((window.end - window.start for window in windows), timedelta(0))


def sound_of(looks: Sequence[Look]) -> list[Look]:
    """The sound ones, each window once."""
    return list({look.window: look for look in looks if is_sound(look)}.values())


def is_passed(gate: Gate, looks: Sequence[Look]) -> bool:
    """Whether these looks, each of another window, pass the gate; a Ratio is cumulated, of a Gauge it is the median."""
    if not looks:
        return False
    if looks[0].units is None:
        return len(looks) >= max(gate.min_units, 1) and _is_within(gate, median(look.value or 0.0 for look in looks))
    units = sum(look.units or 0.0 for look in looks)
    return units >= max(gate.min_units, 1) and _is_within(gate, sum(look.events or 0.0 for look in looks) / units)


def is_beyond(gate: Gate, look: Look) -> bool:
    """Whether this look alone is on the wrong side of the limit."""
    value = look.value if look.units is None else (look.events or 0.0) / look.units
    return not _is_within(gate, value or 0.0)


def _is_within(gate: Gate, value: float) -> bool:
    return not (
        (gate.at_most is not None and value > gate.at_most.value)
        or (gate.at_least is not None and value < gate.at_least.value)
    )
