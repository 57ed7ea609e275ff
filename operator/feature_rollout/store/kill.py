"""The kill switch: flags off by hand, with the rights of a writer and nothing but the database.

The ledger is not touched on purpose: the operator then sees rows that it did not write,
and leaves them alone until somebody tells it otherwise. A flag that its rollout has not come
to yet is no such row, so the kill is kept with the flag's ownership too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from feature_rollout.connectionstring import parse_uri
from feature_rollout.core.exposure import DISABLED
from feature_rollout.ports import Lowering, Problem, Why
from feature_rollout.postgres import (
    COLUMN_MISSING,
    DISK_FULL,
    LOCK_TIMEOUT,
    PERMISSION_DENIED,
    STORE_ERROR,
    STORE_UNREACHABLE,
    TABLE_MISSING,
    TOO_MANY_CONNECTIONS,
    WRITE_REFUSED,
    Connection,
)
from feature_rollout.store import audit, drift, flags, inspection, lowering, migrations, outbox, ownership
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.connections import Connections, Mode

T = TypeVar("T")

KILLED: Final = "Killed"
# Stands in the audit where a rollout's ledger key would: nobody's rollout did this.
KILL_KEY: Final = "kill"
KILL_VERB: Final = "Kill"

_LOCK_TIMEOUT_MS: Final = 1000
_WITHOUT_AUDIT_LOCK_TIMEOUT_MS: Final = 200
# How long to try for one of the server's connections when all are taken.
_CONNECTION_S: Final = 10.0
_CONNECTION_PAUSE_S: Final = 0.25

# With these it may be the audit alone that cannot be written.
_OF_BOOKKEEPING: Final = frozenset(
    {COLUMN_MISSING, DISK_FULL, PERMISSION_DENIED, STORE_ERROR, TABLE_MISSING, WRITE_REFUSED}
)
# With these it may be one flag alone that cannot be written: the others must not wait for it.
_OF_ONE_FLAG: Final = frozenset({LOCK_TIMEOUT, WRITE_REFUSED, flags.FLAG_WRITE_ALTERED})
# The checks of the table tell more of these than a SQLSTATE does.
_EXPLAINED: Final = frozenset({COLUMN_MISSING, PERMISSION_DENIED, STORE_ERROR, TABLE_MISSING})


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants which flags off, and why."""

    flags: tuple[str, ...]
    actor: str
    reason: str
    ignore_missing: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of each flag: `changes` of those that are off now, changed or not; `left` are those that are not.

    `unrecorded` is why the audit could not be written although flags were changed.
    """

    changes: dict[str, audit.Change] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    left: dict[str, Problem] = field(default_factory=dict)
    unrecorded: Problem | None = None


class KillSwitch:
    """Disables flags on one database. The constructor connects to nothing; it raises Problem(ConnectionInvalid)."""

    def __init__(self, config: StoreConfig) -> None:
        server = parse_uri(config.writer_uri, "writer", config.access)
        self._config = config
        self._role = server.role
        self._connections = Connections(server, config.table.subject(server.role), limit=1, keep=1)

    async def close(self) -> None:
        await self._connections.close()

    async def preview(self, order: Order) -> Outcome:
        """What `kill` would do now; writes nothing. Raises Problem."""
        rows = await self._rows(order)
        changes = {}
        for flag, row in sorted(rows.items()):
            before = row.widest()
            changes[flag] = audit.Change(flag, before, before.meet(DISABLED))
        return Outcome(changes, _missing(order, rows))

    async def kill(self, order: Order) -> Outcome:
        """Disable the flags: all in one transaction, or one by one when something keeps one of them.

        Raises Problem when nothing was written, FlagMissing among them unless missing flags are
        to be ignored.
        """
        names: Sequence[str] = sorted(order.flags)
        missing: tuple[str, ...] = ()
        try:
            rows = await self._rows(order)
        except Problem as problem:
            if problem.reason != LOCK_TIMEOUT:
                raise
            # The whole table is locked: perhaps not for long.
        else:
            missing, names = _missing(order, rows), sorted(rows)
        try:
            outcome = await self._disable(order, names, _LOCK_TIMEOUT_MS)
        except Problem as problem:
            if problem.reason not in _OF_ONE_FLAG:
                raise await self._explained(problem) from None
            outcome = await self._disable_each(order, names)
        known = outcome.changes.keys() | outcome.left.keys()
        outcome.missing = tuple(sorted({*missing, *(name for name in names if name not in known)}))
        if outcome.unrecorded is not None:
            await self._tell(outcome)
        return outcome

    async def lift(self, order: Order) -> list[str]:
        """Let rollouts enable these flags again; those that were held. Rows are not touched. Raises Problem."""
        table = self._config.table
        return await self._transaction(
            lambda c: ownership.lift(c, table, order.flags, actor=order.actor, reason=order.reason)
        )

    async def _rows(self, order: Order) -> Mapping[str, flags.Row]:
        """The flags' rows, not locked; raises Problem(FlagMissing) unless missing flags are to be ignored."""

        async def work(connection: Connection) -> tuple[Mapping[str, flags.Row], str]:
            table = self._config.table
            rows = {row.name: row for row in await flags.fetch(connection, table, order.flags, lock=False)}
            missing = _missing(order, rows)
            return rows, await inspection.hidden_rows_hint(connection, table) if missing else ""

        try:
            rows, hint = await self._transaction(work, mode="REPEATABLE READ READ ONLY")
        except Problem as problem:
            raise await self._explained(problem) from None
        missing = _missing(order, rows)
        if missing and not order.ignore_missing:
            message = f"no row in {self._config.table} for {', '.join(missing)}{hint}; nothing was written"
            raise Problem(flags.FLAG_MISSING, message)
        return rows

    async def _disable(self, order: Order, names: Sequence[str], lock_timeout_ms: int) -> Outcome:
        """These flags in one transaction; without the audit when only that cannot be written."""
        try:
            return Outcome(await self._write(order, names, lock_timeout_ms, audited=True))
        except Problem as problem:
            if problem.reason not in _OF_BOOKKEEPING:
                raise
            changes = await self._write(order, names, _WITHOUT_AUDIT_LOCK_TIMEOUT_MS, audited=False)
            return _unrecorded(changes, await self._why_unrecorded(problem))

    async def _disable_each(self, order: Order, names: Sequence[str]) -> Outcome:
        outcome, lost = Outcome(), None
        for name in names:
            if lost is not None:
                outcome.left[name] = lost
                continue
            try:
                one = await self._disable_one(order, name)
            except Problem as problem:
                outcome.left[name] = problem
                lost = problem if problem.reason == STORE_UNREACHABLE else None
            else:
                outcome.changes |= one.changes
                outcome.unrecorded = outcome.unrecorded or one.unrecorded
        return outcome

    async def _disable_one(self, order: Order, name: str) -> Outcome:
        try:
            return await self._disable(order, [name], _LOCK_TIMEOUT_MS)
        except Problem as problem:
            if problem.reason != LOCK_TIMEOUT:
                raise
            # It may be the audit that is locked, by a migration of it for one.
            changes = await self._write(order, [name], _WITHOUT_AUDIT_LOCK_TIMEOUT_MS, audited=False)
            return _unrecorded(changes, problem)

    async def _write(
        self, order: Order, names: Sequence[str], lock_timeout_ms: int, *, audited: bool
    ) -> dict[str, audit.Change]:
        """Each flag that has a row, changed or not; raises Problem, and then nothing was written."""
        why = Why(reason=KILLED, message=order.reason, generation=0, stage="", actor=order.actor, verb=KILL_VERB)

        async def work(connection: Connection) -> dict[str, audit.Change]:
            change = Lowering(KILL_KEY, dict.fromkeys(names, DISABLED), why)
            operation = audit.unnumbered_operation_id(KILL_KEY)
            if audited:
                # The trigger then leaves the audit to us; without it the trigger's record is better than none.
                await drift.sign(connection, operation)
            rows = await lowering.lock_flags(connection, self._config, change)
            found = await lowering.lower_flags(connection, self._config, change, rows)
            for flag, done in found.items():
                if done.after.enabled:
                    raise Problem(flags.FLAG_WRITE_ALTERED, f"flag {flag}: a trigger enables it again")
            if audited:
                table = self._config.table
                await ownership.hold(connection, table, found, actor=order.actor, reason=order.reason)
                await self._record(connection, operation, lowering.changed(found.values()), why)
            return found

        return await self._transaction(work, lock_timeout_ms=lock_timeout_ms)

    async def _record(self, connection: Connection, operation: str, done: Sequence[audit.Change], why: Why) -> None:
        nobody = lowering.unknown(KILL_KEY)
        await audit.record(connection, self._config.table, nobody, operation=operation, changes=done, why=why)
        if done:
            await outbox.record(connection, nobody, operation=operation, changes=done, why=why)
        await audit.notify(connection, self._config.notify_channel, [one.flag for one in done], operation)

    async def _tell(self, outcome: Outcome) -> None:
        """NOTIFY by itself, when it could not go with the audit; services that poll see the change without it."""
        names = [one.flag for one in lowering.changed(outcome.changes.values())]
        operation = audit.unnumbered_operation_id(KILL_KEY)
        with contextlib.suppress(Problem):
            await self._transaction(lambda c: audit.notify(c, self._config.notify_channel, names, operation))

    async def _why_unrecorded(self, problem: Problem) -> Problem:
        try:
            found = await self._transaction(lambda connection: migrations.check(connection, self._role))
        except Problem:
            return problem
        return found or problem

    async def _explained(self, problem: Problem) -> Problem:
        """What the checks of the table say, if they find what is wrong."""
        if problem.reason not in _EXPLAINED:
            return problem
        try:
            await self._transaction(lambda c: inspection.shape(c, self._config.table, self._role))
        except Problem as found:
            return found
        return problem

    async def _transaction(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        mode: Mode = "READ COMMITTED",
        lock_timeout_ms: int = _LOCK_TIMEOUT_MS,
    ) -> T:
        """A transaction; waits a while for a connection when the server has none free."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CONNECTION_S
        while True:
            try:
                return await self._connections.transaction(work, mode=mode, lock_timeout_ms=lock_timeout_ms)
            except Problem as problem:
                if problem.reason != TOO_MANY_CONNECTIONS or loop.time() >= deadline:
                    raise
            await asyncio.sleep(_CONNECTION_PAUSE_S)


def _unrecorded(changes: dict[str, audit.Change], problem: Problem) -> Outcome:
    """What was written without the audit; what changed nothing needs no record."""
    return Outcome(changes, unrecorded=problem if lowering.changed(changes.values()) else None)


def _missing(order: Order, found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(order.flags) - set(found)))
