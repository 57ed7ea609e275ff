"""The elector over a Lease in memory, in virtual time.

| subject | cases |
|---|---|
| one | leads at once, renews without reading, survives failures until the deadline, and says so once |
| two | the second waits; takes over after the end of the Lease, and at once after a release |
| asleep | whoever wakes after the deadline does not lead, before anything else has run |
| lost answers | a write that nobody answered is read again, and is no renewal |
| no database | it is left to the other; taken back when nobody else comes |
| the end | released once; not by one that lost it; an API server that is away |
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from feature_rollout.core.election import Lease, Role, Times
from feature_rollout.kube.errors import ApiUnavailable, PermissionDenied, Stale
from feature_rollout.runtime.elector import Elector, identity

TIMES = Times(lease_s=15, renew_deadline_s=10.0, retry_s=2.0)


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    """The Lease, with a version that each write must name."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.reads = 0
        self.writes = 0
        self.down: Exception | None = None
        # The next write is made, and its answer is lost.
        self.deaf = False
        # Five times.
        self.renewed = asyncio.Event()


class Connection:
    name = "operator"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def get(self, timeout_s: float) -> Lease | None:
        self._server.reads += 1
        if self._server.down is not None:
            raise self._server.down
        return self._server.lease

    async def write(self, lease: Lease, timeout_s: float) -> Lease:
        server = self._server
        if server.down is not None:
            raise server.down
        version = server.lease.source["version"] if server.lease else 0
        if lease.source.get("version", 0) != version:
            raise Stale("PUT", 409)
        server.writes += 1
        if server.writes >= 5:
            server.renewed.set()
        server.lease = replace(lease, source={"version": version + 1})
        if server.deaf:
            server.deaf = False
            raise ApiUnavailable("PUT")
        return server.lease


def leads(replica: Elector) -> bool:
    return replica.role() is Role.LEADING


class Replicas:
    def __init__(self) -> None:
        self.time = Time()
        self.server = Server()
        self.changes: list[tuple[str, Role]] = []
        self.unfit: set[str] = set()
        self.used = True
        self.a, self.b = self.start("a"), self.start("b")

    def start(self, me: str) -> Elector:
        return Elector(
            Connection(self.server),
            TIMES,
            me=me,
            fit=lambda: me not in self.unfit,
            used=lambda: self.used,
            changed=lambda role: self.changes.append((me, role)),
            now_s=self.time,
        )

    async def pass_s(self, seconds: float, *electors: Elector) -> None:
        """So much time, in which these try every two seconds."""
        end_s = self.time.now_s + seconds
        while self.time.now_s < end_s:
            self.time.now_s = min(end_s, self.time.now_s + TIMES.retry_s)
            for elector in electors:
                await elector.attempt()


@pytest.fixture
async def two() -> Replicas:
    return Replicas()


async def test_the_first_leads_at_once_and_renews_without_reading(two: Replicas) -> None:
    await two.a.attempt()
    assert leads(two.a)
    await two.pass_s(60, two.a)
    assert (two.server.reads, two.server.writes) == (1, 31)
    assert two.changes == [("a", Role.LEADING)]


async def test_the_second_stands_by_and_takes_over_when_the_lease_has_ended(two: Replicas) -> None:
    await two.pass_s(10, two.a, two.b)
    assert (two.a.role(), two.b.role()) == (Role.LEADING, Role.STANDBY)
    await two.pass_s(10, two.b)
    assert two.b.role() is Role.UNLED
    await two.pass_s(4, two.b)
    assert not leads(two.b)
    await two.pass_s(2, two.b)
    assert leads(two.b)
    assert two.server.lease is not None
    assert two.server.lease.transitions == 1
    assert [role for who, role in two.changes if who == "b"] == [Role.UNLED, Role.LEADING]


async def test_whoever_was_stopped_does_not_lead_when_it_wakes(two: Replicas) -> None:
    await two.pass_s(4, two.a, two.b)
    two.time.now_s += 9.9
    assert leads(two.a)
    two.time.now_s += 60.0
    assert two.a.role() is Role.UNLED, "although nothing of it has run since"
    await two.b.attempt()
    # The first is refused, because the version that it knows is not the newest; the second sees why.
    await two.a.attempt()
    assert not leads(two.a)
    await two.a.attempt()
    assert (two.a.role(), two.b.role()) == (Role.STANDBY, Role.LEADING)


async def test_a_lease_that_there_is_again_is_news_when_it_is_led_again(two: Replicas) -> None:
    await two.a.attempt()
    two.used = False
    await two.pass_s(4, two.a)
    assert not leads(two.a)
    two.used = True
    await two.pass_s(4, two.a)
    assert two.changes == [("a", Role.LEADING), ("a", Role.LEADING)]


async def test_who_is_ending_asks_for_nothing(two: Replicas) -> None:
    await two.b.attempt()
    await two.a.release()
    reads = two.server.reads
    await two.a.ask()
    assert two.server.reads == reads


async def test_failures_cost_the_lead_at_the_deadline_and_not_before(
    two: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    await two.a.attempt()
    two.server.down = ApiUnavailable("PUT /lease", 503)
    await two.pass_s(8, two.a)
    assert leads(two.a)
    await two.pass_s(4, two.a)
    assert two.a.role() is Role.UNLED
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the Lease operator cannot be had: PUT /lease: 503",
        "nobody is seen to lead (Lease operator): this replica measures, and raises nothing",
    ]
    assert two.a.problems() == [], "that heals by itself"
    two.server.down = None
    await two.a.attempt()
    assert leads(two.a), "nobody else has come"


async def test_what_a_person_must_mend_is_told(two: Replicas) -> None:
    two.server.down = PermissionDenied("GET /lease", 403)
    await two.a.attempt()
    assert two.a.problems() == ["the Lease operator cannot be had: GET /lease: 403"]
    two.server.down = None
    await two.a.attempt()
    assert two.a.problems() == []


async def test_an_error_that_nobody_has_thought_of_is_no_renewal(
    two: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    two.server.down = ValueError("with a s3cr3t")
    await two.a.attempt()
    assert not leads(two.a)
    assert "ValueError" in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_a_write_without_an_answer_is_no_renewal_and_is_read_again(two: Replicas) -> None:
    two.server.deaf = True
    await two.a.attempt()
    assert two.server.lease is not None
    assert two.server.lease.holder == "a"
    assert not leads(two.a)
    await two.a.attempt()
    assert leads(two.a)
    assert two.server.lease.transitions == 0
    two.server.deaf = True
    await two.pass_s(2, two.a)
    reads = two.server.reads
    await two.pass_s(4, two.a)
    assert two.server.reads == reads + 1
    assert leads(two.a)


async def test_the_lease_is_left_to_others_when_no_database_is_reached(two: Replicas) -> None:
    await two.pass_s(4, two.a, two.b)
    two.unfit.add("a")
    await two.pass_s(6, two.a, two.b)
    assert (two.a.role(), two.b.role()) == (Role.LEADING, Role.STANDBY)
    await two.pass_s(4, two.a, two.b)
    assert (two.a.role(), two.b.role()) == (Role.STANDBY, Role.LEADING)


async def test_it_is_taken_back_when_nobody_else_comes(two: Replicas) -> None:
    await two.a.attempt()
    two.unfit.add("a")
    await two.pass_s(8, two.a)
    assert not leads(two.a)
    await two.pass_s(12, two.a)
    assert not leads(two.a)
    two.unfit.clear()
    await two.pass_s(2, two.a)
    assert leads(two.a)


async def test_a_release_lets_the_next_one_lead_at_once(two: Replicas) -> None:
    await two.pass_s(4, two.a, two.b)
    await two.a.release()
    assert not leads(two.a)
    await two.a.attempt()
    assert not leads(two.a), "it has ended"
    await two.b.attempt()
    assert leads(two.b)


async def test_one_that_does_not_lead_releases_nothing(two: Replicas) -> None:
    await two.pass_s(4, two.a, two.b)
    await two.b.release()
    assert two.server.lease is not None
    assert two.server.lease.holder == "a"
    two.time.now_s += 60.0
    third = two.start("c")
    await third.attempt()
    two.time.now_s += 60.0
    await third.attempt()
    await two.a.release()
    assert two.server.lease.holder == "c", "what another has taken is not given up"


async def test_a_release_that_fails_keeps_nothing_from_ending(two: Replicas) -> None:
    await two.a.attempt()
    two.server.down = ApiUnavailable("PUT")
    await two.a.release()


async def test_it_tries_by_itself_until_it_is_cancelled() -> None:
    server, led = Server(), asyncio.Event()
    elector = Elector(
        Connection(server),
        replace(TIMES, retry_s=0.001),
        changed=lambda role: led.set() if role is Role.LEADING else None,
    )
    task = asyncio.create_task(elector.run())
    async with asyncio.timeout(30):
        await led.wait()
        await server.renewed.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_every_process_is_somebody_else() -> None:
    assert identity() != identity()
