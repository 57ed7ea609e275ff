"""The Outbox of `ports` on PostgreSQL: who is to be told of what next, and that nobody else tells it meanwhile.

A lease is a time in a row, not a transaction that stays open: whoever hangs or dies keeps
a rollout's next transition back until its lease ends, and nothing else. All times are the
server's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_rollout import failpoints
from feature_rollout.connectionstring import parse_uri
from feature_rollout.ports import Backlog, Delivery, Transition
from feature_rollout.postgres import Connection
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.connections import Connections
from feature_rollout.store.values import jsonb, text

# Longer than the longest delivery; a process that dies keeps a rollout's next one back for so long.
LEASE_S: Final = 45.0
# A row is tried for so long after it was written.
GIVE_UP_HOURS: Final = 24
# A new recipient is told of this much of the past: a rollout of a new database begins before there is a table to
# register in, or while it is away.
PAST_MINUTES: Final = 10
# A sign of life of a recipient is given every so many minutes, and without one it keeps no row from being deleted.
_SIGN_OF_LIFE_MINUTES: Final = 10
_GONE_AFTER_MINUTES: Final = 60
_RELEASE: Final = "Release"

# The head of each rollout's line, of which one is taken. Fresh ones go first: what fails again and again keeps
# nothing else waiting.
_LEASE: Final = """
WITH head AS (
  SELECT DISTINCT ON (ledger_key) ledger_key, id FROM feature_rollout.waiting
  WHERE recipient = %(recipient)s ORDER BY ledger_key, id
), chosen AS (
  SELECT head.ledger_key FROM head
  LEFT JOIN feature_rollout.delivery d ON d.recipient = %(recipient)s AND d.ledger_key = head.ledger_key
  WHERE d.recipient IS NULL OR (d.leased_until <= clock_timestamp() AND d.due_at <= clock_timestamp())
  ORDER BY coalesce(d.attempts, 0) > 0, head.id LIMIT 1
)
INSERT INTO feature_rollout.delivery AS d (recipient, ledger_key, lease, leased_until)
SELECT %(recipient)s, chosen.ledger_key, %(lease)s, clock_timestamp() + make_interval(secs => %(seconds)s) FROM chosen
ON CONFLICT (recipient, ledger_key) DO UPDATE SET lease = EXCLUDED.lease, leased_until = EXCLUDED.leased_until
  WHERE d.leased_until <= clock_timestamp() AND d.due_at <= clock_timestamp()
RETURNING d.ledger_key, d.attempts, d.memory
"""
# Asked again under the lease: who had it before may have told the row that was seen.
_HEAD: Final = """
SELECT operation_id, id, at, ledger_key, kind, payload FROM feature_rollout.waiting
WHERE recipient = %(recipient)s AND ledger_key = %(key)s ORDER BY id LIMIT 1
"""
_REMEMBER: Final = """
UPDATE feature_rollout.delivery
SET memory = %(memory)s, leased_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE recipient = %(recipient)s AND ledger_key = %(key)s AND lease = %(lease)s RETURNING lease
"""
_FREE: Final = """
UPDATE feature_rollout.delivery
SET leased_until = '-infinity', attempts = 0, due_at = '-infinity', problem = '', memory = %(memory)s
WHERE recipient = %(recipient)s AND ledger_key = %(key)s AND lease = %(lease)s
"""
_FORGET: Final = """
DELETE FROM feature_rollout.delivery
WHERE recipient = %(recipient)s AND ledger_key = %(key)s AND lease = %(lease)s
"""
_FAILED: Final = """
UPDATE feature_rollout.delivery
SET attempts = attempts + 1, problem = %(problem)s, leased_until = '-infinity',
    due_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE recipient = %(recipient)s AND ledger_key = %(key)s AND lease = %(lease)s
"""
_TOLD: Final = """
UPDATE feature_rollout.outbox
SET told = array_append(told, %(recipient)s::text), given_up = given_up || %(given_up)s
WHERE id = %(id)s AND NOT %(recipient)s = ANY (told)
"""

_REGISTER: Final = """
INSERT INTO feature_rollout.recipient AS r (name, cluster, since)
VALUES (%(recipient)s, %(cluster)s, clock_timestamp() - make_interval(mins => %(past_minutes)s))
ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp()
  WHERE r.seen_at < clock_timestamp() - make_interval(mins => %(minutes)s)
"""
_LATE: Final = """
UPDATE feature_rollout.outbox o
SET told = array_append(o.told, late.recipient),
    given_up = o.given_up || jsonb_build_object(late.recipient, late.problem)
FROM (
  SELECT w.id, w.recipient, coalesce(nullif(d.problem, ''), 'it never was its turn') AS problem
  FROM feature_rollout.waiting w LEFT JOIN feature_rollout.delivery d USING (recipient, ledger_key)
  WHERE w.recipient = %(recipient)s AND w.at < clock_timestamp() - make_interval(hours => %(hours)s)
  ORDER BY w.id LIMIT 1000
) late
WHERE o.id = late.id AND NOT late.recipient = ANY (o.told)
RETURNING o.operation_id, o.ledger_key
"""
_FINISHED: Final = """
DELETE FROM feature_rollout.outbox o
WHERE o.told <> '{}' AND o.given_up = '{}' AND NOT EXISTS (
  SELECT FROM feature_rollout.waiting w
  WHERE w.id = o.id AND w.seen_at > clock_timestamp() - make_interval(mins => %(minutes)s))
"""
_BACKLOG: Final = """
SELECT (SELECT count(*) FROM feature_rollout.waiting WHERE recipient = %(recipient)s),
       (SELECT min(at) FROM feature_rollout.waiting WHERE recipient = %(recipient)s),
       (SELECT count(*) FROM feature_rollout.outbox WHERE given_up ? %(recipient)s)
"""
_BACKLOGS: Final = """
SELECT r.name, count(w.id), coalesce(extract(epoch FROM clock_timestamp() - min(w.at)), 0)::float8,
       (SELECT count(*) FROM feature_rollout.outbox o WHERE o.given_up ? r.name),
       coalesce(max(d.problem), '')
FROM feature_rollout.recipient r
LEFT JOIN feature_rollout.waiting w ON w.recipient = r.name
LEFT JOIN feature_rollout.delivery d ON d.recipient = r.name AND d.ledger_key = w.ledger_key AND d.problem <> ''
WHERE r.seen_at > clock_timestamp() - make_interval(mins => %(minutes)s)
GROUP BY r.name ORDER BY r.name
"""


@dataclass(frozen=True, slots=True)
class Untold:
    """What a recipient of any cluster waits for, how long it has, and one of the things that went wrong."""

    recipient: str
    waiting: int
    since_s: float
    given_up: int
    problem: str


async def backlogs(connection: Connection) -> list[Untold]:
    """Of every recipient that some operator is told to notify now; raises psycopg's errors."""
    rows = await _rows(connection, _BACKLOGS, {"minutes": _GONE_AFTER_MINUTES})
    return [Untold(*row) for row in rows]


class PostgresOutbox:
    """On a connection of its own, so that telling never keeps a flag from being written.

    `cluster` is the first part of the ledger keys whose transitions are told. The constructor
    connects to nothing; it raises Problem(ConnectionInvalid).
    """

    def __init__(self, config: StoreConfig, cluster: str, *, lease_s: float = LEASE_S) -> None:
        writer = parse_uri(config.writer_uri, "writer", config.access)
        self._connections = Connections(writer, config.table.subject(writer.role), limit=1, keep=1)
        self._cluster = text(cluster)
        self._lease_s = lease_s

    async def next(self, recipient: str) -> Delivery | None:
        lease = str(uuid.uuid4())
        asked = {"recipient": self._named(recipient), "lease": lease, "seconds": self._lease_s}

        async def work(connection: Connection) -> Delivery | None:
            leased = await _rows(connection, _LEASE, asked)
            if not leased:
                return None
            key, attempts, memory = leased[0]
            head = await _rows(connection, _HEAD, asked | {"key": key})
            if not head:
                await _execute(connection, _FREE, asked | {"key": key, "memory": jsonb(memory)})
                return None
            return Delivery(recipient, lease, Transition(*head[0]), attempts, memory)

        return await self._connections.transaction(work)

    async def remember(self, delivery: Delivery, memory: Mapping[str, Any]) -> bool:
        values = {**self._leased(delivery), "memory": jsonb(memory), "seconds": self._lease_s}
        return bool(await self._connections.transaction(lambda c: _rows(c, _REMEMBER, values)))

    async def told(self, delivery: Delivery, memory: Mapping[str, Any]) -> None:
        leased = self._leased(delivery)

        async def work(connection: Connection) -> None:
            await _execute(connection, _TOLD, leased | {"given_up": jsonb({})})
            if delivery.transition.kind == _RELEASE:
                # What is kept of the rollout goes with it.
                await _execute(connection, _FORGET, leased)
            else:
                await _execute(connection, _FREE, leased | {"memory": jsonb(memory)})

        await self._connections.transaction(work, crash=failpoints.DELIVERY)

    async def failed(self, delivery: Delivery, problem: str, retry_s: float) -> None:
        values = {**self._leased(delivery), "problem": text(problem), "seconds": retry_s}
        await self._connections.transaction(lambda c: _execute(c, _FAILED, values))

    async def give_up(self, delivery: Delivery, problem: str) -> None:
        leased = self._leased(delivery)

        async def work(connection: Connection) -> None:
            given_up = {leased["recipient"]: problem}
            await _execute(connection, _TOLD, leased | {"given_up": jsonb(given_up)})
            await _execute(connection, _FREE, leased | {"memory": jsonb(delivery.memory)})

        await self._connections.transaction(work)

    async def sweep(self, recipients: Sequence[str]) -> Sequence[tuple[str, str, str]]:
        async def work(connection: Connection) -> list[tuple[str, str, str]]:
            late = []
            registered = {"minutes": _SIGN_OF_LIFE_MINUTES, "past_minutes": PAST_MINUTES}
            for recipient in recipients:
                named = {"recipient": self._named(recipient), "cluster": self._cluster}
                await _execute(connection, _REGISTER, named | registered)
                rows = await _rows(connection, _LATE, named | {"hours": GIVE_UP_HOURS})
                late += [(recipient, operation, key) for operation, key in rows]
            await _execute(connection, _FINISHED, {"minutes": _GONE_AFTER_MINUTES})
            return late

        return await self._connections.transaction(work)

    async def backlog(self, recipient: str) -> Backlog:
        asked = {"recipient": self._named(recipient)}
        rows = await self._connections.transaction(
            lambda c: _rows(c, _BACKLOG, asked), mode="REPEATABLE READ READ ONLY"
        )
        return Backlog(*rows[0])

    async def close(self) -> None:
        await self._connections.close()

    def _named(self, recipient: str) -> str:
        """As it is called in the database, which operators of several clusters may share."""
        return f"{self._cluster}/{recipient}"

    def _leased(self, delivery: Delivery) -> dict[str, Any]:
        transition = delivery.transition
        recipient = self._named(delivery.recipient)
        return {"recipient": recipient, "key": transition.key, "lease": delivery.lease, "id": transition.number}


async def _rows(connection: Connection, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement.encode(), values)).fetchall()


async def _execute(connection: Connection, statement: str, values: Mapping[str, Any]) -> None:
    """Send it; how many rows it has changed is not known before the transaction's end."""
    await connection.execute(statement.encode(), values)
