"""The simulation's FlagStore in memory, with hooks around its calls and plain views of its tables for unit tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import OnDelete
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Checkpoint, Claim, Commit, Lowering, Problem, Recorded, Snapshot, Why
from simulation.database import Database, Evidence, LedgerRow
from simulation.store import MemoryFlagStore, StraightWire


class FakeStore(MemoryFlagStore):
    """`down` makes it unreachable. `before` and `after` are called with the name of a call, and may raise anything."""

    def __init__(self, now: Callable[[], datetime], **rows: Exposure) -> None:
        database = Database(now, rows, watched=False)
        super().__init__(database, StraightWire(database))
        self.down: Problem | None = None
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.calls: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.ledgers = _Ledgers(database)
        self.checkpoints = _Checkpoints(database)

    @property
    def rows(self) -> dict[str, Exposure]:
        return self.database.tables.flags

    @property
    def audit(self) -> list[tuple[str, str, Exposure, Exposure]]:
        return [(row.why.reason, row.flag, row.before, row.after) for row in self.database.tables.audit]

    @property
    def actions(self) -> dict[str, Recorded]:
        return {uid: recorded for uid, (_, recorded) in self.database.tables.actions.items()}

    @property
    def closed(self) -> set[str]:
        return {key for key, row in self.database.tables.ledgers.items() if row.closed_at is not None}

    @property
    def owners(self) -> dict[str, str]:
        return {flag: owner.key for flag, owner in self.database.tables.ownership.items() if owner.key is not None}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down is not None:
            raise self.down
        self.before(name)

    async def open(self, claim: Claim) -> Ledger:
        self._called("open")
        return await super().open(claim)

    async def read(
        self, key: str, flags: Sequence[str], requests: Sequence[str] = (), *, progress: bool = False
    ) -> Snapshot:
        self._called("read")
        if flags and key in self.ledgers:
            self.before("read flags")
        if progress:
            self._called("progress")
        return await super().read(key, flags, requests, progress=progress)

    async def commit(self, change: Commit) -> Ledger:
        self._called("commit")
        done = await super().commit(change)
        self.after("commit")
        return done

    async def lower(self, change: Lowering) -> Ledger:
        self._called("lower")
        done = await super().lower(change)
        self.after("lower")
        return done

    async def observe(self, key: str, flags: Sequence[str]) -> None:
        self._called("observe")
        await super().observe(key, flags)

    async def release(self, change: Lowering, uid: str) -> None:
        self._called("release")
        await super().release(change, uid)

    async def tell(self, key: str, why: Why) -> None:
        self._called("tell")
        await super().tell(key, why)
        self.told.append((why.verb, why.reason))

    async def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._called("checkpoint")
        await super().checkpoint(checkpoints)


class _Ledgers(MutableMapping[str, Ledger]):
    """The ledger rows by key, without what is beside them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _rows(self) -> dict[str, LedgerRow]:
        return self._database.tables.ledgers

    def __getitem__(self, key: str) -> Ledger:
        return self._rows[key].ledger

    def __setitem__(self, key: str, ledger: Ledger) -> None:
        now = self._database.now()
        row = self._rows.get(key) or LedgerRow(ledger, OnDelete.KEEP, now, now)
        self._rows[key] = replace(row, ledger=ledger)

    def __delitem__(self, key: str) -> None:
        del self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _Checkpoints(MutableMapping[str, tuple[int, str]]):
    """What was stored last, by key: its attempt, and the progress as JSON."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _rows(self) -> dict[str, Evidence]:
        return self._database.tables.evidence

    def __getitem__(self, key: str) -> tuple[int, str]:
        return self._rows[key].attempt, json.dumps(self._rows[key].state)

    def __setitem__(self, key: str, stored: tuple[int, str]) -> None:
        state: Mapping[str, object] = json.loads(stored[1])
        self._rows[key] = Evidence(0, stored[0], state)

    def __delitem__(self, key: str) -> None:
        del self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
