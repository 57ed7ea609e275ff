"""The audit of what was changed and why, and telling services that a flag changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from feature_rollout.core.exposure import Exposure, raises
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Why
from feature_rollout.postgres import Connection
from feature_rollout.store.config import TableMapping
from feature_rollout.store.values import jsonb, text

# PostgreSQL takes at most 8000 bytes in a notification.
_PAYLOAD_BYTES_MAX: Final = 7_000


@dataclass(frozen=True, slots=True)
class Change:
    """One flag's row before and after."""

    flag: str
    before: Exposure
    after: Exposure


def unnumbered_operation_id(key: str) -> str:
    """The name of a lowering that could not take a sequence from the ledger; unique too."""
    return f"{key}@{uuid.uuid4()}"


async def record(
    connection: Connection,
    table: TableMapping,
    ledger: Ledger,
    *,
    operation: str,
    changes: Sequence[Change],
    why: Why,
    kind: Literal["Manual", "Released"] | None = None,
) -> None:
    """One row a changed flag; `kind` is by default the direction in which the operator changed it."""
    if not changes:
        return
    await connection.execute(
        "INSERT INTO feature_rollout.audit (operation_id, ledger_key, table_schema, table_name, flag, before, after, "
        "kind, actor, epoch, uid, generation, stage, reason, message, evidence) "
        "SELECT %s, %s, %s, %s, c.flag, c.before, c.after, c.kind, %s, %s, %s, %s, %s, %s, %s, %s "
        "FROM unnest(%s::text[], %s::jsonb[], %s::jsonb[], %s::text[]) WITH ORDINALITY "
        "AS c (flag, before, after, kind, position) ORDER BY position",
        (
            operation,
            ledger.key,
            table.schema,
            table.table,
            text(why.actor),
            ledger.epoch,
            ledger.uid,
            why.generation,
            text(why.stage),
            why.reason,
            text(why.message),
            jsonb(why.evidence),
            [change.flag for change in changes],
            [jsonb(change.before.to_json()) for change in changes],
            [jsonb(change.after.to_json()) for change in changes],
            [kind or ("Raise" if raises(change.before, change.after) else "Lower") for change in changes],
        ),
    )


async def recorded(connection: Connection, operations: Sequence[str]) -> set[str]:
    """Those of these operations that the audit has already."""
    if not operations:
        return set()
    cursor = await connection.execute(
        "SELECT DISTINCT operation_id FROM feature_rollout.audit WHERE operation_id = ANY(%s::text[])",
        (list(operations),),
    )
    return {row[0] for row in await cursor.fetchall()}


async def notify(connection: Connection, channel: str | None, flags: Sequence[str], operation: str) -> None:
    """Tell the channel's listeners at the commit which flags changed: `{"flags": […], "operation": …}`."""
    if not channel:
        return
    rest = list(flags)
    while rest:
        size = len(rest)
        while size > 1 and len(_payload(rest[:size], operation)) > _PAYLOAD_BYTES_MAX:
            size = (size + 1) // 2
        await connection.execute("SELECT pg_notify(%s, %s)", (channel, _payload(rest[:size], operation).decode()))
        del rest[:size]


def _payload(flags: Sequence[str], operation: str) -> bytes:
    return json.dumps({"flags": flags, "operation": operation}, ensure_ascii=False).encode()
