"""What people do to the bookkeeping by hand: see its keys, and release one whose cluster is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from feature_rollout.connectionstring import Server
from feature_rollout.core.exposure import OFF, Exposure
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Problem, Why
from feature_rollout.postgres import Connection, Subject
from feature_rollout.store import audit, ledger, migrations, ownership
from feature_rollout.store.claims import LEDGER_MISSING
from feature_rollout.store.config import TableMapping
from feature_rollout.store.connections import Connections

RELEASED_BY_HAND: Final = "ReleasedByHand"
WRITER_ACTIVE: Final = "WriterActive"


@dataclass(frozen=True, slots=True)
class Key:
    """A ledger row, as people want to see it; `stage` counts from 1 and is 0 before the first. Times are aware."""

    key: str
    uid: str
    stage: int
    attempt: int
    latched: bool
    flags: tuple[str, ...]
    active_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Audited:
    """A change of a flag's row, as the audit has it. `at` is aware."""

    at: datetime
    actor: str
    kind: str
    flag: str
    before: Exposure
    after: Exposure
    stage: str
    reason: str
    message: str


class Bookkeeping:
    """The bookkeeping of one database, with a writer's rights. Methods raise Problem."""

    def __init__(self, server: Server) -> None:
        self._role = server.role
        grant = f"GRANT {migrations.WRITER_ROLE} TO {server.role}"
        subject = Subject(server.role, "feature_rollout.ledger", grant)
        self._connections = Connections(server, subject, limit=1, keep=1)

    async def close(self) -> None:
        await self._connections.close()

    async def keys(self) -> list[Key]:
        """Every key, open or closed."""
        return await self._connections.transaction(self._keys, mode="REPEATABLE READ READ ONLY")

    async def history(self, namespace: str, name: str, *, limit: int) -> list[Audited]:
        """The newest changes of the flags of a rollout, oldest first; of every cluster that has had it."""

        async def work(connection: Connection) -> list[Audited]:
            await self._check(connection)
            cursor = await connection.execute(
                "SELECT at, actor, kind, flag, before, after, stage, reason, message FROM feature_rollout.audit "
                # The keys first, which are few and stay when they are closed: the audit is long, and has an index.
                "WHERE ledger_key = ANY (ARRAY("
                "SELECT key FROM feature_rollout.ledger WHERE starts_with(reverse(key), reverse(%s))"
                ")) ORDER BY id DESC LIMIT %s",
                (f"/{namespace}/{name}", limit),
            )
            found = [
                Audited(at, actor, kind, flag, Exposure.from_json(before), Exposure.from_json(after), *why)
                for at, actor, kind, flag, before, after, *why in await cursor.fetchall()
            ]
            return found[::-1]

        return await self._connections.transaction(work, mode="REPEATABLE READ READ ONLY")

    async def release(self, key: str, *, actor: str, reason: str, force: bool) -> list[str] | None:
        """Close the key and give its flags up, their rows, latches and epochs left as they are.

        Returns the flags, None when the key was closed already. Problem(LedgerMissing) when
        there is no such key, Problem(WriterActive) when its writer was heard of within two
        minutes and `force` is not given.
        """
        why = Why(reason=RELEASED_BY_HAND, message=reason, generation=0, stage="", actor=actor)

        async def work(connection: Connection) -> list[str] | None:
            await self._check(connection)
            return await _release(connection, key, why, force=force)

        return await self._connections.transaction(work)

    async def _check(self, connection: Connection) -> None:
        problem = await migrations.check(connection, self._role)
        if problem is not None:
            raise problem

    async def _keys(self, connection: Connection) -> list[Key]:
        await self._check(connection)
        cursor = await connection.execute(
            """
            SELECT l.key, l.uid, l.stage + 1, l.attempt, l.latch IS NOT NULL,
                   ARRAY(SELECT o.flag FROM feature_rollout.ownership o WHERE o.owner = l.key ORDER BY o.flag),
                   l.updated_at, l.closed_at
            FROM feature_rollout.ledger l ORDER BY l.key
            """
        )
        return [
            Key(key, uid, stage, attempt, latched, tuple(flags), active_at, closed_at)
            for key, uid, stage, attempt, latched, flags, active_at, closed_at in await cursor.fetchall()
        ]


async def _release(connection: Connection, key: str, why: Why, *, force: bool) -> list[str] | None:
    found = await ledger.found(await ledger.lock(connection, key))
    if found is None:
        raise Problem(LEDGER_MISSING, f"there is no key {key}: `featurerollout store list` shows all")
    if not (found.closed or found.silent or force):
        message = (
            f"the writer of {key} was active within the last {ledger.SILENT_AFTER_S} s: delete the rollout instead, "
            "or end its operator and try again; --force releases it all the same"
        )
        raise Problem(WRITER_ACTIVE, message)
    owned = await ownership.owned(connection, key)
    if found.closed and not owned:
        return None
    await _record(connection, found.ledger, owned, why)
    if not found.closed:
        await ledger.close(connection, key)
    await ledger.drop_evidence(connection, key)
    await ownership.release(connection, key)
    return [flag for _, flag in owned]


async def _record(connection: Connection, now: Ledger, owned: Sequence[tuple[TableMapping, str]], why: Why) -> None:
    """An audit row a flag, before and after alike: the row as the operator left it, since rows are not touched."""
    tables: dict[TableMapping, list[audit.Change]] = {}
    for table, flag in owned:
        row = now.written.get(flag) or now.baseline.get(flag) or OFF
        tables.setdefault(table, []).append(audit.Change(flag, row, row))
    for table, changes in tables.items():
        operation = audit.unnumbered_operation_id(now.key)
        await audit.record(connection, table, now, operation=operation, changes=changes, why=why, kind="Released")
