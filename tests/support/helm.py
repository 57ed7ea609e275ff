"""Helm and helm-unittest, built from Go modules into the cache folder: `python -m support.helm` builds them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from feature_rollout.sandbox import build
from feature_rollout.sandbox.cluster import ADMIN, Cluster
from feature_rollout.sandbox.errors import SandboxError

MODULE = Path(__file__).parents[1] / "toolchain" / "helm"
CHART = Path(__file__).parents[2] / "charts" / "feature-rollout-operator"
RELEASE, RELEASE_NAMESPACE = "feature-rollout-operator", "feature-rollout-system"
TIMEOUT_S = 120.0
# What a build with an empty Go cache compiles; only progress is shown with it.
PACKAGES_ABOUT = 1200


@dataclass(frozen=True)
class HelmBinaries:
    """Its programs; helm-unittest is a program of its own here, not a plugin."""

    helm: Path
    unittest: Path


def target(env: Mapping[str, str] = os.environ) -> build.Target:
    version = build.pinned_version(MODULE, "helm.sh/helm/v4")
    ldflags = f"-s -w -X helm.sh/helm/v4/internal/version.version=v{version}"
    return build.Target(
        title="Helm",
        module=MODULE,
        folder=build.cache_folder(env) / f"helm-{version}",
        stamp=build.stamp(MODULE, ldflags),
        ldflags=ldflags,
        about="about 3 minutes",
        packages_about=PACKAGES_ABOUT,
    )


def helm_binaries(*, env: Mapping[str, str] = os.environ, build_missing: bool = False) -> HelmBinaries:
    """Find Helm in the cache folder, else build it there. SandboxError when it is not there and may not be built."""
    wanted = target(env)
    if not build.is_fresh(wanted):
        if not build_missing:
            raise SandboxError("no Helm on this machine: `make toolchain` builds it")
        build.build_programs(wanted, env)
    return HelmBinaries(wanted.folder / "helm", wanted.folder / "helm-unittest")


class Helm:
    """Helm with folders of its own: no repository, plugin or setting of the user's is seen."""

    def __init__(self, folder: Path, cluster: Cluster | None = None) -> None:
        self._program = helm_binaries().helm
        homes = {f"HELM_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        self._env = {"PATH": os.environ["PATH"], "HOME": str(folder), **homes}
        self._kubeconfig = cluster.kubeconfig(ADMIN) if cluster is not None else None

    def run(self, *args: str | Path, values: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run it, on the cluster if there is one; `-f -` reads `values`. SandboxError when it fails and `check`."""
        argv = [self._program, *args]
        if self._kubeconfig is not None:
            argv.append(f"--kubeconfig={self._kubeconfig}")
        done = subprocess.run(
            argv, input=values, env=self._env, text=True, capture_output=True, check=False, timeout=TIMEOUT_S
        )
        if check and done.returncode != 0:
            raise SandboxError(f"helm {' '.join(map(str, args))} ended with {done.returncode}:\n{done.stderr.strip()}")
        return done

    def template(self, values: Mapping[str, Any] | None = None, *options: str) -> list[dict[str, Any]]:
        """Render the chart without a cluster; return its objects."""
        text = self.run(
            "template", RELEASE, CHART, "-n", RELEASE_NAMESPACE, "-f", "-", *options, values=json.dumps(values or {})
        ).stdout
        return [obj for obj in yaml.safe_load_all(text) if obj]


def write_chart(folder: Path, name: str, objects: Iterable[Mapping[str, Any]]) -> Path:
    """A chart of these objects, as they are."""
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n")
    (folder / "templates" / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    return folder


def main() -> int:
    try:
        print(f"Helm:          {helm_binaries(build_missing=True).helm.parent}")  # noqa: T201 - what a command prints
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
