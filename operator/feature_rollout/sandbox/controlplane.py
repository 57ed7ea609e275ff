"""Starts and stops a Kubernetes control plane: etcd, kube-apiserver and, when wanted, kube-controller-manager.

There are no nodes: objects are stored, checked, defaulted, watched and garbage collected, pods never run.
"""

import http.client
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.cluster import ADMIN, Cluster
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.keys import signing_key_pem
from feature_rollout.sandbox.processes import Process, free_ports, scratch_folder, wait_until

START_TIMEOUT_S = 60.0
# Another process may take a free port before etcd or the API server does.
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 5.0
# The controllers without which objects of a cluster do not behave as they do in production.
CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "validatingadmissionpolicy-status-controller",
    "job-controller",
)


class ControlPlane(Cluster):
    """A private control plane: a context manager, or `start()` and `stop()`.

    `users` are further users by name, with their groups (`ADMIN` is always there, in system:masters); they may do
    nothing until RBAC says so. `controller_manager` adds garbage collection of owned objects, removal of namespaces,
    the default service account of each namespace, and the contents of the aggregated roles admin, edit and view.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, Sequence[str]] | None = None,
        controller_manager: bool = False,
        controllers: Sequence[str] = CONTROLLERS,
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        self.binaries = toolchain.control_plane_binaries(controller_manager=controller_manager)
        self._groups = {ADMIN: ("system:masters",), **(users or {})}
        self._with_controller_manager = controller_manager
        self._controllers = tuple(controllers)
        self._apiserver_flags = tuple(apiserver_flags)
        self._etcd: Process | None = None
        self._apiserver: Process | None = None
        self._controller_manager: Process | None = None
        self._ports: list[int] = []
        folder = Path(tempfile.gettempdir()) / "not-started"
        super().__init__("", folder, folder, {user: secrets.token_urlsafe(24) for user in self._groups})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and return when the API server is ready (about 3 s)."""
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start()
            except SandboxError as error:
                self.stop()
                if "address already in use" not in str(error) or attempt == START_ATTEMPTS:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """Stop everything and remove its folder."""
        self.disconnect()
        for process in (self._controller_manager, self._apiserver, self._etcd):
            if process is not None:
                # Nothing of it is kept, so there is nothing to shut down in order.
                process.stop(signal.SIGKILL)
        self._controller_manager = self._apiserver = self._etcd = None
        if self._ports:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._ports = []

    def stop_apiserver(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Take the API server away, as in an outage; etcd and its data stay.

        SIGKILL cuts every connection at once. On SIGTERM it stops to listen and lets open watches go on, for 5 s here.
        """
        if self._apiserver is not None:
            self._apiserver.stop(number, STOP_TIMEOUT_S)
            self._apiserver = None

    def start_apiserver(self, *, wait: bool = True) -> None:
        """Start the API server again, on the same port and data; `wait` until it is ready."""
        if self._apiserver is not None:
            raise SandboxError("the API server is running already")
        self._apiserver = self._run(self.binaries.kube_apiserver, self._apiserver_arguments())
        if wait:
            self._wait_ready()

    def restart_apiserver(self, down_seconds: float = 0.0) -> None:
        """Stop and start the API server. It cannot be reached for `down_seconds`, and about 2 s to start."""
        self.stop_apiserver()
        if down_seconds > 0:
            assert self._etcd is not None  # noqa: S101 - it runs as long as the control plane does
            # An outage of a length that the caller chose, cut short only by the end of etcd.
            self._etcd.wait(down_seconds)
        self.start_apiserver()

    def _start(self) -> None:
        if self._ports:
            raise SandboxError("the control plane is running already")
        self._ports = free_ports(3)
        self.folder = scratch_folder("featurerollout-controlplane-")
        self.ca_file = self.folder / "certificates" / "apiserver.crt"
        self.url = f"https://127.0.0.1:{self._ports[0]}"
        self._write_credentials()
        # Not one after the other: the API server waits for etcd while it loads its own parts.
        self._etcd = self._run(self.binaries.etcd, self._etcd_arguments())
        self.start_apiserver()
        if self._with_controller_manager:
            self._start_controller_manager()

    def _write_credentials(self) -> None:
        lines = [
            f'{self.tokens[user]},{user},{user},"{",".join(groups)}"' for user, groups in sorted(self._groups.items())
        ]
        (self.folder / "tokens.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.folder / "service-accounts.key").write_text(signing_key_pem(), encoding="utf-8")

    def _run(self, program: Path, arguments: list[str]) -> Process:
        return Process([program, *arguments], log=self.folder / f"{program.name}.log", folder=self.folder)

    def _etcd_arguments(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports[1:])
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_arguments(self) -> list[str]:
        key = self.folder / "service-accounts.key"
        return [
            f"--etcd-servers=http://127.0.0.1:{self._ports[1]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._ports[0]}",
            # The API server makes a certificate for itself here, and uses it again after a restart.
            f"--cert-dir={self.folder / 'certificates'}",
            # The default would publish a loopback address as an endpoint, which is refused, and logged for ever.
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/24",
            *([] if self._with_controller_manager else ["--disable-admission-plugins=ServiceAccount"]),
            *self._apiserver_flags,
        ]

    def _start_controller_manager(self) -> None:
        program = self.binaries.kube_controller_manager
        if program is None:
            raise SandboxError(f"no kube-controller-manager beside {self.binaries.kube_apiserver}")
        arguments = [
            f"--kubeconfig={self.kubeconfig()}",
            f"--controllers={','.join(self._controllers)}",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        self._controller_manager = self._run(program, arguments)
        if "serviceaccount-controller" in self._controllers:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            processes = [self._controller_manager]
            wait_until(lambda: self._answers(path), processes, what="its first action", timeout_s=START_TIMEOUT_S)

    def _wait_ready(self) -> None:
        processes = [process for process in (self._etcd, self._apiserver) if process is not None]
        wait_until(lambda: self._answers("/readyz"), processes, what="readiness", timeout_s=START_TIMEOUT_S)

    def _answers(self, path: str) -> bool:
        if not self.ca_file.exists():
            return False
        try:
            return self.request("GET", path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
