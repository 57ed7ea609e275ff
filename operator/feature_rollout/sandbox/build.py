"""Builds programs with Go into a versioned folder of the cache, once, whoever asks and however many ask.

What is built is a Go module without code of its own, whose `tool` lines name the programs: here the control plane's.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.golang import find_or_install_go
from feature_rollout.sandbox.progress import Progress, run_shown

MODULE = Path(__file__).with_name("gomodule")
MODULE_FILES = ("go.mod", "go.sum")
STAMP = "stamp"


@dataclass(frozen=True)
class Target:
    """What is built from which module, where it goes, and the stamp that says what it was made of.

    `about` is how long it takes; `packages_about` is how many packages a build with an empty Go cache compiles: only
    progress is shown with them. `renamed` are programs that are to be called something else than Go calls them.
    """

    title: str
    module: Path
    folder: Path
    stamp: str
    ldflags: str
    about: str
    packages_about: int
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def lock_file(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder outside the work tree in which things that take long to make are kept."""
    if chosen := env.get("FEATUREROLLOUT_CACHE"):
        return Path(chosen).expanduser().absolute()
    user_cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or Path.home()) / ".cache")
    return Path(user_cache) / "feature-rollout-operator"


def target(env: Mapping[str, str] = os.environ, module: Path = MODULE) -> Target:
    """Return where the control plane of this package's go.mod belongs."""
    version = pinned_version(module, "k8s.io/kubernetes")
    major, minor, _ = version.split(".")
    # Without these the API server says that it is version 0.0, and clients do not believe it.
    variable = "-X k8s.io/component-base/version"
    ldflags = f"-s -w {variable}.gitVersion=v{version} {variable}.gitMajor={major} {variable}.gitMinor={minor}"
    folder = cache_folder(env) / f"controlplane-{version}"
    return Target(
        title="control plane",
        module=module,
        folder=folder,
        stamp=stamp(module, ldflags),
        ldflags=ldflags,
        about="about 5 minutes",
        packages_about=2550,
        # The Go tool names a program after the last part of its path.
        renamed={"server": "etcd"},
    )


def pinned_version(module: Path, name: str) -> str:
    """Return the version of this dependency in the module's go.mod, such as 1.37.2. SandboxError when it has none."""
    match = re.search(rf"{re.escape(name)} v(\d+\.\d+\.\d+)", (module / MODULE_FILES[0]).read_text(encoding="utf-8"))
    if match is None:
        raise SandboxError(f"{module / 'go.mod'} does not say which version of {name} to build")
    return match[1]


def stamp(module: Path, ldflags: str) -> str:
    """Return a digest of everything that a build is made of."""
    contents = [(module / name).read_text(encoding="utf-8") for name in MODULE_FILES]
    made_of = "\0".join([*contents, ldflags, platform.system(), platform.machine()])
    return hashlib.sha256(made_of.encode()).hexdigest()


def is_fresh(wanted: Target) -> bool:
    """Return whether the folder holds what its go.mod, go.sum and flags say today."""
    try:
        return (wanted.folder / STAMP).read_text(encoding="utf-8").strip() == wanted.stamp
    except OSError:
        return False


def build_programs(wanted: Target, env: Mapping[str, str] = os.environ) -> None:
    """Build what is wanted, or wait for another process that does. SandboxError when it fails."""
    wanted.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(wanted.lock_file, wanted.title):
        if is_fresh(wanted):
            return
        prefix = f".{wanted.folder.name}-"
        # Only the holder of the lock makes such folders, so these are of builds that were killed.
        for leftover in wanted.folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=wanted.folder.parent) as scratch:
            built = _compile(wanted, Path(scratch), env)
            _move_into_place(built, wanted.folder, Path(scratch))


def _compile(wanted: Target, scratch: Path, env: Mapping[str, str]) -> Path:
    go = find_or_install_go(cache_folder(env), env)
    for name in MODULE_FILES:
        shutil.copy(wanted.module / name, scratch / name)
    output = scratch / "bin"
    argv = ["build", "-v", "-mod=readonly", "-trimpath", "-ldflags", wanted.ldflags, "-o", f"{output}/", "tool"]
    why = f"building into {wanted.folder}, once; {wanted.about}, seconds when Go has built it before"
    progress = Progress(wanted.title, why)
    describe = BuildOutput(wanted.packages_about).describe
    run_shown([go.program, *argv], progress, describe, cwd=scratch, env=go.environment(env))
    for built, name in wanted.renamed.items():
        (output / built).rename(output / name)
    (output / STAMP).write_text(f"{wanted.stamp}\n", encoding="utf-8")
    go.clean_up()
    progress.done("done")
    return output


class BuildOutput:
    """Makes a few words of progress out of what `go build -v` prints: a line for each module and each package."""

    def __init__(self, packages_about: int | None = None) -> None:
        self._of = "" if packages_about is None else f" of about {packages_about}"
        self._modules = 0
        self._packages = 0

    def describe(self, line: str) -> str:
        if line.startswith("go: downloading "):
            self._modules += 1
            return f"{self._modules} modules downloaded, last {line.split()[2]}"
        self._packages += 1
        return f"{self._packages}{self._of} packages compiled, last {line}"


def _move_into_place(built: Path, folder: Path, scratch: Path) -> None:
    # A server that runs from the old folder keeps its program: removing a file does not end who has it open.
    if folder.exists():
        folder.rename(scratch / "replaced")
    built.rename(folder)


@contextlib.contextmanager
def locked(path: Path, title: str) -> Iterator[None]:
    """Be the only process that makes what the lock file stands for; wait for one that does, and say so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress = Progress(title, f"waiting for another process that makes it ({path} is locked)")
            fcntl.flock(file, fcntl.LOCK_EX)
            progress.done("the other process has ended")
        yield
