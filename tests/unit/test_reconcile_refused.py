"""A raise that the store refuses for good: said once, tried again calmly, and made when it is mended.

| what comes before the raise | alternates with the refusal |
|---|---|
| nothing | no |
| a check, whose answer is soon too old | no |
| a metric with data in every second window | no |
| a guard that is blind for long | it is told after five minutes |
"""

from datetime import timedelta

import pytest

from feature_rollout.core.checks import Check, stage_key
from feature_rollout.core.plan import Plan
from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Problem
from support.fakes import INTERVAL, OFF, World, exposure, minutes, plan, seconds, stage

HOUR = timedelta(hours=1)
READY = Check(stage_key("half", "ready"))
PLAIN = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50)))
CHECKED = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50), checks=(READY,)))
KILLED = Problem("FlagKilled", "flag bell was switched off with featurerollout kill: lift it to go on")
WRITTEN_MAX = 5


class Killed:
    """The second raise is refused until `mended`; counts the tries."""

    def __init__(self, world: World, problem: Problem = KILLED) -> None:
        self.tries, self.mended, self._problem, self._commit = 0, False, problem, world.store.commit
        world.store.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, change: Commit) -> Ledger:
        if change.after and change.ledger.stage == 1 and not self.mended:
            self.tries += 1
            raise self._problem
        return await self._commit(change)


async def refused(of: Plan = PLAIN) -> tuple[World, Killed]:
    """After the first refusal."""
    world = World(of, bell=OFF)
    world.checks.answers = {READY.key: (True, "it is")}
    killed = Killed(world)
    await world.run(HOUR, until=lambda: killed.tries > 0)
    return world, killed


def told(world: World) -> tuple[str, str]:
    return world.status["phase"], next(c["reason"] for c in world.status["conditions"] if c["type"] == "Stalled")


@pytest.mark.parametrize("of", [PLAIN, CHECKED], ids=["nothing before it", "a check before it"])
async def test_it_is_said_once_in_an_hour_and_tried_again(of: Plan) -> None:
    world, killed = await refused(of)
    before = len(world.objects.statuses)
    seen = set()

    def quiet() -> bool:
        seen.add(told(world))
        return False

    await world.run(HOUR, until=quiet)
    assert seen == {("Stalled", "FlagKilled")}
    assert len(world.objects.statuses) - before <= WRITTEN_MAX
    assert world.reasons.count("FlagKilled") == 1
    assert world.reasons[-1] == "FlagKilled"
    assert 60 <= killed.tries <= 125, "every half a minute or so"
    assert [world.condition(kind) for kind in ("GuardsHealthy", "FlagsInSync", "Ready")] == ["True", "True", "False"]


async def test_a_metric_with_gaps_does_not_take_turns_with_it() -> None:
    world, killed = await refused()
    before = len(world.objects.statuses)
    world.source.answer = lambda _, window: {"events": 0.0, "units": 200.0} if window.start.second else {}
    await world.run(HOUR)
    assert len(world.objects.statuses) - before <= WRITTEN_MAX
    assert (told(world), world.reasons.count("FlagKilled")) == (("Stalled", "FlagKilled"), 1)
    assert killed.tries > 10


async def test_it_goes_on_by_itself_when_it_is_mended() -> None:
    world, killed = await refused(CHECKED)
    await world.run(minutes(10))
    killed.mended = True
    await world.run(minutes(2))
    assert world.store.rows["bell"] == exposure(50)
    assert world.condition("Stalled") == "False"


async def test_an_edit_is_tried_at_once() -> None:
    world, killed = await refused()
    killed.mended = True
    world.rollout["metadata"]["generation"] += 1
    await world.run(seconds(6))
    assert world.ledger.stage == 1


async def test_what_keeps_it_from_being_tried_is_told_when_it_lasts() -> None:
    world, killed = await refused()
    world.source.answer = lambda _metric, _window: {"error": "timeout"}
    await world.run(minutes(2))
    assert (told(world), world.condition("GuardsHealthy")) == (("Stalled", "FlagKilled"), "False")
    tries = killed.tries
    await world.run(minutes(6))
    assert (told(world), killed.tries) == (("Held", "GuardsBlind"), tries)


async def test_people_and_guards_do_not_wait_for_it() -> None:
    world, _ = await refused()
    request = world.asks("Pause")
    for _ in range(4):
        await world.step()
    assert (world.answer(request), told(world)) == (("Applied", "Paused"), ("Paused", "Paused"))
    world.source.answer = lambda _metric, _window: {"events": 40.0, "units": 200.0}
    await world.run(5 * INTERVAL)
    assert world.condition("RolledBack") == "True"


@pytest.mark.parametrize("problem", [Problem("StoreUnreachable", "away", stalled=False)])
async def test_what_heals_by_waiting_is_no_refusal(problem: Problem) -> None:
    world = World(PLAIN, bell=OFF)
    killed = Killed(world, problem)
    await world.run(HOUR, until=lambda: killed.tries > 0)
    await world.run(seconds(7))
    assert killed.tries >= 3
    killed.mended = True
    await world.run(seconds(5))
    assert world.ledger.stage == 1


async def test_another_process_says_it_no_second_time() -> None:
    world, _ = await refused()
    world.restart()
    await world.run(minutes(5))
    assert (told(world), world.reasons.count("FlagKilled")) == (("Stalled", "FlagKilled"), 1)
