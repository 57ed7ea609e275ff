"""Connection strings of PostgreSQL, as tenants write them into Secrets.

Only the parameters that name a server and a login are taken from one, nothing that reads files of this process or
runs something. No message shows a value.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from feature_rollout.ports import Problem

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

CONNECTION_INVALID: Final = "ConnectionInvalid"

_HOSTS_MAX: Final = 8
_UNVERIFIED: Final = ("disable", "allow", "prefer")
_ALLOWED: Final = ("host", "port", "user", "password", "dbname", "sslmode", "target_session_attrs")
# What to do where something else than to remove the parameter helps.
_INSTEAD: Final = {
    "hostaddr": "name the address as host",
    "options": "set it by ALTER ROLE … SET",
    "sslrootcert": "name the CA in spec.postgres.caCertificate of the FlagStore, for commands in PGSSLROOTCERT",
    "passfile": "write the password into the string",
    "service": "write host, port, dbname and user into the string",
    "sslcert": "log in with a password",
    "sslkey": "log in with a password",
}
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}


@dataclass(frozen=True, slots=True)
class Access:
    """What may be connected to, beside what a connection string says.

    `denied` are networks whose addresses are refused; `sockets` allows the path of a Unix
    socket as the host; `authority` is the certificates, in PEM, that a server's must be
    signed by, instead of those that the system trusts.
    """

    denied: tuple[Network, ...] = ()
    sockets: bool = False
    authority: str | None = field(default=None, repr=False)


ANYWHERE: Final = Access()


@dataclass(frozen=True, slots=True)
class Server:
    """A checked connection string: where to connect, and as whom."""

    role: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    access: Access = ANYWHERE


def parse_uri(uri: str, purpose: str = "writer", access: Access = ANYWHERE) -> Server:
    """A connection string as a tenant wrote it; raises Problem(ConnectionInvalid), which never shows a value.

    `purpose` says whose string it is: writer, reader or owner.
    """
    try:
        return _parsed(uri, access)
    except ValueError as error:
        raise Problem(CONNECTION_INVALID, f"the {purpose}'s connection string cannot be used: {error}") from None


def _parsed(uri: str, access: Access) -> Server:
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(uri).items() if value is not None}
    except psycopg.Error:
        raise ValueError("it is not of the form postgresql://user:password@host:port/database") from None
    for name in given:
        if name not in _ALLOWED:
            instead = _INSTEAD.get(name, "remove it")
            raise ValueError(f"parameter {name} is not allowed, {instead}; allowed are {', '.join(_ALLOWED)}")
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"parameter {name} must be one of {', '.join(choices)}")
    if not given.get("user"):
        raise ValueError("parameter user is missing")
    _check_places(given, access)
    return Server(given["user"], tuple(sorted((given | _verification(given, access)).items())), access)


def _check_places(given: dict[str, str], access: Access) -> None:
    hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    if not all(re.fullmatch(r"[0-9]*", port) for port in ports):
        raise ValueError("parameter port must be a number")
    if len(ports) not in (1, len(hosts)):
        raise ValueError("parameter port must be one number, or one for each host")
    if len(hosts) > _HOSTS_MAX:
        raise ValueError(f"parameter host names more than {_HOSTS_MAX} hosts")
    for host in hosts:
        if not host:
            raise ValueError("parameter host is missing")
        if is_socket(host) and not access.sockets:
            raise ValueError("parameter host must be a host name or an address, not a socket's path")


def _verification(given: dict[str, str], access: Access) -> dict[str, str]:
    """What libpq must be told for the server's certificate to be checked as the connection string says."""
    mode = given.get("sslmode")
    if access.authority is not None:
        _check_authority(access.authority)
        if mode in _UNVERIFIED:
            raise ValueError(f"sslmode={mode} does not use the CA certificate of the FlagStore: say verify-full")
        return {"sslmode": mode or "verify-full"}
    if mode not in ("verify-ca", "verify-full") or _has_root_certificate():
        return {}
    if mode == "verify-ca":
        raise ValueError(
            "sslmode=verify-ca needs a CA: name it in spec.postgres.caCertificate of the FlagStore, or in PGSSLROOTCERT"
        )
    return {"sslrootcert": _system_certificates()}


def _check_authority(authority: str) -> None:
    try:
        ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError):
        raise ValueError("the CA certificate of the FlagStore is no certificate in PEM") from None


def _has_root_certificate() -> bool:
    # Where libpq looks by itself: the administrator has put something there.
    return bool(os.environ.get("PGSSLROOTCERT")) or Path("~/.postgresql/root.crt").expanduser().exists()


def _system_certificates() -> str:
    """A file, because the `system` of the libpq in psycopg's wheel is a folder that no machine has."""
    return ssl.get_default_verify_paths().cafile or "system"


def is_socket(host: str) -> bool:
    return host.startswith(("/", "@"))
