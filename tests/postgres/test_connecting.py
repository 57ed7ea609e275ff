"""To which address a connection goes, and what is said when the server says no: in any language."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from feature_rollout.connectionstring import Access, Server, parse_uri
from feature_rollout.postgres import connect, dispose
from feature_rollout.sandbox.postgres import PostgresServer
from postgres.world import problem_of
from support.databases import Database

LOOPBACK = Access(denied=(ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8"), ip_network("::1/128")))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names that only this test knows; every look-up takes its addresses from here."""
    known: dict[str, list[str]] = {}
    original = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in known:
            return original(host, port, *rest, **options)
        return [entry for address in known[host] for entry in original(address, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def server(database: Database, host: str, access: Access = LOOPBACK) -> Server:
    return parse_uri(database.uri().replace("127.0.0.1", host), "writer", access)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.1", "127.0.0.0/8"),
        ("2130706433", "127.0.0.0/8"),
        ("0x7f.1", "127.0.0.0/8"),
        ("localhost", "127.0.0.0/8"),
        ("[::1]", "::1/128"),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
        ("[::ffff:7f00:1]", "127.0.0.0/8"),
        ("10.1.2.3", "10.0.0.0/8"),
    ],
)
async def test_a_denied_address_in_any_spelling(database: Database, host: str, network: str) -> None:
    problem = await problem_of(connect(server(database, host)))
    assert (problem.reason, problem.stalled) == ("AddressDenied", True)
    assert problem.message.startswith(f"its host has an address in {network}, where the operator may not connect to")
    assert "FEATUREROLLOUT_DENIED_ADDRESSES" in problem.message


async def test_a_name_is_as_good_as_its_address_now(database: Database, names: dict[str, list[str]]) -> None:
    access = Access(denied=(ip_network("169.254.0.0/16"),))
    names["db.example.com"] = ["127.0.0.1"]
    target = server(database, "db.example.com", access)
    await dispose(await connect(target))
    names["db.example.com"] = ["169.254.169.254"]
    assert (await problem_of(connect(target))).reason == "AddressDenied"


async def test_the_address_that_was_checked_is_the_one_that_is_used(
    database: Database, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers the check with one address and libpq with another."""
    names["db.example.com"] = ["127.0.0.1"]
    connection = await connect(server(database, "db.example.com", Access(denied=(ip_network("10.0.0.0/8"),))))
    # libpq cannot resolve this name at all: it was given an address, and keeps the name for verify-full.
    assert connection.pgconn.hostaddr == b"127.0.0.1"
    assert connection.pgconn.host == b"db.example.com"
    await dispose(connection)


async def test_the_other_addresses_of_a_name_are_used(database: Database, names: dict[str, list[str]]) -> None:
    names["db.example.com"] = ["10.0.0.1", "127.0.0.1"]
    await dispose(await connect(server(database, "db.example.com", Access(denied=(ip_network("10.0.0.0/8"),)))))


async def test_a_name_that_is_none(database: Database) -> None:
    for host in ("nowhere.invalid", "a" * 70 + ".example.com"):
        problem = await problem_of(connect(server(database, host), seconds=30))
        assert (problem.reason, problem.stalled) == ("StoreUnreachable", False)
        assert "its host name cannot be resolved" in problem.message


async def test_a_socket(database: Database) -> None:
    uri = f"host={database.server.socket_folder} port={database.server.port} dbname={database.name} user=postgres"
    uri += f" password={database.server.password}"
    access = Access(denied=LOOPBACK.denied, sockets=True)
    await dispose(await connect(parse_uri(uri, "writer", access)))


async def test_a_silent_host_leaves_time_for_the_next(database: Database) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    with listener:
        silent = f"127.0.0.1:{listener.getsockname()[1]}"
        uri = database.uri().replace("@", f"@{silent},{silent},")
        await dispose(await connect(parse_uri(uri), seconds=15))


async def test_a_standby_is_preferred_and_not_demanded(database: Database) -> None:
    await dispose(await connect(parse_uri(database.uri() + "?target_session_attrs=prefer-standby")))
    problem = await problem_of(connect(parse_uri(database.uri() + "?target_session_attrs=standby")))
    assert "none that the connection string names fits its target_session_attrs" in problem.message


REFUSALS = [
    ("28P01", "Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen", "AuthenticationFailed", True),
    ("28000", "Rolle »u« darf nicht einloggen", "AuthenticationFailed", True),
    ("3D000", "Datenbank »db« existiert nicht", "DatabaseMissing", True),
    ("53300", "tut mir leid, schon zu viele Verbindungen", "TooManyConnections", False),
    ("42501", "keine Berechtigung für Datenbank »db«", "PermissionDenied", True),
    ("57P03", "das Datenbanksystem startet", "StoreUnreachable", False),
    ("57P03", "password authentication failed:  28P01: it lies", "StoreUnreachable", False),
    ("XX000", 'database "db" does not exist', "StoreUnreachable", False),
    ("08P01", "unsupported startup parameter: options", "ConnectionInvalid", True),
    ("08P01", "no such database: db", "DatabaseMissing", True),
]


@asynccontextmanager
async def refusing(state: str, text: str) -> AsyncIterator[Server]:
    """A server that says no to everybody, in these words."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size, code = struct.unpack("!ii", await reader.readexactly(8))
        if code == 80877103:  # SSLRequest
            writer.write(b"N")
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            size += 4
        await reader.readexactly(size - 8)
        fields = b"".join(f"{kind}{value}\0".encode() for kind, value in (("S", "FATAL"), ("C", state), ("M", text)))
        writer.write(b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield parse_uri(f"postgresql://u:p@127.0.0.1:{listener.sockets[0].getsockname()[1]}/db")


@pytest.mark.parametrize(("state", "text", "reason", "stalled"), REFUSALS)
async def test_a_refusal_in_any_language(state: str, text: str, reason: str, stalled: bool) -> None:
    async with refusing(state, text) as target:
        problem = await problem_of(connect(target, seconds=30))
    assert (problem.reason, problem.stalled) == (reason, stalled)
    assert text not in problem.message


async def test_that_a_server_says_no_tells_more_than_that_another_is_away(own_postgres: PostgresServer) -> None:
    uri = own_postgres.uri(password="wrong").replace("@", "@127.0.0.1:1,")
    assert (await problem_of(connect(parse_uri(uri)))).reason == "AuthenticationFailed"


async def test_many_connections_leave_nothing_behind(database: Database) -> None:
    target = parse_uri(database.uri(password="wrong"))
    loop: Any = asyncio.get_running_loop()
    before = len(loop._selector.get_map())
    for _ in range(20):
        assert (await problem_of(connect(target))).reason == "AuthenticationFailed"
    tasks = [asyncio.create_task(connect(parse_uri(database.uri()))) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(loop._selector.get_map()) == before
