"""Two shards and two replicas that both work; one is killed, and then the number of shards changes in an upgrade.

| what happens | and then |
|---|---|
| the second starts | it gets one of the two shards, with the rollout in it |
| SIGKILL of the second | the first leads both, and its rollout goes on |
| a third starts, which was told of three shards | it goes by two, as the first Lease says, and gets one of them |
| SIGTERM of the first | the third leads all three; harm is taken back in both rollouts |

No raise is under an old epoch, every stage is entered once, each revert is told once, and in the end nobody takes
anything from anybody.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from feature_rollout.core.shards import shard_of
from feature_rollout.demo import stage as demo
from support.ending import end
from support.invariants import History, check
from support.manifests import A, B, Object, rollout, store
from support.nursery import Nursery
from support.operatorprocess import Operator
from support.story import START_BOUND_S, Story
from support.waiting import wait_for
from support.world import World

NAME = "feature-rollout-operator"
SHORT = {"lease_duration_seconds": "6", "lease_renew_deadline_seconds": "4", "lease_retry_seconds": "0.5"}
# Thrice a Lease that runs out and its tries, because these machines are slow.
TAKEOVER_BOUND_S = 30.0
LEADER, SHARDS = "featurerollout_leader", "featurerollout_shards"
# The rollout in each of the two shards, and its flag.
ROLLOUTS = {"in-the-first": A, "in-the-second": B}


@dataclass
class Replicas:
    story: Story
    first: Operator
    second: Operator
    third: Operator
    lease: dict[str, str]

    def start(self, operator: Operator, shards: int) -> None:
        operator.start(**self.lease, **SHORT, shards=str(shards))

    def wait_led(self, *led: tuple[Operator, int]) -> float:
        """Until each of these leads so many shards; how long it took, in seconds."""
        begun_s = time.monotonic()

        def so() -> bool:
            assert [operator.count(LEADER) for operator, _ in led] == [wanted for _, wanted in led]
            return True

        wait_for(so, TAKEOVER_BOUND_S, "the shares")
        return time.monotonic() - begun_s


@pytest.fixture
def replicas(story: Story, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    world = story.world
    operators = [story.operator]
    for name in ("second", "third"):
        (tmp_path / name).mkdir()
        account = (world.cluster, world.namespace, demo.SERVICE_ACCOUNT, tmp_path / name)
        operators.append(Operator(*account, nursery=nursery))
    names = [{"op": "replace", "path": "/rules/1/resourceNames", "value": [NAME, f"{NAME}-1", f"{NAME}-2"]}]
    role = ("role", f"{NAME}-lease", "-n", world.namespace)
    world.cluster.kubectl("patch", *role, "--type=json", f"--patch={json.dumps(names)}")
    yield Replicas(story, *operators, {"lease_name": NAME, "lease_namespace": world.namespace})
    for operator in operators[1:]:
        end(operator, world, request)


def in_shard(world: World, manifest: Object, shard: int) -> None:
    """Create a rollout, and again until its UID is one of that shard; no operator runs yet."""
    name = manifest["metadata"]["name"]

    def made() -> bool:
        world.apply(manifest)
        if shard_of(world.rollout(name)["metadata"]["uid"], 2) == shard:
            return True
        world.delete("FeatureRollout", name)
        return False

    wait_for(made, 30.0, f"a rollout in shard {shard}")


def stages(name: str, flag: str) -> list[Object]:
    """The bake of the second is long enough for whatever happens in it."""
    shares = (("ten", 10, "3s"), ("half", 50, "10s"), ("most", 90, "5m"))
    return [
        {"name": f"{name}-{part}", "flags": [{"names": [flag], "percentage": share}], "bake": bake}
        for part, share, bake in shares
    ]


def of(history: History, flag: str) -> History:
    """What a run left behind of one flag: two rollouts write in any order."""
    return replace(
        history,
        audit=[entry for entry in history.audit if entry["flag"] == flag],
        baseline={flag: history.baseline[flag]},
        rows={flag: history.rows[flag]},
        seen=[{flag: rows[flag]} for rows in history.seen],
        ownership=[row for row in history.ownership if row["flag"] == flag],
    )


def test_a_replica_dies_and_the_number_of_shards_changes(replicas: Replicas) -> None:
    story, world = replicas.story, replicas.story.world
    first, second, third = replicas.first, replicas.second, replicas.third
    world.apply(store())
    for shard, (name, flag) in enumerate(ROLLOUTS.items()):
        in_shard(world, rollout(name, stages=story.planned(stages(name, flag))), shard)
    replicas.start(first, shards=2)
    replicas.start(second, shards=2)
    story.note("shards: until two replicas have one each", replicas.wait_led((first, 1), (second, 1)))
    for flag in ROLLOUTS.values():
        world.wait_row(flag, (True, 50, frozenset()), START_BOUND_S)
    for operator in (first, second):
        operator.wait_looks(1, verdict="Pass")
    second.kill()
    story.note("shards: until the other leads those of one that was killed", replicas.wait_led((first, 2)))
    replicas.start(third, shards=3)
    replicas.wait_led((first, 1), (third, 1))
    assert third.count(SHARDS) == 2, "as the first Lease says"
    for flag in ROLLOUTS.values():
        world.wait_row(flag, (True, 90, frozenset()), START_BOUND_S)
    assert first.stop()
    replicas.wait_led((third, 3))
    assert third.count(SHARDS) == 3
    third.wait_looks(2, verdict="Pass")
    story.harm()
    for name, flag in ROLLOUTS.items():
        world.wait_row(flag, (False, 90, frozenset()), START_BOUND_S)
        world.wait_condition("RolledBack", "True", "RolledBack", name=name)
        world.soon(lambda name=name: "FlagsDisabled" in world.reasons(name), START_BOUND_S)
        assert [e.get("series") for e in world.events(name) if e["reason"] == "FlagsDisabled"] == [None]
    settled(story, third)
    history = story.history()
    assert [found for flag in ROLLOUTS.values() for found in check(of(history, flag))] == []


def settled(story: Story, operator: Operator) -> None:
    """Nobody takes a rollout from anybody any more."""

    def epochs() -> list[int]:
        return [story.world.ledger(name)["epoch"] for name in ROLLOUTS]

    before = epochs()
    operator.wait_looks(4)
    assert epochs() == before
