"""Sessions that keep a lowering waiting for a lock: cancelled, or ended when they are idle, where the role may.

What is told of them is the application's name and the role; their statements may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from feature_rollout.postgres import APPLICATION_NAME, Connection

# A session that does something ends its transaction at once when it is cancelled; one that is idle takes no notice.
_NOTICE_S: Final = 0.5


@dataclass(slots=True)
class Interruptions:
    """What was done so far: `told` as the audit has it, and when each session was cancelled first, by process id."""

    told: list[dict[str, str]] = field(default_factory=list)
    cancelled_at_s: dict[int, float] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


async def interrupt(connection: Connection, waiting_pid: int, done: Interruptions, now_s: float) -> bool:
    """One step against whoever that process waits for; whether there was anybody whom this role may interrupt.

    Never a superuser's session, nor one of the operator, which ends by its own time-outs.
    The state of other roles' sessions is seen by members of pg_read_all_stats only.
    """
    cursor = await connection.execute(
        """
        SELECT a.pid, a.usename::text, a.application_name, coalesce(a.state, '')
        FROM unnest(pg_catalog.pg_blocking_pids(%s)) AS b (pid)
        JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
        JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        WHERE NOT r.rolsuper AND coalesce(a.backend_type, 'client backend') = 'client backend'
          AND a.application_name <> %s
          AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
        """,
        (waiting_pid, APPLICATION_NAME),
    )
    sessions = await cursor.fetchall()
    for pid, role, application, state in sessions:
        since = done.cancelled_at_s.setdefault(pid, now_s)
        if since == now_s:
            # Told first: the lowering goes on, and writes its audit, at the moment in which the lock is given up.
            done.told.append({"application": application, "role": role, "was": "cancelled"})
            await connection.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (pid,))
        elif state.startswith("idle in transaction") and now_s - since >= _NOTICE_S and pid not in done.ended:
            done.ended.add(pid)
            done.told.append({"application": application, "role": role, "was": "ended"})
            await connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", (pid,))
    return bool(sessions)
