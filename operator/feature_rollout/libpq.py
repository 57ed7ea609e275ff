"""One attempt to log in to one PostgreSQL server, with libpq.

Not psycopg's own `connect`, for what it does not give: the SQLSTATE of a refused login,
which is the same in every language that a server may speak, and a certificate authority
that is a text and not a file.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

_VERBOSITY_DEFAULT: Final = 1
_VERBOSITY_VERBOSE: Final = 2
# A verbose message is "FATAL:  28P01: …", with the first word in the server's language.
_STATE: Final = re.compile(r":  ([0-9A-Z]{5}): ")


class Refused(Exception):
    """There is no connection. `state` is the SQLSTATE if the server said why, else empty.

    `text` is libpq's own, in English, or holds the server's: to be matched, never to be shown.
    """

    def __init__(self, state: str, text: str) -> None:
        super().__init__(state)
        self.state = state
        self.text = text


async def attempt(parameters: Mapping[str, str], authority: str | None) -> Connection:
    """Log in; `parameters` name one server by its `hostaddr`, or a socket. Raises Refused; never logs.

    `authority` is the certificates, in PEM, that a server's must be signed by.
    """
    descriptor = None
    try:
        if authority is not None:
            # libpq reads files only. This one is in memory, and nobody else's.
            descriptor = os.memfd_create("certificate-authority")
            os.write(descriptor, authority.encode())
            parameters = {**parameters, "sslrootcert": f"/proc/self/fd/{descriptor}"}
        pgconn = await _logged_in(make_conninfo("", **parameters).encode())
    finally:
        if descriptor is not None:
            os.close(descriptor)
    _set_verbosity(pgconn, _VERBOSITY_DEFAULT)
    pgconn.nonblocking = 1
    connection = psycopg.AsyncConnection(pgconn)
    await connection.set_autocommit(True)
    # Behind a pooler in transaction mode, what is prepared is prepared on somebody else's connection.
    connection.prepare_threshold = None
    return connection


async def _logged_in(conninfo: bytes) -> PGconn:
    pgconn = pq.PGconn.connect_start(conninfo)
    _set_verbosity(pgconn, _VERBOSITY_VERBOSE)
    try:
        while (status := _polled(pgconn)) != pq.PollingStatus.OK:
            await _until_usable(pgconn.socket, for_reading=status == pq.PollingStatus.READING)
    except BaseException:
        pgconn.finish()
        raise
    return pgconn


def _polled(pgconn: PGconn) -> int:
    status = pq.PollingStatus.FAILED if pgconn.status == pq.ConnStatus.BAD else pgconn.connect_poll()
    if status == pq.PollingStatus.FAILED:
        text = pgconn.get_error_message("utf-8")
        state = _STATE.search(text)
        raise Refused(state[1] if state else "", text)
    return status


async def _until_usable(descriptor: int, *, for_reading: bool) -> None:
    loop = asyncio.get_running_loop()
    usable = asyncio.Event()
    add, remove = (loop.add_reader, loop.remove_reader) if for_reading else (loop.add_writer, loop.remove_writer)
    add(descriptor, usable.set)
    try:
        await usable.wait()
    finally:
        # libpq may close the socket at its next step, and open another one with the same number.
        remove(descriptor)


def _set_verbosity(pgconn: Any, verbosity: int) -> None:
    _library.PQsetErrorVerbosity(ctypes.c_void_p(pgconn.pgconn_ptr), verbosity)


def _loaded() -> ctypes.CDLL:
    """The libpq that psycopg uses, found through the module that is linked to it; psycopg has no such call."""
    path = sys.modules[pq.PGconn.__module__].__file__ or ""
    return ctypes.CDLL(path if not path.endswith(".py") else pq.misc.find_libpq_full_path())


_library: Final = _loaded()
