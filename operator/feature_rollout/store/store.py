"""The FlagStore of `ports` on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from feature_rollout import failpoints
from feature_rollout.connectionstring import parse_uri
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Checkpoint, Claim, Commit, Lowering, Problem, Snapshot, Why
from feature_rollout.postgres import (
    COLUMN_MISSING,
    DISK_FULL,
    LOCK_TIMEOUT,
    PERMISSION_DENIED,
    STORE_ERROR,
    TABLE_MISSING,
    WRITE_REFUSED,
    Connection,
    Cursor,
)
from feature_rollout.store import (
    actions,
    audit,
    blockers,
    claims,
    commits,
    drift,
    flags,
    inspection,
    ledger,
    lowering,
    migrations,
    outbox,
    ownership,
    serving,
)
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.connections import Connections
from feature_rollout.store.timing import OnCall, timed

log = logging.getLogger(__name__)
T = TypeVar("T")

# In a lowering that goes flag by flag, each has waited a second already.
_FLAG_LOCK_TIMEOUT_MS: Final = 200
# When so many were locked it is the table that is, or somebody has them all: the rest is asked for in passing.
_PATIENT_FLAGS: Final = 10
_IMPATIENT_LOCK_TIMEOUT_MS: Final = 20
_FORCED_LOCK_TIMEOUT_MS: Final = 4000
_INTERRUPT_EVERY_S: Final = 0.25
_OWED_MAX: Final = 1000
# The trigger needs a short lock of the flag table; services wait behind whoever waits for it.
_WATCH_RETRY_S: Final = 60.0
_TRIM_S: Final = 60.0

# Problems that say nothing of the store's setup: those rows and rollouts have them, not the connection.
_OF_ROLLOUT: Final = frozenset(
    {
        claims.ADOPTION_PENDING,
        claims.ADOPTION_REQUIRED,
        claims.LEDGER_MISSING,
        claims.RELEASED,
        flags.FLAG_AMBIGUOUS,
        flags.FLAG_MISSING,
        flags.FLAG_ROW_INVALID,
        flags.FLAG_WRITE_ALTERED,
        flags.PERCENTAGE_NOT_WHOLE,
        ownership.CONFLICT,
        ownership.FLAG_KILLED,
        LOCK_TIMEOUT,
    }
)
# Problems that the checks of `prepare` explain better than a SQLSTATE can.
_EXPLAINED: Final = frozenset({COLUMN_MISSING, PERMISSION_DENIED, TABLE_MISSING})
# With these the flags themselves may still be lowered, when it is only the bookkeeping that has them.
_OF_BOOKKEEPING: Final = _EXPLAINED | {DISK_FULL, STORE_ERROR, WRITE_REFUSED}


class PostgresFlagStore:
    """One database: its flag table and the bookkeeping beside it.

    Raising uses at most two connections; lowering has connections of its own, one of
    them kept open, so that nothing else can use them up. The constructor connects to
    nothing; it raises Problem(ConnectionInvalid). `on_call(operation, seconds)` is called after each operation.
    """

    def __init__(self, config: StoreConfig, on_call: OnCall = lambda _operation, _seconds: None) -> None:
        self.config = config
        self.on_call = on_call
        writer = parse_uri(config.writer_uri, "writer", config.access)
        self._owner = parse_uri(config.owner_uri, "owner", config.access) if config.owner_uri else None
        self._role = writer.role
        subject = config.table.subject(writer.role)
        self._writers = Connections(writer, subject, limit=2, keep=2)
        self._reverters = Connections(writer, subject, limit=4, keep=1)
        self._preparing = asyncio.Lock()
        self._ready = False
        self._failure: tuple[float, Problem | None] = (0.0, None)
        self._shape: inspection.Shape | None = None
        self._owed: dict[str, tuple[lowering.Owed, ...]] = {}
        self._watch_after_s = 0.0
        self._told_of_polling = False
        self._trim_at_s = 0.0

    @property
    def answers(self) -> bool:
        """Whether the server has answered when it was asked last; true before it was."""
        return self._writers.answers

    async def prepare(self) -> None:
        """Check that everything is there and permitted; raises Problem.

        Every method but `lower` and `release` does this before its first use and after an
        error. A flag table that does not exist yet is no problem here.
        """
        asked_at = asyncio.get_running_loop().time()
        async with self._preparing:
            if self._ready:
                return
            failed_at, problem = self._failure
            if problem is not None and failed_at >= asked_at:
                # Somebody tried while we waited. Hundreds of rollouts must not each wait for the same silent server.
                raise Problem(problem.reason, problem.message, stalled=problem.stalled)
            try:
                await self._prepare()
            except Problem as error:
                self._failure = (asyncio.get_running_loop().time(), error)
                raise
            self._ready = True

    async def check(self) -> None:
        """Do what `prepare` does, also when all was well before; raises Problem."""
        self._ready = False
        await self.prepare()

    @timed
    async def open(self, claim: Claim) -> Ledger:
        return await self._run(
            lambda connection: claims.open_ledger(connection, self.config.table, claim), crash=failpoints.CLAIM
        )

    @timed
    async def read(
        self, key: str, flags: Sequence[str], requests: Sequence[str] = (), *, progress: bool = False
    ) -> Snapshot:
        # What is asked goes out with its COMMIT, and is looked at when that is answered.
        asked = await self._run(
            lambda connection: self._ask(connection, key, flags, requests, progress=progress), read_only=True
        )
        return await self._snapshot(*asked)

    async def last_plan(self, key: str, uid: str) -> Mapping[str, Any] | None:
        """What the last good plan of this object was made of; None unless it holds the ledger row."""
        return await self._run(lambda connection: ledger.last_plan(connection, key, uid), read_only=True)

    @timed
    async def commit(self, change: Commit) -> Ledger:
        crash = failpoints.RAISE if change.after else failpoints.ANSWER if change.answered else failpoints.LEDGER
        return await self._run(lambda connection: self._commit(connection, change), crash=crash)

    @timed
    async def tell(self, key: str, why: Why) -> None:
        async def work(connection: Connection) -> None:
            now = await ledger.read(connection, key) or lowering.unknown(key)
            operation = audit.unnumbered_operation_id(key)
            await outbox.record(connection, now, operation=operation, changes=(), why=why)

        await self._run(work)

    @timed
    async def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> None:
        if checkpoints:
            await self._run(lambda connection: ledger.checkpoint(connection, checkpoints), crash=failpoints.CHECKPOINT)
            await self._trim_outbox()

    @timed
    async def lower(self, change: Lowering) -> Ledger:
        """Lower as told; Problem(RevertBlocked) and Problem(AuditDelayed) say what is left for the next call."""
        try:
            return await self._lower(change)
        except Problem as problem:
            self._ready = False
            if problem.reason == LOCK_TIMEOUT:
                return await self._lower_each(change)
            if problem.reason in _OF_BOOKKEEPING:
                return await self._lower_without_bookkeeping(change, problem)
            raise

    @timed
    async def observe(self, key: str, flags: Sequence[str]) -> None:
        if self._owed.get(key):
            # Those rows were lowered by the operator; what it owes the audit goes first.
            raise Problem(lowering.AUDIT_DELAYED, "the record of an earlier lowering still follows", stalled=False)
        await self._run(
            lambda connection: drift.observe(connection, self.config.table, key, flags), crash=failpoints.OBSERVE
        )

    @timed
    async def release(self, change: Lowering, uid: str) -> None:
        try:
            await self._release(change, uid)
        except Problem as problem:
            if problem.reason != TABLE_MISSING:
                raise
            # Rows that are gone with their table need not be lowered, and must not keep the object from its end.
            await self._release(replace(change, targets={}), uid)

    async def close(self) -> None:
        """Close all connections. What is running ends with its transaction."""
        await self._writers.close()
        await self._reverters.close()

    async def _prepare(self) -> None:
        problem = await self._writers.transaction(self._check_bookkeeping)
        if problem is not None and self._owner is not None and problem.reason != migrations.BOOKKEEPING_TOO_NEW:
            await migrations.install_as(self._owner)
            with contextlib.suppress(Problem):  # a service that asks the database can wait, a rollout need not
                await serving.serve_as(self._owner, self.config.table)
            problem = await self._writers.transaction(self._check_bookkeeping)
        if problem is not None:
            raise problem
        try:
            self._shape = await self._writers.transaction(self._inspect)
        except Problem as missing:
            if missing.reason != TABLE_MISSING:
                raise
            self._shape = None
        else:
            await self._watch()
        await self._reverters.warm()

    async def _watch(self) -> None:
        """Make the trigger that records changes by others, if the owner may; without it rows are polled."""
        table, now_s = self.config.table, asyncio.get_running_loop().time()
        if await self._writers.transaction(lambda connection: drift.is_watched(connection, table)):
            self._told_of_polling = False
            return
        outcome = "refused"
        if self._owner is not None:
            if now_s < self._watch_after_s:
                return
            self._watch_after_s = now_s + _WATCH_RETRY_S
            with contextlib.suppress(Problem):
                outcome = await drift.watch_as(self._owner, table)
        if outcome not in drift.WATCHED and not self._told_of_polling:
            self._told_of_polling = True
            statement = drift.watch_statement(table).strip()
            log.info("changes of %s by others are polled; to see them at once its owner may run: %s", table, statement)

    async def _run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        read_only: bool = False,
        crash: failpoints.Places | None = None,
    ) -> T:
        await self.prepare()
        try:
            mode: Final = "REPEATABLE READ READ ONLY" if read_only else "READ COMMITTED"
            return await self._writers.transaction(work, mode=mode, crash=crash)
        except Problem as problem:
            if problem.reason not in _OF_ROLLOUT:
                self._ready = False
            if problem.reason in _EXPLAINED:
                await self._explain()
            raise

    async def _explain(self) -> None:
        """Raise the Problem that the checks find, if they find one."""
        problem = await self._writers.transaction(self._check_bookkeeping)
        if problem is not None:
            raise problem
        await self._writers.transaction(self._inspect)

    async def _check_bookkeeping(self, connection: Connection) -> Problem | None:
        await inspection.check_writable(connection)
        return await migrations.check(connection, self._role)

    async def _inspect(self, connection: Connection) -> inspection.Shape:
        return await inspection.shape(connection, self.config.table, self._role)

    async def _ask(
        self, connection: Connection, key: str, names: Sequence[str], requests: Sequence[str], *, progress: bool
    ) -> tuple[Cursor, Cursor | None, Cursor | None, Cursor | None]:
        return (
            await ledger.select(connection, key),
            await flags.select(connection, self.config.table, names, lock=False) if names else None,
            await actions.select(connection, requests),
            await ledger.evidence(connection, key) if progress else None,
        )

    async def _snapshot(
        self, row: Cursor, listed: Cursor | None, answers: Cursor | None, stored: Cursor | None
    ) -> Snapshot:
        found = await ledger.selected(row)
        if found is None:
            raise Problem(claims.LEDGER_MISSING, "the rollout has no ledger row; it is opened again", stalled=False)
        rows = {} if listed is None else flags.exposures(await flags.rows(listed), self.config.table)
        measured = None if stored is None else await stored.fetchone()
        return Snapshot(found, rows, await actions.selected(answers), measured and (measured[0], measured[1]))

    async def _commit(self, connection: Connection, change: Commit) -> Ledger:
        if not change.before:
            return await commits.commit(connection, self.config, change, None)
        self._shape = self._shape or await self._inspect(connection)
        return await commits.commit(connection, self.config, change, self._shape)

    async def _trim_outbox(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._trim_at_s:
            self._trim_at_s = now_s + _TRIM_S
            await self._run(outbox.trim)

    async def _lower(
        self, change: Lowering, lock_timeout_ms: int = 1000, crash: failpoints.Places = failpoints.REVERT
    ) -> Ledger:
        owed = self._owed.get(change.key, ())
        after = await self._reverters.transaction(
            lambda connection: lowering.lower_all(connection, self.config, change, owed),
            lock_timeout_ms=lock_timeout_ms,
            crash=crash,
        )
        self._owed.pop(change.key, None)
        return after

    async def _lower_each(self, change: Lowering) -> Ledger:
        """One transaction for the latch, then one a flag: a locked row keeps no other from being lowered.

        What is locked then still is tried once more, while those who hold it are interrupted.
        """
        # That the row has acted, or a person's request was carried out, is written last: a process that comes after
        # this one must not take the rest for done.
        part = replace(change, severity=None, answered=())
        blocked = await self._blocked(replace(part, targets={}), ledger_is_locked=False)
        ledger_is_locked = bool(blocked)
        for flag, target in sorted(change.targets.items()):
            timeout_ms = _FLAG_LOCK_TIMEOUT_MS if len(blocked) <= _PATIENT_FLAGS else _IMPATIENT_LOCK_TIMEOUT_MS
            only = replace(part, targets={flag: target})
            blocked += await self._blocked(only, ledger_is_locked=ledger_is_locked, lock_timeout_ms=timeout_ms)
        try:
            if blocked:
                # Flags that were lowered without the ledger are not in it yet.
                again = change.targets if ledger_is_locked else {flag: change.targets[flag] for flag in blocked}
                await self._lower_by_force(replace(part, targets=again))
            return await self._lower(replace(change, targets={}, why=replace(change.why, verb="")))
        except Problem as problem:
            if problem.reason != LOCK_TIMEOUT:
                raise
        names = ", ".join(flag or "the ledger row" for flag in blocked) or "the ledger row"
        message = f"locked by another session: {names}; all other flags were lowered"
        raise Problem(lowering.REVERT_BLOCKED, message, stalled=False)

    async def _blocked(
        self, part: Lowering, *, ledger_is_locked: bool, lock_timeout_ms: int = _FLAG_LOCK_TIMEOUT_MS
    ) -> list[str]:
        """Lower this much; what is locked: the flags, and "" for the ledger row of a part that has none."""
        try:
            if ledger_is_locked:
                await self._lower_partly(part, lowering.Extent.NO_LEDGER, lock_timeout_ms)
            else:
                await self._lower(part, lock_timeout_ms, failpoints.FLAG if part.targets else failpoints.LATCH)
        except Problem as problem:
            if problem.reason != LOCK_TIMEOUT:
                raise
            return list(part.targets) or [""]
        return []

    async def _lower_by_force(self, change: Lowering) -> None:
        """Lower what is locked while those who keep it locked are interrupted, where the writer or the owner may."""
        done = blockers.Interruptions()
        # The audit is written when the locks are held: by then this list says who was in the way.
        evidence = {**change.why.evidence, "interrupted": done.told}
        told = replace(change, why=replace(change.why, evidence=evidence))
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def work(connection: Connection) -> Ledger:
            cursor = await connection.execute("SELECT pg_catalog.pg_backend_pid()")
            row = await cursor.fetchone()
            waiting.set_result(row[0] if row else 0)
            return await lowering.lower_all(connection, self.config, told, self._owed.get(change.key, ()))

        clearing = asyncio.create_task(self._clear_the_way(waiting, done))
        try:
            await self._reverters.transaction(work, lock_timeout_ms=_FORCED_LOCK_TIMEOUT_MS, crash=failpoints.FLAG)
            self._owed.pop(change.key, None)
        finally:
            clearing.cancel()
            await asyncio.wait([clearing])
            if done.told and change.on_interrupted is not None:
                whom = "; ".join(f"{t['application'] or 'unnamed'} of role {t['role']} ({t['was']})" for t in done.told)
                change.on_interrupted(f"Sessions that kept flags locked were interrupted to lower them: {whom}.")

    async def _clear_the_way(self, waiting: asyncio.Future[int], done: blockers.Interruptions) -> None:
        pid, loop = await waiting, asyncio.get_running_loop()

        def step(connection: Connection) -> Awaitable[bool]:
            return blockers.interrupt(connection, pid, done, loop.time())

        while True:
            with contextlib.suppress(Problem):
                if not await self._reverters.transaction(step) and self._owner is not None:
                    await self._as_owner(step)
            await asyncio.sleep(_INTERRUPT_EVERY_S)

    async def _as_owner(self, step: Callable[[Connection], Awaitable[bool]]) -> None:
        assert self._owner is not None  # noqa: S101 - the caller has looked
        owner = Connections(self._owner, self.config.table.subject(self._owner.role), limit=1, keep=0)
        await owner.transaction(step)

    async def _lower_without_bookkeeping(self, change: Lowering, problem: Problem) -> Ledger:
        """The flags alone, because less exposure now is worth more than a complete record."""
        try:
            owed = await self._lower_partly(change, lowering.Extent.FLAGS_ONLY)
        except Problem as error:
            if error.reason == TABLE_MISSING:
                # Without the table nobody has a flag from it: what is left is to keep the latch.
                return await self._lower(replace(change, targets={}))
            if problem.reason in _EXPLAINED:
                await self._explain()
            raise problem from None
        if owed.changes:
            self._owe(change.key, owed, problem)
        message = f"exposure was lowered, its record could not be written and follows: {problem.message}"
        raise Problem(lowering.AUDIT_DELAYED, message, stalled=False)

    def _owe(self, key: str, owed: lowering.Owed, problem: Problem) -> None:
        """Keep for the next lowering what the audit lacks. A process that ends takes it along: the log has it too."""
        debts = (*self._owed.get(key, ()), owed)
        changes = "; ".join(f"{one.flag}: {one.before} -> {one.after}" for one in owed.changes)
        log.warning(
            "the audit lacks %s until it can be written: %s", changes, problem, extra={"operation": owed.operation}
        )
        if len(debts) > _OWED_MAX:
            log.error("the audit will never have the oldest of %d changes", len(debts))
        self._owed[key] = debts[-_OWED_MAX:]

    async def _lower_partly(
        self, change: Lowering, extent: lowering.Extent, lock_timeout_ms: int = _FLAG_LOCK_TIMEOUT_MS
    ) -> lowering.Owed:
        return await self._reverters.transaction(
            lambda connection: lowering.lower_without_ledger(connection, self.config, change, extent),
            lock_timeout_ms=lock_timeout_ms,
            crash=failpoints.REVERT if extent is lowering.Extent.FLAGS_ONLY else failpoints.FLAG,
        )

    async def _release(self, change: Lowering, uid: str) -> None:
        async def work(connection: Connection) -> None:
            found = await ledger.found(await ledger.lock(connection, change.key))
            if found is None or found.closed or found.ledger.uid != uid:
                return
            after = await lowering.lower_all(connection, self.config, change, self._owed.get(change.key, ()))
            if after == found.ledger:
                # Also an end that changes no row is told.
                operation = audit.unnumbered_operation_id(change.key)
                await outbox.record(connection, after, operation=operation, changes=(), why=change.why)
            await ledger.close(connection, change.key)
            await ledger.drop_evidence(connection, change.key)
            await ownership.release(connection, change.key)

        await self._reverters.transaction(work, crash=failpoints.RELEASE)
        self._owed.pop(change.key, None)
