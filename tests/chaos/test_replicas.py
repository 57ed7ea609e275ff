"""Two replicas, the first of which leads and then fails in one way; harm comes while nobody leads.

| what becomes of the first | and then |
|---|---|
| SIGKILL | it is gone |
| SIGTERM | it gives the Lease up before it ends |
| SIGSTOP for longer than the Lease, with the default times for a minute | it wakes, and finds that another leads |
| cut off from the API server | it cannot renew, and goes on lowering |
| cut off from PostgreSQL | it leaves the Lease to the other |

In each the other leads and takes the harm back, every stage is entered once, no raise is under an old epoch and no
look is counted twice. With FEATUREROLLOUT_CHAOS the Lease's times are the defaults once.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from feature_rollout.demo import stage as demo
from support import network
from support.depth import DEEP
from support.ending import end
from support.manifests import SECRET, A
from support.nursery import Nursery
from support.operatorprocess import Operator
from support.story import REVERTED, START_BOUND_S, STORE_BOUND_S, Story
from support.waiting import wait_for
from support.world import World

# Short, and long enough for a machine on which a call takes a second.
SHORT = {"lease_duration_seconds": "6", "lease_renew_deadline_seconds": "4", "lease_retry_seconds": "0.5"}
# As invariants.md has it for the defaults; thrice that, because these machines are slow and the figures are printed.
TAKEOVER_BOUND_S = 60.0
LEADER = "featurerollout_leader"
LOOKS = "featurerollout_looks_total"
STAGES = "featurerollout_rollout_stages"
# What was measured in the newest stage, and what there was to be measured in it.
COUNTED = """
SELECT (e.state #>> '{metrics,error-rate,units}')::float AS counted,
       (SELECT count(*) FROM notifications n WHERE n.created_at >= (e.state ->> 'stageFrom')::timestamptz
          AND n.created_at < (e.state #>> '{metrics,error-rate,lookedUntil}')::timestamptz) AS there
FROM feature_rollout.evidence e
"""


@dataclass
class Replicas:
    """The first is the story's own. `api` and `database` lead it to its servers, and nobody else."""

    story: Story
    first: Operator
    second: Operator
    api: tuple[network.Network, Callable[..., object]]
    database: tuple[network.Network, Callable[..., object]]
    lease: dict[str, str]
    # How long a replica is stopped at least.
    stopped_s: float

    def begin(self) -> None:
        """The first leads a rollout into the stage in which harm is let in; the second is ready, and stands by."""
        self.story.begin()
        self.first.start(**self.lease)
        wait_for(lambda: leads(self.first), START_BOUND_S, "the first to lead")
        self.story.wait_half()
        self.second.start(**self.lease)
        self.first.wait_looks(3, verdict="Pass")
        assert not leads(self.second)
        assert self.second.count(LOOKS) == 0
        # Metrics of single rollouts are the leader's.
        assert self.first.count(STAGES) > self.second.count(STAGES) == 0
        assert self.second.count("featurerollout_api_requests_total", verb="PATCH") == 0

    def wait_second_leads(self) -> float:
        """How long it took, in seconds."""
        begun_s = time.monotonic()
        wait_for(lambda: leads(self.second), TAKEOVER_BOUND_S, "the second to lead")
        return time.monotonic() - begun_s

    def tell(self, fault: str, seconds: float) -> None:
        assert "Traceback" not in self.second.log_text
        self.story.note(f"replica {fault}: until the other leads", seconds)
        self.story.tell(f"replica {fault}", START_BOUND_S)
        wait_for(lambda: self._counted()["counted"] > 0, START_BOUND_S, "what was measured to be stored")
        found = self._counted()
        assert found["counted"] <= found["there"], "no look is counted twice"

    def _counted(self) -> dict[str, Any]:
        [found] = self.story.world.database.query(COUNTED)
        return found


def leads(operator: Operator) -> bool:
    return operator.count(LEADER) == 1.0


@pytest.fixture(params=["short", "default"] if DEEP else ["short"])
def replicas(story: Story, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    world, first = story.world, story.operator
    lease = {"lease_name": "feature-rollout-operator", "lease_namespace": world.namespace}
    (tmp_path / "second").mkdir()
    second = Operator(world.cluster, world.namespace, demo.SERVICE_ACCOUNT, tmp_path / "second", nursery=nursery)
    with ExitStack() as stack:
        api = stack.enter_context(network.in_a_thread(network.port_of(world.cluster)))
        database = stack.enter_context(network.in_a_thread(world.database.server.port, first.has_socket))
        kubeconfig = world.cluster.service_account_kubeconfig(world.namespace, demo.SERVICE_ACCOUNT)
        first._kubeconfig = network.through(api[0].port, kubeconfig, world.cluster, tmp_path)
        through_proxy(world, database[0].port)
        is_short = request.param == "short"
        lease |= SHORT if is_short else {}
        yield Replicas(story, first, second, api, database, lease, stopped_s=0.0 if is_short else 60.0)
        first.thaw()
        end(second, world, request)
        # Before the networks are gone.
        first.kill()


def through_proxy(world: World, port: int) -> None:
    """Both replicas read the same Secret; the network is one that fails for the first alone."""
    uris = world.uris()
    own = world.database.server.port
    world.secret(SECRET, {name: uri.replace(f":{own}/", f":{port}/") for name, uri in uris.items()})


def test_the_leader_is_killed(replicas: Replicas) -> None:
    replicas.begin()
    replicas.first.kill()
    replicas.story.harm()
    seconds = replicas.wait_second_leads()
    replicas.story.wait_reverted(TAKEOVER_BOUND_S)
    replicas.tell("killed", seconds)


def test_the_leader_is_told_to_end(replicas: Replicas) -> None:
    replicas.begin()
    assert replicas.first.stop()
    replicas.story.harm()
    seconds = replicas.wait_second_leads()
    replicas.story.wait_reverted(TAKEOVER_BOUND_S)
    assert "was given up" in replicas.first.log_text
    replicas.tell("terminated", seconds)


def test_the_leader_is_stopped_and_wakes(replicas: Replicas) -> None:
    replicas.begin()
    replicas.first.freeze()
    wakes_s = time.monotonic() + replicas.stopped_s
    replicas.story.harm()
    seconds = replicas.wait_second_leads()
    replicas.story.wait_reverted(TAKEOVER_BOUND_S)
    wait_for(lambda: time.monotonic() >= wakes_s, replicas.stopped_s + START_BOUND_S, "the time to wake")
    replicas.first.thaw()
    wait_for(lambda: "this replica stands by" in replicas.first.log_text, START_BOUND_S, "the first to stand by")
    stands_by(replicas.first, replicas.second)
    assert leads(replicas.second)
    replicas.tell("stopped", seconds)


def test_the_leader_is_cut_off_from_the_api_server(replicas: Replicas) -> None:
    replicas.begin()
    net, call = replicas.api
    call(net.arm, "idle", "partition")
    replicas.story.harm()
    # The first goes on lowering: nothing has to be waited for.
    replicas.story.world.wait_row(A, REVERTED, STORE_BOUND_S)
    seconds = replicas.wait_second_leads()
    replicas.story.wait_reverted(TAKEOVER_BOUND_S)
    call(net.heal)
    wait_for(lambda: "this replica stands by" in replicas.first.log_text, START_BOUND_S, "the first to stand by")
    stands_by(replicas.first, replicas.second)
    replicas.tell("without API server", seconds)


def test_the_leader_is_cut_off_from_postgresql(replicas: Replicas) -> None:
    replicas.begin()
    net, call = replicas.database
    call(net.arm, "idle", "partition")
    replicas.story.harm()
    seconds = replicas.wait_second_leads()
    replicas.story.wait_reverted(TAKEOVER_BOUND_S)
    call(net.heal)
    stands_by(replicas.first, replicas.second)
    assert leads(replicas.second)
    replicas.tell("without PostgreSQL", seconds)


def stands_by(idle: Operator, leading: Operator) -> None:
    """It looks at nothing any more, while the other does."""

    def rests() -> bool:
        before = idle.count(LOOKS)
        leading.wait_looks(3)
        return idle.count(LOOKS) == before

    wait_for(rests, START_BOUND_S, "the end of its looks")
