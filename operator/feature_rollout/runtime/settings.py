"""What the operator can be told from outside, all of it by environment variables."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from feature_rollout.core.shards import SHARDS_MAX
from feature_rollout.notify import apprise, pagerduty, slack, template

# This machine's own addresses, and those of the cloud's metadata, which hand out the node's identity.
_DENIED = ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
SECRET_BYTES_MIN = 24
# Each is asked about in every database, once a second.
APPRISE_URLS_MAX = 8
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
    shards: int = Field(
        default=1,
        ge=1,
        le=SHARDS_MAX,
        description="How many parts the rollouts are divided into, each with a Lease of its own, "
        "so that so many replicas can lead one.",
    )
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

    webhook_url: SecretStr | None = Field(
        default=None, description="Where every transition is POSTed to as a CloudEvent; http or https."
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="The key of its signatures: 24 bytes or more in Base64, as from `openssl rand -base64 32`.",
    )
    slack_token: SecretStr | None = Field(default=None, description="A Slack bot's token with the scope `chat:write`.")
    slack_channel: str = Field(
        default="",
        validate_default=True,
        description="Its channel, by `#name` or id, for rollouts that name none in `spec.contacts.slack`.",
    )
    slack_address: str = Field(default=slack.ADDRESS, description="The Slack API; https.")
    pagerduty_routing_key: SecretStr | None = Field(
        default=None, description="The integration key (Events API v2) of a PagerDuty service."
    )
    pagerduty_address: str = Field(
        default=pagerduty.ADDRESS, description="The PagerDuty Events API v2; https. The EU has one of its own."
    )
    message_template: str = Field(
        default=template.DEFAULT,
        description="What Slack, PagerDuty and Apprise are told of a transition. In double braces: "
        f"{', '.join(template.NAMES)}.",
    )
    apprise_urls: SecretStr | None = Field(
        default=None,
        description="Other services to notify: at most 8 URLs as Apprise has them, with spaces or line ends between "
        f"them. It is an extra: `{apprise.INSTALL}`.",
    )

    @field_validator("lease_name", "lease_namespace")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not NAMESPACE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of at most 63 lower-case letters, digits and dashes")
        return value

    @field_validator("shards")
    @classmethod
    def _has_leases(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and not info.data.get("lease_name"):
            raise ValueError(f"{value} shards need Leases: set FEATUREROLLOUT_LEASE_NAME, or 1 for the only process")
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

    @field_validator(
        "webhook_url", "webhook_secret", "slack_token", "pagerduty_routing_key", "apprise_urls", mode="before"
    )
    @classmethod
    def _blank_is_none(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("webhook_url")
    @classmethod
    def _is_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_url(value.get_secret_value(), "http", "https"):
            raise ValueError("it is not an address such as https://hooks.example.com/rollouts")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _is_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            if info.data.get("webhook_url") is not None:
                raise ValueError("it is needed with FEATUREROLLOUT_WEBHOOK_URL: openssl rand -base64 32")
            return None
        try:
            key = signing_key(value)
        except (binascii.Error, ValueError):
            raise ValueError("it is not Base64: openssl rand -base64 32") from None
        if len(key) < SECRET_BYTES_MIN:
            raise ValueError(f"it has fewer than {SECRET_BYTES_MIN} bytes: openssl rand -base64 32")
        return value

    @field_validator("slack_channel")
    @classmethod
    def _is_channel(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("slack_token") is not None:
            raise ValueError("it is needed with FEATUREROLLOUT_SLACK_TOKEN")
        if value and not slack.CHANNEL.fullmatch(value):
            raise ValueError(f"{value!r} is not a channel such as #deployments or C0123456789")
        return value

    @field_validator("slack_address", "pagerduty_address")
    @classmethod
    def _is_encrypted(cls, value: str) -> str:
        # What goes there has a credential in it.
        if not _is_url(value, "https"):
            raise ValueError(f"{value!r} is not an https address")
        return value

    @field_validator("message_template")
    @classmethod
    def _is_template(cls, value: str) -> str:
        template.Template(value)
        return value

    @field_validator("apprise_urls")
    @classmethod
    def _are_usable(cls, value: SecretStr | None) -> SecretStr | None:
        urls = value.get_secret_value().split() if value is not None else []
        if len(urls) > APPRISE_URLS_MAX:
            raise ValueError(f"there are {len(urls)} URLs, and at most {APPRISE_URLS_MAX} may be")
        for number, url in enumerate(urls, 1):
            try:
                apprise.check(url)
            except ValueError as error:
                raise ValueError(f"URL {number} of {len(urls)}: {error}") from None
        return value


def signing_key(secret: SecretStr) -> bytes:
    """The bytes that a webhook is signed with; raises ValueError. `whsec_` is how others mark such a secret."""
    return base64.b64decode(secret.get_secret_value().strip().removeprefix("whsec_"), validate=True)


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
