"""The evaluator as a service uses it: a thread that keeps the rows, on real servers that come and go.

| what | how |
|---|---|
| a change by the operator is seen at once, without waiting for a poll | NOTIFY on the FlagStore's channel |
| without the listener, and for changes by others, it is seen by polling | a poll interval |
| an outage: the last rows, their age, and the new rows when the server is back | the server is killed |
| no answer waits for the database | a server that is stopped and answers nothing |
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.evaluator import Evaluation, FlagClient, Problem, Reason, TableMapping
from feature_rollout.sandbox.postgres import PostgresServer
from postgres.commands import featurerollout
from postgres.world import FLAG_TABLE, World, claim, everyone, latch, lowering, only
from support.databases import all_postgres
from support.waiting import wait_for

CHANNEL = "feature_flags"
NEVER_S = 3600.0  # a poll that takes no part in a test
SOON_S = 0.2


@pytest.fixture
def uri(world: World) -> str:
    reader = world.database.role("service")
    world.database.execute(f"GRANT SELECT ON feature_flags TO {reader}")
    return world.database.uri(reader)


@pytest.fixture
def clients() -> Iterator[list[FlagClient]]:
    made: list[FlagClient] = []
    yield made
    for client in made:
        client.close()
    assert [thread for thread in threading.enumerate() if thread.name == "flag rows"] == []


def started(clients: list[FlagClient], uri: str, **arguments: Any) -> FlagClient:
    client = FlagClient(uri, **arguments)
    clients.append(client)
    assert client.start(30)
    return client


def sessions(world: World) -> list[int]:
    found = world.database.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'feature-rollout-evaluator' "
        "AND datname = current_database()"
    )
    return [row["pid"] for row in found]


@all_postgres
def test_answers_are_those_of_the_database(world: World, uri: str, clients: list[FlagClient]) -> None:
    world.set_row("alpha", everyone(50))
    world.set_row("beta", only(100, "staff"))
    client = started(clients, uri)
    for flag in ("alpha", "beta", "gamma", "nothing"):
        for user, groups in (("user-1", []), ("user-2", ["staff"]), ("🙂", ["x"]), (None, ["staff"])):
            query = "SELECT feature_rollout.flag_enabled(%s, %s, %s) AS answer"
            assert client.is_enabled(flag, user, groups) is world.database.query(query, flag, user, groups)[0]["answer"]
    assert client.evaluate("nothing", "u") == Evaluation(False, Reason.FLAG_MISSING)
    assert client.problem is None
    assert client.age_s is not None


@all_postgres
async def test_a_service_that_listens_sees_a_revert_at_once(world: World, uri: str, clients: list[FlagClient]) -> None:
    ledger = await world.store.open(claim("alpha"))
    await world.raised(ledger, alpha=everyone(100))
    client = await asyncio.to_thread(started, clients, uri, notify_channel=CHANNEL, poll_s=NEVER_S)
    assert client.is_enabled("alpha", "user-1")
    await world.store.lower(lowering(["alpha"], latch=latch(), severity=Severity.HIGH))
    await asyncio.to_thread(wait_for, lambda: not client.is_enabled("alpha", "user-1"), 30)


@all_postgres
async def test_a_service_sees_the_kill_switch(world: World, uri: str, clients: list[FlagClient]) -> None:
    world.set_row("alpha", everyone(100))
    client = await asyncio.to_thread(started, clients, uri, notify_channel=CHANNEL, poll_s=NEVER_S)
    env = {"FEATUREROLLOUT_DATABASE_URI": world.database.uri(world.writer)}
    answer = await featurerollout("kill", "alpha", "--reason", "x", "--notify-channel", CHANNEL, env=env)
    assert answer.code == 0
    await asyncio.to_thread(wait_for, lambda: not client.is_enabled("alpha", "user-1"), 30)


@all_postgres
def test_without_a_channel_changes_are_seen_by_polling(world: World, uri: str, clients: list[FlagClient]) -> None:
    world.set_row("alpha", everyone(100))
    client = started(clients, uri, poll_s=SOON_S)
    world.set_row("alpha", everyone(0))
    wait_for(lambda: client.evaluate("alpha", "user-1").reason == Reason.NOBODY, 30)


@all_postgres
def test_a_listener_that_is_cut_loses_nothing(world: World, uri: str, clients: list[FlagClient]) -> None:
    """Its connection ends, and the change comes while it has none: the rows are read again when it has another."""
    world.set_row("alpha", everyone(100))
    client = started(clients, uri, notify_channel=CHANNEL, poll_s=NEVER_S)
    (pid,) = wait_for(lambda: sessions(world))
    world.database.execute("SELECT pg_terminate_backend(%s)", pid)
    world.set_row("alpha", everyone(0))
    wait_for(lambda: not client.is_enabled("alpha", "user-1"), 30)
    wait_for(lambda: client.problem is None, 30)


@all_postgres
def test_a_listener_that_hears_nothing_polls(world: World, uri: str, clients: list[FlagClient]) -> None:
    """As behind a pooler in transaction mode: LISTEN is taken, and nothing comes."""
    world.set_row("alpha", everyone(100))
    client = started(clients, uri, notify_channel="nobody_speaks_here", poll_s=SOON_S)
    world.set_row("alpha", everyone(0))
    wait_for(lambda: not client.is_enabled("alpha", "user-1"), 30)


@all_postgres
def test_many_notices_are_few_readings(world: World, uri: str, clients: list[FlagClient]) -> None:
    client = started(clients, uri, notify_channel=CHANNEL, poll_s=NEVER_S)
    readings: list[float] = []
    original = client._read

    async def counted(connection: Any) -> None:
        readings.append(time.monotonic())
        await original(connection)

    client._read = counted  # type: ignore[method-assign]
    world.set_row("alpha", everyone(100))
    # In one transaction, so that they come together however slow this machine is.
    world.database.execute("SELECT pg_notify(%s, n::text) FROM generate_series(1, 500) n", CHANNEL)
    wait_for(lambda: client.is_enabled("alpha", "u"), 30)
    last = readings[-1]
    world.set_row("alpha", everyone(0))
    world.database.execute("SELECT pg_notify(%s, 'last')", CHANNEL)
    wait_for(lambda: not client.is_enabled("alpha", "u") and readings[-1] > last, 30)
    assert len(readings) < 50


def test_an_outage_is_answered_from_the_last_rows(
    own_postgres: PostgresServer, clients: list[FlagClient], caplog: pytest.LogCaptureFixture
) -> None:
    own_postgres.psql(FLAG_TABLE + "UPDATE feature_flags SET enabled = true, rollout_percentage = 100")
    with caplog.at_level(logging.INFO, "feature_rollout.evaluator"):
        client = started(clients, own_postgres.uri(), poll_s=SOON_S)
        own_postgres.kill()
        problem = wait_for(lambda: client.problem, 30)
        assert problem.reason == "StoreUnreachable"
        assert own_postgres.password not in str(problem)
        age_s = client.age_s
        assert client.is_enabled("alpha", "user-1")
        wait_for(lambda: client.age_s > age_s, 30)
        own_postgres.start()
        own_postgres.psql("UPDATE feature_flags SET enabled = false")
        wait_for(lambda: not client.is_enabled("alpha", "user-1"), 60)
        wait_for(lambda: client.problem is None, 30)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("flags cannot be read, they were ")
    assert said[-1] == "flags are read again"
    assert own_postgres.password not in caplog.text


def test_a_server_that_hangs_keeps_nobody_waiting(own_postgres: PostgresServer, clients: list[FlagClient]) -> None:
    own_postgres.psql(FLAG_TABLE + "UPDATE feature_flags SET enabled = true, rollout_percentage = 100")
    client = started(clients, own_postgres.uri(), poll_s=SOON_S)
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'feature-rollout-evaluator'"
    (backend,) = wait_for(lambda: own_postgres.psql(query))
    os.kill(backend["pid"], signal.SIGSTOP)
    try:
        # It gives the connection up, and reads on another one.
        wait_for(lambda: client.age_s > 1, 60)
        assert client.is_enabled("alpha", "user-1")
        wait_for(lambda: client.age_s < 1, 60)
    finally:
        os.kill(backend["pid"], signal.SIGCONT)


def test_a_service_starts_while_the_database_is_away(own_postgres: PostgresServer, clients: list[FlagClient]) -> None:
    own_postgres.psql(FLAG_TABLE + "UPDATE feature_flags SET enabled = true, rollout_percentage = 100")
    own_postgres.stop()
    client = FlagClient(own_postgres.uri(), poll_s=SOON_S)
    clients.append(client)
    assert client.start(0.1) is False
    assert client.evaluate("alpha", "user-1") == Evaluation(False, Reason.ROWS_UNKNOWN)
    assert client.age_s is None
    own_postgres.start()
    wait_for(lambda: client.is_enabled("alpha", "user-1"), 60)


@all_postgres
def test_a_role_that_may_not_read_is_told_what_it_needs(world: World, clients: list[FlagClient]) -> None:
    client = FlagClient(world.database.uri(world.database.role("stranger")), poll_s=SOON_S)
    clients.append(client)
    client.start(0)
    problem = wait_for(lambda: client.problem, 30)
    assert "GRANT SELECT (name, enabled, rollout_percentage, user_groups) ON public.feature_flags" in problem.message


@all_postgres
def test_another_table_and_rows_that_mean_nothing(world: World, uri: str, clients: list[FlagClient]) -> None:
    world.database.execute(
        "ALTER TABLE feature_flags RENAME name TO key; ALTER TABLE feature_flags ALTER key DROP NOT NULL; "
        "ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_name_key; "
        "INSERT INTO feature_flags (key, enabled, rollout_percentage) "
        "VALUES (NULL, true, 100), ('alpha', NULL, NULL), ('alpha', false, 0)"
    )
    client = started(clients, uri, table=TableMapping(name="key"))
    assert client.is_enabled("alpha", "u")
    assert not client.is_enabled("beta", "u")


def test_what_cannot_be_used_is_said_at_once() -> None:
    with pytest.raises(Problem, match="ConnectionInvalid: the service's connection string cannot be used"):
        FlagClient("postgresql:///db")
    with pytest.raises(ValueError, match="poll_s is 0"):
        FlagClient("postgresql://u@host/db", poll_s=0)


@all_postgres
def test_a_client_that_is_closed_has_no_connection_left(world: World, uri: str) -> None:
    with FlagClient(uri, notify_channel=CHANNEL, poll_s=NEVER_S) as client:
        assert client.start(30)
        wait_for(lambda: sessions(world))
    wait_for(lambda: sessions(world) == [], 30)
    assert client.evaluate("alpha", "u").reason == Reason.DISABLED
    client.close()


FORKED = """
import os, sys, time
from feature_rollout.evaluator import FlagClient
client = FlagClient(os.environ["FLAGS_URI"], poll_s=0.2)
assert client.start(30)
child = os.fork()
if child == 0:
    assert client.is_enabled("alpha", "u")
    assert client.start(30)
    print("started", flush=True)
    deadline = time.monotonic() + 60
    while client.is_enabled("alpha", "u") and time.monotonic() < deadline:
        time.sleep(0.02)
    print("off" if not client.is_enabled("alpha", "u") else "on", flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
assert client.problem is None, client.problem
client.close()
"""


@all_postgres
def test_a_worker_that_was_forked_starts_its_own_thread(world: World, uri: str) -> None:
    world.set_row("alpha", everyone(100))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    with subprocess.Popen(command, env={**os.environ, "FLAGS_URI": uri}, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "started\n"
        world.set_row("alpha", everyone(0))
        assert service.stdout.readline() == "off\n"
    assert service.returncode == 0


@all_postgres
def test_a_program_that_ends_without_closing_ends_quietly(world: World, uri: str) -> None:
    program = "import os; from feature_rollout.evaluator import FlagClient\n"
    program += "client = FlagClient(os.environ['FLAGS_URI']); assert client.start(30)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "FLAGS_URI": uri}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@all_postgres
def test_a_client_that_was_closed_may_be_started_again(world: World, uri: str, clients: list[FlagClient]) -> None:
    client = started(clients, uri)
    client.close()
    world.set_row("alpha", everyone(100))
    assert not client.is_enabled("alpha", "u")
    assert client.start(30)
    assert client.is_enabled("alpha", "u")
