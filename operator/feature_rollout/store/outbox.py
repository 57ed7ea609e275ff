"""What is still to be told of transitions, written in the transaction that makes them.

`deliveries` hands the rows out. Old ones go by themselves, so that nobody has to deliver anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from feature_rollout.core.state import Ledger
from feature_rollout.ports import Why
from feature_rollout.postgres import Connection
from feature_rollout.store.audit import Change
from feature_rollout.store.values import jsonb, text

ROWS_MAX: Final = 10_000
DAYS_MAX: Final = 30


async def record(
    connection: Connection, ledger: Ledger, *, operation: str, changes: Sequence[Change], why: Why
) -> None:
    """One row for a transition; nothing for a change whose `why` names no verb."""
    if not why.verb:
        return
    payload = {
        "rollout": ledger.key,
        "uid": ledger.uid,
        "generation": why.generation,
        "attempt": ledger.attempt,
        "stage": why.stage,
        "verb": why.verb,
        "reason": why.reason,
        "message": why.message,
        "actor": why.actor,
        "flags": {
            change.flag: {"before": change.before.to_json(), "after": change.after.to_json()} for change in changes
        },
    }
    await connection.execute(
        "INSERT INTO feature_rollout.outbox (operation_id, ledger_key, kind, payload) VALUES (%s, %s, %s, %s)",
        (operation, ledger.key, text(why.verb), jsonb(payload)),
    )


async def trim(connection: Connection) -> None:
    """Delete what nobody has come for. Not in a transaction that writes flags: two of these may wait for each other."""
    await connection.execute(
        "DELETE FROM feature_rollout.outbox WHERE at < clock_timestamp() - make_interval(days => %s) "
        "OR id <= (SELECT id FROM feature_rollout.outbox ORDER BY id DESC OFFSET %s LIMIT 1)",
        (DAYS_MAX, ROWS_MAX),
    )
