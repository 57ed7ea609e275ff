"""The two commands that a newcomer types first, as they are typed."""

import subprocess
import sys
from pathlib import Path

import pytest

from feature_rollout.sandbox import toolchain


@pytest.mark.usefixtures("built_control_plane")
def test_the_demo_shows_the_revert_and_says_ok_last() -> None:
    command = [sys.executable, "-m", "feature_rollout.cli", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    lines = done.stdout.rstrip().splitlines()
    assert lines, done.stderr
    assert lines[-1] == "demo: ok", done.stdout
    assert done.returncode == 0
    assert any(line.startswith("breached: error-rate was") for line in lines)
    assert any(line.startswith("written:  DisableFlags") for line in lines)
    assert any("after the first bad look began; the matrix allows 15m" in line for line in lines)


def test_setup_leaves_both_names_of_the_program() -> None:
    scripts = Path(sys.executable).parent
    for name in ("featurerollout", "kubectl-featurerollout"):
        done = subprocess.run([scripts / name, "version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip()
    # kubectl finds a plugin by its name on PATH.
    env = {"PATH": f"{scripts}:/usr/bin:/bin", "HOME": "/nonexistent"}
    subprocess.run([toolchain.kubectl(), "featurerollout", "version"], capture_output=True, check=True, env=env)
