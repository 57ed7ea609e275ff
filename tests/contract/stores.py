"""The two FlagStores that one suite is run on: that of the simulation, in memory, and the one on PostgreSQL.

A `Side` is a store with its database, and what a test does to the database or sees in it beside the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.state import Latch
from feature_rollout.ports import FlagStore, Problem
from postgres import world as real
from simulation.database import Database as MemoryDatabase
from simulation.store import MemoryFlagStore, StraightWire
from simulation.wire import unreachable

FLAGS = ("alpha", "beta", "gamma", "bystander")
# Flag, before, after, kind, reason, actor and epoch.
AuditRow = tuple[str, Exposure, Exposure, str, str, str, int]


class Side(Protocol):
    store: FlagStore

    def another(self) -> FlagStore:
        """The store of another process."""

    def unreachable(self) -> FlagStore:
        """A store whose server does not answer."""

    def rows(self) -> dict[str, Exposure]: ...

    def edit(self, flag: str, row: Exposure | None) -> None:
        """Somebody else changes a row, or deletes it."""

    def audit(self) -> list[AuditRow]: ...

    def operations(self) -> list[str]:
        """Of the audit, in order, those that have taken a sequence by their names."""

    def owners(self) -> dict[str, str | None]: ...

    def latches(self) -> dict[str, Latch | None]: ...

    def told(self) -> list[str]: ...

    def silence(self, key: str) -> None:
        """Nothing was heard of its writer for more than two minutes."""

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """The bookkeeping cannot be written."""

    @contextmanager
    def locked(self, flag: str) -> Iterator[None]:
        """Somebody holds the row locked, whom the operator may not interrupt."""

    async def close(self) -> None: ...


class _NoRoom(StraightWire):
    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.is_full = False

    @property
    def no_room(self) -> Problem | None:  # type: ignore[override]
        return Problem("DiskFull", "the database has no room left") if self.is_full else None

    async def write(self, what: str, work: Any) -> Any:
        if self.is_full and what != "lower flags only":
            raise Problem("DiskFull", "the database has no room left")
        return await super().write(what, work)


class _Down(StraightWire):
    async def read(self, what: str, work: Any) -> Any:
        raise unreachable()

    async def write(self, what: str, work: Any) -> Any:
        raise unreachable()


class Memory:
    """`Side` in memory."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 5, 9, tzinfo=UTC)
        self._database = MemoryDatabase(lambda: self._now, dict.fromkeys(FLAGS, real.OFF), watched=False)
        self._wire = _NoRoom(self._database)
        self.store = MemoryFlagStore(self._database, self._wire)

    def another(self) -> FlagStore:
        return MemoryFlagStore(self._database, StraightWire(self._database))

    def unreachable(self) -> FlagStore:
        return MemoryFlagStore(self._database, _Down(self._database))

    def rows(self) -> dict[str, Exposure]:
        return dict(self._database.tables.flags)

    def edit(self, flag: str, row: Exposure | None) -> None:
        self._database.edit("somebody", flag, row)

    def audit(self) -> list[AuditRow]:
        rows = self._database.tables.audit
        return [(r.flag, r.before, r.after, r.kind, r.why.reason, r.why.actor, r.epoch) for r in rows]

    def operations(self) -> list[str]:
        return [row.operation for row in self._database.tables.audit]

    def owners(self) -> dict[str, str | None]:
        return {flag: owner.key for flag, owner in self._database.tables.ownership.items()}

    def latches(self) -> dict[str, Latch | None]:
        return {flag: owner.latch for flag, owner in self._database.tables.ownership.items()}

    def told(self) -> list[str]:
        return [verb for _, verb in self._database.tables.outbox]

    def silence(self, key: str) -> None:
        rows = self._database.tables.ledgers
        rows[key] = replace(rows[key], updated_at=rows[key].updated_at - timedelta(minutes=3))

    @contextmanager
    def no_room(self) -> Iterator[None]:
        self._wire.is_full = True
        yield
        self._wire.is_full = False

    @contextmanager
    def locked(self, flag: str) -> Iterator[None]:
        self._database.locked.add(flag)
        yield
        self._database.locked.discard(flag)

    async def close(self) -> None:
        pass


class Postgres:
    """`Side` on a database of its own."""

    def __init__(self, world: real.World) -> None:
        self._world = world
        self.store: FlagStore = world.store

    def another(self) -> FlagStore:
        return self._world.new_store()

    def unreachable(self) -> FlagStore:
        uri = self._world.config().writer_uri
        return self._world.new_store(writer_uri=uri.replace(uri.rsplit("@", 1)[1].split("/", 1)[0], "127.0.0.1:1"))

    def rows(self) -> dict[str, Exposure]:
        names = [row["name"] for row in self._world.database.query("SELECT name FROM public.feature_flags")]
        return {name: self._world.row(name) for name in names}

    def edit(self, flag: str, row: Exposure | None) -> None:
        if row is None:
            self._world.database.execute("DELETE FROM public.feature_flags WHERE name = %s", flag)
        else:
            self._world.set_row(flag, row)

    def audit(self) -> list[AuditRow]:
        return [
            (
                row["flag"],
                Exposure.from_json(row["before"]),
                Exposure.from_json(row["after"]),
                row["kind"],
                row["reason"],
                row["actor"],
                row["epoch"],
            )
            for row in self._world.audit()
        ]

    def operations(self) -> list[str]:
        return [row["operation_id"] for row in self._world.audit()]

    def owners(self) -> dict[str, str | None]:
        return self._world.owners()

    def latches(self) -> dict[str, Latch | None]:
        rows = self._world.database.query("SELECT flag, latch FROM feature_rollout.ownership")
        return {row["flag"]: Latch.from_json(row["latch"]) if row["latch"] else None for row in rows}

    def told(self) -> list[str]:
        rows = self._world.database.query("SELECT kind FROM feature_rollout.outbox ORDER BY id")
        return [row["kind"] for row in rows]

    def silence(self, key: str) -> None:
        self._world.forget_writer_for("3 minutes", key)

    @contextmanager
    def no_room(self) -> Iterator[None]:
        database = self._world.database
        database.execute("ALTER TABLE feature_rollout.ledger ADD CONSTRAINT full_up CHECK (false) NOT VALID")
        yield
        database.execute("ALTER TABLE feature_rollout.ledger DROP CONSTRAINT full_up")

    @contextmanager
    def locked(self, flag: str) -> Iterator[None]:
        with psycopg.connect(self._world.database.uri()) as holder:
            holder.execute("SELECT 1 FROM public.feature_flags WHERE name = %s FOR UPDATE", (flag,))
            yield

    async def close(self) -> None:
        for store in self._world.stores:
            await store.close()
