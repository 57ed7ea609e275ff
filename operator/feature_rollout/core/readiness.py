"""What must be so before the next stage: guards that see and are silent, bake, gates, people, calendar, checks."""

from __future__ import annotations

from feature_rollout.core import reasons
from feature_rollout.core.checks import GUARDS_QUIET, SAMPLE_RATIO
from feature_rollout.core.checks import Check as Condition
from feature_rollout.core.clearance import approvals_missing, command, preflight
from feature_rollout.core.clearance import unmet as unmet_checks
from feature_rollout.core.decision import Decision, Phase, Verb, View, hold
from feature_rollout.core.gates import unmet
from feature_rollout.core.guards import GuardState
from feature_rollout.core.plan import (
    OnBlind,
    OnNoTraffic,
    format_duration,
)
from feature_rollout.core.relative import wanted_references
from feature_rollout.core.sample import mismatches
from feature_rollout.core.standstill import no_row
from feature_rollout.core.state import NOT_STARTED


def not_leading(view: View) -> Decision | None:
    """Another replica leads, or nobody does. Guards still lower, and healthy time still counts."""
    if view.leading:
        return None
    message = "This replica does not lead: it measures and lowers, and leaves all else to the one that does."
    return hold(Phase.HELD, reasons.NOT_LEADING, message)


def preflight_unmet(view: View) -> Decision | None:
    if view.ledger.people.preflight_done:
        return None
    return _unmet(view, preflight(view), "The first stage waits for its preflight")


def _unmet(view: View, checks: tuple[Condition, ...], what: str) -> Decision | None:
    missing = unmet_checks(view, checks)
    if not missing:
        return None
    words = tuple(one.words for one in missing)
    return hold(Phase.PREFLIGHT, missing[0].reason, f"{what}: {'; '.join(words)}.", waiting_for=words)


def evidence_against(view: View) -> Decision | None:
    """Enough against the rollout to stop it, or a breached row whose action is to hold."""
    for guard in view.guards:
        if guard.state not in _AGAINST:
            continue
        severity, waiting = guard.row.severity, (str(guard.clause),)
        if guard.state is GuardState.BREACHED:
            message = f"{guard.clause} is breached ({severity}); held until there is no evidence of it any more."
            return hold(Phase.HELD, reasons.HOLD_ACTION, message, waiting_for=waiting)
        if guard.state is GuardState.INCIDENT:
            message = (
                f"{guard.clause} is past its limit ({severity}), and the users without the flags fare no better: "
                "not the rollout's doing. Held until it is over."
            )
            return hold(Phase.HELD, reasons.GLOBAL_INCIDENT, message, waiting_for=waiting)
        message = f"There is evidence against {guard.clause} ({severity}); held until it is below 20."
        return hold(Phase.HELD, reasons.EVIDENCE_AGAINST, message, waiting_for=waiting)
    return None


_AGAINST = (GuardState.BREACHED, GuardState.INCIDENT, GuardState.HOLDING)


def sampled(view: View) -> Decision | None:
    """Arms that are not split as planned are no fair comparison, whatever they show."""
    if view.ledger.people.confirmed(SAMPLE_RATIO, view.ledger.uid, view.plan.plan_hash) is not None:
        return None
    found = mismatches(view.plan, view.ledger, view.progress)
    if not found:
        return None
    message = (
        f"Users are not split as planned: {'; '.join(found)}. See why, then confirm it: "
        f"{command(view, 'confirm', SAMPLE_RATIO)}."
    )
    return hold(Phase.HELD, reasons.SAMPLE_RATIO_MISMATCH, message, waiting_for=found)


def blind(view: View) -> Decision | None:
    """Not knowing is not passing."""
    notes = _notes(view, GuardState.BLIND)
    if not notes:
        return None
    rest = "nothing reverted" if view.plan.on_blind is OnBlind.HOLD else "reverted if it lasts, by onBlind"
    message = f"Guards cannot be evaluated, nothing is raised and {rest}: {'; '.join(notes)}."
    return hold(Phase.HELD, reasons.GUARDS_BLIND, message, waiting_for=notes)


def reference(view: View) -> Decision | None:
    """Nothing is raised before the past is known that the guards are compared with."""
    if view.stage is not None and view.progress.baked < view.stage.bake and view.promotion is None:
        return None
    missing = view.progress.references_missing(view.plan)
    if not missing:
        return None
    phase = Phase.PREFLIGHT if view.stage is None else Phase.HELD
    known = len(wanted_references(view.plan)) - len(missing)
    message = (
        f"Reads the seven days before of {', '.join(missing)} ({known} of {known + len(missing)} metrics are read)."
    )
    waiting = tuple(f"the past of {name}" for name in missing)
    return Decision(Verb.WAIT, phase, reasons.AWAITING_REFERENCE, message, waiting_for=waiting)


def guards_quiet(view: View) -> Decision | None:
    """A guard that fires without any rollout would take a healthy one back."""
    if view.ledger.people.confirmed(GUARDS_QUIET, view.ledger.uid, view.plan.plan_hash) is not None:
        return None
    noisy = tuple(dict.fromkeys(str(clause) for clause in view.progress.too_tight(view.plan)))
    if not noisy:
        return None
    message = (
        f"In the seven days before, without any rollout, with limits at 80 % of what they are, there would have been a "
        f"revert for: {'; '.join(noisy)}. Loosen it, or confirm the check {GUARDS_QUIET}."
    )
    return hold(Phase.PREFLIGHT, reasons.GUARD_TOO_TIGHT, message, stalled=True, waiting_for=noisy)


def unseen(view: View) -> Decision | None:
    """Nothing is raised before every guard was looked at once: a source may be down and not have said so yet."""
    notes = _notes(view, GuardState.UNSEEN)
    if not notes:
        return None
    phase = Phase.PENDING if view.stage is None else Phase.BAKING
    return Decision(Verb.WAIT, phase, reasons.AWAITING_LOOK, f"Waits for {'; '.join(notes)}.", waiting_for=notes)


def no_traffic(view: View) -> Decision | None:
    """A stage without data has proved nothing; before the first raise there may be nothing to see yet."""
    notes = _notes(view, GuardState.NO_DATA)
    if not notes or not _needs_data(view):
        return None
    return hold(Phase.HELD, reasons.NO_TRAFFIC, f"{'; '.join(notes)}: healthy time does not count.", waiting_for=notes)


def _needs_data(view: View) -> bool:
    stage = view.stage
    if stage is None or stage.on_no_traffic is OnNoTraffic.COUNT or view.promotion is not None:
        return False
    return bool(view.ledger.raised) or view.progress.baked < stage.bake


def without_data(view: View) -> Decision | None:
    """No step is taken on a look that had no data, however short a gap it is.

    It speaks after all that may hold, so that a metric with data in every second window does
    not change what the rollout is said to wait for with every look.
    """
    notes = tuple(dict.fromkeys(guard.note for guard in view.guards if guard.without_data))
    if not notes or view.stage is None or not _needs_data(view):
        return None
    message = f"Stage {view.stage.name} has baked; waits for data: {'; '.join(notes)}."
    return Decision(Verb.WAIT, Phase.BAKING, reasons.BAKING, message, waiting_for=notes)


def _notes(view: View, state: GuardState) -> tuple[str, ...]:
    return tuple(dict.fromkeys(guard.note for guard in view.guards if guard.state is state))


def baking(view: View) -> Decision | None:
    stage = view.stage
    if stage is None or view.progress.baked >= stage.bake or view.promotion is not None:
        return None
    bake = format_duration(stage.bake)
    waiting = (f"{bake} of healthy time in {stage.name}",)
    message = f"Stage {stage.name} bakes for {bake} of healthy time."
    return Decision(Verb.WAIT, Phase.BAKING, reasons.BAKING, message, waiting_for=waiting)


def gated(view: View) -> Decision | None:
    stage = view.stage
    if stage is None or view.promotion is not None:
        return None
    waiting = tuple(words for gate in stage.gates for words in unmet(gate, view.plan, view.progress))
    if not waiting:
        return None
    message = f"Stage {stage.name} has baked; its gates are not passed: {'; '.join(waiting)}."
    return hold(Phase.GATING, reasons.GATE_NOT_PASSED, message, waiting_for=waiting)


def hold_at(view: View) -> Decision | None:
    """Reached or passed. A name that no stage has holds too: it was meant to."""
    if view.hold_at is None:
        return None
    named = next((i for i, stage in enumerate(view.plan.stages) if stage.name == view.hold_at), NOT_STARTED)
    if view.ledger.stage < named:
        return None
    message = f"spec.holdAt is {view.hold_at}, which is reached; name a later stage or none to go on."
    if named == NOT_STARTED:
        message = f"spec.holdAt is {view.hold_at}, which names no stage; correct it to go on."
    return hold(Phase.HELD, reasons.HOLD_AT, message)


def not_approved(view: View) -> Decision | None:
    stage = view.next_stage
    missing = approvals_missing(view, stage) if stage is not None else 0
    if stage is None or not missing:
        return None
    how = command(view, "approve", "--stage", stage.name)
    waiting = (f"{missing} approval{'s' if missing > 1 else ''} of stage {stage.name}: {how}",)
    return hold(Phase.AWAITING_APPROVAL, reasons.AWAITING_APPROVAL, f"Waits for {waiting[0]}.", waiting_for=waiting)


def not_checked(view: View) -> Decision | None:
    """Last of what a stage demands, because an answer counts for a minute only."""
    stage = view.next_stage
    return _unmet(view, stage.checks, f"Stage {stage.name} waits for its checks") if stage is not None else None


def next_not_in_effect(view: View) -> Decision | None:
    stage = view.next_stage
    return _not_in_effect(stage.blockers) if stage is not None and stage.blockers else None


def _not_in_effect(blockers: tuple[str, ...]) -> Decision:
    message = f"The plan demands what this version cannot do, so it waits: {'; '.join(blockers)}."
    return hold(Phase.HELD, reasons.NOT_IN_EFFECT, message, stalled=True, waiting_for=blockers)


def outside_window(view: View) -> Decision | None:
    """The calendar is asked for an advance alone, when all else has been done."""
    calendar = view.plan.calendar
    closed = calendar.closed(view.now) if calendar is not None else None
    if calendar is None or closed is None:
        return None
    opens = calendar.next_open(view.now)
    when = f"opens {calendar.in_zone(opens)}" if opens is not None else "never opens again, as it is written"
    message = f"The next stage waits for the calendar, which is closed ({closed}) and {when}."
    return Decision(
        Verb.WAIT,
        Phase.AWAITING_WINDOW,
        reasons.AWAITING_WINDOW,
        message,
        waiting_for=(f"the calendar: {when}",),
        due_at=opens,
    )


def next_row_missing(view: View) -> Decision | None:
    """Asked for last: a stage before may have created the rows."""
    flags = view.next_stage.flags if view.next_stage else ()
    return next((no_row(flag) for flag in flags if flag not in view.rows), None)
