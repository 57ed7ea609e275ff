"""The network between the operator and PostgreSQL fails in a phase of a transaction: of a raise's, and of a revert's.

Metrics are asked for by another way.
"""

import pytest

from support import network
from support.manifests import SECRET, A, stage
from support.network import LASTING
from support.story import STAGES, STORE_BOUND_S, TEN, Story
from support.waiting import wait_for
from support.world import World

FAULTS = [
    ("connect", "reset"),
    ("BEGIN", "cut"),
    ("UPDATE", "half"),
    ("COMMIT", "cut"),
    ("COMMIT", "deaf"),
    ("idle", "partition"),
]


@pytest.mark.parametrize(("phase", "fault"), FAULTS, ids=[f"{fault} at {phase}" for phase, fault in FAULTS])
def test_the_network_fails(world: World, story: Story, phase: str, fault: str) -> None:
    port = world.database.server.port
    with network.in_a_thread(port) as (net, call):

        def arm() -> None:
            net.struck_at_s = None
            call(net.arm, phase, fault)

        def wait_struck() -> None:
            """Until the fault was met, and has lasted until the operator has given up waiting for an answer."""
            seen = story.operator.log_text.count("StoreUnreachable")
            wait_for(lambda: net.struck_at_s is not None, STORE_BOUND_S, "the phase in which the network fails")
            if fault in LASTING:
                away = lambda: story.operator.log_text.count("StoreUnreachable") > seen  # noqa: E731
                wait_for(away, STORE_BOUND_S, "the operator to see it")
                call(net.heal)
            story.fault_over()

        uris = world.uris()
        for role in ("writer", "owner"):
            uris[f"{role}-uri"] = uris[f"{role}-uri"].replace(f":{port}/", f":{net.port}/")
        world.secret(SECRET, uris)
        story.begin([stage("ten", 10, "3s"), *STAGES[1:]])
        story.start()
        world.wait_row(A, TEN)
        arm()
        wait_struck()
        story.wait_half()
        arm()
        story.harm()
        wait_struck()
        story.wait_reverted(STORE_BOUND_S)
        story.tell(f"network: {fault} at {phase}", STORE_BOUND_S)
        # Before the network is gone.
        story.operator.kill()
