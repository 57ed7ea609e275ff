"""Where programs are looked for, when the control plane is built, and what a failure says. No build, no server.

| given | then |
|---|---|
| KUBEBUILDER_ASSETS, PATH and a cache | taken in this order |
| a place without a controller manager | passed over when one is needed |
| an API server on PATH that is too old | passed over |
| a cache with another stamp | built again, and replaced |
| a build that fails | its last lines are in the error, the cache stays as it was |
| no Go that is new enough | Go is installed into the cache; its own folders, removed after the build |
"""

import io
from collections.abc import Mapping
from pathlib import Path

import pytest

from feature_rollout.sandbox import build, golang, toolchain
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.progress import Progress, run_shown

PROGRAMS = ("kube-apiserver", "etcd", "kube-controller-manager")
# What `go build -o bin/ tool` leaves.
GO_THAT_BUILDS = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.26.0 linux/amd64"; exit; fi
echo "go: downloading k8s.io/api v0.37.2" >&2
mkdir bin
for name in kube-apiserver server kube-controller-manager; do echo built > bin/$name; chmod +x bin/$name; done
"""
GO_THAT_FAILS = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.27.1 linux/amd64"; exit; fi
echo "main.go:7: it does not compile" >&2
exit 3
"""


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def folder_of_programs(folder: Path, *names: str, version: str = "v1.37.0") -> Path:
    for name in names:
        program(folder / name, f"#!/bin/sh\necho Kubernetes {version}\n")
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is found: no assets, a PATH with the shell's tools only, an empty cache."""
    return {"PATH": "/usr/bin:/bin", "FEATUREROLLOUT_CACHE": str(tmp_path / "cache")}


def filled_cache(env: Mapping[str, str]) -> Path:
    wanted = build.target(env)
    folder_of_programs(wanted.folder, *PROGRAMS)
    (wanted.folder / build.STAMP).write_text(wanted.stamp)
    return wanted.folder


def find(env: Mapping[str, str], *, controller_manager: bool = True) -> Path:
    found = toolchain.control_plane_binaries(controller_manager=controller_manager, env=env, build_missing=False)
    assert found.etcd.parent == found.kube_apiserver.parent
    return found.kube_apiserver.parent


def test_assets_come_before_path_and_path_before_the_cache(tmp_path: Path, env: dict[str, str]) -> None:
    cache = filled_cache(env)
    assert find(env) == cache
    on_path = folder_of_programs(tmp_path / "path", *PROGRAMS)
    env["PATH"] = f"{on_path}:{env['PATH']}"
    assert find(env) == on_path
    assets = folder_of_programs(tmp_path / "assets", *PROGRAMS)
    env["KUBEBUILDER_ASSETS"] = str(assets)
    assert find(env) == assets


def test_a_place_without_a_needed_controller_manager_is_passed_over(tmp_path: Path, env: dict[str, str]) -> None:
    cache = filled_cache(env)
    env["KUBEBUILDER_ASSETS"] = str(folder_of_programs(tmp_path / "assets", "kube-apiserver", "etcd"))
    assert find(env, controller_manager=False) == tmp_path / "assets"
    assert find(env, controller_manager=True) == cache


def test_an_old_api_server_on_path_is_passed_over(tmp_path: Path, env: dict[str, str]) -> None:
    cache = filled_cache(env)
    old = folder_of_programs(tmp_path / "path", *PROGRAMS, version="v1.25.3")
    env["PATH"] = f"{old}:{env['PATH']}"
    assert find(env) == cache


def test_nothing_found_and_no_build_wanted_says_what_to_do(env: dict[str, str]) -> None:
    with pytest.raises(SandboxError, match="make toolchain"):
        find(env)


def test_the_cache_folder_is_the_chosen_one_else_that_of_xdg_else_that_of_home() -> None:
    env = {"HOME": "/home/u"}
    assert build.cache_folder(env) == Path("/home/u/.cache/feature-rollout-operator")
    env["XDG_CACHE_HOME"] = "/xdg"
    assert build.cache_folder(env) == Path("/xdg/feature-rollout-operator")
    env["FEATUREROLLOUT_CACHE"] = "/chosen"
    assert build.cache_folder(env) == Path("/chosen")


def test_the_stamp_follows_go_mod_and_go_sum(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "go.mod").write_text("require k8s.io/kubernetes v1.37.2\n")
    (tmp_path / "go.sum").write_text("one\n")
    first = build.target(env, tmp_path)
    (tmp_path / "go.sum").write_text("two\n")
    second = build.target(env, tmp_path)
    assert first.folder == second.folder == tmp_path / "cache" / "controlplane-1.37.2"
    assert first.stamp != second.stamp
    assert "gitVersion=v1.37.2" in first.ldflags
    assert "gitMinor=37" in first.ldflags


def test_another_stamp_means_built_again_and_replaced(tmp_path: Path, env: dict[str, str]) -> None:
    cache = filled_cache(env)
    (cache / build.STAMP).write_text("of another go.mod")
    (cache / "leftover").touch()
    with pytest.raises(SandboxError):
        find(env)
    env["PATH"] = f"{program(tmp_path / 'go' / 'go', GO_THAT_BUILDS).parent}:{env['PATH']}"
    found = toolchain.control_plane_binaries(controller_manager=True, env=env)
    assert found.etcd.read_text() == "built\n"
    assert sorted(path.name for path in cache.iterdir()) == sorted([*PROGRAMS, build.STAMP])
    assert find(env) == cache
    assert [path.name for path in cache.parent.iterdir() if path.name.startswith(".")] == []


def test_a_failed_build_shows_the_last_lines_and_leaves_the_cache_as_it_was(
    tmp_path: Path, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = filled_cache(env)
    (cache / build.STAMP).write_text("of another go.mod")
    env["PATH"] = f"{program(tmp_path / 'go' / 'go', GO_THAT_FAILS).parent}:{env['PATH']}"
    with pytest.raises(SandboxError, match=r"ended with 3; its last lines:\nmain.go:7: it does not compile"):
        toolchain.control_plane_binaries(env=env)
    assert (cache / "etcd").exists()
    assert "control plane: building into" in capsys.readouterr().err


def test_a_new_go_on_path_is_used_and_an_old_one_is_not(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[Path] = []
    monkeypatch.setattr(golang, "_install", installed.append)
    go = program(tmp_path / "bin" / "go", "#!/bin/sh\necho go version go1.26.0 linux/amd64\n")
    env["PATH"] = f"{go.parent}:{env['PATH']}"
    assert golang.find_or_install_go(tmp_path / "cache", env) == golang.Go(go)
    assert installed == []
    program(go, "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    ours = golang.find_or_install_go(tmp_path / "cache", env)
    assert installed == [tmp_path / "cache" / "go-1.26"]
    assert ours.program.is_relative_to(tmp_path / "cache")
    assert ours.environment(env)["GOCACHE"].startswith(str(tmp_path / "cache"))


def test_the_users_go_keeps_its_own_caches_but_not_what_changes_the_build(env: dict[str, str]) -> None:
    env |= {"GOFLAGS": "-mod=vendor", "GOCACHE": "/theirs", "GOTOOLCHAIN": "auto"}
    result = golang.Go(Path("/go")).environment(env)
    assert result["GOCACHE"] == "/theirs"
    assert (result["GOFLAGS"], result["GOTOOLCHAIN"], result["CGO_ENABLED"]) == ("", "local", "0")


def test_progress_is_lines_in_a_log_and_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    progress = Progress("control plane", "building", log)
    progress.update("too soon to be shown")
    progress.done("done")
    assert log.getvalue().splitlines() == ["control plane: building", "control plane: 0 s, done"]
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    progress = Progress("control plane", "building", terminal)
    monkeypatch.setattr(progress, "_interval_s", 0.0)
    progress.update("one")
    progress.done("done")
    assert terminal.getvalue().endswith("\r\033[Kcontrol plane: 0 s, one\r\033[Kcontrol plane: 0 s, done\n")


def test_the_words_of_a_build_count_modules_and_packages() -> None:
    output = build.BuildOutput(2550)
    assert output.describe("go: downloading k8s.io/api v0.37.2") == "1 modules downloaded, last k8s.io/api"
    assert output.describe("k8s.io/api/core/v1") == "1 of about 2550 packages compiled, last k8s.io/api/core/v1"


def test_a_program_without_a_last_line_end_is_shown_too() -> None:
    with pytest.raises(SandboxError, match="no end of line"):
        run_shown(["/bin/sh", "-c", "printf 'no end of line'; exit 1"], Progress("it", "", io.StringIO()), str)
