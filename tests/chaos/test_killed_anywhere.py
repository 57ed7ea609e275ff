"""The operator dies with -9 before and after everything that it writes, and another one goes on."""

from collections.abc import Callable

import psycopg
import pytest

from feature_rollout import failpoints
from feature_rollout.failpoints import EVERYWHERE, Places
from support.manifests import A, B, stage
from support.story import HALF, LOCK_BOUND_S, OFF, REVERTED, START_BOUND_S, Story

SHORT = [stage("ten", 10), stage("half", 50)]
LOCK_A = "SELECT FROM feature_flags WHERE name = %s FOR UPDATE"
# As somebody does whom the trigger does not see.
BY_HAND = "SET session_replication_role = replica; UPDATE feature_flags SET rollout_percentage = 20 WHERE name = '{}'"


def on_the_way(story: Story, places: Places) -> None:
    """From the first moment on; then harm comes."""
    story.begin()
    story.killed_around(places)
    story.wait_half()
    story.harm()
    story.wait_reverted(START_BOUND_S)


def at_the_end(story: Story, places: Places) -> None:
    story.begin(SHORT)
    story.killed_around(places)
    story.wait_completed()
    assert story.world.row(A) == story.world.row(B) == HALF


def rearmed(story: Story, places: Places) -> None:
    """Another plan after a revert is another attempt, once."""
    story.begin()
    story.start()
    story.wait_half()
    story.harm()
    story.wait_reverted(START_BOUND_S)
    story.operator.kill()
    story.world.traffic.failed = 0.0
    story.edit(SHORT)
    story.killed_around(places)
    story.wait_completed()
    assert story.world.ledger()["attempt"] == 2


def asked_by_a_person(story: Story, places: Places) -> None:
    """A pause is carried out once, and told."""
    story.begin()
    story.start()
    story.wait_half()
    story.operator.kill()
    name = story.world.act("Pause")
    story.killed_around(places)
    story.world.wait_answer(name, "Applied", "Paused", START_BOUND_S)
    assert [row["outcome"] for row in story.world.actions()] == ["Applied"]
    assert story.world.row(A) == HALF


def at_the_harm(story: Story, places: Places) -> None:
    story.world.traffic.harm_at(A, 50)
    story.harm()
    story.begin()
    story.killed_around(places)
    story.wait_reverted(START_BOUND_S)


def after_the_harm(story: Story, places: Places) -> None:
    story.begin()
    story.start()
    story.wait_half()
    story.operator.kill()
    story.harm()
    story.killed_around(places)
    story.wait_reverted(START_BOUND_S)


def at_a_locked_row(story: Story, places: Places) -> None:
    """A superuser's lock, whom nobody may interrupt: the revert goes flag by flag."""
    story.begin()
    story.start()
    story.wait_half()
    story.operator.kill()
    with psycopg.connect(story.world.database.uri()) as person:
        person.execute(LOCK_A, (A,))
        story.harm()
        story.killed_around(places)
        story.world.wait_row(B, REVERTED, LOCK_BOUND_S)
        assert story.world.row(A) == HALF
    story.fault_over()
    story.wait_reverted(LOCK_BOUND_S)


def at_the_deletion(story: Story, places: Places) -> None:
    story.begin(onDelete="Restore")
    story.start()
    story.wait_half()
    story.operator.kill()
    story.delete(left={A: OFF, B: OFF})
    story.killed_around(places)
    story.wait_gone()


def at_a_change_by_hand(story: Story, places: Places) -> None:
    story.begin([stage("ten", 10), stage("half", 50, "4s"), stage("everyone", 100)])
    story.start()
    story.wait_half()
    story.operator.kill()
    with psycopg.connect(story.world.database.uri(), autocommit=True) as person:
        person.execute(BY_HAND.format(A).encode())
    story.killed_around(places)
    story.world.wait_condition("FlagsInSync", "False", "ManualChange", timeout_s=START_BOUND_S)
    manual = [entry["flag"] for entry in story.world.audit() if entry["kind"] == "Manual"]
    assert manual == [A]
    story.operator.wait_looks(5, verdict="Pass")
    assert story.world.row(A)[1] == 20


PLOTS: list[tuple[Places, Callable[[Story, Places], None]]] = [
    (failpoints.ADD_FINALIZER, on_the_way),
    (failpoints.CLAIM, on_the_way),
    (failpoints.RAISE, on_the_way),
    (failpoints.CHECKPOINT, on_the_way),
    (failpoints.LEDGER, at_the_end),
    (failpoints.LEDGER, rearmed),
    (failpoints.ANSWER, asked_by_a_person),
    (failpoints.REVERT, at_the_harm),
    (failpoints.WRITE_STATUS, after_the_harm),
    (failpoints.LATCH, at_a_locked_row),
    (failpoints.FLAG, at_a_locked_row),
    (failpoints.RELEASE, at_the_deletion),
    (failpoints.REMOVE_FINALIZER, at_the_deletion),
    (failpoints.OBSERVE, at_a_change_by_hand),
]
NAMES = [f"{places[0].removeprefix('before-')} {plot.__name__}".replace("_", " ") for places, plot in PLOTS]


@pytest.mark.parametrize(("places", "plot"), PLOTS, ids=NAMES)
def test_killed_before_and_after(story: Story, places: Places, plot: Callable[[Story, Places], None]) -> None:
    plot(story, places)
    lowers = any(entry["reason"] == "FlagsDisabled" for entry in story.world.audit())
    story.tell(f"operator killed: {places[0].removeprefix('before-')}", START_BOUND_S if lowers else None)


def test_every_place_is_tried() -> None:
    assert {places for places, _ in PLOTS} == set(EVERYWHERE)
