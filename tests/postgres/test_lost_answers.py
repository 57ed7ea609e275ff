"""A COMMIT that is lost on its way, or whose answer is: what was done is told, once, and what was not is done.

The reconciler in virtual time over the real store, and a proxy that loses one COMMIT of a transition.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.looks import Window
from feature_rollout.core.plan import OnDelete
from postgres.world import OFF, World
from support import audit
from support.commits import CommitProxy, Loss
from support.databases import all_postgres
from support.fakes import T0, minutes, plan, stage
from support.fakes import World as Rollout

pytestmark = all_postgres

PLAN = plan(stage("ten", ("alpha", 10)), stage("all", ("alpha", 100)))
OTHER_PLAN = plan(stage("one", ("alpha", 1)), stage("all", ("alpha", 100)))
Case = tuple[Callable[[Rollout], Awaitable[None]], str, str]
LOSSES: tuple[Loss, ...] = ("its answer", "the COMMIT")


@pytest.fixture
async def proxy(world: World) -> AsyncIterator[CommitProxy]:
    async with CommitProxy.to(world.database.server.port) as proxy:
        yield proxy


@pytest.fixture
def rollout(world: World, proxy: CommitProxy) -> Rollout:
    made = Rollout(PLAN)
    made.store = world.new_store(writer_uri=proxy.through(world.database.uri(world.writer)))  # type: ignore[assignment]
    made.target_changes["on_delete"] = OnDelete.DISABLE
    return made


def harm(_metric: str, window: Window) -> dict[str, Any]:
    return {"events": 40.0 if T0 + minutes(2) <= window.start < T0 + minutes(4) else 0.0, "units": 200.0}


async def raised(_: Rollout) -> None:
    """Nothing has to be done before."""


async def reverted(rollout: Rollout) -> None:
    await rollout.run(minutes(2))
    rollout.source.answer = harm


async def rearmed(rollout: Rollout) -> None:
    await reverted(rollout)
    await rollout.run(minutes(20))
    rollout.edit(OTHER_PLAN)


async def completed(rollout: Rollout) -> None:
    await rollout.run(timedelta(hours=1), until=lambda: rollout.status.get("stage", {}).get("name") == "all")


async def released(rollout: Rollout) -> None:
    await rollout.run(minutes(1))
    rollout.delete()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "case",
    [
        (raised, "Advance", "StageEntered"),
        (reverted, "DisableFlags", "FlagsDisabled"),
        (rearmed, "Rearm", "Rearmed"),
        (completed, "Complete", "Completed"),
        (released, "Release", "Released"),
    ],
    ids=lambda case: case[1],
)
async def test_a_change_is_made_and_told_once(
    world: World, rollout: Rollout, proxy: CommitProxy, loss: Loss, case: Case
) -> None:
    before, verb, reason = case
    await before(rollout)
    told, sent = rollout.reasons.count(reason), kinds(world).count(verb)
    proxy.lose(loss, containing=b"INSERT INTO feature_rollout.outbox")
    await rollout.run(minutes(10), until=lambda: rollout.reasons.count(reason) > told)
    await rollout.step()
    assert proxy.lost == 1
    assert rollout.reasons.count(reason) == told + 1
    assert kinds(world).count(verb) == sent + 1
    if verb != "Release":
        assert [h["action"] for h in rollout.status["history"]].count(verb) == rollout.reasons.count(reason)
    if verb == "DisableFlags":
        assert len(rollout.telemetry.reverts) == 1
    row = world.row("alpha")
    baseline, rows = {"alpha": (False, 0, frozenset[str]())}, {"alpha": (row.enabled, int(row.percentage), row.groups)}
    assert audit.violations(world.audit(), baseline, rows) == []
    assert row.enabled == (verb in ("Advance", "Rearm", "Complete"))


def kinds(world: World) -> list[str]:
    return [row["kind"] for row in world.database.query("SELECT kind FROM feature_rollout.outbox ORDER BY id")]


async def test_a_commit_that_comes_late_is_told_and_not_done_again(
    world: World, rollout: Rollout, proxy: CommitProxy
) -> None:
    """The ledger did not show it yet when it was asked: the row was still locked by the transaction."""
    proxy.lose("the COMMIT", containing=b"INSERT INTO feature_rollout.outbox")
    await rollout.run(minutes(1), until=lambda: proxy.lost == 1)
    session = rollout.reconciler._sessions["uid-1"]
    late = session.unconfirmed
    assert late is not None
    assert late.ledger is not None
    assert world.row("alpha") == OFF
    # As the server then does it, between the next read and the next commit.
    world.database.execute(
        "UPDATE feature_rollout.ledger SET sequence = sequence + 1, stage = 0, entered_at = %s, executed = %s::jsonb, "
        """written = '{"alpha": {"enabled": true, "percentage": "10", "groups": []}}', """
        """baseline = '{"alpha": {"enabled": false, "percentage": "0", "groups": []}}'""",
        late.ledger.entered_at,
        f'["{late.ledger.executed[0]}"]',
    )
    world.database.execute("UPDATE feature_flags SET enabled = true, rollout_percentage = 10 WHERE name = 'alpha'")
    await rollout.run(minutes(1))
    assert rollout.reasons.count("StageEntered") == 1
    assert session.unconfirmed is None
