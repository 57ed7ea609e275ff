"""What a tenant may write instead of a metric or a check, and why that would be bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attack:
    """`sql` is run as a metric and as a check. `why` is what would be gained by it.

    `answered`: it is a question that the role may ask, and harmless as it is asked: an answer is no fault.
    """

    name: str
    sql: str
    why: str
    answered: bool = False


def refused(name: str, sql: str, why: str) -> Attack:
    return Attack(name, sql, why)


def harmless(name: str, sql: str, why: str) -> Attack:
    return Attack(name, sql, why, answered=True)


_OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"

# `{canary}` is a secret that the role may read, as it may read what metrics need.
ATTACKS = (
    # More than one statement, and the transaction around it.
    refused("stacked statements", "SELECT 1 AS value; UPDATE feature_flags SET enabled = true", "raises a flag"),
    refused("COMMIT first", "COMMIT; UPDATE feature_flags SET enabled = true", "leaves the read-only transaction"),
    refused("COMMIT between", "SELECT 1 AS value; COMMIT; DELETE FROM feature_flags", "leaves it too"),
    refused("COMMIT", "COMMIT", "ends the transaction in which time-outs are set"),
    refused("ROLLBACK", "ROLLBACK", "ends it too"),
    refused("SAVEPOINT", "SAVEPOINT a", "a subtransaction has settings of its own"),
    refused("PREPARE TRANSACTION", "PREPARE TRANSACTION 'loot'", "holds locks for ever"),
    refused("SET TRANSACTION", "SET TRANSACTION READ WRITE", "makes the transaction writable"),
    refused("SET SESSION", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "makes the next ones writable"),
    refused("closing a wrapper", "SELECT 1) q; UPDATE feature_flags SET enabled = true; --", "leaves a sub-query"),
    refused("closing a cursor's query", "SELECT 1 AS value) TO '/tmp/loot'; --", "leaves COPY (…)"),
    # Statements that write.
    refused("UPDATE", "UPDATE feature_flags SET enabled = true RETURNING 1 AS value", "writes and answers"),
    refused(
        "writing CTE",
        "WITH w AS (UPDATE feature_flags SET enabled = true RETURNING 1 AS value) SELECT value FROM w",
        "is a SELECT that writes",
    ),
    refused(
        "writing CTE within",
        "SELECT value FROM (WITH w AS (DELETE FROM feature_flags RETURNING 1 AS value) SELECT value FROM w) q",
        "hides it in a sub-query",
    ),
    refused("TRUNCATE", "TRUNCATE feature_flags", "empties the table"),
    refused("CREATE", "CREATE TABLE loot AS SELECT 1 AS value", "fills the disk"),
    refused("SELECT INTO", "SELECT 1 AS value INTO loot", "is a SELECT that creates"),
    refused("temporary table", "CREATE TEMP TABLE notifications AS SELECT 1 AS id", "hides the real one"),
    refused("function in pg_temp", "CREATE FUNCTION pg_temp.now() RETURNS int LANGUAGE sql AS 'SELECT 1'", "shadows"),
    refused("DO", "DO $$ BEGIN UPDATE public.feature_flags SET enabled = true; END $$", "runs a program"),
    refused("EXPLAIN ANALYZE", "EXPLAIN ANALYZE UPDATE feature_flags SET enabled = true", "writes while it explains"),
    refused("SELECT FOR UPDATE", "SELECT 1 AS value FROM feature_flags FOR UPDATE", "locks rows against reverts"),
    refused("FOR SHARE", "SELECT 1 AS value FROM notifications FOR SHARE", "locks what it may read"),
    refused("LOCK TABLE", "LOCK TABLE notifications IN ACCESS SHARE MODE", "queues before a revert"),
    refused("nextval", "SELECT nextval('numbers') AS value", "changes a sequence, which no rollback restores"),
    refused("setval", "SELECT setval('numbers', 1000) AS value", "changes it too"),
    refused(
        "query_to_xml",
        "SELECT length(query_to_xml('UPDATE feature_flags SET enabled=true', true, true, '')::text) AS value",
        "runs text",
    ),
    refused(
        "query_to_xml of COMMIT", "SELECT length(query_to_xml('COMMIT', true, true, '')::text) AS value", "runs text"
    ),
    refused(
        "query_to_xml of PREPARE",
        "SELECT length(query_to_xml('PREPARE p AS SELECT 1', true, true, '')::text) AS value",
        "stays",
    ),
    refused(
        "query_to_xml of LISTEN",
        "SELECT length(query_to_xml('LISTEN loot', true, true, '')::text) AS value",
        "stays in the session",
    ),
    refused("ts_stat", "SELECT count(*) AS value FROM ts_stat('DELETE FROM feature_flags')", "runs text"),
    # Being somebody else.
    refused("SET ROLE", "SET ROLE flags_writer", "writes as the writer"),
    refused("SET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION postgres", "is the superuser"),
    refused(
        "set_config of the role", "SELECT length(set_config('role', 'flags_writer', false)) AS value", "as SET ROLE"
    ),
    refused(
        "set_config of the session's user",
        "SELECT length(set_config('session_authorization', 'postgres', false)) AS value",
        "as SET SESSION AUTHORIZATION",
    ),
    refused("ALTER ROLE of itself", "ALTER ROLE flags_reader SET default_transaction_read_only = off", "disarms it"),
    refused("SECURITY DEFINER", "SELECT overwrite_as_owner() AS value", "writes with its owner's rights"),
    refused("SECURITY DEFINER of another role", "SELECT made_later() AS value", "came after EXECUTE was revoked"),
    refused(
        "SECURITY DEFINER, made writable",
        "SELECT made_later() AS value FROM (SELECT set_config('transaction_read_only', 'off', false) OFFSET 0) s",
        "as before, out of the read-only transaction",
    ),
    refused("SECURITY DEFINER in another schema", "SELECT shop.overwrite_as_owner() AS value", "not in public"),
    refused("a table that is not granted", "SELECT count(*) AS value FROM payroll", "reads what it may not"),
    refused("passwords", "SELECT count(passwd) AS value FROM pg_shadow", "reads what it may not"),
    refused("the ledger", "SELECT count(*) AS value FROM feature_rollout.ledger", "reads what it may not"),
    # What stays in a session.
    harmless(
        "set_config of read-only",
        "SELECT length(set_config('default_transaction_read_only', 'off', false)) AS value",
        "disarms",
    ),
    harmless(
        "set_config of search_path",
        "SELECT length(set_config('search_path', 'pg_temp', false)) AS value",
        "shadows functions",
    ),
    harmless(
        "set_config of time-outs",
        "SELECT length(set_config('statement_timeout', '0', false)) AS value",
        "the next runs for ever",
    ),
    refused("RESET ALL", "RESET ALL", "drops what was set for this session"),
    refused("DISCARD ALL", "DISCARD ALL", "drops that and more"),
    refused("PREPARE", "PREPARE look AS SELECT 1", "stays for the next who gets this session"),
    refused("EXECUTE", "EXECUTE look", "runs what another has prepared"),
    refused("DEALLOCATE", "DEALLOCATE ALL", "breaks who gets this session next"),
    refused("DECLARE", "DECLARE look CURSOR WITH HOLD FOR SELECT 1", "replaces our cursor"),
    refused("FETCH", "FETCH ALL FROM look", "reads from our cursor"),
    refused("CLOSE", "CLOSE look", "takes our cursor away"),
    harmless("advisory lock", "SELECT (pg_advisory_lock(7) IS NOT NULL)::int AS value", "outlives a rollback"),
    harmless(
        "advisory lock of a transaction", "SELECT (pg_advisory_xact_lock(7) IS NOT NULL)::int AS value", "as before"
    ),
    refused("LISTEN", "LISTEN feature_flags", "stays in the session"),
    refused("NOTIFY", "NOTIFY feature_flags, 'loot'", "makes services drop their caches"),
    harmless("pg_notify", "SELECT (pg_notify('feature_flags', 'loot') IS NULL)::int AS value", "as NOTIFY"),
    # Beyond tables.
    harmless("lo_create", "SELECT lo_create(4712)::int AS value", "writes to a table that everybody may write to"),
    refused("lo_put", "SELECT (lo_put(4711, 0, 'loot') IS NULL)::int AS value", "writes to it too"),
    refused("lo_unlink", "SELECT lo_unlink(4711) AS value", "removes from it"),
    refused("lo_import", "SELECT lo_import('/etc/passwd')::int AS value", "reads a file"),
    refused("lo_export", "SELECT lo_export(4711, '/tmp/loot') AS value", "writes a file"),
    refused("COPY TO PROGRAM", "COPY notifications TO PROGRAM 'touch /tmp/loot'", "runs a program"),
    refused("COPY TO a file", "COPY notifications TO '/tmp/loot'", "writes a file"),
    refused("pg_read_file", "SELECT length(pg_read_file('postgresql.conf')) AS value", "reads a file"),
    refused("pg_ls_dir", "SELECT count(*) AS value FROM pg_ls_dir('.')", "reads a folder"),
    refused(
        "dblink", "SELECT 1 AS value FROM dblink('host=127.0.0.1', 'SELECT 1') AS t(a int)", "is another connection"
    ),
    refused("postgres_fdw", "CREATE SERVER loot FOREIGN DATA WRAPPER postgres_fdw", "is one too"),
    refused("pg_switch_wal", "SELECT (pg_switch_wal() IS NULL)::int AS value", "fills the archive"),
    refused("pg_reload_conf", "SELECT pg_reload_conf()::int AS value", "changes the server"),
    # Other sessions. A role may end those of its own, which are other metrics'.
    harmless(
        "pg_terminate_backend",
        f"SELECT count(pg_terminate_backend(pid)) AS value {_OTHERS} AND usename = user",
        "ends looks",
    ),
    harmless(
        "pg_cancel_backend", f"SELECT count(pg_cancel_backend(pid)) AS value {_OTHERS} AND usename = user", "ends looks"
    ),
    refused(
        "pg_terminate_backend of all",
        f"SELECT count(pg_terminate_backend(pid)) AS value {_OTHERS} AND usename <> user",
        "ends the operator",
    ),
    refused("its own end", "SELECT pg_terminate_backend(pg_backend_pid())::int AS value", "breaks us"),
    # Time and memory.
    refused("pg_sleep", "SELECT 1 AS value FROM pg_sleep(600)", "holds a connection"),
    refused(
        "no end to time-outs",
        "SELECT 1 AS value FROM (SELECT set_config('statement_timeout', '0', false), pg_sleep(600)) s",
        "as before",
    ),
    refused(
        "a billion rows", "SELECT count(*) AS value FROM generate_series(1, 1000000000) i WHERE i % 7 = 8", "burns"
    ),
    refused(
        "endless recursion",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n % 9 FROM r) SELECT count(*) AS value FROM r",
        "burns",
    ),
    refused(
        "array_agg",
        "SELECT cardinality(array_agg(i || 'x')) AS value FROM generate_series(1, 1000000000) i",
        "eats memory",
    ),
    harmless("repeat", "SELECT length(repeat('x', 200000000)) AS value", "eats memory"),
    harmless("a long row", "SELECT repeat('x', 100000000) AS value", "eats the operator's memory"),
    refused(
        "cross join",
        "SELECT count(*) AS value FROM pg_proc a, pg_proc b, pg_proc c WHERE a.oid = b.oid::int8 + c.oid::int8 + 1e9",
        "burns",
    ),
    refused("a million rows", "SELECT generate_series(1, 1000000) AS value", "eats the operator's memory"),
    # What is no number.
    refused("NaN", "SELECT 'NaN'::float8 AS value", "passes every comparison"),
    refused("Infinity", "SELECT 'Infinity'::float8 AS value", "is past every limit"),
    refused("numeric that is too big", "SELECT 1e1000 AS value", "breaks conversion"),
    harmless("NULL", "SELECT NULL::int AS value", "is no answer"),
    harmless("text", "SELECT '1' AS value", "is no number"),
    refused("two rows", "SELECT unnest(ARRAY[1, 2]) AS value", "one of them is good"),
    harmless("no row", "SELECT 1 AS value WHERE false", "is no answer"),
    harmless("another column", "SELECT 1 AS loot", "is no answer"),
    # Secrets.
    refused("a cast that quotes a secret", "SELECT (SELECT secret FROM canary)::int AS value", "the error shows it"),
    refused(
        "a date that quotes a secret",
        "SELECT (SELECT secret FROM canary)::date - '2026-01-01' AS value",
        "the error shows it",
    ),
    refused(
        "a setting that quotes a secret",
        "SELECT length(set_config('work_mem', secret, false)) AS value FROM canary",
        "likewise",
    ),
    refused(
        "a regular expression of it", "SELECT ('x' ~ ('(' || secret))::int AS value FROM canary", "the error shows it"
    ),
    refused(
        "json of it", "SELECT length((secret || '{{')::json::text) AS value FROM canary", "the error's context shows it"
    ),
    refused("RAISE", "SELECT shout() AS value", "the error is the secret"),
    harmless(
        "a notice", "SELECT length(set_config('client_min_messages', 'debug5', false)) AS value", "the log shows it"
    ),
    refused("a column's name", 'SELECT 1 AS value, 2 AS "{canary}"', "the error shows it"),
    refused("a column that is not there", 'SELECT "{canary}" AS value FROM notifications', "the error shows it"),
    refused("a type that is not there", "SELECT '1'::\"{canary}\" AS value", "the error shows it"),
    harmless("a value", "SELECT secret AS value FROM canary", "the message shows it"),
)


def table(reports: Sequence[Any]) -> list[str]:
    """Lines for the end of a test run: what became of each attack, and in how many lanes."""
    lanes: dict[tuple[str, str, str], set[str]] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == "attack" and report.when == "call":
                attack, lane, metric, check = value
                lanes.setdefault((attack, metric, check), set()).add(lane)
    return [
        f"{attack:36} {len(where)} lanes; metric: {metric[:70]}; check: {check[:70]}"
        for (attack, metric, check), where in sorted(lanes.items())
    ]
