"""A streaming standby of a `PostgresServer`, asynchronous as PostgreSQL's default is."""

import os

import psycopg
import pytest

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.postgres import PostgresServer
from support.waiting import wait_for


def replicating_postgres() -> toolchain.PostgresInstallation:
    """The newest PostgreSQL with pg_basebackup, which some packages put elsewhere."""
    able = [
        found for found in toolchain.postgres_installations() if os.access(found.bin_dir / "pg_basebackup", os.X_OK)
    ]
    if not able:
        pytest.skip("FAILOVER IS NOT TESTED: it needs a PostgreSQL with pg_basebackup beside it")
    return able[-1]


class Standby(PostgresServer):
    """Made by pg_basebackup from a primary that runs. A context manager, as its primary is."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(primary.bin_dir)
        self._primary = primary
        # Roles and their passwords are copied with the data.
        self.password = primary.password

    def either(self, database: str) -> str:
        """A connection string of the superuser that finds whichever of the two takes writes."""
        return self.beside(self._primary.uri(database))

    def beside(self, uri: str, attributes: str = "read-write") -> str:
        """A connection string that leads to the primary, made one that finds whichever of the two takes writes.

        `attributes` is "primary" for a role whose sessions are read-only.
        """
        both = f"{self.host}:{self._primary.port},{self.host}:{self.port}"
        return f"{uri.replace(f'{self.host}:{self._primary.port}', both)}?target_session_attrs={attributes}"

    def catch_up(self) -> None:
        """Return when everything that the primary has committed is here."""
        with psycopg.connect(self._primary.uri(), autocommit=True) as primary:
            row = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        with psycopg.connect(self.uri(), autocommit=True) as standby:
            replayed = "SELECT FROM (SELECT 1) t WHERE pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_for(lambda: standby.execute(replayed, row).fetchone() is not None, 30, "the standby to catch up")

    def stop_replicating(self) -> None:
        """From now on the primary's commits do not come here."""
        with psycopg.connect(self.uri(), autocommit=True) as standby:
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.execute("SELECT pg_reload_conf()")
            receiving = "SELECT FROM pg_stat_wal_receiver"
            wait_for(lambda: standby.execute(receiving).fetchone() is None, 30, "the end of replication")

    def promote(self) -> None:
        """Become the primary, and return when writes are taken."""
        with psycopg.connect(self.uri(), autocommit=True) as standby:
            standby.execute("SELECT pg_promote(wait := true, wait_seconds := 60)")
            in_recovery = "SELECT FROM (SELECT 1) t WHERE pg_is_in_recovery()"
            wait_for(lambda: standby.execute(in_recovery).fetchone() is None, 30, "the end of recovery")

    def _fill_data_folder(self) -> None:
        where = ["--pgdata", str(self.data_folder), "--dbname", self._primary.uri()]
        self._run(
            "pg_basebackup", *where, "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"
        )
