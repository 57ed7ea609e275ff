"""Fixtures of the tests on a real API server."""

from pathlib import Path

import pytest

from feature_rollout.sandbox.cluster import ADMIN, Cluster
from support.people import CREATED, action, offer
from support.waiting import wait_for

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def crds_installed(control_plane: Cluster) -> None:
    """Our six kinds, served. Every worker applies the same bytes, which changes nothing after the first."""
    control_plane.install_crds(CRDS)
    wait_for(lambda: _takes_actions(control_plane), 60, "the policy that writes into actions to know their kind")


def _takes_actions(cluster: Cluster) -> bool:
    """Whether an action is taken, which the policy that writes `requestedBy` refuses until it has read their CRD."""
    status, answer = offer(cluster, action("Pause"), ADMIN, "default", dry_run=True)
    assert status == CREATED, answer
    return True
