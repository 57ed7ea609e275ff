"""What the operator can be told from outside, all of it by environment variables."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# This machine's own addresses, and those of the cloud's metadata, which hand out the node's identity.
_DENIED = ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Settings(BaseSettings):
    """Read from `FEATUREROLLOUT_…` variables; an unusable value ends the program with its name."""

    model_config = SettingsConfigDict(env_prefix="FEATUREROLLOUT_", frozen=True, hide_input_in_errors=True)

    cluster_name: str = Field(
        default="",
        max_length=253,
        description="The first part of every ledger key. Empty: the UID of the namespace kube-system.",
    )
    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Namespaces to work in, separated by commas. Empty: all."
    )
    http_host: str = Field(default="0.0.0.0", description="The address of /livez, /readyz and /metrics.")  # noqa: S104 - the kubelet and Prometheus come from outside the pod
    http_port: int = Field(default=8080, ge=0, le=65535, description="Their port; 0 takes a free one and logs it.")
    log_format: Literal["text", "json"] = Field(default="text", description="Lines for people, or JSON lines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="The least to log.")
    kubeconfig: str | None = Field(default=None, description="A kubeconfig file. Empty: in-cluster, else the default.")
    context: str | None = Field(default=None, description="A context of the kubeconfig. Empty: its current one.")
    workers: int = Field(default=8, ge=1, le=256, description="How many rollouts are reconciled at a time.")
    drift_poll_seconds: float = Field(
        default=5.0, ge=0.1, le=3600.0, description="How often flag rows are read to see changes by others."
    )

    lease_name: str = Field(
        default="", description="The Lease that all replicas share. Empty: this process is the only one."
    )
    lease_namespace: str = Field(default="", description="The Lease's namespace. Empty: the pod's own.")
    lease_duration_seconds: int = Field(
        default=15, ge=2, le=3600, description="A Lease that was not renewed for so long is taken by another replica."
    )
    lease_renew_deadline_seconds: float = Field(
        default=10.0, gt=0, description="Who could not renew the Lease for so long raises nothing any more."
    )
    lease_retry_seconds: float = Field(
        default=2.0, ge=0.1, description="How often each replica looks at the Lease, or renews it."
    )

    denied_addresses: Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], NoDecode] = Field(
        default=tuple(ipaddress.ip_network(text) for text in _DENIED),
        description="Networks, separated by commas, in which no database of a FlagStore may be. "
        "Empty: everything may be connected to.",
    )
    allow_sockets: bool = Field(
        default=False, description="Whether a FlagStore's connection string may name the path of a Unix socket."
    )

    @field_validator("lease_name", "lease_namespace")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not NAMESPACE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of at most 63 lower-case letters, digits and dashes")
        return value

    @field_validator("lease_renew_deadline_seconds")
    @classmethod
    def _is_before_the_end(cls, value: float, info: ValidationInfo) -> float:
        end = info.data.get("lease_duration_seconds", math.inf)
        if not value < end:
            raise ValueError(f"must be less than the lease's {end} seconds, or two replicas could lead")
        return value

    @field_validator("lease_retry_seconds")
    @classmethod
    def _leaves_a_second_try(cls, value: float, info: ValidationInfo) -> float:
        deadline = info.data.get("lease_renew_deadline_seconds", math.inf)
        if not 2.0 * value <= deadline:
            raise ValueError(f"must be at most half of the renew deadline, {deadline:g} seconds")
        return value

    # Runs after _split: validators of this mode run from the last to the first.
    @field_validator("denied_addresses", mode="before")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        networks = []
        for text in value:
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from None
        return tuple(networks)

    @field_validator("watch_namespaces", "denied_addresses", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        return value

    @field_validator("watch_namespaces")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # kopf would read anything else as a pattern, which needs the right to watch all namespaces.
        for name in value:
            if not NAMESPACE.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a namespace")
        return value

    @field_validator("kubeconfig", "context", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value
