"""Servers that go away, come back, or do not answer; and a process that dies at its COMMIT."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from feature_rollout import failpoints
from feature_rollout.connectionstring import parse_uri
from feature_rollout.postgres import bounded, connect, dispose
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import PostgresFlagStore, StoreConfig, migrations
from postgres.world import FLAG_TABLE, OFF, World, claim, everyone, lowering, problem_of
from support.databases import Database, all_own_postgres, all_postgres
from support.waiting import wait_for_async


class Proxy:
    """A TCP proxy that can hold back everything, as a partition does: no answer, and no end either."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._held: set[asyncio.Event] = set()
        self._flows: set[asyncio.Event] = set()
        self._accepting = True
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator["Proxy"]:
        proxy = cls(port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    def hold(self, *, new_ones_too: bool) -> None:
        """Hold back what goes over the connections that there are, or over any."""
        self._accepting = not new_ones_too
        for flowing in self._flows:
            flowing.clear()

    def let_go(self) -> None:
        self._accepting = True
        for flowing in self._flows:
            flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        flowing = asyncio.Event()
        self._flows.add(flowing)
        if self._accepting:
            flowing.set()
        back_writer: asyncio.StreamWriter | None = None
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(reader, back_writer, flowing))
                group.create_task(self._pipe(back_reader, writer, flowing))
        finally:
            for end in (writer, back_writer):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.close()


def proxied(world: World, proxy: Proxy) -> PostgresFlagStore:
    uri = world.database.uri(world.writer).replace(f":{world.database.server.port}/", f":{proxy.port}/")
    return world.new_store(writer_uri=uri)


@all_own_postgres
async def test_a_store_heals_when_its_server_comes_back(own_postgres: PostgresServer) -> None:
    with psycopg.connect(own_postgres.uri(), autocommit=True) as connection:
        connection.execute(migrations.script().encode())
        connection.execute(FLAG_TABLE.encode())
    store = PostgresFlagStore(StoreConfig(own_postgres.uri()))
    ledger = await store.open(claim())
    own_postgres.kill()
    for attempt in (store.read(ledger.key, ["alpha"]), store.lower(lowering(["alpha"])), store.open(claim())):
        problem = await problem_of(attempt)
        assert (problem.reason, problem.stalled) == ("StoreUnreachable", False)
    own_postgres.start()
    assert (await store.read(ledger.key, ["alpha"])).rows == {"alpha": OFF}
    await store.lower(lowering(["alpha"]))
    own_postgres.restart()
    # The idle connections are dead and nobody has been told: no call shows it.
    await store.lower(lowering(["alpha"]))
    assert (await store.read(ledger.key, ["alpha"])).ledger.epoch == 1
    await store.close()


async def test_a_silent_server_costs_a_revert_seconds_and_not_more(world: World) -> None:
    async with Proxy.to(world.database.server.port) as proxy:
        store = proxied(world, proxy)
        await store.open(claim())
        proxy.hold(new_ones_too=True)
        started = time.monotonic()
        problem = await problem_of(store.lower(lowering(["alpha"])))
        assert (problem.reason, problem.stalled) == ("StoreUnreachable", False)
        assert time.monotonic() - started < 10
        proxy.let_go()
        await store.lower(lowering(["alpha"]))
        await store.close()


async def test_many_rollouts_wait_for_a_silent_server_once(world: World) -> None:
    async with Proxy.to(world.database.server.port) as proxy:
        store = proxied(world, proxy)
        proxy.hold(new_ones_too=True)
        started = time.monotonic()
        reads = (problem_of(store.read(f"k/{number}", ["alpha"])) for number in range(50))
        assert {problem.reason for problem in await asyncio.gather(*reads)} == {"StoreUnreachable"}
        assert time.monotonic() - started < 9
        proxy.let_go()
        await store.open(claim())
        await store.close()


async def test_a_half_open_connection_is_replaced_within_the_same_revert(world: World) -> None:
    async with Proxy.to(world.database.server.port) as proxy:
        store = proxied(world, proxy)
        await store.open(claim())
        world.set_row("alpha", everyone(50))
        proxy.hold(new_ones_too=False)
        started = time.monotonic()
        await store.lower(lowering(["alpha"]))
        assert time.monotonic() - started < 7
        assert world.row("alpha").is_off
        await store.close()


async def test_a_time_out_frees_its_caller_at_once(database: Database) -> None:
    connection = await connect(parse_uri(database.uri()))
    started = time.monotonic()
    problem = await problem_of(bounded(connection, connection.execute("SELECT pg_sleep(30)"), 0.2))
    assert problem.reason == "StoreUnreachable"
    # By itself psycopg would wait five seconds for the server.
    assert time.monotonic() - started < 4
    await dispose(connection)


async def test_cancelling_frees_the_caller_at_once(world: World) -> None:
    async with Proxy.to(world.database.server.port) as proxy:
        store = proxied(world, proxy)
        await store.open(claim())
        proxy.hold(new_ones_too=True)
        task = asyncio.create_task(store.lower(lowering(["alpha"])))
        await wait_for_async(lambda: not store._reverters._idle)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 4
        await store.close()


PROGRAM = """
import asyncio, sys
from decimal import Decimal
from feature_rollout.core.exposure import DISABLED, Exposure
from feature_rollout.core.plan import OnDelete
from feature_rollout.ports import Claim, Commit, Lowering, Why
from feature_rollout.store import PostgresFlagStore, StoreConfig

async def main():
    store = PostgresFlagStore(StoreConfig(sys.argv[1]))
    why = Why("Test", "a test does it", 1, "canary")
    if sys.argv[2] == "raise":
        ledger = await store.open(Claim("k", "u", ("alpha",), "s", "p", OnDelete.KEEP))
        rows = (await store.read("k", ["alpha"])).rows
        await store.commit(Commit(ledger, rows, {"alpha": Exposure(True, Decimal(5))}, why))
    else:
        await store.lower(Lowering("k", {"alpha": DISABLED}, why))

asyncio.run(main())
"""


@all_postgres
@pytest.mark.parametrize(
    ("failpoint", "verb", "is_done"),
    [
        (failpoints.RAISE[0], "raise", False),
        (failpoints.RAISE[1], "raise", True),
        (failpoints.REVERT[0], "revert", False),
        (failpoints.REVERT[1], "revert", True),
    ],
)
def test_a_process_that_dies_at_its_commit(world: World, failpoint: str, verb: str, is_done: bool) -> None:
    if verb == "revert":
        world.set_row("alpha", everyone(50))
    before = world.row("alpha")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, world.database.uri(world.writer), verb],
        env={**os.environ, failpoints.VARIABLE: f"other,{failpoint}"},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert (world.row("alpha") != before) == is_done
    assert len(world.audit()) == int(is_done)


def test_without_the_variable_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    kill: Callable[[int, int], None] = lambda pid, _: killed.append(pid)  # noqa: E731
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.hit(failpoints.RAISE[1])
    monkeypatch.setenv(failpoints.VARIABLE, failpoints.RAISE[0])
    failpoints.hit(failpoints.RAISE[1])
    assert killed == []
    failpoints.hit(failpoints.RAISE[0])
    assert killed == [os.getpid()]
