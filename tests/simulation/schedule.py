"""Which faults come when: some at any time, some as a story, and in deep runs at one phase that a seed aims at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

from feature_rollout.core.calendar import Calendar, DailyWindow
from feature_rollout.core.checks import Check, preflight_key
from feature_rollout.core.decision import Phase
from feature_rollout.core.plan import Approval, Gate, Limit, Plan
from simulation.coverage import POSSIBLE
from simulation.faults import FAULTS, PHASES, TRAPS
from simulation.liveness import HARMLESS
from support.fakes import percent

# The seeds of every run; those after them aim at pairs of fault and phase, so that a deep run meets all.
DRAWN_FREELY = 500
# A step through the pairs that shares no factor with how many there are: any stretch of seeds aims at all alike.
STEP = 1009
# So many pairs of one phase are aimed at by one seed.
AIMS = 3
# What brings a rollout into a phase, where its plan alone does not.
LEADING_TO = {
    "Held": "metrics: error",
    "Paused": "action Pause",
    "RolledBack": "action RollBack",
    "Stalled": "manifest broken",
    "Terminating": "deleted",
    "Gone": "deleted",
}
# What brings a rollout out of one, to its next raise.
LEADING_ON = {
    "AwaitingApproval": "action Approve",
    "Paused": "action Resume",
    "RolledBack": "action Retry",
    "Stalled": "matrix edited",
}
# Phases that are over at once.
SHORT = frozenset({"Pending", "Terminating", "Gone"})


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault, at a time; or after so long in the next visit of a phase; or just before a call of this kind."""

    fault: str
    after_s: float
    phase: str | None = None
    call: str | None = None


Faults = tuple[Planned, ...]


def planned(random: Random, plan: Plan, active_s: float, aims: Faults) -> Faults:
    """All that goes wrong in one world: less by chance where there is something to aim at."""
    by_chance = _by_chance(random, active_s, random.choice((0, 1, 3, 5, 7, 9) if not aims else (0, 0, 1, 3)))
    drawn = random.random()
    if aims or drawn < 0.4:
        return (*by_chance, *_between_approvals(random, plan), *aims)
    if drawn < 0.5:
        return _by_chance(random, active_s, random.choice((0, 1, 2, 4)), tuple(sorted(HARMLESS)))
    if drawn < 0.65:
        return _in_the_middle(random)
    return (*by_chance[:3], *random.choice(STORIES)(random))


def _by_chance(random: Random, active_s: float, count: int, faults: tuple[str, ...] = FAULTS) -> Faults:
    found = []
    for _ in range(count):
        fault = random.choice(faults)
        if random.random() < 0.6:
            found.append(Planned(fault, random.choice((0.0, 0.0, 0.002, 3.0, 30.0)), random.choice(PHASES)))
        else:
            found.append(Planned(fault, random.uniform(0.0, active_s)))
    return tuple(found)


def _between_approvals(random: Random, plan: Plan) -> Faults:
    """What was agreed to is another plan, or another object, before it begins."""
    if not any(stage.approval is not None for stage in plan.stages):
        return ()
    fault = random.choice(("matrix edited", "cluster rebuilt", "last stage edited"))
    return (Planned(fault, random.choice((0.0, 20.05, 20.3, 21.0, 45.0)), "AwaitingApproval"),)


# Stories: faults that say something only together.


def _half_a_revert(random: Random) -> Faults:
    """The revert is not made, or only a part of it, and its reason is over before it can be."""
    fault = random.choice(("answer lost, not made", "store full", "row locked", "row locked"))
    harm = Planned("harm", random.uniform(20.0, 200.0))
    return harm, Planned(fault, 0.0, call="lower"), Planned("harm over", 0.0, call="lower")


def _lost_revert(random: Random) -> Faults:
    """The database loses a revert that nothing would make again by itself."""
    revert = Planned(random.choice(("harm", "action RollBack")), random.uniform(20.0, 200.0))
    over = Planned("harm over", 0.0, "RolledBack")
    return revert, over, Planned("failover", random.choice((0.3, 1.0, 3.0)), "RolledBack")


def _unseen_edit(random: Random) -> Faults:
    """The manifest is another one, and the watch has not said so."""
    at_s = random.uniform(5.0, 200.0)
    fate = random.choice(("watch event missed", "watch event late"))
    edit = random.choice(("suspended", "matrix edited", "last stage edited", "manifest broken", "deleted"))
    return Planned(fate, at_s), Planned(edit, at_s + 0.001)


def _between_two_statements(random: Random) -> Faults:
    """Somebody is there between a decision and what is written for it."""
    call = random.choice(("raise", "raise", "get", "lower", "release"))
    faults = ("row lowered by hand", "row raised by hand", "row deleted", "deleted", "suspended", "Lease lost")
    return tuple(Planned(random.choice(faults), 0.0, call=call) for _ in range(2))


def _an_old_answer(random: Random) -> Faults:
    """What is read just before a raise is the object as it was before it was deleted, or edited."""
    edit = random.choice(("deleted", "suspended", "matrix edited"))
    return Planned("stale get", 0.0, call="get"), Planned(edit, 0.0, call="get")


def _again_after_a_revert(random: Random) -> Faults:
    """What was reverted begins again under another object."""
    revert = Planned(random.choice(("harm", "action RollBack")), random.uniform(20.0, 200.0))
    again = random.choice(("deleted", "deleted", "cluster rebuilt"))
    return revert, Planned(again, random.choice((0.0, 0.3, 3.0)), "RolledBack")


def _back_to_the_old_plan(random: Random) -> Faults:
    """What was reverted under an edited plan is given the plan again that it was raised under."""
    at_s = random.uniform(20.0, 150.0)
    revert = Planned(random.choice(("harm", "action RollBack")), at_s + 3.0)
    back = Planned("edits taken back", random.choice((0.3, 3.0)), "RolledBack")
    return Planned("last stage edited", at_s), revert, back


def _in_the_middle(random: Random) -> Faults:
    """Processes end again and again while a stage bakes, and nothing else goes wrong."""
    return tuple(Planned("killed", random.uniform(20.0, 500.0)) for _ in range(random.choice((1, 2, 4, 6))))


STORIES = (
    _half_a_revert,
    _lost_revert,
    _unseen_edit,
    _between_two_statements,
    _an_old_answer,
    _again_after_a_revert,
    _back_to_the_old_plan,
)


# What a deep run aims at.


def aim(seed: int) -> tuple[str, tuple[str, ...]]:
    """The phase, and the faults in it, that a seed makes sure to try; nothing for the first, which are drawn freely."""
    if seed < DRAWN_FREELY:
        return "", ()
    fault, phase = POSSIBLE[(seed - DRAWN_FREELY) * STEP % len(POSSIBLE)]
    there = [one for one, at in POSSIBLE if at == phase]
    # Others beside it each time round: one that ends the phase must not always come with the same ones.
    first, apart = there.index(fault), len(there) // AIMS + (seed - DRAWN_FREELY) // len(POSSIBLE)
    return phase, tuple(dict.fromkeys(there[(first + n * apart) % len(there)] for n in range(AIMS)))


def aimed(random: Random, phase: str, faults: tuple[str, ...]) -> Faults:
    if not faults:
        return ()
    delays = (0.0, 0.002) if phase in SHORT else (0.0, 0.002, 0.3, 3.0)
    found = [Planned(LEADING_TO[phase], random.uniform(20.0, 120.0))] if phase in LEADING_TO else []
    if "answer to an action forgotten" in faults:
        found.append(Planned("action Adopt", 0.0))
        if phase == "Pending":
            # Nothing is answered the first time; another object has a Pending of its own.
            found += [Planned("cluster rebuilt", 10.0), Planned("answer to an action forgotten", 10.0001)]
    if "harm over" in faults:
        found.append(Planned("harm", 0.0, phase))
    if "stale get" in faults:
        led_on = ((LEADING_ON.get(phase, "action Promote"), 0.5), ("action Promote", 0.4), ("action Promote", 1.0))
        found += [Planned("statuses slow", 0.0, phase), *(Planned(what, at_s, phase) for what, at_s in led_on)]
    found += [Planned(fault, random.choice(delays), phase) for fault in faults]
    if any(fault in TRAPS for fault in faults):
        # Somebody has to call for a trap to be sprung.
        asked = random.choice(("action Resume", "action Retry", "action RollBack"))
        found.append(Planned(asked, 0.1 if phase in SHORT else 3.5, phase))
    return tuple(found)


def leading_to(phase: str, faults: tuple[str, ...], plan: Plan) -> Plan:
    """The plan with what brings a rollout into that phase, and with what those faults are about."""
    if phase == Phase.COMPLETED:
        plan = replace(plan, stages=(replace(plan.stages[-1], bake=timedelta(0), gates=()),))
    first = plan.stages[0]
    if phase == Phase.PREFLIGHT or "checks do not pass" in faults:
        plan = replace(plan, preflight=(Check(preflight_key("backup"), "is there a backup"),))
    if phase == Phase.AWAITING_APPROVAL:
        first = replace(first, approval=Approval(1))
    elif phase == Phase.GATING:
        first = replace(first, gates=_slow_gates(plan))
    elif phase == Phase.AWAITING_WINDOW:
        days = frozenset(range(7))
        return replace(plan, calendar=Calendar("UTC", tuple(DailyWindow(days, m, m + 3) for m in range(3, 1430, 6))))
    return replace(plan, stages=(first, *plan.stages[1:]))


def _slow_gates(plan: Plan) -> tuple[Gate, ...]:
    """A gate that the first looks cannot pass."""
    if "errors" in plan.metrics:
        return (Gate("errors", at_most=percent("1%"), min_units=20_000),)
    if "hits" in plan.metrics:
        return (Gate("hits", at_least=percent("90%"), min_units=20_000),)
    return tuple(Gate(metric, at_most=Limit(0.5, "0.5"), min_units=20) for metric in plan.metrics)
