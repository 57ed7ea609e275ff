"""The fenced transaction: flags, ledger, audit and outbox together, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feature_rollout.core.exposure import Exposure, format_percentage
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Drifted, Fenced, Problem
from feature_rollout.postgres import Connection
from feature_rollout.store import actions, audit, drift, flags, inspection, ledger, outbox, ownership
from feature_rollout.store.config import StoreConfig, TableMapping


async def commit(connection: Connection, config: StoreConfig, change: Commit, shape: inspection.Shape | None) -> Ledger:
    """Write the change in the transaction that is open; raises Fenced, Drifted or Problem.

    `shape` is None when no flag is named.
    """
    after = await ledger.advance(connection, change)
    if after is None:
        raise Fenced(f"{change.ledger.key} is not under epoch {change.ledger.epoch}, sequence {change.ledger.sequence}")
    if not await actions.record(connection, after.key, change.answered):
        raise Fenced(f"a request of {after.key} was answered before")
    await ownership.set_latch(connection, after.key, after.latch)
    operation = audit.operation_id(after)
    if shape is None:
        await outbox.record(connection, after, operation=operation, changes=(), why=change.why)
        return after
    await _check_before(connection, config.table, change.before)
    done = [
        audit.Change(flag, change.before[flag], change.after[flag])
        for flag in sorted(change.after)
        if change.after[flag] != change.before[flag]
    ]
    await ownership.check(connection, config.table, after.key, (one.flag for one in done))
    await _check_killed(connection, config, done)
    await drift.sign(connection, operation)
    for one in done:
        await _write(connection, config.table, one, shape)
    await audit.record(connection, config.table, after, operation=operation, changes=done, why=change.why)
    await outbox.record(connection, after, operation=operation, changes=done, why=change.why)
    await audit.notify(connection, config.notify_channel, [one.flag for one in done], operation)
    return after


async def _check_killed(connection: Connection, config: StoreConfig, done: Sequence[audit.Change]) -> None:
    """A killed flag stays off. One that is on again was enabled by a person, who has lifted it by that."""
    enabled = [one.flag for one in done if one.before.enabled]
    if enabled:
        reason = "the row was enabled by hand"
        await ownership.lift(connection, config.table, enabled, actor="unknown", reason=reason)
    raised = [one.flag for one in done if one.after.enabled and not one.before.enabled]
    if raised:
        await ownership.check_killed(connection, config.table, raised)


async def _check_before(connection: Connection, table: TableMapping, before: Mapping[str, Exposure]) -> None:
    """Lock the rows and compare them with what the change was decided on."""
    rows = flags.exposures(await flags.fetch(connection, table, before, lock=True), table)
    missing = sorted(before.keys() - rows.keys())
    if missing:
        hint = await inspection.hidden_rows_hint(connection, table)
        raise Problem(flags.FLAG_MISSING, f"no row in {table} for {', '.join(missing)}{hint}")
    drifted = sorted(flag for flag, row in rows.items() if row != before[flag])
    if drifted:
        raise Drifted(f"changed by somebody else: {', '.join(drifted)}")


async def _write(connection: Connection, table: TableMapping, change: audit.Change, shape: inspection.Shape) -> None:
    after = change.after
    if flags.rounded_down(after.percentage, shape.percentage_scale) != after.percentage:
        places = f"{shape.percentage_scale} decimal places" if shape.percentage_scale else "whole numbers"
        wanted = format_percentage(after.percentage)
        message = f"flag {change.flag}: {wanted} % does not fit column {table.percentage}, which holds {places}"
        raise Problem(flags.PERCENTAGE_NOT_WHOLE, message)
    columns = flags.changed_columns(table, change.before, after)
    left = await flags.write(connection, table, change.flag, columns)
    if len(left) != 1 or left[0].exposure(table) != after:
        message = f"flag {change.flag}: a trigger, policy or type made something else of the update; it was undone"
        raise Problem(flags.FLAG_WRITE_ALTERED, message)
