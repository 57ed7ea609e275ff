"""The chart's own suites, and Helm's lint with every file of values in ci/."""

import subprocess
from pathlib import Path

import pytest

from support.helm import CHART, Helm, helm_binaries

CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


def test_its_suites_pass() -> None:
    done = subprocess.run(
        [helm_binaries().unittest, "--strict", "--color=false", CHART],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # It ends with 0 when it has found no suite, too.
    assert f"Test Suites: {len(list((CHART / 'tests').glob('*_test.yaml')))} passed" in done.stdout


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_it_passes_lint(helm: Helm, values: Path) -> None:
    done = helm.run("lint", "--strict", CHART, "-f", values)
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout
