"""Where the API server is and who we are there: in-cluster, or a kubeconfig file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from feature_rollout.kube.errors import ApiError


class NoConnection(ApiError):
    """Neither a service account nor a usable kubeconfig was found; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server.

    With neither field set: the pod's service account where there is one, else the
    default kubeconfig (`KUBECONFIG`, `~/.kube/config`).
    """

    kubeconfig: str | None = None
    context: str | None = None

    async def load(self) -> Any:
        """Read it anew, tokens and certificates too; return a `kubernetes.aio.client.Configuration`.

        Its `proxy` is the kubeconfig's, else the environment's (`HTTPS_PROXY`, `NO_PROXY`). Any: the client
        library ships no types.
        """
        configuration = await self._configuration()
        configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
        return configuration

    async def _configuration(self) -> Any:
        # The client library takes half a second to import, which `featurerollout --help` need not wait for.
        from kubernetes.aio.client import Configuration  # noqa: PLC0415
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config  # noqa: PLC0415

        configuration = Configuration()
        if self.kubeconfig is None and self.context is None:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException:
                pass
            else:
                return configuration
        self._demand_a_file()
        try:
            await load_kube_config(
                config_file=self.kubeconfig,
                context=self.context,
                client_configuration=configuration,
                # We never write into the user's file.
                persist_config=False,
            )
        except (ConfigException, OSError) as error:
            raise NoConnection(f"the kubeconfig {self._files()} cannot be used: {error}") from error
        return configuration

    def _files(self) -> str:
        """The paths that are read, as KUBECONFIG has them."""
        return self.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"

    def _demand_a_file(self) -> None:
        """Without one, the client library complains of a key that is missing in it."""
        paths = [Path(part).expanduser() for part in self._files().split(os.pathsep) if part]
        if not any(path.exists() for path in paths):
            raise NoConnection(
                f"no way to the API server: there is no kubeconfig {self._files()}, and this is not a pod; "
                "name one by --kubeconfig or KUBECONFIG"
            )


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address; None where it names none."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
