"""What must hold of every transaction that the operator commits, said without its own code.

Each function yields (invariant, what is wrong). What a transaction is called says what it
means to be: `raise`, `lower`, `ledger`, `answer`, `open`, `release`, `observe`, `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from feature_rollout.core.plan import Plan
from feature_rollout.core.state import Ledger
from simulation import liveness, reverting
from simulation.database import Owner, Transaction
from simulation.memory import Memory, Past
from simulation.order import DISABLED, Row, in_stage, meet, plain, plain_rows, within

if TYPE_CHECKING:
    from simulation.witness import Witness

Wrong = Iterator[tuple[str, str]]


def check(witness: Witness, change: Transaction) -> Wrong:
    """All that can be said of one transaction of the operator; the memory after it is left in the tables."""
    memory: Memory = change.before.memory or Memory()
    yield from _rows(change)
    for key in _keys(change):
        past, kind = memory.of(key), change.what.partition(" ")[0]
        yield from _ledger(change, key, past)
        if kind == "raise":
            yield from _raise(witness, change, key, memory)
        elif change.what == "ledger Complete":
            yield from _completed(witness, change, key, past)
        elif kind == "lower":
            yield from reverting.check(witness, change, key, past)
        elif kind == "release":
            yield from _release(witness, change, key, past)
        elif kind == "open":
            yield from _open(change, key, memory)
        yield from _audit(change, key, past)
        memory = _remembered(witness, change, key, memory)
    change.after.memory = memory


def by_others(change: Transaction) -> Wrong:
    """What the trigger has recorded of a change by somebody else."""
    memory: Memory = change.before.memory or Memory()
    for key in sorted({entry.key for entry in change.audited}):
        past = memory.of(key)
        yield from _audit(change, key, past)
        audited = {entry.flag: plain(entry.after) for entry in change.audited if entry.key == key}
        memory = replace(memory, keys={**memory.keys, key: replace(past, audited={**past.audited, **audited})})
    for flag in change.before.flags.keys() - change.after.flags.keys():
        # The trigger is for updates: nobody records how a row that was deleted comes back.
        key = change.before.ownership.get(flag, Owner()).key
        if key is not None:
            past = memory.of(key)
            memory = replace(memory, keys={**memory.keys, key: replace(past, unsure=past.unsure | {flag})})
    change.after.memory = memory


def _keys(change: Transaction) -> list[str]:
    """The rollouts that it is about."""
    before, after = change.before.ledgers, change.after.ledgers
    found = [key for key, row in after.items() if before.get(key) is not row]
    owners = (change.after.ownership.get(flag, Owner()).key for flag in change.changed)
    audited = (entry.key for entry in change.audited)
    return sorted({*found, *(key for key in owners if key), *audited})


def _rows(change: Transaction) -> Wrong:
    """S8, S14, S19: rows come and go by others alone, and are written for their owner; only a raise raises."""
    before, after = change.before.flags, change.after.flags
    if before.keys() != after.keys():
        yield "S8", f"{change.who} created or deleted rows: {sorted(before.keys() ^ after.keys())}"
    for flag, (was, is_) in change.changed.items():
        owner = change.before.ownership.get(flag, Owner()).key
        if owner is None:
            yield "S8", f"{change.what} wrote {flag}, which is nobody's"
        elif all(entry.key != owner for entry in change.audited) and change.what != "lower flags only":
            yield "S14", f"{change.what} wrote {flag} of {owner} for somebody else"
        if not within(plain(is_), plain(was)) and not change.what.startswith("raise"):
            yield "S19", f"{change.what} raised {flag} from {was} to {is_}"


def _ledger(change: Transaction, key: str, past: Past) -> Wrong:
    """S2, S6, S11, S12: how a ledger row may change."""
    if key not in change.before.ledgers or key not in change.after.ledgers:
        return
    old, new = change.before.ledgers[key].ledger, change.after.ledgers[key].ledger
    if new.epoch < old.epoch or new.sequence < old.sequence:
        yield "S12", f"epoch and sequence of {key} went from {old.epoch}, {old.sequence} to {new.epoch}, {new.sequence}"
    if change.what.startswith(("raise", "ledger", "answer")) and new.sequence != old.sequence + 1:
        yield "S6", f"{change.what} took sequence {new.sequence} after {old.sequence}"
    if not change.what.startswith("raise") and new.stage > old.stage and new.attempt == old.attempt:
        yield "S11", f"{change.what} went from stage {old.stage} to {new.stage}"
    reopened = change.before.ledgers[key].closed_at is not None
    if past.latch is not None and new.latch is None and not reopened and not _rearmed(change, old, new, past.latch):
        yield "S2", f"{change.what} cleared the latch of {key}"


def _rearmed(change: Transaction, old: Ledger, new: Ledger, latch: str) -> bool:
    """Another attempt, because of a Retry that is answered with it, or of a spec hash that is neither of the two."""
    retried = "Rearm" in change.what and len(change.after.actions) > len(change.before.actions)
    return new.attempt == old.attempt + 1 and (retried or new.spec_hash not in (latch, old.spec_hash))


def _raise(witness: Witness, change: Transaction, key: str, memory: Memory) -> Wrong:
    old, new, past = change.before.ledgers[key].ledger, change.after.ledgers[key].ledger, memory.of(key)
    plan = witness.plan(new.plan_hash)
    if new.stage != old.stage + 1 or new.attempt != old.attempt:
        yield "S11", f"{key} went from stage {old.stage} to {new.stage} in one step"
    if (new.attempt, new.stage) in past.entered:
        yield "S6", f"stage {new.stage} of attempt {new.attempt} was entered a second time"
    if list(old.executed) != [stage.digest for stage in plan.stages[: len(old.executed)]]:
        yield "S13", f"{change.who} raised {key}, whose stages that were entered have been edited since"
    if past.latch is not None:
        yield "S2", f"{change.who} raised {key}, which was reverted and not told to go on"
    if change.before.ledgers[key].closed_at is not None:
        yield "S15", f"{change.who} raised {key}, which is closed"
    stage = plan.stages[new.stage]
    wanted = in_stage(plan, new.stage, _baseline(new, past))
    for flag in stage.flags:
        if plain(change.after.flags[flag]) != wanted[flag]:
            yield "S7", f"stage {stage.name} leaves {flag} at {change.after.flags[flag]}, the plan has {wanted[flag]}"
    foreign = change.changed.keys() - set(stage.flags)
    if foreign:
        yield "S8", f"stage {stage.name} has changed {sorted(foreign)}, which it does not name"
    for flag, (was, is_) in change.changed.items():
        if not within(plain(is_), plain(was)) and new.epoch < memory.epochs.get(flag, 0):
            yield "S3", f"{flag} was raised under epoch {new.epoch} after {memory.epochs[flag]}"
    yield from witness.wrong_with_raise(change, key, plan, past)


def _completed(witness: Witness, change: Transaction, key: str, past: Past) -> Wrong:
    """L8: the last stage ends as soon as any other."""
    old = change.before.ledgers[key].ledger
    plan = witness.plan(change.after.ledgers[key].ledger.plan_hash)
    late = liveness.too_late(witness.world, plan, old, past) if old.people.promoted is None else None
    if late is not None:
        yield "L8", late


def _baseline(new: Ledger, past: Past) -> Mapping[str, Row]:
    return {**plain_rows(new.baseline), **past.baseline}


def _open(change: Transaction, key: str, memory: Memory) -> Wrong:
    row, before = change.after.ledgers[key], change.before.ledgers.get(key)
    if change.changed:
        yield "S8", f"opening {key} has changed rows"
    if before is not None and before.ledger.uid != row.ledger.uid and row.ledger.people.approvals:
        yield "S13", f"{row.ledger.uid} has taken over approvals"
    mine = [flag for flag, owner in change.after.ownership.items() if owner.key == key]
    taken = [f for f in mine if change.before.ownership.get(f, Owner()).key not in (None, key)]
    if taken:
        yield "S14", f"{key} has taken {taken} from its owner"
    latched = [flag for flag in mine if memory.latches.get(flag) == row.ledger.spec_hash]
    is_new = before is None or before.closed_at is not None
    if is_new and latched and row.ledger.latch is None:
        yield "S2", f"{key} begins without the latch of {latched}"


def _release(witness: Witness, change: Transaction, key: str, past: Past) -> Wrong:
    row = change.after.ledgers[key]
    if change.before.ledgers[key].closed_at is not None:
        return
    wishes = witness.wishes(row.ledger.uid)
    for flag, left in past.left.items():
        was, is_ = change.before.flags.get(flag), change.after.flags.get(flag)
        if was is None or is_ is None or change.before.ownership.get(flag, Owner()).key != key:
            continue
        wanted = {wish: _left_behind(wish, plain(was), past.baseline.get(flag, left)) for wish in sorted(wishes)}
        if plain(is_) not in wanted.values():
            yield "S15", f"{flag} was left at {is_}, which was {was}; onDelete wants {wanted}"
    if row.closed_at is None or any(owner.key == key for owner in change.after.ownership.values()):
        yield "S15", f"{key} was released, and is open or owns a flag"


def _left_behind(wish: str, was: Row, baseline: Row) -> Row:
    if wish == "Disable":
        return meet(was, DISABLED)
    if wish == "Restore":
        return baseline if within(baseline, was) else meet(was, baseline)
    return was


def _audit(change: Transaction, key: str, past: Past) -> Wrong:
    """S5: each change has its one row, and each row begins where the one before it ended."""
    if change.what != "lower flags only":
        for flag, (was, is_) in change.changed.items():
            found = [e for e in change.audited if e.flag == flag and (e.before, e.after) == (was, is_)]
            if change.before.ownership.get(flag, Owner()).key == key and len(found) != 1:
                yield "S5", f"{change.what} changed {flag} from {was} to {is_}, the audit has {len(found)} rows of it"
    known = dict(past.audited)
    for entry in change.audited:
        if entry.key != key:
            continue
        before = known.get(entry.flag)
        if before is not None and before != plain(entry.before) and entry.flag not in past.unsure:
            yield "S5", f"the audit says that {entry.flag} was {entry.before}, and had left it at {before}"
        known[entry.flag] = plain(entry.after)
        if entry.before == entry.after:
            yield "S5", f"the audit has a change of {entry.flag} that is none"


def _remembered(witness: Witness, change: Transaction, key: str, memory: Memory) -> Memory:
    past, kind = memory.of(key), change.what.partition(" ")[0]
    row = change.after.ledgers.get(key)
    if row is None:
        return memory
    ledger, before = row.ledger, change.before.ledgers.get(key)
    if kind == "open" and (before is None or before.closed_at is not None):
        past = Past(latch=ledger.latch.spec_hash if ledger.latch else None)
    past = replace(past, uid=ledger.uid)
    epochs, latches = memory.epochs, memory.latches
    written = {flag: plain(is_) for flag, (_, is_) in change.changed.items()}
    if kind == "raise":
        past, epochs = _after_raise(witness, change, ledger, past), _epochs(change, ledger, memory)
    elif kind == "lower":
        past = replace(past, left={**past.left, **{f: r for f, r in written.items() if f in past.left}})
        if ledger.latch is not None:
            past = replace(past, latch=ledger.latch.spec_hash)
            mine = {f: ledger.latch.spec_hash for f, o in change.after.ownership.items() if o.key == key}
            latches = {**latches, **mine}
        if change.what == "lower flags only":
            past = replace(past, unsure=past.unsure | written.keys())
        else:
            past = replace(past, left={**past.left, **_taken(ledger, past)})
    elif kind in ("ledger", "answer"):
        past = _after_answer(change, ledger, past, before.ledger if before else ledger)
        if past.latch is None:
            latches = {f: h for f, h in latches.items() if change.after.ownership.get(f, Owner()).key != key}
    audited = {entry.flag: plain(entry.after) for entry in change.audited if entry.key == key}
    past = replace(past, audited={**past.audited, **audited})
    return Memory({**memory.keys, key: past}, epochs, latches)


def _taken(ledger: Ledger, past: Past) -> Mapping[str, Row]:
    """A row that was low enough already counts as the operator's after a lowering; the ledger says which."""
    return {flag: plain(row) for flag, row in ledger.written.items() if flag in past.left}


def _after_raise(witness: Witness, change: Transaction, ledger: Ledger, past: Past) -> Past:
    plan = witness.plan(ledger.plan_hash)
    baseline = _baseline(ledger, past)
    stage = plan.stages[ledger.stage]
    wanted = in_stage(plan, ledger.stage, baseline)
    ceilings = {flag: (*past.ceilings.get(flag, ()), wanted[flag]) for flag in stage.flags}
    return replace(
        past,
        baseline=baseline,
        left={**past.left, **{flag: wanted[flag] for flag in stage.flags}},
        ceilings={**past.ceilings, **ceilings},
        entered=past.entered | {(ledger.attempt, ledger.stage)},
        entered_s=witness.time_s(),
    )


def _epochs(change: Transaction, ledger: Ledger, memory: Memory) -> Mapping[str, int]:
    raised = [f for f, (was, is_) in change.changed.items() if not within(plain(is_), plain(was))]
    return {**memory.epochs, **dict.fromkeys(raised, ledger.epoch)}


def _after_answer(change: Transaction, ledger: Ledger, past: Past, old: Ledger) -> Past:
    if ledger.attempt > old.attempt:
        past = replace(past, latch=None, entered_s=None)
    if "Resume" in change.what:
        # A person has taken these rows over as they are.
        past = replace(
            past,
            left={flag: plain(row) for flag, row in ledger.written.items()},
            baseline=plain_rows(ledger.baseline),
        )
    return past


__all__ = ["Plan", "check"]
