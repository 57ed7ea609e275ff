"""Lowering exposure: what each row becomes, and what is still written when not everything can be.

Lowering needs no epoch and no preparation. When rows are locked it goes on a flag at a
time, when the ledger is locked without the ledger, and when the disk is full with the
flags alone; what was left out then follows with the next call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from feature_rollout.core import steps
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Lowering, Problem, Why
from feature_rollout.postgres import Connection, Cursor
from feature_rollout.store import actions, audit, drift, flags, inspection, ledger, outbox, ownership
from feature_rollout.store.config import StoreConfig

REVERT_BLOCKED: Final = "RevertBlocked"
AUDIT_DELAYED: Final = "AuditDelayed"


class Extent(Enum):
    """How much is written of a lowering that cannot be written whole."""

    NO_LEDGER = "flags and audit"
    FLAGS_ONLY = "flags"


@dataclass(frozen=True, slots=True)
class Owed:
    """Audit rows that could not be written with the change that they tell of."""

    operation: str
    changes: tuple[audit.Change, ...]
    why: Why


def lowered(row: Exposure, target: Exposure, *, exact: bool, scale: int | None) -> Exposure:
    """What a row becomes; never more than it was, also after the column's rounding."""
    after = target if exact and target.is_within(row) else row.meet(target)
    return after if after.percentage == row.percentage else _rounded(after, scale)


def _rounded(exposure: Exposure, scale: int | None) -> Exposure:
    return replace(exposure, percentage=flags.rounded_down(exposure.percentage, scale))


async def lock_flags(
    connection: Connection, config: StoreConfig, change: Lowering, key: str | None = None
) -> Cursor | None:
    """Lock the flags' rows, for `lower_flags`; with a ledger key but those that another rollout owns by now.

    They were given up and taken: they are not for this one to lower.
    """
    if not change.targets:
        return None
    await drift.sign(connection, audit.unnumbered_operation_id(change.key))
    return await flags.select(connection, config.table, change.targets, lock=True, key=key)


async def lower_flags(
    connection: Connection, config: StoreConfig, change: Lowering, locked: Cursor | None
) -> dict[str, audit.Change]:
    """Lower the locked rows; returns each flag that has a row, changed or not."""
    if locked is None:
        return {}
    targets = change.targets
    found: dict[str, list[flags.Row]] = {}
    for row in await flags.rows(locked):
        found.setdefault(row.name, []).append(row)
    # Whether a fraction fits is asked of the catalogue only when there is one.
    fraction = any(target.percentage % 1 for target in targets.values())
    scale = (await inspection.shape(connection, config.table, "")).percentage_scale if fraction else None
    writing = [
        await _lower_rows(connection, config, rows, (targets[flag], scale), exact=change.exact)
        for flag, rows in found.items()
    ]
    return {rows[0].name: await _written(rows, left) for rows, left in zip(found.values(), writing, strict=True)}


async def _lower_rows(
    connection: Connection,
    config: StoreConfig,
    rows: Sequence[flags.Row],
    to: tuple[Exposure, int | None],
    *,
    exact: bool,
) -> Cursor | None:
    """Lower all rows of one flag, of which there should be one, with one UPDATE; None where there is nothing to do."""
    target, scale = to
    before = [row.widest() for row in rows]
    exact = exact and all(target.is_within(row) for row in before)
    after = lowered(before[0], target, exact=exact, scale=scale)
    for row in before[1:]:
        after = after if exact else after.meet(row)
    columns: dict[str, object] = {}
    for row in before:
        columns |= flags.changed_columns(config.table, row, after)
    return await flags.write(connection, config.table, rows[0].name, columns) if columns else None


async def _written(rows: Sequence[flags.Row], written: Cursor | None) -> audit.Change:
    name, before = rows[0].name, rows[0].widest()
    if written is None:
        return audit.Change(name, before, before)
    left = await flags.rows(written)
    if len(left) != len(rows):
        raise Problem(flags.FLAG_WRITE_ALTERED, f"flag {name}: a trigger or policy dropped the update")
    return audit.Change(name, before, left[0].widest())


def changed(changes: Iterable[audit.Change]) -> tuple[audit.Change, ...]:
    return tuple(change for change in changes if change.before != change.after)


def next_ledger(now: Ledger, change: Lowering, found: Mapping[str, audit.Change]) -> Ledger:
    """The ledger after a lowering; equal to `now` when there is nothing to remember.

    A row that was lowered already counts as written by the operator when it is what the
    lowering makes of the row as the operator last left it: that is a change of which only
    the flags were written. Any other row was changed by somebody else and stays known as such.
    """
    written: dict[str, Exposure] = {}
    for flag, done in found.items():
        mine = flag in now.written and done.after == lowered(
            now.written[flag], change.targets[flag], exact=change.exact, scale=None
        )
        if done.before != done.after or mine:
            written[flag] = done.after
    after = steps.lowered(now, written, change.latch, change.severity)
    # A row that somebody raised, back where the ledger has it, leaves the ledger as it was: an operation all the same.
    return replace(after, sequence=now.sequence + 1) if after != now or changed(found.values()) else now


def unknown(key: str) -> Ledger:
    """Stands for a ledger row that there is not: flags are lowered by key without one too."""
    return Ledger(key=key, uid="", epoch=0, sequence=0, spec_hash="", plan_hash="")


async def _pay(connection: Connection, config: StoreConfig, now: Ledger, owed: Sequence[Owed]) -> None:
    """Write what is owed, but what an earlier COMMIT without an answer has written already."""
    paid = await audit.recorded(connection, [debt.operation for debt in owed])
    for debt in owed:
        if debt.operation not in paid:
            await _record(connection, config, now, debt)


async def _record(connection: Connection, config: StoreConfig, ledger: Ledger, done: Owed) -> None:
    operation, changes, why = done.operation, done.changes, done.why
    await audit.record(connection, config.table, ledger, operation=operation, changes=changes, why=why)
    await outbox.record(connection, ledger, operation=operation, changes=changes, why=why)


async def lower_all(connection: Connection, config: StoreConfig, change: Lowering, owed: Sequence[Owed]) -> Ledger:
    """Lower every flag, and write ledger, latch, audit and answers, in the transaction that is open.

    A request that was answered before is not carried out again: since then a new attempt may have begun.
    """
    ledger_row = await ledger.lock(connection, change.key)
    rows = await lock_flags(connection, config, change, change.key)
    locked = await ledger.found(ledger_row)
    if locked and not await actions.record(connection, change.key, change.answered):
        return locked.ledger
    now = locked.ledger if locked else unknown(change.key)
    found = await lower_flags(connection, config, change, rows)
    await _pay(connection, config, now, owed)
    await _account_for(connection, config, now, found)
    after = next_ledger(now, change, found) if locked else now
    if locked and after != now:
        await ledger.store(connection, after)
    if locked and after.latch != now.latch:
        await ownership.set_latch(connection, change.key, after.latch)
    done = changed(found.values())
    operation = after.operation if locked else audit.unnumbered_operation_id(change.key)
    if done or after != now:
        await _record(connection, config, after, Owed(operation, done, change.why))
    await audit.notify(connection, config.notify_channel, [one.flag for one in done], operation)
    return after


async def _account_for(
    connection: Connection, config: StoreConfig, now: Ledger, found: Mapping[str, audit.Change]
) -> None:
    """Record what somebody else has done to the rows before they were lowered; quick where they were as known."""
    changed_before = {
        flag: one.before for flag, one in found.items() if one.before != now.written.get(flag, one.before)
    }
    if changed_before:
        await drift.record(connection, config.table, now, changed_before)


async def lower_without_ledger(connection: Connection, config: StoreConfig, change: Lowering, extent: Extent) -> Owed:
    """Lower these flags without touching the ledger row; returns the audit that `extent` leaves out."""
    is_readable = extent is Extent.NO_LEDGER or await ownership.is_readable(connection)
    rows = await lock_flags(connection, config, change, change.key if is_readable else None)
    done = changed((await lower_flags(connection, config, change, rows)).values())
    operation = audit.unnumbered_operation_id(change.key)
    if extent is Extent.NO_LEDGER:
        now = await ledger.read(connection, change.key) or unknown(change.key)
        await _account_for(connection, config, now, {one.flag: one for one in done})
        if done:
            await _record(connection, config, now, Owed(operation, done, change.why))
        await audit.notify(connection, config.notify_channel, [one.flag for one in done], operation)
        done = ()
    return Owed(operation, done, change.why)
