"""Helm for the tests of the chart: built once, from its own go.mod, in the same way as the control plane.

| given | then |
|---|---|
| a cache with the right stamp | it is taken |
| nothing, and no build wanted | an error that says what to do |
| nothing, and a Go that builds | both programs, and the stamp |
"""

from pathlib import Path

import pytest

from feature_rollout.sandbox import build
from feature_rollout.sandbox.errors import SandboxError
from support import helm

GO_THAT_BUILDS = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.26.0 linux/amd64"; exit; fi
mkdir bin
for name in helm helm-unittest; do echo built > bin/$name; chmod +x bin/$name; done
"""


def test_it_is_built_once_when_it_may_be(tmp_path: Path) -> None:
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FEATUREROLLOUT_CACHE": str(tmp_path / "cache")}
    with pytest.raises(SandboxError, match="make toolchain"):
        helm.helm_binaries(env=env)
    go = tmp_path / "go"
    go.write_text(GO_THAT_BUILDS)
    go.chmod(0o755)
    built = helm.helm_binaries(env=env, build_missing=True)
    assert built.helm.read_text() == built.unittest.read_text() == "built\n"
    go.write_text("#!/bin/sh\nexit 1\n")
    assert helm.helm_binaries(env=env, build_missing=True) == built


def test_the_version_is_that_of_its_go_mod(tmp_path: Path) -> None:
    assert helm.Helm(tmp_path).run("version", "--template", "{{.Version}}").stdout == "v" + build.pinned_version(
        helm.MODULE, "helm.sh/helm/v4"
    )
