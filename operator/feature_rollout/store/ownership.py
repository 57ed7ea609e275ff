"""Who may change a flag: at most one rollout a flag, over all clusters on the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection, Cursor
from feature_rollout.store.config import TableMapping
from feature_rollout.store.values import jsonb, text

CONFLICT: Final = "Conflict"
FLAG_KILLED: Final = "FlagKilled"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the ownership rows of the claimed flags remember: the greatest epoch, and the latch under this spec hash."""

    epoch: int
    latch: Latch | None


async def lock(connection: Connection, table: TableMapping, flags: Iterable[str]) -> Cursor:
    """Lock the flags' ownership rows; for `claimable`.

    Rows are made and locked in the order of their names: two claims wait for each other,
    and never in a circle.
    """
    names = sorted(set(flags))
    await connection.execute(
        "INSERT INTO feature_rollout.ownership (table_schema, table_name, flag) "
        "SELECT %s, %s, flag FROM unnest(%s::text[]) WITH ORDINALITY AS f (flag, position) ORDER BY position "
        "ON CONFLICT DO NOTHING",
        (table.schema, table.table, names),
    )
    return await connection.execute(
        "SELECT flag, owner, epoch, latch, latched_spec_hash FROM feature_rollout.ownership "
        "WHERE table_schema = %s AND table_name = %s AND flag = ANY(%s::text[]) "
        'ORDER BY flag COLLATE "C" FOR UPDATE',
        (table.schema, table.table, names),
    )


async def claimable(locked: Cursor, key: str, spec_hash: str) -> Claimed:
    """What the locked rows remember; raises Problem(Conflict) when another rollout owns one."""
    rows = await locked.fetchall()
    taken = [(flag, owner) for flag, owner, *_ in rows if owner not in (None, key)]
    if taken:
        named = ", ".join(f"{flag} by {owner}" for flag, owner in taken)
        raise Problem(CONFLICT, f"owned by another rollout: {named}")
    latches = [Latch.from_json(latch) for *_, latch, latched in rows if latch and latched == spec_hash]
    epoch = max((row[2] for row in rows), default=0)
    return Claimed(epoch, max(latches, key=lambda latch: latch.gravity, default=None))


async def claim(connection: Connection, table: TableMapping, flags: Iterable[str], opened: Ledger) -> None:
    """Make the flags this rollout's, and remember its epoch with all that it owns: later owners start above it."""
    await connection.execute(
        "UPDATE feature_rollout.ownership SET owner = %(key)s, epoch = greatest(epoch, %(epoch)s), "
        "updated_at = clock_timestamp() WHERE owner = %(key)s "
        "OR (table_schema = %(schema)s AND table_name = %(table)s AND flag = ANY(%(flags)s::text[]))",
        {
            "key": opened.key,
            "epoch": opened.epoch,
            "schema": table.schema,
            "table": table.table,
            "flags": sorted(set(flags)),
        },
    )


async def set_latch(connection: Connection, key: str, latch: Latch | None) -> None:
    """Keep a rollout's latch with all of its flags, where it outlives the rollout; None clears it."""
    value = jsonb(latch.to_json()) if latch else None
    await connection.execute(
        "UPDATE feature_rollout.ownership SET latch = %(latch)s, latched_spec_hash = %(hash)s, "
        "updated_at = clock_timestamp() WHERE owner = %(key)s AND latch IS DISTINCT FROM %(latch)s::jsonb",
        {"latch": value, "hash": latch.spec_hash if latch else None, "key": key},
    )


async def of(connection: Connection, table: TableMapping, key: str, flags: Iterable[str]) -> Cursor:
    """Those of these flags that the rollout owns, and who keeps them off; for `check`."""
    return await connection.execute(
        "SELECT flag, CASE WHEN NOT killed ? 'lifted' THEN killed ->> 'by' END FROM feature_rollout.ownership "
        "WHERE table_schema = %s AND table_name = %s AND flag = ANY(%s::text[]) AND owner = %s ORDER BY flag",
        (table.schema, table.table, sorted(flags), key),
    )


async def check(owned: Cursor, changed: Collection[str], enabled: Collection[str]) -> None:
    """Raises Problem(Conflict) unless the rollout owns each of the changed flags.

    Problem(FlagKilled) when one of the enabled ones, which are off, is to stay so.
    """
    rows = await owned.fetchall()
    foreign = set(changed) - {flag for flag, _ in rows}
    if foreign:
        raise Problem(CONFLICT, f"not owned by this rollout: {', '.join(sorted(foreign))}")
    killed = [f"{flag} by {actor}" for flag, actor in rows if actor is not None and flag in enabled]
    if killed:
        message = (
            f"switched off with `featurerollout kill`: {', '.join(killed)}; `featurerollout kill --lift` ends that"
        )
        raise Problem(FLAG_KILLED, message)


async def hold(connection: Connection, table: TableMapping, flags: Iterable[str], *, actor: str, reason: str) -> None:
    """Keep these flags off, whoever owns them or comes to own them, until `lift`."""
    await connection.execute(
        "INSERT INTO feature_rollout.ownership (table_schema, table_name, flag, killed) "
        "SELECT %s, %s, flag, jsonb_build_object('by', %s::text, 'reason', %s::text, 'at', clock_timestamp()) "
        "FROM unnest(%s::text[]) WITH ORDINALITY AS f (flag, position) ORDER BY position "
        "ON CONFLICT (table_schema, table_name, flag) DO UPDATE SET killed = EXCLUDED.killed, "
        "updated_at = clock_timestamp() WHERE ownership.killed IS NULL OR ownership.killed ? 'lifted'",
        (table.schema, table.table, text(actor), text(reason), sorted(flags)),
    )


async def lift(
    connection: Connection, table: TableMapping, flags: Iterable[str], *, actor: str, reason: str
) -> list[str]:
    """Let these flags be enabled again; those that were held. Who has lifted it stays beside who has killed it."""
    cursor = await connection.execute(
        "UPDATE feature_rollout.ownership SET updated_at = clock_timestamp(), killed = killed || jsonb_build_object("
        "'lifted', jsonb_build_object('by', %s::text, 'reason', %s::text, 'at', clock_timestamp())) "
        "WHERE table_schema = %s AND table_name = %s AND flag = ANY(%s::text[]) "
        "AND killed IS NOT NULL AND NOT killed ? 'lifted' RETURNING flag",
        (text(actor), text(reason), table.schema, table.table, sorted(flags)),
    )
    return sorted(row[0] for row in await cursor.fetchall())


async def is_readable(connection: Connection) -> bool:
    """Whether there is anything to ask: flags are lowered without the bookkeeping too."""
    cursor = await connection.execute(
        "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'feature_rollout' AND c.relname = 'ownership'"
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def owned(connection: Connection, key: str) -> list[tuple[TableMapping, str]]:
    """The flags that a rollout owns and the tables they are in (columns unknown), locked for the transaction."""
    cursor = await connection.execute(
        "SELECT table_schema, table_name, flag FROM feature_rollout.ownership WHERE owner = %s "
        'ORDER BY table_schema, table_name, flag COLLATE "C" FOR UPDATE',
        (key,),
    )
    return [(TableMapping(schema, table), flag) for schema, table, flag in await cursor.fetchall()]


async def release(connection: Connection, key: str) -> None:
    """Give all flags of a rollout up; epoch and latch stay."""
    await connection.execute(
        "UPDATE feature_rollout.ownership SET owner = NULL, updated_at = clock_timestamp() WHERE owner = %s", (key,)
    )
