"""Where Prometheus is looked for, how it is installed, and a server of our own. Nothing is downloaded.

| given | then |
|---|---|
| both programs on PATH, and a cache | PATH is taken |
| only a cache | the cache |
| nothing, and no installation wanted | an error that says what to do |
| apt-get works | Debian's package, unpacked into the cache, once |
| no apt-get | Go modules |
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feature_rollout.metrics.prometheus import Prometheus
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.prometheus import PrometheusServer, prometheus_binaries

PROGRAMS = ("prometheus", "promtool")
APT_THAT_DOWNLOADS = """#!/bin/sh
case "$*" in *download*) echo x >> "$LOG"; echo package > prometheus_2.42.0+ds-5_amd64.deb;; esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin"
for name in prometheus promtool; do echo unpacked > "$3/usr/bin/$name"; chmod +x "$3/usr/bin/$name"; done
"""
GO_THAT_INSTALLS = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.26.0 linux/amd64"; exit; fi
mkdir -p "$GOBIN"
for name in prometheus promtool; do echo compiled > "$GOBIN/$name"; chmod +x "$GOBIN/$name"; done
"""


def program(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which no Prometheus is found; programs of the test come before the machine's."""
    tools = tmp_path / "tools"
    program(tools / "apt-get", "#!/bin/sh\necho no network >&2\nexit 100\n")
    return {
        "PATH": f"{tools}:/usr/bin:/bin",
        "FEATUREROLLOUT_CACHE": str(tmp_path / "cache"),
        "LOG": str(tmp_path / "log"),
    }


def test_path_comes_before_the_cache(tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises(SandboxError, match="make toolchain"):
        prometheus_binaries(env=env, build_missing=False)
    for name in PROGRAMS:
        program(tmp_path / "cache" / "prometheus-2.42.0" / name)
    assert prometheus_binaries(env=env, build_missing=False).prometheus.parent.name == "prometheus-2.42.0"
    program(tmp_path / "path" / "prometheus")
    env["PATH"] = f"{tmp_path / 'path'}:{env['PATH']}"
    assert prometheus_binaries(env=env, build_missing=False).source != "PATH"
    program(tmp_path / "path" / "promtool")
    assert prometheus_binaries(env=env, build_missing=False).source == "PATH"


def test_debians_package_is_unpacked_once(tmp_path: Path, env: dict[str, str]) -> None:
    program(tmp_path / "tools" / "apt-get", APT_THAT_DOWNLOADS)
    program(tmp_path / "tools" / "dpkg", DPKG)
    for _ in range(2):
        found = prometheus_binaries(env=env)
        assert found.prometheus == tmp_path / "cache" / "prometheus-2.42.0" / "prometheus"
        assert found.promtool.read_text() == "unpacked\n"
    assert (tmp_path / "log").read_text() == "x\n"
    assert not list((tmp_path / "cache").glob(".*"))


def test_without_debian_it_is_built_from_go_modules(
    tmp_path: Path, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    program(tmp_path / "tools" / "go", GO_THAT_INSTALLS)
    found = prometheus_binaries(env=env)
    assert found.promtool.read_text() == "compiled\n"
    assert found.prometheus.parent.name == "prometheus-0.316.0"
    assert "some minutes" in capsys.readouterr().err


async def test_a_server_keeps_its_port_and_what_was_back_filled() -> None:
    at = datetime.now(UTC) - timedelta(hours=5)
    server = PrometheusServer()
    server.backfill({'jobs{kind="a"}': [(at, 3.0)], 'jobs{kind="b"}': [(at, 4.0)]})
    with server:
        url = server.url
        server.stop()
        assert not server.running
        server.start()
        assert server.url == url
        client = Prometheus(server.url, timeout_s=30.0)
        assert await client.instant("sum(jobs)", at) == 7.0
        await client.close()
        folder = server.folder
    assert not folder.exists()


def test_a_broken_configuration_says_what_it_says() -> None:
    with pytest.raises(SandboxError, match="nonsense"):
        PrometheusServer("nonsense: true\n").start()
