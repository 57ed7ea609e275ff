"""The servers that the workers of a test run share: one is started, and it ends with its last user."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.database import PostgresAccess
from support.shared import SharedServers, wait_until_stopped
from support.waiting import wait_for, wait_for_async

KIND = f"postgres-{toolchain.newest_postgres().major}"


def test_two_users_get_one_server_which_ends_after_the_last(tmp_path: Path) -> None:
    users = [SharedServers(tmp_path), SharedServers(tmp_path)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda user: user.use(KIND), users)
    assert first == second
    server = PostgresAccess.from_json(first)
    users[0].release()
    assert server.psql("SELECT 1 AS a") == [{"a": 1}]
    users[1].release()
    wait_until_stopped(tmp_path)
    with pytest.raises(psycopg.OperationalError):
        server.psql("SELECT 1")
    assert not server.folder.exists()


def test_who_comes_after_the_last_gets_a_server_too(tmp_path: Path) -> None:
    user = SharedServers(tmp_path)
    for _ in range(2):
        # At once after the release, so that now and then it meets the keeper while that stops the server before.
        server = PostgresAccess.from_json(user.use(KIND))
        assert server.psql("SELECT 1 AS a") == [{"a": 1}]
        user.release()
    wait_until_stopped(tmp_path)


def test_a_server_that_does_not_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    user = SharedServers(tmp_path)
    with pytest.raises(RuntimeError, match="KeyError: 1"):
        user.use("postgres-1")
    user.release()
    wait_until_stopped(tmp_path)


def test_waiting_fails_with_what_was_seen_last() -> None:
    seen = iter(range(1_000_000))
    with pytest.raises(pytest.fail.Exception, match=r"not within 0.05 s: a number; last seen: AssertionError"):
        wait_for(lambda: fail(next(seen)), 0.05, "a number")
    assert wait_for(lambda: next(seen)) > 0


async def test_waiting_in_an_event_loop_cuts_off_a_condition_that_hangs() -> None:
    async def hangs() -> None:
        import asyncio

        await asyncio.Event().wait()

    with pytest.raises(pytest.fail.Exception, match="did not answer"):
        await wait_for_async(hangs, 0.05, "an answer")
    assert await wait_for_async(lambda: 7) == 7


def fail(number: int) -> None:
    raise AssertionError(number)
