"""A stage that waits for stages of other rollouts: whether those are passed, and whether they ever can be.

Where another rollout stands is data: a view of it as its ledger had it a moment ago. It is
read by the same checks that decide about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from feature_rollout.core import reasons
from feature_rollout.core.decision import Check, Decision, Phase, Standing, Verb, View, hold
from feature_rollout.core.plan import After, Stage
from feature_rollout.core.readiness import (
    baking,
    blind,
    evidence_against,
    gated,
    no_traffic,
    reference,
    sampled,
    unseen,
)
from feature_rollout.core.standstill import STANDSTILL, over

# What was read counts for so long, and is read again when it is older than that.
COUNTS_FOR = timedelta(seconds=15)
READ_AGAIN_AFTER = timedelta(seconds=1)
# Others are looked at when so little of the bake is left, so that it is known when it is asked for.
LOOK_AHEAD = timedelta(seconds=30)

# What a stage must have behind it to be passed: its bake and its gates, and guards that see and are silent.
_OVER: tuple[Check, ...] = (evidence_against, sampled, blind, reference, unseen, no_traffic, baking, gated)


def to_read(view: View) -> tuple[str, ...]:
    """The rollouts whose standing has to be read now, by name."""
    stage, present = view.next_stage, view.stage
    if stage is None or view.ledger.latch is not None:
        return ()
    if present is not None and view.promotion is None and view.progress.baked + LOOK_AHEAD < present.bake:
        return ()
    names = dict.fromkeys(one.rollout for one in stage.after)
    return tuple(name for name in names if not _was_read(view, name, READ_AGAIN_AFTER))


def circular(view: View) -> Decision | None:
    """Said from the beginning, and not when the stage is next: that may be in weeks."""
    order = {**view.order, view.name: view.plan.stages}
    found = cycle(view.name, order, view.ledger.stage + 1) if view.order else ()
    if not found:
        return None
    message = (
        f"Rollouts wait for each other: {' -> '.join(map(str, found))}. Take one of these out of its stage's after."
    )
    return hold(Phase.STALLED, reasons.DEPENDENCY_CYCLE, message, stalled=True)


def not_passed(view: View) -> Decision | None:
    """After the approval, so that people can be asked meanwhile; before the calendar, which is asked last."""
    stage = view.next_stage
    if stage is None or not stage.after:
        return None
    unread = tuple(one.rollout for one in stage.after if not _is_known(view, one))
    if unread:
        words = tuple(f"where rollout {name} is" for name in dict.fromkeys(unread))
        phase, reason = (Phase.PENDING, reasons.PENDING) if view.stage is None else (Phase.BAKING, reasons.BAKING)
        return Decision(Verb.WAIT, phase, reason, f"It is asked {'; '.join(words)}.", waiting_for=words)
    waiting = tuple(f"rollout {one.rollout} to pass stage {one.stage}: {why}" for one, why in _missing(view, stage))
    if not waiting:
        return None
    message = f"Stage {stage.name} waits for {'; '.join(waiting)}."
    if any(_is_unknown(view, one) for one in stage.after):
        return hold(Phase.STALLED, reasons.STAGE_UNKNOWN, message, stalled=True, waiting_for=waiting)
    return hold(Phase.HELD, reasons.AWAITING_ROLLOUT, message, waiting_for=waiting)


def why_not_passed(other: View, name: str) -> str | None:
    """What keeps that stage of another rollout from counting as passed, in words; None when it is passed.

    Neither a rollout that is rolled back counts, nor one that stands still for any other reason.
    """
    index = _index(other.plan.stages, name)
    if index is None:
        return "it has no such stage"
    for check in STANDSTILL:
        decision = check(other)
        if decision is not None:
            return None if check is over else f"it stands still ({decision.reason})"
    if other.ledger.stage < index:
        return f"it is in stage {other.stage.name}" if other.stage is not None else "it has not begun"
    if other.ledger.stage > index or other.ledger.completed_at is not None:
        return None
    said = next((decision for check in _OVER if (decision := check(other)) is not None), None)
    return None if said is None else f"it is in that stage ({said.reason})"


def cycle(name: str, order: Mapping[str, Sequence[Stage]], first: int = 0) -> tuple[After, ...]:
    """The shortest way from a stage of this rollout, the `first` or a later one, around to itself; empty without one.

    A stage is preceded by those of `after`, and by the earlier ones of its own rollout.
    """
    for index in range(first, len(order[name])):
        if order[name][index].after:
            found = _way_back(name, index, order)
            if found:
                return found
    return ()


def _way_back(name: str, index: int, order: Mapping[str, Sequence[Stage]]) -> tuple[After, ...]:
    """From that stage through others to it, or to a later one of its rollout, which cannot begin before it."""
    start = After(name, order[name][index].name)
    ahead = deque([(name, index, (start,))])
    seen: set[tuple[str, int]] = set()
    while ahead:
        rollout, at, way = ahead.popleft()
        for via, one, to in _preceding(rollout, at, order, first=index if way == (start,) else 0):
            further = (*way, *(() if via == way[-1] else (via,)), one)
            if one.rollout == name and to >= index:
                return further if one == start else (*further, start)
            if (one.rollout, to) not in seen:
                seen.add((one.rollout, to))
                ahead.append((one.rollout, to, further))
    return ()


def _preceding(
    rollout: str, at: int, order: Mapping[str, Sequence[Stage]], *, first: int
) -> Iterator[tuple[After, After, int]]:
    """What that stage, or an earlier one of its rollout, waits for: who waits, for what, and the index of that."""
    stages = order.get(rollout, ())
    for stage in reversed(stages[first : at + 1]):
        for one in stage.after:
            to = _index(order.get(one.rollout, ()), one.stage)
            if to is not None:
                yield After(rollout, stage.name), one, to


def _missing(view: View, stage: Stage) -> Iterator[tuple[After, str]]:
    for one in stage.after:
        why = _why(view.others[one.rollout], one)
        if why is not None:
            yield one, why


def _why(standing: Standing, one: After) -> str | None:
    """What keeps that stage from counting as passed, by what was read, whenever that was."""
    return standing.unknown if standing.view is None else why_not_passed(standing.view, one.stage)


def _is_unknown(view: View, one: After) -> bool:
    other = view.others[one.rollout].view
    return other is not None and _index(other.plan.stages, one.stage) is None


def _is_known(view: View, one: After) -> bool:
    """Whether what was read last still counts. That a stage is not passed does until it is read again: nothing is
    raised on that, and who reads seldom need not say each time that it is asked.
    """
    standing = view.others.get(one.rollout)
    return standing is not None and (_was_read(view, one.rollout, COUNTS_FOR) or _why(standing, one) is not None)


def _was_read(view: View, name: str, within: timedelta) -> bool:
    standing = view.others.get(name)
    return standing is not None and timedelta(0) <= view.now - standing.at < within


def _index(stages: Sequence[Stage], name: str) -> int | None:
    return next((index for index, stage in enumerate(stages) if stage.name == name), None)
