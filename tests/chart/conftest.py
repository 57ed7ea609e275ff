"""Helm, which `make toolchain` has built."""

from pathlib import Path

import pytest

from support.helm import Helm


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Without a cluster."""
    return Helm(tmp_path)
