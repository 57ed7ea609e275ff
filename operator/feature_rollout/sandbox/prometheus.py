"""Finds or installs Prometheus, and starts and stops one of its own, in a temporary folder."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from feature_rollout.sandbox import build
from feature_rollout.sandbox.debian import DebianPackages
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.golang import find_or_install_go
from feature_rollout.sandbox.processes import Process, free_ports, wait_until
from feature_rollout.sandbox.progress import Progress, run_shown

TITLE = "Prometheus"
PROMETHEUS, PROMTOOL = "prometheus", "promtool"
GO_MODULE = "github.com/prometheus/prometheus/cmd"
# What `go install` calls v3.16: the module's own numbering.
GO_VERSION = "v0.316.0"
START_TIMEOUT_S = 30.0
BACKFILL_TIMEOUT_S = 120.0
DEFAULT_CONFIG = "global: {scrape_interval: 1s}\n"


@dataclass(frozen=True)
class PrometheusBinaries:
    """Its programs; `source` says in a few words where they come from."""

    prometheus: Path
    promtool: Path
    source: str


def prometheus_binaries(*, env: Mapping[str, str] = os.environ, build_missing: bool = True) -> PrometheusBinaries:
    """Find Prometheus: PATH, the cache folder; otherwise install it into the cache folder.

    From Debian's package where there is one, which takes seconds, else from Go modules, which takes minutes.
    SandboxError when there is none and `build_missing` is off, or neither worked.
    """
    on_path = [shutil.which(name, path=env.get("PATH")) for name in (PROMETHEUS, PROMTOOL)]
    if on_path[0] and on_path[1]:
        return PrometheusBinaries(Path(on_path[0]), Path(on_path[1]), "PATH")
    cache = build.cache_folder(env)
    found = _in_cache(cache)
    if found is None and not build_missing:
        raise SandboxError("no Prometheus on this machine: `make toolchain` installs it")
    if found is None:
        cache.mkdir(parents=True, exist_ok=True)
        with build.locked(cache / f"{PROMETHEUS}.lock", TITLE):
            found = _in_cache(cache) or _install(cache, env)
    return found


def _in_cache(cache: Path) -> PrometheusBinaries | None:
    for folder in sorted(cache.glob(f"{PROMETHEUS}-*/"), reverse=True):
        programs = [folder / name for name in (PROMETHEUS, PROMTOOL)]
        if all(os.access(program, os.X_OK) for program in programs):
            return PrometheusBinaries(programs[0], programs[1], f"in {folder}")
    return None


def _install(cache: Path, env: Mapping[str, str]) -> PrometheusBinaries:
    # Only the holder of the lock makes such folders, so these are of installations that were killed.
    for leftover in cache.glob(f".{PROMETHEUS}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{PROMETHEUS}-", dir=cache) as scratch:
        try:
            folder, version = _from_debian(Path(scratch), env)
        except (SandboxError, OSError) as error:
            folder, version = _from_go(Path(scratch), env, why_not_debian=error)
        folder.rename(cache / f"{PROMETHEUS}-{version}")
    found = _in_cache(cache)
    if found is None:
        raise SandboxError(f"Prometheus was installed into {cache} and is not there")
    return found


def _from_debian(scratch: Path, env: Mapping[str, str]) -> tuple[Path, str]:
    progress = Progress(TITLE, "downloading Debian's package, 20 MB, once")
    version = DebianPackages(scratch, progress, env).unpack([PROMETHEUS], scratch / "tree")[PROMETHEUS]
    progress.done("done")
    return scratch / "tree" / "usr" / "bin", version.partition("+")[0]


def _from_go(scratch: Path, env: Mapping[str, str], *, why_not_debian: Exception) -> tuple[Path, str]:
    reason = str(why_not_debian).splitlines()[0]
    progress = Progress(TITLE, f"building it from Go modules, once; some minutes (no Debian package: {reason})")
    go = find_or_install_go(build.cache_folder(env), env)
    output = scratch / "bin"
    # Without service discovery, which is most of its dependencies.
    argv = [
        "install",
        "-v",
        "-tags",
        "remove_all_sd",
        *(f"{GO_MODULE}/{n}@{GO_VERSION}" for n in (PROMETHEUS, PROMTOOL)),
    ]
    environment = {**go.environment(env), "GOBIN": str(output)}
    run_shown([go.program, *argv], progress, build.BuildOutput().describe, cwd=scratch, env=environment)
    go.clean_up()
    progress.done("done")
    return output, GO_VERSION.removeprefix("v")


class PrometheusServer:
    """A private server: a context manager, or `start()` and `stop()`. It keeps its data between the two.

    `config` is the whole prometheus.yml; `scrape(job, port)` makes one.
    """

    host = "127.0.0.1"

    def __init__(self, config: str = DEFAULT_CONFIG, *, binaries: PrometheusBinaries | None = None) -> None:
        self._binaries = binaries or prometheus_binaries(build_missing=False)
        self._config = config
        self._process: Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="featurerollout-prometheus-")
        return Path(self._folder.name)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start it, on the port that it had before; return when it answers queries."""
        if self.running:
            raise SandboxError("Prometheus is running already")
        self.port = self.port or free_ports(1)[0]
        config = self.folder / "prometheus.yml"
        config.write_text(self._config, encoding="utf-8")
        process = self._process = Process(
            [
                self._binaries.prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                # Back-filled weeks shall stay.
                "--storage.tsdb.retention.time=1y",
                f"--web.listen-address={self.host}:{self.port}",
            ],
            log=self.folder / "prometheus.log",
            folder=self.folder,
        )
        try:
            wait_until(self._is_ready, [process], what="readiness", timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End it and keep its data, for `start()`."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM)
            self._process = None

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nothing."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def backfill(self, series: Mapping[str, Iterable[tuple[datetime, float]]]) -> None:
        """Write past samples, by series as PromQL names it, before `start()`; each in the order of time."""
        families: dict[str, list[str]] = {}
        for name, samples in series.items():
            family = re.split(r"[{]", name)[0]
            lines = (f"{name} {value:g} {at.timestamp():.3f}" for at, value in samples)
            families.setdefault(family, []).extend(lines)
        text = "".join(f"# TYPE {family} unknown\n" + "\n".join(lines) + "\n" for family, lines in families.items())
        source = self.folder / "past.txt"
        source.write_text(f"{text}# EOF\n", encoding="utf-8")
        argv: list[str | Path] = [
            self._binaries.promtool,
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            source,
            self.folder / "data",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=BACKFILL_TIMEOUT_S)
        source.unlink()
        if done.returncode != 0:
            raise SandboxError(f"promtool ended with {done.returncode}:\n{done.stderr.strip()}")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1.0)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()


def scrape(job: str, port: int, *, interval_s: float = 0.2) -> str:
    """A prometheus.yml that scrapes one local target."""
    interval = f"{round(interval_s * 1000)}ms"
    return (
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
        f"scrape_configs:\n- job_name: {job}\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    )
