"""The operator as a process, with the rights of its ServiceAccount, that a test may kill and start again."""

import json
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from feature_rollout.failpoints import VARIABLE
from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.processes import Process
from support.nursery import Child, Nursery
from support.waiting import wait_for

START_TIMEOUT_S = 40.0
# SIGTERM must be answered this soon.
STOP_TIMEOUT_S = 10.0
# Its database is on this machine.
SETTINGS = {"DRIFT_POLL_SECONDS": "0.5", "DENIED_ADDRESSES": "169.254.0.0/16,fe80::/10"}
LISTENS = {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": "0"}
PORT = re.compile(r"listening on \S+ port (\d+)")


class Operator:
    """`start()`, `kill()`, `stop()`, again and again; one log file for all of them.

    Without a nursery it is started as in production, by `program`. `settings` are instead of those that suit most
    tests; its kubeconfig and where it listens are the test's anyway.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        service_account: str,
        folder: Path,
        *,
        nursery: Nursery | None = None,
        settings: Mapping[str, str] | None = None,
        program: Iterable[str | Path] = (sys.executable, "-m", "feature_rollout.cli"),
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._service_account = service_account
        self._folder = folder
        self._nursery = nursery
        self._settings = SETTINGS | {"WATCH_NAMESPACES": namespace} if settings is None else settings
        self._program = tuple(program)
        self._kubeconfig: Path | None = None
        self._process: Process | Child | None = None
        self.log = folder / "operator.log"
        self.log.touch()
        # Where the log of the process that runs now begins.
        self._begins = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def log_text(self) -> str:
        """Everything that it has logged, in all of its lives."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def start(self, *, failpoints: Iterable[str] = (), ready: bool = True, **env: str) -> None:
        """Start it; return when it is ready, which means that it has seen every object."""
        assert not self.running
        if self._kubeconfig is None:
            self._kubeconfig = self._cluster.service_account_kubeconfig(self._namespace, self._service_account)
        settings = {
            **self._settings,
            "KUBECONFIG": str(self._kubeconfig),
            **LISTENS,
            **{name.upper(): value for name, value in env.items()},
        }
        self._begins = self.log.stat().st_size
        self._process = self._run(
            {**{f"FEATUREROLLOUT_{name}": value for name, value in settings.items()}, VARIABLE: ",".join(failpoints)}
        )
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        wait_for(lambda: not self.running or self._ready(), START_TIMEOUT_S, "readiness of the operator")
        assert self.running, "the operator has ended"

    def kill(self) -> None:
        """As a power cut does: SIGKILL."""
        if self._process is not None:
            self._process.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: as a node that hangs. It keeps its connections and hears nothing."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, whether it was stopped or not."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)

    def stop(self) -> bool:
        """SIGTERM; return whether it has ended in time and cleanly."""
        if self._process is None or not self._process.running:
            return False
        self._process.send(signal.SIGTERM)
        ended = self._process.wait(STOP_TIMEOUT_S)
        self._process.stop(signal.SIGKILL)
        return ended and self._process.returncode == 0

    def wait_until_dead(self, timeout_s: float = 30.0) -> None:
        """Until it has ended by itself, at a failpoint."""
        assert self._process is not None
        assert self._process.wait(timeout_s), "the operator did not come to the failpoint"
        self._process.stop()

    def has_socket(self, port: int) -> bool:
        """Whether this loopback port of a TCP connection is the process's own; of one that a nursery has started."""
        assert isinstance(self._process, Child)
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        inodes = {line.split()[9] for line in lines if line.split()[1].endswith(f":{port:04X}")}
        wanted = {f"socket:[{inode}]" for inode in inodes}
        # It may be gone, and a connection may have been closed meanwhile.
        with suppress(OSError):
            return any(str(link.readlink()) in wanted for link in Path(f"/proc/{self._process.pid}/fd").iterdir())
        return False

    def get(self, path: str) -> tuple[int, str]:
        """Its own HTTP server's answer; OSError when there is none."""
        request = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def count(self, name: str, **labels: str) -> float:
        """A counter's value since the process was started: the sum over all labels that are not given."""
        _, text = self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_looks(self, number: int, **labels: str) -> None:
        """Until so many more looks were made: time in which something could have happened."""
        begun = self.count("featurerollout_looks_total", **labels)
        wait_for(
            lambda: self.count("featurerollout_looks_total", **labels) >= begun + number,
            10.0 + 3.0 * number,
            f"{number} more looks {labels}",
        )

    def _run(self, env: dict[str, str]) -> Process | Child:
        if self._nursery is not None:
            return self._nursery.start(["run"], log=self.log, folder=self._folder, env=env)
        return Process([*self._program, "run"], log=self.log, folder=self._folder, env=env)

    @property
    def port(self) -> int:
        """Where it answers HTTP; OSError before it does."""
        text = self.log.read_bytes()[self._begins :].decode(errors="replace")
        found = PORT.search(text)
        if found is None:
            raise OSError("it does not listen yet")
        return int(found[1])

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False


def json_lines(text: str) -> list[dict[str, Any]]:
    """Each line of a log as JSON; fails on one that is not."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
