"""What became of people's requests, once by the UID of each, in the transaction that carries them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feature_rollout.core.people import Answer, Answered, Outcome
from feature_rollout.ports import Recorded
from feature_rollout.postgres import Connection, Cursor
from feature_rollout.store.values import text


async def record(connection: Connection, key: str, answered: Sequence[Answered]) -> bool:
    """Write the answers; False when one of them was written before, and then the transaction must change nothing."""
    for one in answered:
        request, answer = one.request, one.answer
        cursor = await connection.execute(
            "INSERT INTO feature_rollout.action "
            "(uid, ledger_key, type, requested_by, why, outcome, reason, message, at) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (uid) DO NOTHING RETURNING uid",
            (
                request.uid,
                key,
                str(request.type),
                text(request.requested_by),
                text(request.reason),
                str(answer.outcome),
                answer.reason,
                text(answer.message),
                one.at,
            ),
        )
        if await cursor.fetchone() is None:
            return False
    return True


async def select(connection: Connection, uids: Sequence[str]) -> Cursor | None:
    """The final answers to those of these requests that have one; for `selected`."""
    if not uids:
        return None
    return await connection.execute(
        "SELECT uid, outcome, reason, message, at FROM feature_rollout.action WHERE uid = ANY(%s::text[])",
        (list(uids),),
    )


async def selected(cursor: Cursor | None) -> Mapping[str, Recorded]:
    if cursor is None:
        return {}
    return {
        uid: Recorded(Answer(Outcome(outcome), reason, message), at)
        for uid, outcome, reason, message, at in await cursor.fetchall()
    }
