"""The fenced transaction: flags, ledger, audit and outbox together, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from feature_rollout.core.exposure import Exposure, format_percentage
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Drifted, Fenced, Problem
from feature_rollout.postgres import Connection, Cursor
from feature_rollout.store import actions, audit, drift, flags, inspection, ledger, outbox, ownership
from feature_rollout.store.config import StoreConfig, TableMapping


async def commit(connection: Connection, config: StoreConfig, change: Commit, shape: inspection.Shape | None) -> Ledger:
    """Write the change in the transaction that is open; raises Fenced, Drifted or Problem.

    `shape` is None when no flag is named.
    """
    after = replace(change.ledger, sequence=change.ledger.sequence + 1)
    advanced = await ledger.advance(connection, change.ledger)
    await ownership.set_latch(connection, after.key, after.latch)
    operation = after.operation
    if shape is None:
        await _check_fence(connection, change, advanced)
        await outbox.record(connection, after, operation=operation, changes=(), why=change.why)
        return after
    done = [
        audit.Change(flag, change.before[flag], change.after[flag])
        for flag in sorted(change.after)
        if change.after[flag] != change.before[flag]
    ]
    locked = await flags.select(connection, config.table, change.before, lock=True)
    # Behind the lock, which a kill holds until it is committed.
    owned = await ownership.of(connection, config.table, after.key, [one.flag for one in done])
    await drift.sign(connection, operation)
    await _check_fence(connection, change, advanced)
    await _check_before(connection, config.table, change.before, locked)
    await _lift(connection, config, done)
    enabled = [one.flag for one in done if one.after.enabled and not one.before.enabled]
    await ownership.check(owned, [one.flag for one in done], enabled)
    written = [await _write(connection, config.table, one, shape) for one in done]
    for one, left in zip(done, written, strict=True):
        await _check_written(config.table, one, left)
    await audit.record(connection, config.table, after, operation=operation, changes=done, why=change.why)
    await outbox.record(connection, after, operation=operation, changes=done, why=change.why)
    await audit.notify(connection, config.notify_channel, [one.flag for one in done], operation)
    return after


async def _check_fence(connection: Connection, change: Commit, advanced: Cursor) -> None:
    key, epoch, sequence = change.ledger.key, change.ledger.epoch, change.ledger.sequence
    if await advanced.fetchone() is None:
        raise Fenced(f"{key} is not under epoch {epoch}, sequence {sequence}")
    if not await actions.record(connection, key, change.answered):
        raise Fenced(f"a request of {key} was answered before")


async def _lift(connection: Connection, config: StoreConfig, done: Sequence[audit.Change]) -> None:
    """A killed flag stays off. One that is on again was enabled by a person, who has lifted it by that."""
    enabled = [one.flag for one in done if one.before.enabled]
    if enabled:
        reason = "the row was enabled by hand"
        await ownership.lift(connection, config.table, enabled, actor="unknown", reason=reason)


async def _check_before(
    connection: Connection, table: TableMapping, before: Mapping[str, Exposure], locked: Cursor
) -> None:
    """Compare the locked rows with what the change was decided on."""
    rows = flags.exposures(await flags.rows(locked), table)
    missing = sorted(before.keys() - rows.keys())
    if missing:
        hint = await inspection.hidden_rows_hint(connection, table)
        raise Problem(flags.FLAG_MISSING, f"no row in {table} for {', '.join(missing)}{hint}")
    drifted = sorted(flag for flag, row in rows.items() if row != before[flag])
    if drifted:
        raise Drifted(f"changed by somebody else: {', '.join(drifted)}")


async def _write(connection: Connection, table: TableMapping, change: audit.Change, shape: inspection.Shape) -> Cursor:
    after = change.after
    if flags.rounded_down(after.percentage, shape.percentage_scale) != after.percentage:
        places = f"{shape.percentage_scale} decimal places" if shape.percentage_scale else "whole numbers"
        wanted = format_percentage(after.percentage)
        message = f"flag {change.flag}: {wanted} % does not fit column {table.percentage}, which holds {places}"
        raise Problem(flags.PERCENTAGE_NOT_WHOLE, message)
    return await flags.write(connection, table, change.flag, flags.changed_columns(table, change.before, after))


async def _check_written(table: TableMapping, change: audit.Change, written: Cursor) -> None:
    left = await flags.rows(written)
    if len(left) != 1 or left[0].exposure(table) != change.after:
        message = f"flag {change.flag}: a trigger, policy or type made something else of the update; it was undone"
        raise Problem(flags.FLAG_WRITE_ALTERED, message)
