"""Programs out of Debian's packages, without installing them: nothing outside of a folder of ours changes."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.progress import Progress, run_shown


class DebianPackages:
    """`unpack()` as often as needed. `scratch` is an empty folder for lists and archives.

    Raises SandboxError where there is no apt-get, or it cannot get what is wanted.
    """

    def __init__(self, scratch: Path, progress: Progress, env: Mapping[str, str] = os.environ) -> None:
        if shutil.which("apt-get", path=env.get("PATH")) is None or shutil.which("dpkg", path=env.get("PATH")) is None:
            raise SandboxError("there are no apt-get and dpkg on PATH")
        self._archives = scratch / "archives"
        self._progress = progress
        self._env = env
        lists = scratch / "lists"
        for folder in (lists / "partial", self._archives / "partial"):
            folder.mkdir(parents=True)
        # Lists of our own: those of the machine may be empty, and are not ours to change. No right of root's is needed.
        options = (f"Dir::State::Lists={lists}", f"Dir::Cache={scratch}", "APT::Sandbox::User=")
        self._apt = ["apt-get", *(part for option in options for part in ("-o", option))]
        self._run(*self._apt, "update")

    def unpack(self, names: Iterable[str], into: Path) -> dict[str, str]:
        """Unpack the newest version of each package; return the versions by name."""
        self._run(*self._apt, "download", *sorted(names))
        versions = {}
        for package in self._archives.glob("*.deb"):
            self._run("dpkg", "-x", package, into)
            name, version, _ = package.name.split("_")
            versions[name] = version
            package.unlink()
        return versions

    def _run(self, *argv: str | Path) -> None:
        run_shown(argv, self._progress, str.strip, cwd=self._archives, env=self._env)
