"""One database in memory: the flag table, the bookkeeping, and transactions that are made whole or not at all.

A transaction is what happens between `begin` and `commit` or `rollback`, at one moment of
the virtual time. What was committed last can be lost, as with a primary whose standby had
not received it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from feature_rollout.core.exposure import Exposure, raises
from feature_rollout.core.plan import OnDelete
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import Recorded, Why

# So many commits can be lost at a failover.
KEPT_COMMITS = 8


@dataclass(frozen=True, slots=True)
class LedgerRow:
    ledger: Ledger
    on_delete: OnDelete
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """An ownership row: epoch and latch outlive the owner."""

    key: str | None = None
    epoch: int = 0
    latch: Latch | None = None
    latched_spec_hash: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """`kind` is Raise, Lower or Manual; `number` is the place of its operation among all of its key, or None."""

    operation: str
    key: str
    flag: str
    before: Exposure
    after: Exposure
    kind: str
    why: Why
    epoch: int
    uid: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    epoch: int
    attempt: int
    state: Mapping[str, Any]


@dataclass(slots=True)
class Tables:
    """Everything that is committed. Rows are values; a copy copies the tables and shares the rows."""

    flags: dict[str, Exposure] = field(default_factory=dict)
    ledgers: dict[str, LedgerRow] = field(default_factory=dict)
    ownership: dict[str, Owner] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    actions: dict[str, tuple[str, Recorded]] = field(default_factory=dict)
    audit: tuple[AuditRow, ...] = ()
    outbox: tuple[tuple[str, str], ...] = ()
    plans: dict[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    # What the checker remembers of this history: it is lost with the commits that it is about.
    memory: Any = None

    def copy(self) -> Tables:
        return Tables(
            dict(self.flags),
            dict(self.ledgers),
            dict(self.ownership),
            dict(self.evidence),
            dict(self.actions),
            self.audit,
            self.outbox,
            dict(self.plans),
            self.memory,
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was committed: by whom, as what, and how the tables were before."""

    who: str
    what: str
    before: Tables
    after: Tables

    @property
    def audited(self) -> tuple[AuditRow, ...]:
        return self.after.audit[len(self.before.audit) :]

    @property
    def changed(self) -> dict[str, tuple[Exposure, Exposure]]:
        """Flag rows that are there before and after, and are not the same."""
        before, after = self.before.flags, self.after.flags
        return {f: (before[f], row) for f, row in after.items() if f in before and before[f] != row}


class Database:
    """`watched`: the flag table has the trigger that records changes by others at once."""

    def __init__(self, clock: Callable[[], datetime], rows: Mapping[str, Exposure], *, watched: bool) -> None:
        self.now = clock
        self.watched = watched
        self.tables = Tables(flags=dict(rows))
        # Rows that somebody else holds locked.
        self.locked: set[str] = set()
        self._earlier: deque[Tables] = deque(maxlen=KEPT_COMMITS)
        self._operations = 0
        # Called with each transaction after it was committed.
        self.committed: Callable[[Transaction], None] = lambda _: None
        self.changed_by_others: Callable[[str], None] = lambda _: None

    def begin(self) -> Tables:
        """The tables as they are, to go back to."""
        return self.tables.copy()

    def rollback(self, before: Tables) -> None:
        self.tables = before

    def commit(self, who: str, what: str, before: Tables) -> None:
        self._earlier.append(before)
        self.committed(Transaction(who, what, before, self.tables))

    def lose(self, commits: int) -> int:
        """Fail over to a standby that had not received the last commits; how many were lost."""
        lost = min(commits, len(self._earlier))
        for _ in range(lost):
            self.tables = self._earlier.pop()
        # What is left was received by the standby, and is durable now.
        self._earlier.clear()
        return lost

    def operation(self, key: str) -> str:
        """The name of an operation that took no sequence from the ledger; unique."""
        self._operations += 1
        return f"{key}@x{self._operations}"

    # Tables that more than one operation writes.

    def audit(
        self,
        ledger: Ledger,
        operation: str,
        changes: Mapping[str, tuple[Exposure, Exposure]],
        why: Why,
        kind: str | None = None,
    ) -> None:
        rows = tuple(
            AuditRow(
                operation,
                ledger.key,
                flag,
                before,
                after,
                kind or ("Raise" if raises(before, after) else "Lower"),
                why,
                ledger.epoch,
                ledger.uid,
                self.now(),
            )
            for flag, (before, after) in sorted(changes.items())
        )
        self.tables.audit += rows

    def tell(self, operation: str, why: Why) -> None:
        if why.verb:
            self.tables.outbox += ((operation, why.verb),)

    def store(self, ledger: Ledger) -> None:
        row = self.tables.ledgers[ledger.key]
        self.tables.ledgers[ledger.key] = replace(row, ledger=ledger, updated_at=self.now())

    def edit(self, who: str, flag: str, row: Exposure | None) -> None:
        """Somebody changes, deletes or puts back a flag's row."""
        before = self.begin()
        was = self.tables.flags.get(flag)
        if row is None:
            self.tables.flags.pop(flag, None)
        else:
            self.tables.flags[flag] = row
        owner = self.tables.ownership.get(flag, Owner()).key
        held = self.tables.ledgers.get(owner or "")
        # The trigger is AFTER UPDATE: rows that come and go are none of its business.
        if self.watched and held is not None and was is not None and row is not None and was != row:
            why = Why("ManualChange", "Changed by somebody else, recorded by the trigger.", 0, "", actor=who)
            self.audit(held.ledger, self.operation("manual"), {flag: (was, row)}, why, "Manual")
            self.changed_by_others(flag)
        self.commit(who, f"edits {flag}: {was} -> {row}", before)
