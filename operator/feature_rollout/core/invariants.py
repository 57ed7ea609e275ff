"""What must hold of every decision before it is carried out, said a second time and independently.

A violation is a bug of ours: the decision is dropped, counted and reported. The ids are
those of the invariants page of the documentation.
"""

from __future__ import annotations

from feature_rollout.core.decision import Decision, Verb, View
from feature_rollout.core.exposure import raises

S1_CEILING = "S1"
S2_LATCH = "S2"
S4_PEOPLE_WIN = "S4"
S8_FRAME = "S8"
S10_DWELL = "S10"
S11_STEP = "S11"
S20_DORMANT = "S20"


def violations(view: View, decision: Decision) -> tuple[str, ...]:
    """The ids of the invariants that the decision would break, in order; nothing for a good one."""
    if decision.verb is not Verb.ADVANCE or decision.ledger is None:
        return (S11_STEP,) if decision.after else ()
    found = []
    if any(_is_past_ceiling(view, decision, flag) for flag in decision.after):
        found.append(S1_CEILING)
    if view.ledger.latch is not None:
        found.append(S2_LATCH)
    if any(view.rows.get(flag) != row for flag, row in view.ledger.written.items()):
        found.append(S4_PEOPLE_WIN)
    stage = view.next_stage
    if stage is None or set(decision.after) != set(stage.flags):
        found.append(S8_FRAME)
    if view.stage is not None and view.progress.baked < view.stage.bake:
        found.append(S10_DWELL)
    if decision.ledger.stage != view.ledger.stage + 1:
        found.append(S11_STEP)
    if view.suspended or view.trouble is not None:
        found.append(S20_DORMANT)
    return tuple(found)


def _is_past_ceiling(view: View, decision: Decision, flag: str) -> bool:
    """Whether a flag would be within neither its baseline nor its exposure in a stage entered so far."""
    assert decision.ledger is not None  # noqa: S101 - the caller has looked, and the type checker wants it said
    baseline = decision.ledger.baseline
    allowed = [baseline[flag]]
    rows = dict(baseline)
    for stage in view.plan.stages[: decision.ledger.stage + 1]:
        rows = stage.applied_to(rows)
        allowed.append(rows[flag])
    return all(raises(ceiling, decision.after[flag]) for ceiling in allowed)
