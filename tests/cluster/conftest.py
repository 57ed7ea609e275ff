"""Fixtures of the tests on a real API server."""

from pathlib import Path

import pytest

from feature_rollout.sandbox.cluster import Cluster

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def crds_installed(control_plane: Cluster) -> None:
    """Our six kinds, served. Every worker applies the same bytes, which changes nothing after the first."""
    control_plane.install_crds(CRDS)
