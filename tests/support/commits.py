"""A TCP proxy before PostgreSQL that loses a COMMIT, or its answer, as a network does at the worst moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, Self

Loss = Literal["the COMMIT", "its answer"]
# As psycopg sends it: a simple query.
_COMMIT = b"COMMIT\x00"


class CommitProxy:
    """Hands everything on until `lose` says otherwise. `lost` counts what it has lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loss: tuple[Loss, bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lost = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        proxy = cls(port)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    def through(self, uri: str) -> str:
        """The same connection string, through this proxy."""
        return uri.replace(f":{self._target}/", f":{self.port}/")

    def lose(self, loss: Loss, *, containing: bytes) -> None:
        """Lose one COMMIT, or the answer to it, of a transaction with these bytes in it; then cut the connection."""
        self._loss = loss, containing

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(_pipe(back_reader, writer))
        try:
            await self._requests(reader, back_writer, answers)
        finally:
            answers.cancel()
            for end in (writer, back_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, answers: asyncio.Task[None]
    ) -> None:
        transaction = b""
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                transaction += data
                if _COMMIT in data and self._loss and self._loss[1] in transaction:
                    await self._lose(self._loss[0], data, server, answers)
                    return
                if b"BEGIN" in data:
                    transaction = data
                server.write(data)
                await server.drain()

    async def _lose(self, loss: Loss, data: bytes, server: asyncio.StreamWriter, answers: asyncio.Task[None]) -> None:
        self._loss = None
        if loss == "its answer":
            answers.cancel()
            server.write(data)
            await server.drain()
            # The server commits and answers, and closes when it has read to the end.
            server.write_eof()
        self.lost += 1


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
