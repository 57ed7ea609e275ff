"""How often, and how soon, somebody is told again; a recipient in trouble is asked gently."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from feature_rollout.notify import drain
from feature_rollout.notify.drain import Line, backoff_s
from feature_rollout.notify.recipient import Sent, Undelivered
from feature_rollout.ports import Delivery, Problem, Transition
from support.notifying import Counts

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)


def delivery(attempts: int = 0, memory: Mapping[str, Any] | None = None) -> Delivery:
    transition = Transition("c/shop/r@1", 1, NOW, "c/shop/r", "Advance", {"message": "in"})
    return Delivery("webhook", "lease", transition, attempts, memory or {})


class Box:
    """An outbox that remembers what is recorded; `away` is how often it cannot be."""

    def __init__(self, away: int = 0, lease: bool = True) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.away = away
        self.lease = lease

    async def remember(self, delivery: Delivery, memory: Mapping[str, Any]) -> bool:
        self.done.append(("remembered", dict(memory)))
        return self.lease

    async def told(self, delivery: Delivery, memory: Mapping[str, Any]) -> None:
        if self.away:
            self.away -= 1
            raise Problem("StoreUnreachable", "away")
        self.done.append(("told", dict(memory)))

    async def failed(self, delivery: Delivery, problem: str, retry_s: float) -> None:
        self.done.append(("failed", problem, retry_s))

    async def give_up(self, delivery: Delivery, problem: str) -> None:
        self.done.append(("given up", problem))


class Teller:
    name = "webhook"

    def __init__(self, *answers: Sent | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[Mapping[str, Any]] = []

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        self.seen.append(memory)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def told(box: Box, *answers: Sent | Exception, attempts: int = 0) -> tuple[Line, Counts]:
    counts = Counts()
    line = Line(Teller(*answers), counts)
    await line.deliver(box, delivery(attempts))  # type: ignore[arg-type]
    return line, counts


def test_pauses_grow_to_a_minute_and_are_never_alike() -> None:
    for failures, longest in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (10_000, 60)):
        found = {backoff_s(failures) for _ in range(50)}
        assert longest / 2 <= min(found) <= max(found) <= longest
        assert len(found) > 1


async def test_trouble_closes_the_line_and_a_success_opens_it() -> None:
    box = Box()
    line, counts = await told(box, Undelivered("it answered HTTP 500"), Sent({"ts": "1"}))
    assert 0 < line.wait_s() <= 1
    await line.deliver(box, delivery(1))  # type: ignore[arg-type]
    assert line.wait_s() == 0
    assert [what[0] for what in box.done] == ["failed", "told"]
    assert counts.of == {("webhook", "failed"): 1, ("webhook", "delivered"): 1}


async def test_what_the_recipient_asks_for_goes_before_our_pauses() -> None:
    box = Box()
    line, _ = await told(box, Undelivered("busy", retry_after_s=500))
    assert 400 < line.wait_s() <= 500
    assert box.done == [("failed", "busy", 500)]


async def test_a_refusal_closes_nothing_and_is_tried_ten_times() -> None:
    box = Box()
    line, counts = await told(box, Undelivered("no", refused=True), attempts=drain.REFUSED_MAX - 2)
    assert line.wait_s() == 0
    assert box.done[0][:2] == ("failed", "no")
    _, counts = await told(box, Undelivered("no", refused=True), attempts=drain.REFUSED_MAX - 1)
    assert box.done[1] == ("given up", "no")
    assert counts.of["webhook", "given_up"] == 1
    # Trouble of its own is no refusal, however often.
    await told(box, Undelivered("away"), attempts=1000)
    assert box.done[2][0] == "failed"


async def test_steps_are_remembered_before_the_next_one() -> None:
    box = Box()
    teller = Teller(Sent({"ts": "1"}, whole=False), Sent({"ts": "1", "n": 2}))
    await Line(teller, Counts()).deliver(box, delivery())  # type: ignore[arg-type]
    assert box.done == [("remembered", {"ts": "1"}), ("told", {"ts": "1", "n": 2})]
    assert teller.seen == [{}, {"ts": "1"}]


async def test_who_has_lost_the_lease_stops() -> None:
    box = Box(lease=False)
    _, counts = await told(box, Sent({"ts": "1"}, whole=False))
    assert [what[0] for what in box.done] == ["remembered"]
    assert counts.of == {}


async def test_one_that_never_is_whole_fails() -> None:
    box = Box()
    await told(box, *[Sent(whole=False)] * drain.STEPS_MAX)
    assert box.done[-1][:2] == ("failed", "it forgets what it was told")


async def test_a_database_that_is_away_for_a_moment_has_nothing_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "BACKOFF_S_MAX", 0.0)
    box = Box(away=drain.RECORD_MAX - 1)
    await told(box, Sent())
    assert box.done == [("told", {})]
    box = Box(away=drain.RECORD_MAX)
    with pytest.raises(Problem):
        await told(box, Sent())


async def test_nonsense_in_a_transition_ends_nothing() -> None:
    box = Box()
    await told(box, KeyError("s3cret"))
    assert box.done[0][:2] == ("failed", "it cannot be put into words: KeyError")


async def test_all_of_a_delivery_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "DELIVERY_TIMEOUT_S", 0.05)

    class Hanging(Teller):
        async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
            await asyncio.Event().wait()
            raise AssertionError

    box = Box()
    await Line(Hanging(), Counts()).deliver(box, delivery())  # type: ignore[arg-type]
    assert box.done[0][:2] == ("failed", "not delivered in 0.05 s")
