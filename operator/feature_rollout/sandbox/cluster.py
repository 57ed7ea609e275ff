"""Access to a running control plane: kubeconfig files, tokens, kubectl. `controlplane` starts and stops it."""

import base64
import http.client
import json
import os
import select
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.errors import SandboxError

ADMIN = "admin"
KUBECTL_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 10.0


class Cluster:
    """A control plane that somebody else may have started.

    `tokens` are the bearer tokens of its users by name; `folder` is where files for them are written.
    """

    def __init__(self, url: str, ca_file: Path, folder: Path, tokens: Mapping[str, str]) -> None:
        self.url = url
        self.ca_file = ca_file
        self.folder = folder
        self.tokens = dict(tokens)
        # Kept open for the next requests, of any thread: a TLS handshake costs both sides far more than an answer.
        self._idle: deque[http.client.HTTPSConnection] = deque()

    def disconnect(self) -> None:
        """Close the connections of `request`; the next request opens another one."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def to_json(self) -> str:
        """Return what another process needs for `from_json`. It contains the tokens."""
        fields = {"url": self.url, "ca_file": str(self.ca_file), "folder": str(self.folder), "tokens": self.tokens}
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "Cluster":
        fields = json.loads(text)
        return Cluster(fields["url"], Path(fields["ca_file"]), Path(fields["folder"]), fields["tokens"])

    def kubeconfig(self, user: str = ADMIN, *, namespace: str = "default") -> Path:
        """Return a kubeconfig file for this user, which kubectl and the Python client both read."""
        return self._write_kubeconfig(user, self._token(user), namespace)

    def service_account_kubeconfig(self, namespace: str, service_account: str) -> Path:
        """Return a kubeconfig file that acts as this ServiceAccount, which must exist, for an hour."""
        token = self.create_token(namespace, service_account)
        return self._write_kubeconfig(f"{namespace}-{service_account}", token, namespace)

    def create_token(self, namespace: str, service_account: str, *, seconds: int = 3600) -> str:
        """Ask the API server for a token of this ServiceAccount (TokenRequest)."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        status, answer = self.request("POST", path, {"spec": {"expirationSeconds": seconds}})
        if status != http.HTTPStatus.CREATED:
            raise SandboxError(f"no token for service account {namespace}/{service_account}: {status} {answer}")
        return str(answer["status"]["token"])

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = ADMIN,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request; return the status code and the answer, parsed when it is JSON. OSError: not reachable."""
        said = {"Authorization": f"Bearer {self._token(user)}", "Content-Type": "application/json", **(headers or {})}
        connection = self._connection()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), said)
            response = connection.getresponse()
            text = response.read().decode()
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text

    def kubectl(
        self,
        *args: str | Path,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run gives it
        user: str = ADMIN,
        check: bool = True,
        timeout_s: float = KUBECTL_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl on this control plane as this user. SandboxError with its words when it fails and `check`."""
        # A cache of its own for each process, or a CRD that one installs is unknown to another for some seconds.
        env = {**os.environ, "KUBECACHEDIR": str(self.folder / f"kubectl-cache-{os.getpid()}")}
        argv = [str(toolchain.kubectl()), f"--kubeconfig={self.kubeconfig(user)}", *map(str, args)]
        done = subprocess.run(
            argv, input=input, env=env, text=True, capture_output=True, check=False, timeout=timeout_s
        )
        if check and done.returncode != 0:
            raise SandboxError(f"kubectl {' '.join(argv[2:])} ended with {done.returncode}:\n{done.stderr.strip()}")
        return done

    def install_crds(self, path: Path) -> None:
        """Apply a file or folder of CustomResourceDefinitions and policies; wait until the API server serves them."""
        # The first list of a new CRD can answer 429 "storage is (re)initializing" until it is Established.
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", path)
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")

    def _connection(self) -> http.client.HTTPSConnection:
        """An open one that the API server has not closed meanwhile, or a new one."""
        # Ends when there is none, and when another thread was faster.
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                poller = select.poll()
                poller.register(connection.sock, select.POLLIN)
                # Nothing was asked on it, so what can be read is its end.
                if not poller.poll(0):
                    return connection
                connection.close()
        parts = urlsplit(self.url)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return http.client.HTTPSConnection(str(parts.hostname), parts.port, context=context, timeout=REQUEST_TIMEOUT_S)

    def _token(self, user: str) -> str:
        try:
            return self.tokens[user]
        except KeyError:
            known = ", ".join(sorted(self.tokens))
            raise SandboxError(f"no user {user!r} was given to this control plane; there are: {known}") from None

    def _write_kubeconfig(self, user: str, token: str, namespace: str) -> Path:
        # The certificate itself, so that the file is of use wherever it is copied to.
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        cluster = {"server": self.url, "certificate-authority-data": authority}
        context = {"cluster": "sandbox", "user": user, "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "sandbox", "context": context}],
            "current-context": "sandbox",
        }
        path = self.folder / f"{user}.{namespace}.kubeconfig"
        # Renamed into place, because another process may be reading the file of the same name.
        draft = self.folder / f".{user}.{namespace}.{os.getpid()}.{threading.get_ident()}"
        draft.touch(mode=0o600)
        draft.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return draft.replace(path)
