"""The ledger row of a rollout, and the evidence beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import sql

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.people import People
from feature_rollout.core.plan import Severity
from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import Checkpoint, Claim
from feature_rollout.postgres import Connection, Cursor
from feature_rollout.store.values import jsonb

# A rollout whose writer gave no sign of life for so long may be adopted by a recreated object.
SILENT_AFTER_S: Final = 120


@dataclass(frozen=True, slots=True)
class Found:
    """A locked ledger row: `silent` when its writer was not heard of for two minutes."""

    ledger: Ledger
    closed: bool
    silent: bool


_COLUMNS: Final = sql.SQL(
    "key, uid, epoch, sequence, spec_hash, plan_hash, attempt, stage, entered_at, baked_s, "
    "executed, baseline, written, latch, acted, completed_at, people"
)
_PROGRESS: Final = sql.SQL(
    "spec_hash = %(spec_hash)s, plan_hash = %(plan_hash)s, attempt = %(attempt)s, stage = %(stage)s, "
    "entered_at = %(entered_at)s, baked_s = %(baked_s)s, executed = %(executed)s, baseline = %(baseline)s, "
    "written = %(written)s, latch = %(latch)s, acted = %(acted)s, completed_at = %(completed_at)s, "
    "people = %(people)s, updated_at = clock_timestamp()"
)
_SELECT: Final = sql.SQL("SELECT {} FROM feature_rollout.ledger WHERE key = %s").format(_COLUMNS).as_bytes()
_LOCK: Final = (
    sql.SQL(
        "SELECT {}, closed_at IS NOT NULL, updated_at < clock_timestamp() - make_interval(secs => %s) "
        "FROM feature_rollout.ledger WHERE key = %s FOR UPDATE"
    )
    .format(_COLUMNS)
    .as_bytes()
)
_STORE: Final = (
    sql.SQL(
        "UPDATE feature_rollout.ledger SET uid = %(uid)s, epoch = %(epoch)s, sequence = %(sequence)s, {} "
        "WHERE key = %(key)s"
    )
    .format(_PROGRESS)
    .as_bytes()
)
_REOPEN: Final = (
    sql.SQL(
        "UPDATE feature_rollout.ledger SET uid = %(uid)s, epoch = %(epoch)s, sequence = %(sequence)s, {}, "
        "on_delete = %(on_delete)s, closed_at = NULL, "
        "opened_at = CASE WHEN closed_at IS NULL THEN opened_at ELSE clock_timestamp() END WHERE key = %(key)s"
    )
    .format(_PROGRESS)
    .as_bytes()
)
_ADVANCE: Final = (
    sql.SQL(
        "UPDATE feature_rollout.ledger SET sequence = sequence + 1, {} WHERE key = %(key)s AND epoch = %(epoch)s "
        "AND sequence = %(sequence)s AND closed_at IS NULL RETURNING sequence"
    )
    .format(_PROGRESS)
    .as_bytes()
)


async def select(connection: Connection, key: str) -> Cursor:
    """The row; for `selected`."""
    return await connection.execute(_SELECT, (key,))


async def selected(cursor: Cursor) -> Ledger | None:
    row = await cursor.fetchone()
    return None if row is None else _ledger(row)


async def read(connection: Connection, key: str) -> Ledger | None:
    return await selected(await select(connection, key))


async def insert(connection: Connection, claim: Claim) -> Cursor:
    """Make the row of a claim, with epoch 0, unless there is one with its key; one row when it was made."""
    return await connection.execute(
        "INSERT INTO feature_rollout.ledger (key, uid, epoch, sequence, spec_hash, plan_hash, on_delete) "
        "VALUES (%s, %s, 0, 0, %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING key",
        (claim.key, claim.uid, claim.spec_hash, claim.plan_hash, str(claim.on_delete)),
    )


async def lock(connection: Connection, key: str) -> Cursor:
    """The row, locked for the transaction; for `found`."""
    return await connection.execute(_LOCK, (SILENT_AFTER_S, key))


async def found(cursor: Cursor) -> Found | None:
    row = await cursor.fetchone()
    return None if row is None else Found(_ledger(row[:-2]), row[-2], row[-1])


async def store(connection: Connection, ledger: Ledger) -> None:
    """Write everything of a row that this transaction holds locked."""
    await connection.execute(_STORE, _values(ledger))


async def reopen(connection: Connection, ledger: Ledger, claim: Claim) -> None:
    """Write everything of a row that this transaction holds locked, and that it is open for this claim."""
    await connection.execute(_REOPEN, {**_values(ledger), "on_delete": str(claim.on_delete)})


async def advance(connection: Connection, ledger: Ledger) -> Cursor:
    """Write the row under the fence and take the next sequence; no row when the fence does not hold."""
    return await connection.execute(_ADVANCE, _values(ledger))


async def close(connection: Connection, key: str) -> None:
    await connection.execute(
        "UPDATE feature_rollout.ledger SET closed_at = clock_timestamp(), updated_at = clock_timestamp() "
        "WHERE key = %s",
        (key,),
    )


async def keep_plan(connection: Connection, claim: Claim) -> None:
    """Keep what the claim's plan was made of; nothing is written when it is kept already."""
    if claim.made_of is None:
        return
    await connection.execute(
        "INSERT INTO feature_rollout.plan AS p (key, uid, made_of) VALUES (%s, %s, %s) "
        "ON CONFLICT (key) DO UPDATE SET uid = EXCLUDED.uid, made_of = EXCLUDED.made_of, "
        "updated_at = clock_timestamp() WHERE (p.uid, p.made_of) IS DISTINCT FROM (EXCLUDED.uid, EXCLUDED.made_of)",
        (claim.key, claim.uid, jsonb(claim.made_of)),
    )


async def last_plan(connection: Connection, key: str, uid: str) -> Mapping[str, Any] | None:
    """What the last good plan of that object was made of; None when it is not the one that holds the ledger row."""
    cursor = await connection.execute(
        "SELECT p.made_of FROM feature_rollout.plan p JOIN feature_rollout.ledger l USING (key, uid) "
        "WHERE key = %s AND uid = %s AND l.closed_at IS NULL",
        (key, uid),
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def evidence(connection: Connection, key: str) -> Cursor:
    """The last checkpoint: the attempt that it belongs to, and what was stored."""
    return await connection.execute("SELECT attempt, state FROM feature_rollout.evidence WHERE key = %s", (key,))


async def drop_evidence(connection: Connection, key: str) -> None:
    await connection.execute("DELETE FROM feature_rollout.evidence WHERE key = %s", (key,))


async def checkpoint(connection: Connection, checkpoints: Sequence[Checkpoint]) -> None:
    """Baked time and evidence of many rollouts in one statement; those under an old epoch, attempt or stage drop out.

    The rows are locked in the order of their keys first, so that two leaders cannot
    block each other.
    """
    await connection.execute(
        """
        WITH given AS (
          SELECT * FROM unnest(%s::text[], %s::bigint[], %s::integer[], %s::integer[], %s::double precision[],
                               %s::jsonb[]) AS g (key, epoch, attempt, stage, baked_s, state)
        ), current AS (
          SELECT g.* FROM feature_rollout.ledger l JOIN given g USING (key)
          WHERE l.epoch = g.epoch AND l.attempt = g.attempt AND l.stage = coalesce(g.stage, l.stage)
            AND l.closed_at IS NULL
          ORDER BY l.key FOR UPDATE OF l
        ), baked AS (
          UPDATE feature_rollout.ledger l SET baked_s = c.baked_s, updated_at = clock_timestamp()
          FROM current c WHERE l.key = c.key
          RETURNING c.key, c.epoch, c.attempt, c.state
        )
        INSERT INTO feature_rollout.evidence (key, epoch, attempt, state, updated_at)
        SELECT key, epoch, attempt, state, clock_timestamp() FROM baked
        ON CONFLICT (key) DO UPDATE SET epoch = EXCLUDED.epoch, attempt = EXCLUDED.attempt,
          state = EXCLUDED.state, updated_at = EXCLUDED.updated_at
        """,
        (
            [c.key for c in checkpoints],
            [c.epoch for c in checkpoints],
            [c.attempt for c in checkpoints],
            [c.stage for c in checkpoints],
            [c.baked.total_seconds() for c in checkpoints],
            [jsonb(c.progress) for c in checkpoints],
        ),
    )


def _values(ledger: Ledger) -> dict[str, object]:
    return {
        "key": ledger.key,
        "uid": ledger.uid,
        "epoch": ledger.epoch,
        "sequence": ledger.sequence,
        "spec_hash": ledger.spec_hash,
        "plan_hash": ledger.plan_hash,
        "attempt": ledger.attempt,
        "stage": ledger.stage,
        "entered_at": ledger.entered_at,
        "baked_s": ledger.baked.total_seconds(),
        "executed": jsonb(list(ledger.executed)),
        "baseline": jsonb(_to_json(ledger.baseline)),
        "written": jsonb(_to_json(ledger.written)),
        "latch": jsonb(ledger.latch.to_json()) if ledger.latch else None,
        "acted": [str(severity) for severity in sorted(ledger.acted)],
        "completed_at": ledger.completed_at,
        "people": jsonb(ledger.people.to_json()),
    }


def _ledger(row: Sequence[Any]) -> Ledger:
    (key, uid, epoch, sequence, spec_hash, plan_hash, attempt, stage, entered_at, baked_s,
     executed, baseline, written, latch, acted, completed_at, people) = row  # fmt: skip
    return Ledger(
        key=key,
        uid=uid,
        epoch=epoch,
        sequence=sequence,
        spec_hash=spec_hash,
        plan_hash=plan_hash,
        attempt=attempt,
        stage=stage,
        entered_at=_utc(entered_at),
        baked=timedelta(seconds=baked_s),
        executed=tuple(executed),
        baseline=_from_json(baseline),
        written=_from_json(written),
        latch=Latch.from_json(latch) if latch else None,
        acted=frozenset(Severity.parse(name) for name in acted),
        completed_at=_utc(completed_at),
        people=People.from_json(people),
    )


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)


def _to_json(rows: Mapping[str, Exposure]) -> dict[str, Any]:
    return {flag: row.to_json() for flag, row in rows.items()}


def _from_json(rows: Mapping[str, Any]) -> dict[str, Exposure]:
    return {flag: Exposure.from_json(row) for flag, row in rows.items()}
