"""Behind PgBouncer in transaction mode: tests of the other files, with every role's connections through it."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest

from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.checks import SqlCheck, SqlChecks
from feature_rollout.metrics.reader import SqlReader
from feature_rollout.metrics.sql import SqlMetricSource, SqlQuery
from postgres.test_claims import (  # noqa: F401 - they are collected here too
    test_a_latch_outlives_deletion_for_the_same_plan,
    test_a_restart_goes_on_where_it_was_under_the_next_epoch,
    test_a_silent_row_of_the_same_plan_is_adopted_without_its_evidence,
    test_checkpoints_of_old_epochs_attempts_and_stages_are_dropped,
    test_of_two_claims_at_once_one_wins,
    test_progress_may_hold_what_jsonb_does_not,
    test_release_leaves_what_it_is_told,
)
from postgres.test_commit import (  # noqa: F401
    test_a_commit_off_the_fence_writes_nothing,
    test_a_commit_writes_flags_ledger_and_audit,
    test_a_new_leader_fences_the_old_one,
    test_a_row_that_somebody_changed_is_drift_and_nothing_is_written,
    test_of_two_commits_at_once_one_is_fenced,
    test_services_are_told_at_the_commit,
    test_the_audit_replayed_gives_the_rows,
)
from postgres.test_doctor import Patient, patient  # noqa: F401 - a fixture
from postgres.test_kill import (  # noqa: F401
    test_a_locked_row_is_named_and_keeps_no_other_on,
    test_a_raise_that_was_decided_before_the_kill_is_not_made,
    test_flags_are_off_and_the_audit_says_who_and_why,
    test_listeners_are_told,
)
from postgres.test_lower import (  # noqa: F401
    test_a_locked_ledger_keeps_no_flag_from_being_lowered,
    test_a_revert_writes_flags_latch_and_audit_in_one_transaction,
    test_lowering_does_not_wait_for_busy_connections_of_the_writer,
    test_lowering_survives_the_end_of_its_connection,
    test_lowering_twice_writes_once,
    test_one_locked_row_keeps_no_other_from_being_lowered,
    test_without_bookkeeping_the_flags_are_lowered_and_the_audit_follows,
)
from postgres.test_sql_metrics import WINDOW
from support.databases import ADVISORY_LOCKS, Database
from support.pgbouncer import PgBouncer


@pytest.fixture
def database(database: Database, pgbouncer: PgBouncer) -> Iterator[Database]:
    database.pooler = pgbouncer
    yield database
    database.pooler = None


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[SqlReader]:
    reader = SqlReader(database.uri(database.role("reader")), transaction_pooler=True)
    yield reader
    await reader.close()


async def test_metrics_and_checks_are_asked_of_a_reader_that_knows_of_the_pooler(reader: SqlReader) -> None:
    # Whatever the roles' settings are: each transaction brings its own.
    texts = {
        "readonly": "SELECT (current_setting('transaction_read_only') = 'on')::int AS value",
        "path": "SELECT (current_setting('search_path') = 'pg_catalog, public, pg_temp')::int AS value",
        "bounded": "SELECT count(*) AS value FROM unnest(ARRAY['statement_timeout', 'lock_timeout', "
        "'idle_in_transaction_session_timeout']) s WHERE current_setting(s) <> '0'",
    }
    source = SqlMetricSource(reader, {name: SqlQuery(MetricType.GAUGE, text) for name, text in texts.items()})
    looks = [await source.look(name, WINDOW) for name in texts]
    assert [(look.value, look.error) for look in looks] == [(1, None), (1, None), (3, None)]
    checks = SqlChecks(reader, {"c": SqlCheck("SELECT 'PASS' AS status", "AllPass")})
    assert await checks.ask("c") == (True, "PASS in 1 of 1 rows")


async def test_a_reader_that_does_not_know_of_the_pooler_says_what_to_set(database: Database) -> None:
    reader = SqlReader(database.uri(database.role("reader")))
    passed, message = await SqlChecks(reader, {"c": SqlCheck("SELECT true")}).ask("c")
    assert passed is None
    assert message.startswith("ConnectionInvalid: a pooler refused the start-up options: set `pooler: Transaction`")


async def test_a_session_lock_does_not_stay_with_the_session(database: Database, reader: SqlReader) -> None:
    checks = SqlChecks(reader, {"lock": SqlCheck("SELECT pg_advisory_lock(7) IS NOT NULL")})
    assert await checks.ask("lock") == (True, "the answer is true")
    assert database.query(ADVISORY_LOCKS) == []


async def test_the_doctor_wants_the_settings_of_the_reader_and_says_how(patient: Patient) -> None:  # noqa: F811
    code, complaints = await patient.complaints()
    assert code == 3
    result, message = complaints.pop("reader: settings")
    assert result == "warning"
    names = "statement_timeout, lock_timeout, idle_in_transaction_session_timeout, search_path"
    assert f"behind a pooler role {patient.reader} needs {names} of its own" in message
    # Nothing else is wrong with a database that was set up as documented; LISTEN may not work, and is not used.
    assert set(complaints) <= {"writer: NOTIFY"}
    patient.run(re.search(r": (ALTER .*)", message)[1])
    # Sessions that the pooler has open keep what they began with.
    patient.world.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", patient.reader
    )
    assert "reader: settings" not in (await patient.complaints())[1]


async def test_the_doctor_wants_a_reader_that_is_read_only_by_itself(patient: Patient) -> None:  # noqa: F811
    patient.run("ALTER ROLE {reader} RESET default_transaction_read_only")
    assert "reader: read-only" in (await patient.complaints())[1]
