"""TLS with a real server: what each sslmode demands, and what is said when the server does not have it.

| sslmode | plain server | right | other CA | other host name | expired |
|---|---|---|---|---|---|
| disable | connects | connects | connects | connects | connects |
| require | TlsFailed | connects | connects | connects | connects |
| require, CA given | TlsFailed | connects | TlsFailed | connects | TlsFailed |
| verify-ca | TlsFailed | connects | TlsFailed | connects | TlsFailed |
| verify-full | TlsFailed | connects | TlsFailed | TlsFailed | TlsFailed |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from feature_rollout.connectionstring import Access, parse_uri
from feature_rollout.ports import Problem
from feature_rollout.postgres import connect, dispose
from feature_rollout.sandbox.postgres import PostgresServer
from support.tls import Authority, tls_postgres

CERTIFICATES = ("right", "other host name", "expired")
PLAIN = "TlsFailed: the database server does not speak TLS"
UNTRUSTED = "TlsFailed: the certificate of the database server is not trusted: it has expired, or another CA"
OTHER_HOST = "TlsFailed: the certificate of the database server is for another host name"


@dataclass
class Lane:
    server: PostgresServer
    ours: Authority
    other: Authority
    pairs: dict[str, tuple[str, str]]
    shows: str = "right"

    def show(self, name: str) -> None:
        if self.shows != name:
            self.server.use_certificate(*self.pairs[name])
            self.server.restart()
            self.shows = name

    def uri(self, mode: str | None) -> str:
        uri = self.server.uri().replace("127.0.0.1", "localhost")
        return uri if mode is None else f"{uri}?sslmode={mode}"


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    installation = tls_postgres()
    ours, other = (Authority(tmp_path_factory.mktemp("tls") / "ca") for _ in range(2))
    pairs = {
        "right": ours.issue("localhost"),
        "other host name": ours.issue("elsewhere.example.com"),
        "expired": ours.issue("localhost", days=-1),
    }
    with PostgresServer(installation.bin_dir, tls=pairs["right"]) as server:
        yield Lane(server, ours, other, pairs)


async def outcome(uri: str, authority: str | None) -> str:
    """`TLS`, `plain`, or why there is no connection."""
    try:
        connection = await connect(parse_uri(uri, "writer", Access(authority=authority)), seconds=60)
    except Problem as problem:
        return f"{problem.reason}: {problem.message}"
    used = connection.pgconn.ssl_in_use
    await dispose(connection)
    return "TLS" if used else "plain"


@pytest.mark.parametrize("certificate", CERTIFICATES)
async def test_without_verification_any_certificate_will_do(lane: Lane, certificate: str) -> None:
    lane.show(certificate)
    assert await outcome(lane.uri("disable"), None) == "plain"
    assert await outcome(lane.uri("require"), None) == "TLS"


@pytest.mark.parametrize("mode", [None, "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("certificate", CERTIFICATES)
async def test_a_certificate_is_verified(lane: Lane, certificate: str, mode: str | None) -> None:
    lane.show(certificate)
    said = await outcome(lane.uri(mode), lane.ours.certificate)
    if certificate == "expired":
        assert UNTRUSTED in said
    elif certificate == "other host name" and mode in (None, "verify-full"):
        assert OTHER_HOST in said
    else:
        assert said == "TLS"
    assert UNTRUSTED in await outcome(lane.uri(mode), lane.other.certificate)


async def test_the_cas_of_the_system_are_those_of_the_system(
    lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libpq of psycopg's wheel would look for them where no machine has any."""
    lane.show("right")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert UNTRUSTED in await outcome(lane.uri("verify-full"), None)
    (tmp_path / "system.crt").write_text(lane.ours.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.crt"))
    assert await outcome(lane.uri("verify-full"), None) == "TLS"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls(own_postgres: PostgresServer, lane: Lane, mode: str) -> None:
    assert PLAIN in await outcome(f"{own_postgres.uri()}?sslmode={mode}", lane.ours.certificate)


async def test_a_server_that_wants_tls(lane: Lane) -> None:
    lane.show("right")
    rules = lane.server.data_folder / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    lane.server.restart()
    try:
        with pytest.raises(Problem, match="it may want TLS, which sslmode=disable forbids") as caught:
            await connect(parse_uri(lane.uri("disable")), seconds=60)
        assert caught.value.reason == "AuthenticationFailed"
        assert await outcome(lane.uri(None), None) == "TLS"
    finally:
        rules.write_text(before)
        lane.server.restart()


@pytest.mark.parametrize(
    ("mode", "authority", "said"),
    [
        ("disable", True, "sslmode=disable does not use the CA certificate of the FlagStore: say verify-full"),
        ("prefer", True, "sslmode=prefer does not use the CA certificate"),
        ("verify-ca", False, "sslmode=verify-ca needs a CA: name it in spec.postgres.caCertificate"),
    ],
)
def test_a_mode_that_contradicts_the_ca(
    lane: Lane, mode: str, authority: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    with pytest.raises(Problem, match=said):
        parse_uri(lane.uri(mode), "writer", Access(authority=lane.ours.certificate if authority else None))


def test_a_ca_that_is_none() -> None:
    with pytest.raises(Problem, match="the CA certificate of the FlagStore is no certificate in PEM"):
        parse_uri("postgresql://u:p@h/db", "writer", Access(authority="none"))
