"""What a role may do with a database: whether it is enough, and no more.

Read from the catalogue as that role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from feature_rollout.postgres import Connection, quoted
from feature_rollout.store.config import TableMapping
from feature_rollout.store.findings import Finding, Result, error, fetch, fetch_row, ok, warning

_NAMED_MAX: Final = 5
# Groups of PostgreSQL's own whose members reach beyond tables.
_POWERFUL: Final = [
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_maintain",
]
_NOT_SYSTEM: Final = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


async def can_create_schema(connection: Connection, role: str) -> Finding:
    check = "owner: schema"
    owns = await fetch(
        connection,
        "SELECT pg_has_role(n.nspowner, 'USAGE'), pg_get_userbyid(n.nspowner) "
        "FROM pg_catalog.pg_namespace n WHERE n.nspname = 'feature_rollout'",
    )
    if owns:
        if owns[0][0]:
            return ok(check, "owns the schema feature_rollout")
        message = f"the schema feature_rollout belongs to {owns[0][1]}: GRANT {quoted(owns[0][1])} TO {quoted(role)}"
        return error(check, f"{message}, or log in as that role")
    row = await fetch_row(connection, "SELECT has_database_privilege(current_database(), 'CREATE'), current_database()")
    if row[0]:
        return ok(check, "may create the schema feature_rollout")
    grant = f"GRANT CREATE ON DATABASE {quoted(row[1])} TO {quoted(role)}"
    return error(check, f"role {role} may not create the schema feature_rollout: {grant}")


SUPERUSER: Final = "superuser"


async def powers(connection: Connection) -> list[str]:
    """What the role may do beyond tables; only the first matters when it is a superuser."""
    row = await fetch_row(
        connection,
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication "
        "FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    if row[0]:
        return [SUPERUSER]
    names = ("BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION")
    held = [name for name, has in zip(names, row[1:], strict=True) if has]
    groups = await fetch(
        connection,
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s::text[]) AND pg_has_role(oid, 'MEMBER')",
        _POWERFUL,
    )
    return [*held, *(f"member of {name}" for (name,) in groups)]


def excessive(check: str, excess: Sequence[str], role: str) -> Finding:
    """For a reader this is an error: metric SQL is written by tenants. For the others it is carelessness."""
    if excess[0] == SUPERUSER:
        mended = f"ALTER ROLE {quoted(role)} NOSUPERUSER, or use a role of its own"
    else:
        revokes = [f"REVOKE {quoted(e.removeprefix('member of '))} FROM {quoted(role)}" for e in excess if " of " in e]
        attributes = [f"NO{power}" for power in excess if power.isupper()]
        alters = [f"ALTER ROLE {quoted(role)} {' '.join(attributes)}"] if attributes else []
        mended = "; ".join([*alters, *revokes])
    if any(power.startswith("the same") for power in excess):
        mended = "create a role of its own for each"
    result = Result.ERROR if check.startswith("reader") else Result.WARNING
    return Finding(check, result, f"role {role} is or has more than it needs, {', '.join(excess)}: {mended}")


async def may_interrupt(connection: Connection, role: str) -> Finding:
    """Whether sessions whose locks block a revert can be interrupted. To grant it is a choice, not a duty."""
    row = await fetch_row(
        connection, "SELECT pg_has_role('pg_signal_backend', 'USAGE'), pg_has_role('pg_read_all_stats', 'USAGE')"
    )
    missing = [name for name, has in zip(("pg_signal_backend", "pg_read_all_stats"), row, strict=True) if not has]
    check = "writer: blocked reverts"
    if not missing:
        return ok(check, "sessions that block a revert are interrupted, but those of superusers")
    grant = f"GRANT {', '.join(missing)} TO {quoted(role)}"
    return ok(check, f"sessions of other roles that block a revert are not interrupted; to allow it: {grant}")


async def too_much(connection: Connection, table: TableMapping, role: str) -> Finding:
    """What the writer may do beyond changing the mapped columns."""
    check = "writer: rights"
    # That one is offered in the documentation, for reverts that are kept waiting.
    beyond = [power for power in await powers(connection) if power != "member of pg_signal_backend"]
    if beyond:
        return excessive(check, beyond, role)
    row = await fetch_row(
        connection,
        """
        SELECT pg_has_role(c.relowner, 'USAGE'),
               ARRAY(SELECT p FROM unnest(ARRAY['INSERT', 'DELETE', 'TRUNCATE']) p WHERE has_table_privilege(c.oid, p)),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND a.attname <> ALL(%s::text[]) AND has_column_privilege(c.oid, a.attnum, 'UPDATE')
                     ORDER BY a.attnum)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s
        """,
        list(table.written_columns),
        table.schema,
        table.table,
    )
    owns, privileges, columns = row
    if owns:
        return warning(check, f"role {role} owns {table}, which only a role for migrations should: use another role")
    excess = [*privileges, *([f"UPDATE ({', '.join(quoted(column) for column in columns)})"] if columns else [])]
    if not excess:
        return ok(check, "no more than it needs")
    mended = f"REVOKE ALL ON {table} FROM {quoted(role)}, PUBLIC; {table.grant(role)}"
    return warning(check, f"role {role} may do more than it needs on {table}, {', '.join(excess)}: {mended}")


async def writable(connection: Connection, role: str) -> Finding:
    """Tables, sequences and schemas of this database that the reader may write to."""
    check = "reader: privileges"
    rows = await fetch(
        connection,
        f"""
        SELECT format('%%I.%%I', n.nspname, c.relname), CASE WHEN c.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'USAGE') AND CASE
            WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, UPDATE')
            WHEN c.relkind IN ('r', 'p', 'v', 'f') THEN has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
              OR has_any_column_privilege(c.oid, 'INSERT, UPDATE') END
        UNION ALL
        SELECT format('%%I', n.nspname), 'SCHEMA' FROM pg_catalog.pg_namespace n
        WHERE {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'CREATE')
        ORDER BY 2, 1 LIMIT %s
        """,  # noqa: S608 - made of constants
        _NAMED_MAX + 1,
    )
    if not rows:
        return ok(check, "no table, sequence or schema of this database can be written")
    named = [f"{kind.lower()} {name}" for name, kind in rows[:_NAMED_MAX]]
    more = ", and more" if len(rows) > _NAMED_MAX else ""
    rights = {"TABLE": "INSERT, UPDATE, DELETE, TRUNCATE", "SEQUENCE": "USAGE, UPDATE", "SCHEMA": "CREATE"}
    revokes = [f"REVOKE {rights[kind]} ON {kind} {name} FROM {quoted(role)}, PUBLIC" for name, kind in rows]
    mended = "; ".join(revokes[:_NAMED_MAX])
    return error(check, f"role {role} may write to {', '.join(named)}{more}, and so may metric SQL: {mended}")


async def definers(connection: Connection) -> Finding:
    """Functions that run with their owner's rights, which the reader may call: a way past being read-only."""
    check = "reader: functions"
    rows = await fetch(
        connection,
        f"""
        SELECT format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND {_NOT_SYSTEM} AND has_schema_privilege(n.oid, 'USAGE')
          AND has_function_privilege(p.oid, 'EXECUTE')
          AND p.prorettype <> ALL(ARRAY['trigger', 'event_trigger']::regtype[])
        ORDER BY 1 LIMIT %s
        """,  # noqa: S608 - made of constants
        _NAMED_MAX + 1,
    )
    if not rows:
        return ok(check, "no SECURITY DEFINER function can be called")
    named = ", ".join(name for (name,) in rows[:_NAMED_MAX]) + (", and more" if len(rows) > _NAMED_MAX else "")
    revokes = "; ".join(f"REVOKE EXECUTE ON ROUTINE {name} FROM PUBLIC" for (name,) in rows[:_NAMED_MAX])
    return warning(check, f"metric SQL may call SECURITY DEFINER functions, {named}: {revokes}")
