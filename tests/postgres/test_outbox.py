"""The outbox: one row a transition, in its transaction, bounded, and never in the way of a lowering."""

from dataclasses import replace
from datetime import timedelta

import pytest

from feature_rollout.core.plan import Severity
from feature_rollout.ports import Checkpoint, Commit, Fenced
from feature_rollout.store import outbox
from feature_rollout.store.kill import KillSwitch, Order
from postgres.world import KEY, World, claim, everyone, latch, lowering, problem_of, why
from support.databases import all_postgres

pytestmark = all_postgres


def rows(world: World) -> list[dict]:
    return world.database.query("SELECT * FROM feature_rollout.outbox ORDER BY id")


async def test_a_raise_is_one_row_with_what_a_notification_needs(world: World) -> None:
    ledger = await world.store.open(claim())
    before = (await world.store.read(KEY, ["alpha", "beta"])).rows
    change = Commit(
        replace(ledger, stage=0),
        before,
        {"alpha": everyone(5), "beta": before["beta"]},
        why("StageEntered", verb="Advance"),
    )
    after = await world.store.commit(change)
    (row,) = rows(world)
    assert (row["operation_id"], row["ledger_key"], row["kind"]) == (f"{KEY}@{after.sequence}", KEY, "Advance")
    assert row["payload"] == {
        "rollout": KEY,
        "uid": "uid-1",
        "generation": 1,
        "attempt": 1,
        "stage": "canary",
        "verb": "Advance",
        "reason": "StageEntered",
        "message": "a test does it",
        "actor": "operator",
        "flags": {"alpha": {"before": before["alpha"].to_json(), "after": everyone(5).to_json()}},
    }
    transactions = world.database.query(
        "SELECT count(DISTINCT x) AS n FROM (SELECT xmin::text AS x FROM feature_rollout.outbox "
        "UNION SELECT xmin::text FROM feature_rollout.audit UNION SELECT xmin::text FROM feature_rollout.ledger) t"
    )
    assert transactions == [{"n": 1}]


async def test_a_stage_without_flags_is_a_row_and_a_fenced_one_is_none(world: World) -> None:
    ledger = await world.store.open(claim())
    change = Commit(replace(ledger, stage=0), {}, {}, why("StageEntered", verb="Advance"))
    await world.store.commit(change)
    with pytest.raises(Fenced):
        await world.store.commit(change)
    assert [(row["kind"], row["payload"]["flags"]) for row in rows(world)] == [("Advance", {})]


async def test_a_revert_is_one_row_also_when_it_is_asked_for_twice(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(50), beta=everyone(50))
    change = lowering(["alpha", "beta"], latch=latch(), severity=Severity.HIGH, why=why("Breach", verb="DisableFlags"))
    for _ in range(2):
        await world.store.lower(change)
    (row,) = rows(world)
    assert (row["kind"], sorted(row["payload"]["flags"])) == ("DisableFlags", ["alpha", "beta"])


@pytest.mark.parametrize("flags", [[], ["alpha"]])
async def test_a_release_is_a_row_whether_or_not_rows_are_changed(world: World, flags: list[str]) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(50))
    change = lowering(flags, why=why("Released", verb="Release"))
    for _ in range(2):
        await world.store.release(change, "uid-1")
    assert [(row["kind"], list(row["payload"]["flags"])) for row in rows(world)] == [("Release", flags)]


async def test_what_is_no_change_is_a_row_under_a_name_of_its_own(world: World) -> None:
    ledger = await world.store.open(claim())
    for _ in range(2):
        await world.store.tell(KEY, why("HoldAction", verb="Hold"))
    first, second = rows(world)
    assert (first["kind"], first["payload"]["reason"], first["payload"]["flags"]) == ("Hold", "HoldAction", {})
    assert first["payload"]["uid"] == ledger.uid
    assert first["operation_id"] != second["operation_id"]
    # It is no operation: the ledger and the audit know nothing of it.
    assert (world.ledger_row()["sequence"], world.audit()) == (ledger.sequence, [])


async def test_the_kill_switch_is_a_row(world: World) -> None:
    world.set_row("alpha", everyone(50))
    switch = KillSwitch(world.config())
    for _ in range(2):
        await switch.kill(Order(("alpha",), "somebody", "orders are lost"))
    await switch.close()
    (row,) = rows(world)
    assert (row["ledger_key"], row["kind"], row["payload"]["actor"]) == ("kill", "Kill", "somebody")


@pytest.mark.parametrize(
    ("obstacle", "removal"),
    [
        pytest.param(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'secret-of-the-server' USING ERRCODE = 'disk_full'; END $$; "
            "CREATE TRIGGER full_disk BEFORE INSERT ON feature_rollout.outbox EXECUTE FUNCTION full_disk()",
            "DROP TRIGGER full_disk ON feature_rollout.outbox",
            id="disk full",
        ),
        pytest.param(
            "ALTER TABLE feature_rollout.outbox RENAME TO away",
            "ALTER TABLE feature_rollout.away RENAME TO outbox",
            id="table gone",
        ),
    ],
)
async def test_it_never_stops_a_lowering_and_follows_with_the_audit(world: World, obstacle: str, removal: str) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(50))
    world.database.execute(obstacle)
    change = lowering(["alpha"], latch=latch(), severity=Severity.HIGH, why=why("Breach", verb="DisableFlags"))
    problem = await problem_of(world.store.lower(change))
    assert problem.reason == "AuditDelayed"
    assert "secret-of-the-server" not in problem.message
    assert world.row("alpha").is_off
    world.database.execute(removal)
    await world.store.lower(change)
    told = [row for row in rows(world) if row["payload"]["flags"]]
    assert [(row["kind"], list(row["payload"]["flags"])) for row in told] == [("DisableFlags", ["alpha"])]
    assert [entry["flag"] for entry in world.audit() if entry["kind"] == "Lower"] == ["alpha"]


async def test_old_rows_and_those_beyond_the_bound_go_with_a_checkpoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ROWS_MAX", 3)
    ledger = await world.store.open(claim())
    world.database.execute(
        "INSERT INTO feature_rollout.outbox (at, operation_id, ledger_key, kind, payload) "
        "SELECT now() - CASE WHEN n = 9 THEN interval '31 days' ELSE interval '29 days' END, "
        "'o' || n, 'k', 'Advance', '{}' "
        "FROM generate_series(1, 10) n"
    )
    checkpoint = Checkpoint(KEY, ledger.epoch, ledger.attempt, timedelta(0), {})
    await world.store.checkpoint([checkpoint])
    assert [row["operation_id"] for row in rows(world)] == ["o8", "o10"]
    # Not with each of them: it is one more statement.
    world.database.execute("UPDATE feature_rollout.outbox SET at = '2000-01-01'")
    await world.store.checkpoint([checkpoint])
    assert len(rows(world)) == 2


async def test_a_row_that_was_raised_by_hand_is_lowered_again_and_audited(world: World) -> None:
    await world.raised(await world.store.open(claim()), alpha=everyone(50))
    change = lowering({"alpha": everyone(10)}, latch=latch(), severity=Severity.HIGH)
    await world.store.lower(change)
    world.set_row("alpha", everyone(90))
    await world.store.lower(change)
    assert world.row("alpha") == everyone(10)
    assert [(e["kind"], e["after"]["percentage"]) for e in world.audit()][1:] == [
        ("Lower", "10"),
        ("Manual", "90"),
        ("Lower", "10"),
    ]
