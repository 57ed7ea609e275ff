"""`make bench-store` says what it measured, in one JSON object, and leaves nothing behind. No figure is judged."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("store.py")
SIZES = ["--flags", "3", "--changes", "6", "--rollouts", "5", "--evaluations", "200"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """For temporary files; the account that the server runs as may go through it, as it may not through tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def bench(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *SIZES],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "6 stage changes of 3 flags" in done.stderr
    assert list(folder.iterdir()) == []
    assert servers_in(folder) == []
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def servers_in(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def is_latency(part: dict[str, Any], count: int) -> bool:
    return part["count"] == count and 0 < part["p50Ms"] <= part["p99Ms"]


def test_it_says_what_it_measured(folder: Path) -> None:
    found = bench(folder)
    assert found.keys() == {
        *("server", "fsync", "python", "cpus", "bareUpdate", "bareUpdateOfAsManyFlags"),
        *("stageChange", "rolloutsAtOnce", "evaluationsPerSecond"),
    }
    assert found["fsync"] == "on"
    assert is_latency(found["stageChange"], 6)
    assert found["rolloutsAtOnce"]["failed"] == {}
    assert is_latency(found["rolloutsAtOnce"], 5)
    assert found["rolloutsAtOnce"]["totalSeconds"] > 0
    assert found["evaluationsPerSecond"].keys() == {
        *("sqlFlagEnabled", "sqlHasFlag", "sqlFlagEnabledAStatementEach", "pythonRule", "pythonClient")
    }
    assert all(rate > 0 for rate in found["evaluationsPerSecond"].values())
    for name, flags in (("bareUpdate", 1), ("bareUpdateOfAsManyFlags", 3)):
        assert found[name]["flags"] == flags
        ratio = found["stageChange"][f"times{name[0].upper()}{name[1:]}"]
        if "missing" in found[name]:
            assert ratio is None
        else:
            assert is_latency(found[name], 6)
            assert ratio.keys() == {"p50", "p99"}


def test_without_pgbench_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specification = importlib.util.spec_from_file_location("bench_store", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = script.pgbench(SimpleNamespace(bin_dir=tmp_path), ["flag"], 10)
    assert "no pgbench" in bare["missing"]
    assert script.ratios({"p50Ms": 1.0, "p99Ms": 2.0}, bare) is None
