"""S2 and S19: what a revert leaves is the meet of each row and its action's target, of every flag that was raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from feature_rollout.core.plan import Action, ActionType, Plan, Target
from simulation.database import Owner, Transaction
from simulation.memory import Past
from simulation.order import DISABLED, Row, in_stage, meet, plain, target, within
from simulation.traffic import Kind

if TYPE_CHECKING:
    from simulation.witness import Witness

Wrong = Iterator[tuple[str, str]]
# What is known of the rollout, what the revert was decided on, and what it is called.
Cause = tuple[Past, Mapping[str, object] | None, str]
_BY_VERB = {str(kind): kind for kind in ActionType}


def check(witness: Witness, change: Transaction, key: str, past: Past) -> Wrong:
    entries = [e for e in change.audited if e.key == key and e.kind == "Lower" and change.changed.get(e.flag)]
    ledger = change.after.ledgers[key].ledger if key in change.after.ledgers else None
    if change.what != "lower flags only" and ledger is not None and ledger.latch is None:
        yield "S2", f"{change.what} has left no latch"
    for entry in entries:
        if entry.why.reason == "RevertRestored":
            continue
        wanted = _targets(witness, change, key, entry.flag, (past, entry.why.evidence, entry.why.verb))
        was, is_ = plain(entry.before), plain(entry.after)
        if not wanted:
            continue
        if witness.has_pending(change.who) or "to" in entry.why.evidence:
            # A revert that was begun before is made whole with it, an order goes with a breach: it may go further.
            if not any(within(is_, meet(was, to)) for to in wanted):
                yield "S19", f"{change.what} left {entry.flag} at {is_}, its target is {wanted}"
        elif all(is_ != meet(was, to) for to in wanted):
            yield "S19", f"{change.what} took {entry.flag} from {was} to {is_}, its target is {wanted}"
    yield from _complete(witness, change, key, past)
    yield from _wolf(witness, change, key)


def _wolf(witness: Witness, change: Transaction, key: str) -> Wrong:
    """Healthy traffic, nonsense and silence are no breach."""
    evidence = witness.evidence(change, key)
    if evidence is None or "metric" not in evidence or evidence.get("value") == "not measured":
        return
    metric = evidence["metric"]
    spells = witness.world.traffic[key.rpartition("/")[2]].spells
    if not any(spell.kind is Kind.HARM and spell.metric in (None, metric) for spell in spells):
        yield "S9", f"{change.what} for a breach of {metric}, which was never harmed"


def _complete(witness: Witness, change: Transaction, key: str, past: Past) -> Wrong:
    """Every flag that the rollout has raised is as low as the action says."""
    verb = change.what.removeprefix("lower ")
    evidence = witness.evidence(change, key)
    if verb not in _BY_VERB or evidence is None or _is_of_another_stage(witness, change, key):
        return
    for flag, left in past.left.items():
        base, row = past.baseline.get(flag), change.after.flags.get(flag)
        owned = change.before.ownership.get(flag, Owner()).key == key
        if row is None or base is None or not owned or within(left, base):
            continue
        wanted = _targets(witness, change, key, flag, (past, evidence, verb))
        if wanted and not any(within(plain(row), to) for to in wanted):
            yield "S19", f"{change.what} left {flag} at {row}, its target is {wanted}"


def _is_of_another_stage(witness: Witness, change: Transaction, key: str) -> bool:
    """What a failover has lost is made again as it was decided on, in a stage that is lost too."""
    ledger = change.after.ledgers[key].ledger
    names = {plan.stages[ledger.stage].name for plan in witness.versions(key) if 0 <= ledger.stage < len(plan.stages)}
    return ledger.latch is not None and bool(ledger.latch.stage) and ledger.latch.stage not in names


def _targets(witness: Witness, change: Transaction, key: str, flag: str, cause: Cause) -> list[Row]:
    """What the action lowers the flag to, by any version of the plan that may have been in force."""
    past, evidence, verb = cause
    if not isinstance(evidence, dict) or key not in change.before.ledgers:
        return []
    stage = change.before.ledgers[key].ledger.stage
    found: list[Row] = []
    for plan in witness.versions(key):
        for action in _actions(plan, evidence, verb):
            if action.flags is not None and flag not in action.flags:
                continue
            found.append(target(action, plan, stage, past.baseline, flag))
            if action.to is Target.PREVIOUS_STAGE:
                # Edited stages do not say what the rows were in them: then it goes further down.
                found += [in_stage(plan, i, past.baseline).get(flag, DISABLED) for i in range(-1, stage)]
    return found


def _actions(plan: Plan, evidence: Mapping[str, object], verb: str) -> Sequence[Action]:
    if "to" in evidence:
        to = {"Off": None, "PreviousStage": Target.PREVIOUS_STAGE, "Baseline": Target.BASELINE}[str(evidence["to"])]
        return [Action(_BY_VERB[verb], to=to)]
    return [row.action for row in plan.rows if str(row.severity) == evidence.get("severity")]
