"""Which connection strings of tenants are used, and what is said of the others. No server is needed."""

import ssl
from unittest.mock import Mock

import pytest

from feature_rollout.connectionstring import Access, parse_uri
from feature_rollout.ports import Problem
from feature_rollout.postgres import quoted
from feature_rollout.store import PostgresFlagStore, StoreConfig

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "parameter user is missing"),
        ("nonsense", "not of the form postgresql://"),
        (f"postgresql://u:{SECRET}@/db", "parameter host is missing"),
        (f"postgresql://u:{SECRET}@h,/db", "parameter host is missing"),
        (f"postgresql://u:{SECRET}@%2Fvar%2Frun/db", "not a socket's path"),
        (f"postgresql://u:{SECRET}@h,%2Ftmp/db", "not a socket's path"),
        (f"postgresql://u:{SECRET}@/db?host=/tmp", "not a socket's path"),
        (f"postgresql://u:{SECRET}@/db?host=@abstract", "not a socket's path"),
        (f"postgresql://:{SECRET}@h/db", "parameter user is missing"),
        (f"postgresql://u:{SECRET}@h/db?hostaddr=127.0.0.1", "parameter hostaddr is not allowed, name the address as"),
        (f"postgresql://u:{SECRET}@h/db?sslkey=/etc/key", "parameter sslkey is not allowed, log in with a password"),
        (f"postgresql://u:{SECRET}@h/db?sslcert=/etc/crt", "parameter sslcert is not allowed, log in with a password"),
        (f"postgresql://u:{SECRET}@h/db?sslrootcert=/etc/ca", "parameter sslrootcert is not allowed, name the CA in"),
        (f"postgresql://u:{SECRET}@h/db?sslcrl=/etc/crl", "parameter sslcrl is not allowed, remove it; allowed are"),
        (f"postgresql://u:{SECRET}@h/db?sslkeylogfile=/tmp/x", "parameter sslkeylogfile is not allowed, remove it"),
        (f"postgresql://u:{SECRET}@h/db?passfile=/etc/shadow", "parameter passfile is not allowed, write the password"),
        (f"postgresql://u:{SECRET}@h/db?service=x", "parameter service is not allowed, write host, port, dbname"),
        (f"postgresql://u:{SECRET}@h/db?servicefile=/x", "not of the form postgresql://"),
        (
            f"postgresql://u:{SECRET}@h/db?options=-crole%3Dpostgres",
            "parameter options is not allowed, set it by ALTER",
        ),
        (f"host=a,b,c port=1,2 user=u password={SECRET}", "parameter port must be one number, or one for each host"),
        (f"postgresql://u:{SECRET}@{','.join('abcdefghi')}/db", "parameter host names more than 8 hosts"),
        (f"postgresql://u:{SECRET}@h/db?sslmode={SECRET}", "parameter sslmode must be one of disable,"),
        (f"postgresql://u:{SECRET}@h/db?target_session_attrs={SECRET}", "parameter target_session_attrs must be"),
        (f"postgresql://u:{SECRET}@h:{SECRET}/db", "parameter port must be a number"),
        (f"postgresql://u:{SECRET}@h/db?{SECRET}=1", "not of the form postgresql://"),
    ],
)
def test_a_string_that_is_not_used(uri: str, said: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_uri(uri)
    assert caught.value.reason == "ConnectionInvalid"
    assert caught.value.message.startswith("the writer's connection string cannot be used: ")
    assert said in caught.value.message
    assert SECRET not in caught.value.message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:p@db.example.com/db",
        "postgres://u@db.example.com:6543/db?sslmode=require",
        "postgresql://u:p@a:1,b:2/db?target_session_attrs=read-write",
        "host=db.example.com user=u password=p",
    ],
)
def test_a_string_that_is_used(uri: str) -> None:
    server = parse_uri(uri)
    assert server.role == "u"
    assert "db.example.com" not in repr(server)


def test_a_socket_must_be_allowed() -> None:
    server = parse_uri("postgresql://u:p@%2Fvar%2Frun/db", "writer", Access(sockets=True))
    assert dict(server.parameters)["host"] == "/var/run"


def test_full_verification_uses_the_certificates_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    uri = "postgresql://u:p@db.example.com/db?sslmode=verify-full"
    monkeypatch.setenv("SSL_CERT_FILE", __file__)
    assert dict(parse_uri(uri).parameters)["sslrootcert"] == __file__
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: Mock(cafile=None))
    assert dict(parse_uri(uri).parameters)["sslrootcert"] == "system"
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/ssl/our.crt")
    assert "sslrootcert" not in dict(parse_uri(uri).parameters)


def test_a_config_does_not_show_its_secrets() -> None:
    uri = f"postgresql://u:{SECRET}@h/db"
    config = StoreConfig(uri, uri, uri)
    assert SECRET not in repr(config)
    assert SECRET not in repr(PostgresFlagStore(config))


def test_the_problem_says_whose_string_it_is() -> None:
    with pytest.raises(Problem, match="the owner's connection string"):
        PostgresFlagStore(StoreConfig("postgresql://u:p@h/db", owner_uri="postgresql://h/db"))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("public", "feature_flags"), "public.feature_flags"),
        (("Public", "order"), '"Public"."order"'),
        (('a"b',), '"a""b"'),
        (("9lives",), '"9lives"'),
    ],
)
def test_identifiers_are_quoted_where_they_must_be(names: tuple[str, ...], text: str) -> None:
    assert quoted(*names) == text
