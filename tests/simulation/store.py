"""The FlagStore of `ports` on a `Database` in memory: what `store/*` does, statement by statement.

What is pure in the adapter (who may go on with a ledger row, what a lowering leaves in it)
is the adapter's own code here too. Each operation is one transaction; `Wire` is between it
and whoever called, and is where everything goes wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.people import Answered
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import (
    Checkpoint,
    Claim,
    Commit,
    Drifted,
    Fenced,
    Lowering,
    Problem,
    Recorded,
    Snapshot,
    Why,
)
from feature_rollout.postgres import LOCK_TIMEOUT
from feature_rollout.store import claims, lowering
from feature_rollout.store.audit import Change
from feature_rollout.store.flags import FLAG_MISSING
from feature_rollout.store.ledger import SILENT_AFTER_S, Found
from feature_rollout.store.ownership import CONFLICT
from simulation.database import AuditRow, Database, Evidence, LedgerRow, Owner

T = TypeVar("T")
Changes = dict[str, tuple[Exposure, Exposure]]

_UNKNOWN = Why("ManualChange", "Changed by somebody else, seen when the row was read.", 0, "", actor="unknown")


class Wire(Protocol):
    """How an operation gets to the database, and its answer back."""

    async def read(self, what: str, work: Callable[[], T]) -> T:
        """Ask for something that changes nothing."""

    async def write(self, what: str, work: Callable[[], T]) -> T:
        """Run a transaction: whatever `work` raises undoes it."""

    @property
    def no_room(self) -> Problem | None:
        """Why the bookkeeping cannot be written now; the flags alone still can."""


class StraightWire:
    """Nothing goes wrong."""

    no_room: Problem | None = None

    def __init__(self, database: Database, who: str = "operator") -> None:
        self._database = database
        self._who = who

    async def read(self, what: str, work: Callable[[], T]) -> T:
        return work()

    async def write(self, what: str, work: Callable[[], T]) -> T:
        before = self._database.begin()
        try:
            result = work()
        except BaseException:
            self._database.rollback(before)
            raise
        self._database.commit(self._who, what, before)
        return result


@dataclass(slots=True)
class Owed:
    """Audit rows that could not be written with the change that they tell of."""

    operation: str
    changes: Changes
    why: Why


@dataclass
class MemoryFlagStore:
    """As a process has it: what it owes the audit ends with the process."""

    database: Database
    wire: Wire
    owed: dict[str, list[Owed]] = field(default_factory=dict)

    async def open(self, claim: Claim) -> Ledger:
        return await self.wire.write(f"open {claim.uid}", lambda: self._open(claim))

    async def read(
        self, key: str, flags: Sequence[str], requests: Sequence[str] = (), *, progress: bool = False
    ) -> Snapshot:
        return await self.wire.read("read", lambda: self._read(key, flags, requests, progress=progress))

    async def commit(self, change: Commit) -> Ledger:
        what = "raise" if change.after or change.why.verb == "Advance" else "answer" if change.answered else "ledger"
        return await self.wire.write(f"{what} {change.why.verb}", lambda: self._commit(change))

    async def lower(self, change: Lowering) -> Ledger:
        no_room = self.wire.no_room
        if no_room is None:
            if self.database.locked & change.targets.keys():
                await self._lower_part(change)
            return await self._lower_all(f"lower {change.why.verb}", change)
        done = await self.wire.write("lower flags only", lambda: self._lower_flags(change))
        if done:
            self.owed.setdefault(change.key, []).append(Owed(self.database.operation(change.key), done, change.why))
        message = f"exposure was lowered, its record could not be written and follows: {no_room.message}"
        raise Problem(lowering.AUDIT_DELAYED, message, stalled=False)

    async def _lower_all(self, what: str, change: Lowering) -> Ledger:
        owed = list(self.owed.get(change.key, ()))
        after = await self.wire.write(what, lambda: self._lower(change, owed))
        self.owed.pop(change.key, None)
        return after

    async def _lower_part(self, change: Lowering) -> None:
        """What is not locked, and the latch; that the row has acted, or an order was carried out, is left for later."""
        locked = sorted(self.database.locked & change.targets.keys())
        free = {flag: to for flag, to in change.targets.items() if flag not in locked}
        part = replace(change, targets=free, severity=None, answered=())
        await self._lower_all(f"lower part {change.why.verb}", part)
        message = f"locked by somebody else: {', '.join(locked)}; tried again"
        raise Problem(lowering.REVERT_BLOCKED, message, stalled=False)

    async def observe(self, key: str, flags: Sequence[str]) -> None:
        if self.owed.get(key):
            raise Problem(lowering.AUDIT_DELAYED, "the record of an earlier lowering still follows", stalled=False)
        await self.wire.write("observe", lambda: self._observe(key, flags))

    async def release(self, change: Lowering, uid: str) -> None:
        owed = list(self.owed.get(change.key, ()))
        await self.wire.write("release", lambda: self._release(change, uid, owed))
        self.owed.pop(change.key, None)

    async def tell(self, key: str, why: Why) -> None:
        await self.wire.write(f"tell {why.verb}", lambda: self.database.tell(self.database.operation(key), why))

    async def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        if checkpoints:
            await self.wire.write("checkpoint", lambda: self._checkpoint(checkpoints))

    async def last_plan(self, key: str, uid: str) -> Mapping[str, Any] | None:
        return await self.wire.read("last plan", lambda: self._last_plan(key, uid))

    # Within a transaction.

    def _last_plan(self, key: str, uid: str) -> Mapping[str, Any] | None:
        row = self.database.tables.ledgers.get(key)
        of, made_of = self.database.tables.plans.get(key, ("", None))
        return made_of if of == uid and row is not None and row.ledger.uid == uid and not row.closed_at else None

    def _open(self, claim: Claim) -> Ledger:
        tables, now = self.database.tables, self.database.now()
        known = tables.ledgers.get(claim.key)
        created = known is None
        row = known or LedgerRow(
            Ledger(claim.key, claim.uid, 0, 0, claim.spec_hash, claim.plan_hash), claim.on_delete, now, now
        )
        tables.ledgers[claim.key] = row
        epoch, latch = self._claim(claim)
        silent = row.updated_at < now - timedelta(seconds=SILENT_AFTER_S)
        found = Found(row.ledger, row.closed_at is not None, silent)
        begun = replace(row.ledger, latch=latch) if created else self._continued(found, claim, latch)
        if created or begun.uid != row.ledger.uid:
            tables.evidence.pop(claim.key, None)
        opened = replace(begun, epoch=max(row.ledger.epoch, epoch) + 1)
        tables.ledgers[claim.key] = replace(
            row,
            ledger=opened,
            on_delete=claim.on_delete,
            updated_at=now,
            closed_at=None,
            opened_at=row.opened_at if row.closed_at is None else now,
        )
        if claim.made_of is not None:
            tables.plans[claim.key] = claim.uid, claim.made_of
        for flag, owner in tables.ownership.items():
            if owner.key == claim.key:
                tables.ownership[flag] = replace(owner, epoch=max(owner.epoch, opened.epoch))
        return opened

    def _claim(self, claim: Claim) -> tuple[int, Latch | None]:
        """Own the flags; the greatest epoch that they remember, and the gravest latch under this spec hash."""
        owners = {flag: self.database.tables.ownership.get(flag, Owner()) for flag in sorted(set(claim.flags))}
        taken = [f"{flag} by {owner.key}" for flag, owner in owners.items() if owner.key not in (None, claim.key)]
        if taken:
            raise Problem(CONFLICT, f"owned by another rollout: {', '.join(taken)}")
        latches = [o.latch for o in owners.values() if o.latch and o.latched_spec_hash == claim.spec_hash]
        for flag, owner in owners.items():
            self.database.tables.ownership[flag] = replace(owner, key=claim.key)
        epoch = max((owner.epoch for owner in owners.values()), default=0)
        return epoch, max(latches, key=lambda latch: latch.gravity, default=None)

    def _continued(self, found: Found, claim: Claim, latch: Latch | None) -> Ledger:
        now = found.ledger
        is_needed = (
            not found.closed and found.silent and now.uid != claim.uid and now.plan_hash != claim.plan_hash
        ) and claim.adopt is not None
        is_adopted = is_needed and claim.adopt is not None and self._record(claim.key, (claim.adopt,))
        return claims._continued(found, claim, latch, is_adopted=is_adopted)

    def _read(self, key: str, flags: Sequence[str], requests: Sequence[str], *, progress: bool) -> Snapshot:
        tables = self.database.tables
        if key not in tables.ledgers:
            raise Problem(claims.LEDGER_MISSING, "the rollout has no ledger row; it is opened again", stalled=False)
        rows = {flag: tables.flags[flag] for flag in flags if flag in tables.flags}
        answers = {uid: tables.actions[uid][1] for uid in requests if uid in tables.actions}
        stored = tables.evidence.get(key) if progress else None
        # As text and back, as it is stored.
        checkpoint = (stored.attempt, json.loads(json.dumps(stored.state, allow_nan=False))) if stored else None
        return Snapshot(tables.ledgers[key].ledger, rows, answers, checkpoint)

    def _commit(self, change: Commit) -> Ledger:
        tables, wanted = self.database.tables, change.ledger
        row = tables.ledgers.get(wanted.key)
        if (
            row is None
            or row.closed_at is not None
            or (row.ledger.epoch, row.ledger.sequence) != (wanted.epoch, wanted.sequence)
        ):
            raise Fenced(f"{wanted.key} is not under epoch {wanted.epoch}, sequence {wanted.sequence}")
        after = replace(wanted, uid=row.ledger.uid, sequence=wanted.sequence + 1)
        self.database.store(after)
        if not self._record(after.key, change.answered):
            raise Fenced(f"a request of {after.key} was answered before")
        self._latch(after.key, after.latch)
        operation = f"{after.key}@{after.sequence}"
        done: Changes = {}
        if change.before:
            done = self._raise(change)
        self.database.audit(after, operation, done, change.why)
        self.database.tell(operation, change.why)
        return after

    def _lock(self, flags: Iterable[str]) -> None:
        locked = sorted(self.database.locked.intersection(flags))
        if locked:
            raise Problem(LOCK_TIMEOUT, f"locked by somebody else: {', '.join(locked)}", stalled=False)

    def _raise(self, change: Commit) -> Changes:
        flags = self.database.tables.flags
        self._lock(change.before)
        missing = sorted(change.before.keys() - flags.keys())
        if missing:
            raise Problem(FLAG_MISSING, f"no row for {', '.join(missing)}")
        drifted = sorted(flag for flag, row in change.before.items() if flags[flag] != row)
        if drifted:
            raise Drifted(f"changed by somebody else: {', '.join(drifted)}")
        done = {f: (flags[f], row) for f, row in change.after.items() if flags[f] != row}
        owners = self.database.tables.ownership
        foreign = sorted(flag for flag in done if owners.get(flag, Owner()).key != change.ledger.key)
        if foreign:
            raise Problem(CONFLICT, f"not owned by this rollout: {', '.join(foreign)}")
        flags.update({flag: after for flag, (_, after) in done.items()})
        return done

    def _own(self, change: Lowering) -> Lowering:
        """Without the flags that another rollout owns by now."""
        owners = self.database.tables.ownership
        mine = {f: to for f, to in change.targets.items() if owners.get(f, Owner()).key in (None, change.key)}
        return replace(change, targets=mine)

    def _lower_flags(self, change: Lowering) -> Changes:
        own = self._own(change)
        return self._lower_rows(
            replace(own, targets={f: to for f, to in own.targets.items() if f not in self.database.locked})
        )

    def _lower_rows(self, change: Lowering) -> Changes:
        flags, done = self.database.tables.flags, {}
        for flag, to in sorted(change.targets.items()):
            if flag not in flags:
                continue
            before = flags[flag]
            flags[flag] = after = lowering.lowered(before, to, exact=change.exact, scale=None)
            if before != after:
                done[flag] = (before, after)
        return done

    def _lower(self, change: Lowering, owed: Sequence[Owed]) -> Ledger:
        tables = self.database.tables
        row = tables.ledgers.get(change.key)
        if row is not None and not self._record(change.key, change.answered):
            return row.ledger
        change = self._own(change)
        self._lock(change.targets)
        now = row.ledger if row is not None else lowering.unknown(change.key)
        before = dict(tables.flags)
        done = self._lower_rows(change)
        found = {f: Change(f, before[f], tables.flags[f]) for f in change.targets if f in before}
        self._pay(now, owed)
        self._account_for(
            now, {f: one.before for f, one in found.items() if one.before != now.written.get(f, one.before)}
        )
        after = lowering.next_ledger(now, change, found) if row is not None else now
        if after != now:
            self.database.store(after)
        if row is not None and after.latch != now.latch:
            self._latch(change.key, after.latch)
        if done or after != now:
            operation = f"{after.key}@{after.sequence}" if row is not None else self.database.operation(change.key)
            self.database.audit(after, operation, done, change.why)
            self.database.tell(operation, change.why)
        return after

    def _pay(self, now: Ledger, owed: Sequence[Owed]) -> None:
        paid = {entry.operation for entry in self.database.tables.audit}
        for debt in owed:
            if debt.operation not in paid:
                self.database.audit(now, debt.operation, debt.changes, debt.why)
                self.database.tell(debt.operation, debt.why)

    def _account_for(self, now: Ledger, rows: Mapping[str, Exposure]) -> None:
        """Record these rows as changes by somebody unknown, where the audit cannot account for them."""
        row = self.database.tables.ledgers.get(now.key)
        if row is None or not rows:
            return
        last = self._last_audited(row)
        known = {**now.baseline, **{flag: entry.after for flag, entry in last.items()}}
        changes = {f: (known[f], is_) for f, is_ in rows.items() if f in known and known[f] != is_}
        if changes:
            self.database.audit(now, self.database.operation(now.key), changes, _UNKNOWN, "Manual")

    def _last_audited(self, row: LedgerRow) -> dict[str, AuditRow]:
        return {entry.flag: entry for entry in self.database.tables.audit if entry.at >= row.opened_at}

    def _observe(self, key: str, names: Sequence[str]) -> None:
        tables = self.database.tables
        row = tables.ledgers.get(key)
        if row is not None:
            self._account_for(row.ledger, {flag: tables.flags[flag] for flag in names if flag in tables.flags})

    def _release(self, change: Lowering, uid: str, owed: Sequence[Owed]) -> None:
        tables = self.database.tables
        row = tables.ledgers.get(change.key)
        if row is None or row.closed_at is not None or row.ledger.uid != uid:
            return
        after = self._lower(change, owed)
        if after == row.ledger:
            self.database.tell(self.database.operation(change.key), change.why)
        now = self.database.now()
        tables.ledgers[change.key] = replace(tables.ledgers[change.key], closed_at=now, updated_at=now)
        tables.evidence.pop(change.key, None)
        for flag, owner in tables.ownership.items():
            if owner.key == change.key:
                tables.ownership[flag] = replace(owner, key=None)

    def _checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        tables = self.database.tables
        for one in checkpoints:
            row = tables.ledgers.get(one.key)
            if row is None or row.closed_at is not None:
                continue
            now, stage = row.ledger, row.ledger.stage if one.stage is None else one.stage
            if (now.epoch, now.attempt, now.stage) != (one.epoch, one.attempt, stage):
                continue
            self.database.store(replace(now, baked=one.baked))
            tables.evidence[one.key] = Evidence(one.epoch, one.attempt, one.progress)

    def _record(self, key: str, answered: Sequence[Answered]) -> bool:
        """False when one was answered before; then the transaction must change nothing."""
        actions = self.database.tables.actions
        for one in answered:
            if one.request.uid in actions:
                return False
            actions[one.request.uid] = key, Recorded(one.answer, one.at)
        return True

    def _latch(self, key: str, latch: Latch | None) -> None:
        for flag, owner in self.database.tables.ownership.items():
            if owner.key == key and owner.latch != latch:
                spec_hash = latch.spec_hash if latch else None
                self.database.tables.ownership[flag] = replace(owner, latch=latch, latched_spec_hash=spec_hash)
