"""Transitions that a real database holds, told to a real server: at least once, in order, whatever goes wrong.

| what goes wrong | what holds |
|---|---|
| 500, no answer, a reset, a redirect, 429 with Retry-After | it comes again, in the order of its rollout |
| one recipient hangs | the other is told, flags are written |
| the process is killed between telling and remembering it | it comes again under the same id |
| two processes drain | everything comes; nothing twice while nothing fails |
| nobody takes it | after a day, or ten refusals, it is given up: kept, counted, and the next one goes on |
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feature_rollout import failpoints
from feature_rollout.connectionstring import parse_uri
from feature_rollout.core.state import Ledger
from feature_rollout.notify import drain
from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Sent, Undelivered
from feature_rollout.ports import Commit, Transition
from feature_rollout.store import doctor
from feature_rollout.store.deliveries import PostgresOutbox
from feature_rollout.store.kill import KillSwitch, Order
from postgres.world import KEY, OTHER_KEY, World, claim, everyone, why
from support.databases import all_postgres
from support.notifying import draining, webhook
from support.receiver import Receiver
from support.waiting import wait_for_async

pytestmark = all_postgres
TESTS = Path(__file__).parents[1]
SUBJECT = "shop/rollout"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http(timeout_s=5.0)
    yield client
    await client.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of no length that matters; what is promised of them is in the tests of `drain`."""
    monkeypatch.setattr(drain, "POLL_S", 0.02)
    monkeypatch.setattr(drain, "BACKLOG_S", 0.05)
    monkeypatch.setattr(drain, "SWEEP_S", 0.05)
    monkeypatch.setattr(drain, "BACKOFF_S_MAX", 0.05)


@pytest.fixture
def outboxes(world: World) -> Any:
    return lambda cluster="cluster", **more: PostgresOutbox(world.config(), cluster, **more)


async def transitions(world: World, key: str, number: int, flag: str = "alpha") -> list[str]:
    """Make so many of them as the operator does; their operation ids."""
    ledger = await world.store.open(claim(flag, key=key))
    done = []
    for _ in range(number):
        ledger = await transition(world, ledger)
        done.append(f"{key}@{ledger.sequence}")
    return done


async def transition(world: World, ledger: Ledger, verb: str = "Advance") -> Ledger:
    return await world.store.commit(Commit(replace(ledger, stage=0), {}, {}, why("StageEntered", verb=verb)))


def ids(receiver: Receiver, subject: str = SUBJECT) -> list[str]:
    return [event["id"] for event in receiver.events(subject)]


def waiting(world: World) -> int:
    return world.database.query("SELECT count(*) AS n FROM feature_rollout.waiting")[0]["n"]


async def test_a_raise_arrives_as_a_signed_cloud_event(world: World, receiver: Receiver, http: Http, outboxes) -> None:
    outbox = outboxes()
    async with draining(outbox, webhook(http, receiver.url + "/hook")) as counts:
        await world.raised(await world.store.open(claim()), alpha=everyone(5))
        ledger = await world.store.open(claim())
        before = (await world.store.read(KEY, ["alpha"])).rows
        after = await world.store.commit(
            Commit(replace(ledger, stage=1), before, {"alpha": everyone(50)}, why("StageEntered", verb="Advance"))
        )
        (event,) = await wait_for_async(receiver.events)
        # What was told of goes; nothing else is left of it but the rollout's row.
        await wait_for_async(lambda: world.database.query("SELECT FROM feature_rollout.outbox") == [])
        await wait_for_async(lambda: counts.of == {("webhook", "delivered"): 1})
    (call,) = receiver.calls
    assert call.path == "/hook"
    assert call.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 120
    assert event.pop("time").endswith("Z")
    assert int(event.pop("sequence")) > 0
    assert event == {
        "specversion": "1.0",
        "id": f"{KEY}@{after.sequence}",
        "source": "//featurerollout.dev/clusters/cluster",
        "type": "dev.featurerollout.Advance",
        "subject": SUBJECT,
        "datacontenttype": "application/json",
        "data": {
            "rollout": KEY,
            "uid": "uid-1",
            "generation": 1,
            "attempt": 1,
            "stage": "canary",
            "verb": "Advance",
            "reason": "StageEntered",
            "message": "a test does it",
            "actor": "operator",
            "flags": {"alpha": {"before": everyone(5).to_json(), "after": everyone(50).to_json()}},
        },
    }
    await outbox.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        500,
        503,
        401,
        404,
        400,
        "reset",
        "hang",
        pytest.param((302, {"Location": "http://127.0.0.1:1/elsewhere"}), id="redirect"),
        pytest.param((429, {"Retry-After": "0.3"}), id="429"),
    ],
)
async def test_what_was_not_taken_comes_again_in_order(
    world: World, receiver: Receiver, http: Http, outboxes, behaviour
) -> None:
    receiver.script.extend([200, behaviour, behaviour, 200])
    outbox = outboxes()
    impatient = Http(timeout_s=0.5)
    async with draining(outbox, webhook(impatient, receiver.url)) as counts:
        done = await transitions(world, KEY, 3)
        await wait_for_async(lambda: counts.of["webhook", "delivered"] == 3, 30.0)
        assert waiting(world) == 0
    assert [call.json["id"] for call in receiver.calls] == [done[0], done[1], done[1], done[1], done[2]]
    again = [call for call in receiver.calls if call.json["id"] == done[1]]
    assert len({call.headers["webhook-id"] for call in again}) == 1
    assert len({call.body for call in again}) == 1
    assert counts.of == {("webhook", "delivered"): 3, ("webhook", "failed"): 2}
    assert {call.path for call in receiver.calls} == {"/"}
    await impatient.close()
    await outbox.close()


async def test_retry_after_is_kept_to(world: World, receiver: Receiver, http: Http, outboxes) -> None:
    receiver.script.append((429, {"Retry-After": "3600"}))
    outbox = outboxes()
    async with draining(outbox, webhook(http, receiver.url)) as counts:
        await transitions(world, KEY, 1)
        await wait_for_async(lambda: counts.of["webhook", "failed"] == 1)
        await transitions(world, OTHER_KEY, 1, "beta")
        # All of the recipient's wait, also those of other rollouts, and the database knows until when.
        await wait_for_async(lambda: counts.backlogs.get("webhook") and counts.backlogs["webhook"].waiting == 2)
        (row,) = world.database.query(
            "SELECT problem, due_at > clock_timestamp() + interval '50 minutes' AS late FROM feature_rollout.delivery"
        )
    assert row == {"problem": "it answered HTTP 429: it is called too often", "late": True}
    assert len(receiver.calls) == 1
    await outbox.close()


async def test_a_rollout_that_is_refused_keeps_no_other_waiting_and_is_given_up(
    world: World, receiver: Receiver, http: Http, outboxes
) -> None:
    outbox = outboxes()
    recipient = Picky(webhook(http, receiver.url), refuses=f"{KEY}@1")
    async with draining(outbox, recipient) as counts:
        first, second = await transitions(world, KEY, 2)
        assert recipient.refuses == first
        others = await transitions(world, OTHER_KEY, 3, "beta")
        await wait_for_async(lambda: ids(receiver, "shop/other") == others)
        await wait_for_async(lambda: ids(receiver) == [second], 30.0)
        await wait_for_async(lambda: counts.backlogs["webhook"].given_up == 1)
        await wait_for_async(lambda: waiting(world) == 0)
    assert counts.of["webhook", "given_up"] == 1
    assert recipient.refused == drain.REFUSED_MAX
    # The one that was given up stays, with what went wrong.
    await outbox.sweep(["webhook"])
    (row,) = world.database.query("SELECT operation_id, given_up FROM feature_rollout.outbox")
    assert row == {"operation_id": first, "given_up": {"cluster/webhook": "it does not like it"}}
    await outbox.close()


class Picky:
    """Refuses one transition for good."""

    name = "webhook"

    def __init__(self, inner: Any, refuses: str) -> None:
        self.inner = inner
        self.refuses = refuses
        self.refused = 0

    async def send(self, transition: Transition, memory: Any) -> Sent:
        if transition.id == self.refuses:
            self.refused += 1
            raise Undelivered("it does not like it", refused=True)
        return await self.inner.send(transition, memory)


async def test_after_a_day_it_is_given_up_also_when_it_never_was_its_turn(
    world: World, receiver: Receiver, http: Http, outboxes
) -> None:
    receiver.always = 500
    outbox = outboxes()
    async with draining(outbox, webhook(http, receiver.url)) as counts:
        old = await transitions(world, KEY, 3)
        await wait_for_async(lambda: counts.of["webhook", "failed"] >= 2)
        world.database.execute("UPDATE feature_rollout.recipient SET since = '-infinity'")
        world.database.execute("UPDATE feature_rollout.outbox SET at = at - interval '25 hours'")
        await wait_for_async(lambda: counts.of["webhook", "given_up"] == 3)
        receiver.always = 200
        ledger = await world.store.open(claim("alpha"))
        new = await transition(world, ledger)
        await wait_for_async(lambda: ids(receiver) == [f"{KEY}@{new.sequence}"])
    kept = world.database.query("SELECT operation_id, given_up FROM feature_rollout.outbox ORDER BY id")
    assert [row["operation_id"] for row in kept][:3] == old
    assert all(row["given_up"] == {"cluster/webhook": "it answered HTTP 500"} for row in kept[:3])
    await outbox.close()


async def test_one_that_hangs_holds_nothing_up(world: World, receiver: Receiver, http: Http, outboxes) -> None:
    outbox = outboxes()
    with Receiver() as dead:
        dead.always = "hang"
        patient = Http(timeout_s=60.0)
        hanging = webhook(patient, dead.url)
        hanging.name = "dead"  # type: ignore[misc]
        async with draining(outbox, hanging, webhook(http, receiver.url)) as counts:
            done = await transitions(world, KEY, 5)
            await wait_for_async(lambda: dead.calls)
            await wait_for_async(lambda: ids(receiver) == done)
            # Nobody waits for it in a transaction, and the rollout is written as always.
            (now,) = world.database.query("SELECT clock_timestamp() AS at")
            since = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND xact_start < %s"
            await wait_for_async(lambda: world.database.query(since, now["at"]) == [])
            more = await transitions(world, KEY, 1)
            await wait_for_async(lambda: ids(receiver) == done + more)
            assert (len(dead.calls), counts.of["dead", "delivered"]) == (1, 0)
        await patient.close()
    await outbox.close()


async def test_two_drainers_tell_everything_once_and_in_order(
    world: World, receiver: Receiver, http: Http, outboxes
) -> None:
    both = [outboxes(), outboxes()]
    keys = [f"cluster/shop/r{number}" for number in range(6)]
    async with contextlib.AsyncExitStack() as stack:
        for outbox in both:
            await stack.enter_async_context(draining(outbox, webhook(http, receiver.url)))
        done = {key: await transitions(world, key, 12, f"flag-{key}") for key in keys}
        await wait_for_async(lambda: len(receiver.taken) >= 72, 60.0)
        await wait_for_async(lambda: waiting(world) == 0)
    for key in keys:
        assert ids(receiver, key.removeprefix("cluster/")) == done[key]
    assert len(receiver.calls) == 72
    for outbox in both:
        await outbox.close()


async def test_two_drainers_and_failures_at_random(world: World, receiver: Receiver, outboxes) -> None:
    """Everything comes, and for who dedups by id once and in the order of each rollout."""
    receiver.script.extend([500, 200, "reset", 200, 200, 503, "hang", 200, 429] * 6)
    impatient = Http(timeout_s=1.0)
    both = [outboxes(), outboxes()]
    keys = [f"cluster/shop/r{number}" for number in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        for outbox in both:
            await stack.enter_async_context(draining(outbox, webhook(impatient, receiver.url)))
        done = {key: await transitions(world, key, 8, f"flag-{key}") for key in keys}
        await wait_for_async(lambda: len(receiver.events()) == 32, 90.0)
        await wait_for_async(lambda: waiting(world) == 0)
    for key in keys:
        assert ids(receiver, key.removeprefix("cluster/")) == done[key]
    await impatient.close()
    for outbox in both:
        await outbox.close()


@pytest.mark.parametrize("place", failpoints.DELIVERY)
async def test_a_process_that_is_killed_after_it_told(
    world: World, receiver: Receiver, http: Http, outboxes, place: str
) -> None:
    outbox = outboxes()
    await outbox.sweep(["webhook"])
    done = await transitions(world, KEY, 3)
    settings = {
        "uri": world.database.uri(world.writer),
        "cluster": "cluster",
        "url": receiver.url,
        "lease_s": 0.5,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.notifying",
        json.dumps(settings),
        cwd=TESTS,
        env={**os.environ, failpoints.VARIABLE: place},
        stdout=subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 60) == -9
    assert [call.json["id"] for call in receiver.taken] == done[:1]
    async with draining(outbox, webhook(http, receiver.url)):
        await wait_for_async(lambda: ids(receiver) == done, 30.0)
        await wait_for_async(lambda: waiting(world) == 0)
    twice = place == failpoints.DELIVERY[0]
    assert [call.json["id"] for call in receiver.taken] == ([done[0], *done] if twice else done)
    assert len({call.headers["webhook-id"] for call in receiver.taken}) == 3
    await outbox.close()


async def test_a_lease_that_was_lost_changes_nothing(world: World, outboxes) -> None:
    slow, quick = outboxes(lease_s=0.0), outboxes()
    await slow.sweep(["slack"])
    done = await transitions(world, KEY, 2)
    mine = await slow.next("slack")
    theirs = await quick.next("slack")
    assert mine is not None
    assert theirs is not None
    assert (mine.transition.id, theirs.transition.id) == (done[0], done[0])
    assert not await slow.remember(mine, {"ts": "late"})
    assert await quick.remember(theirs, {"ts": "0"})
    await slow.failed(mine, "it is slow", 3600.0)
    assert await quick.next("slack") is None
    await quick.told(theirs, {"ts": "1"})
    await slow.told(mine, {"ts": "late"})
    following = await quick.next("slack")
    assert following is not None
    assert (following.transition.id, following.memory, following.attempts) == (done[1], {"ts": "1"}, 0)
    assert world.database.query("SELECT told FROM feature_rollout.outbox ORDER BY id")[0]["told"] == ["cluster/slack"]
    for outbox in (slow, quick):
        await outbox.close()


async def test_what_was_before_a_recipient_is_not_told_and_what_is_another_clusters_neither(
    world: World, receiver: Receiver, http: Http, outboxes
) -> None:
    old, _ = await transitions(world, KEY, 2)
    past = "UPDATE feature_rollout.outbox SET at = at - interval '11 minutes' WHERE operation_id = %s"
    world.database.execute(past, old)
    ours, theirs = outboxes("cluster"), outboxes("there")
    with Receiver() as there:
        async with (
            draining(ours, webhook(http, receiver.url)),
            draining(theirs, webhook(http, there.url)),
        ):
            (new,) = await transitions(world, KEY, 1)
            (foreign,) = await transitions(world, "there/shop/rollout", 1, "beta")
            switch = KillSwitch(world.config())
            world.set_row("gamma", everyone(50))
            await switch.kill(Order(("gamma",), "somebody", "orders are lost"))
            await switch.close()
            # But for the last ten minutes: a rollout may begin before there is a table to register in.
            await wait_for_async(lambda: len(receiver.events()) == 3 and len(there.events()) == 2)
            await wait_for_async(lambda: waiting(world) == 0)
        for seen, operation in ((receiver, new), (there, foreign)):
            kinds = [(event["type"].rsplit(".", 1)[1], event.get("subject")) for event in seen.events()]
            assert set(kinds) == {("Advance", SUBJECT), ("Kill", None)}
            assert seen.events(SUBJECT)[-1]["id"] == operation
        assert old not in ids(receiver)
        assert receiver.events(None)[-1]["data"]["message"] == "orders are lost"
    for outbox in (ours, theirs):
        await outbox.close()


async def test_a_row_goes_when_all_were_told_and_not_before(world: World, outboxes) -> None:
    outbox = outboxes()
    await outbox.sweep(["webhook", "slack"])
    await transitions(world, KEY, 1)
    for recipient, left in (("webhook", 1), ("slack", 0)):
        delivery = await outbox.next(recipient)
        assert delivery is not None
        await outbox.told(delivery, {})
        # A process that knows of one recipient only does not decide for the other.
        await outbox.sweep(["webhook"])
        assert len(world.database.query("SELECT FROM feature_rollout.outbox")) == left
    # One that nobody is told to notify any more keeps nothing.
    await transitions(world, KEY, 1)
    delivery = await outbox.next("webhook")
    assert delivery is not None
    await outbox.told(delivery, {})
    world.database.execute(
        "UPDATE feature_rollout.recipient SET seen_at = now() - interval '2 hours' WHERE name LIKE '%slack'"
    )
    await outbox.sweep(["webhook"])
    assert world.database.query("SELECT FROM feature_rollout.outbox") == []
    await outbox.close()


async def test_what_is_kept_of_a_rollout_goes_with_its_release(world: World, outboxes) -> None:
    outbox = outboxes()
    await outbox.sweep(["slack"])
    ledger = await world.store.open(claim("alpha"))
    ledger = await transition(world, ledger)
    await transition(world, ledger, "Release")
    for left in (1, 0):
        delivery = await outbox.next("slack")
        assert delivery is not None
        await outbox.told(delivery, {"ts": "1"})
        assert len(world.database.query("SELECT FROM feature_rollout.delivery")) == left
    await outbox.close()


async def test_a_drainer_outlives_its_database(world: World, receiver: Receiver, http: Http, outboxes) -> None:
    outbox = outboxes()
    async with draining(outbox, webhook(http, receiver.url)) as counts:
        await transitions(world, KEY, 1)
        await wait_for_async(lambda: len(receiver.taken) == 1)
        world.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        (after,) = await transitions(world, KEY, 1)
        await wait_for_async(lambda: ids(receiver)[-1:] == [after])
        assert counts.of["webhook", "failed"] == 0
    await outbox.close()


async def test_no_secret_is_said(
    world: World, receiver: Receiver, http: Http, outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.always = 500
    outbox = outboxes()
    caplog.set_level("DEBUG")
    url = receiver.url.replace("//", "//user:hunter2@") + "/hooks/t0psecret?key=s3cret"
    async with draining(outbox, webhook(http, url)) as counts:
        await transitions(world, KEY, 1)
        await wait_for_async(lambda: counts.of["webhook", "failed"] >= 2)
    said = caplog.text + json.dumps(world.database.query("SELECT d::text FROM feature_rollout.delivery d"))
    assert "HTTP 500" in said
    for secret in ("hunter2", "t0psecret", "s3cret", "127.0.0.1:"):
        assert secret not in said
    await outbox.close()


async def test_doctor_says_what_waits_and_what_was_given_up(world: World, outboxes: Any) -> None:
    async def said() -> tuple[str, str]:
        roles = doctor.Roles(parse_uri(world.config().writer_uri), None, None)
        findings = await doctor.examine(roles, world.config().table)
        (found,) = [finding for finding in findings if finding.check == "writer: notifications"]
        return str(found.result), found.message

    assert await said() == ("ok", "no operator on this database notifies anybody")
    outbox = outboxes()
    await outbox.sweep(["slack", "webhook"])
    await transitions(world, KEY, 2)
    assert await said() == ("ok", "nothing waits for long: cluster/slack, cluster/webhook")
    world.database.execute("UPDATE feature_rollout.recipient SET since = '-infinity'")
    world.database.execute("UPDATE feature_rollout.outbox SET at = at - interval '20 minutes'")
    delivery = await outbox.next("webhook")
    assert delivery is not None
    await outbox.failed(delivery, "it answered HTTP 500", 0.0)
    result, message = await said()
    assert result == "warning"
    assert "cluster/webhook waits for 2 since 20 min: it answered HTTP 500" in message
    delivery = await outbox.next("slack")
    assert delivery is not None
    await outbox.give_up(delivery, "no")
    result, message = await said()
    assert "1 were never told to cluster/slack" in message
    await outbox.close()
