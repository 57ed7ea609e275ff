"""A TCP proxy before a server that fails when told, or at a chosen point of a transaction of PostgreSQL.

And a table of what came of it.
"""

import asyncio
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Self
from urllib.parse import urlsplit

from feature_rollout.sandbox.cluster import Cluster

# By what the first of a phase's messages to the server is known; b"" is whatever comes first on a new connection.
PHASES = {
    "connect": re.compile(rb""),
    "BEGIN": re.compile(rb"BEGIN"),
    "UPDATE": re.compile(rb"UPDATE \"?public\"?\.\"?feature_flags"),
    "COMMIT": re.compile(rb"COMMIT"),
    "idle": None,
}
FAULTS = ("cut", "reset", "half", "partition", "deaf", "latency")
# What these do lasts until `heal`.
LASTING = frozenset({"partition", "deaf", "latency"})
LATENCY_S = 0.3
FINDING = "network fault"


class _Flow:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, *, is_exempt: bool) -> None:
        self.client, self.server = client, server
        self.is_exempt = is_exempt
        self.is_new = True
        self.client_has_spoken = False

    def end(self) -> None:
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        for writer in (self.client, self.server):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


class Network:
    """`port` leads to the server. `arm` a fault for a phase, or `strike` at once; `heal` ends it.

    | fault | what happens |
    |---|---|
    | cut, reset | the connection ends, in order or by RST, before the message is passed on |
    | half | half of the message is passed on, then the connection ends |
    | partition | nothing comes through in either direction, on new connections neither; held until `heal` |
    | deaf | the server hears and nobody hears its answers, until `heal` |
    | latency | each packet is late |

    `logins` counts connections, `round_trips` how often a client began to speak after its server.
    `of(port)` says whether the client that has this port is one that faults are for; without it all are.
    """

    def __init__(self, target: int, of: Callable[[int], bool] | None = None) -> None:
        self._of = of or (lambda _port: True)
        self.port = 0
        self.logins = self.round_trips = 0
        self.struck_at_s: float | None = None
        self.was_armed = False
        self._target = target
        self._armed: tuple[re.Pattern[bytes], str, bool] | None = None
        self._lasting = ""
        self._healed = asyncio.Event()
        self._flows: set[_Flow] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, of: Callable[[int], bool] | None = None) -> AsyncIterator[Self]:
        network = cls(port, of)
        listener = await asyncio.start_server(network._serve, "127.0.0.1", 0)
        network.port = listener.sockets[0].getsockname()[1]
        try:
            yield network
        finally:
            listener.close()
            for task in network._tasks:
                task.cancel()
            await asyncio.gather(*network._tasks, return_exceptions=True)

    def arm(self, phase: str, fault: str) -> None:
        self.was_armed = True
        pattern = PHASES[phase]
        if pattern is None:
            self._strike(fault, self._flows)
        else:
            if phase == "connect":
                for flow in self._flows:
                    flow.end()
            self._armed = (pattern, fault, phase == "connect")

    def heal(self) -> None:
        self._lasting = ""
        self._healed.set()

    def _strike(self, fault: str, flows: Sequence[_Flow] | set[_Flow]) -> None:
        self.struck_at_s = time.monotonic()
        if fault in LASTING:
            self._lasting = fault
            self._healed.clear()
            return
        for flow in [flow for flow in flows if not flow.is_exempt]:
            flow.reset() if fault == "reset" else flow.end()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        back, server = await asyncio.open_connection("127.0.0.1", self._target)
        flow = _Flow(client, server, is_exempt=not self._of(client.get_extra_info("peername")[1]))
        self._flows.add(flow)
        self.logins += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(flow, reader))
                group.create_task(self._down(flow, back))
        finally:
            self._flows.discard(flow)
            flow.end()

    async def _up(self, flow: _Flow, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.round_trips += not flow.client_has_spoken
                flow.client_has_spoken = True
                if self._hits(flow, data):
                    assert self._armed is not None
                    fault, self._armed = self._armed[1], None
                    if fault == "half":
                        flow.server.write(data[: len(data) // 2])
                        await flow.server.drain()
                    self._strike(fault, [flow])
                    if fault not in LASTING:
                        break
                flow.is_new = False
                await self._hold(flow, "partition")
                flow.server.write(data)
                await flow.server.drain()
        flow.server.close()

    async def _down(self, flow: _Flow, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                flow.client_has_spoken = False
                await self._hold(flow, "partition", "deaf")
                flow.client.write(data)
                await flow.client.drain()
        flow.client.close()

    def _hits(self, flow: _Flow, data: bytes) -> bool:
        if self._armed is None or flow.is_exempt:
            return False
        pattern, _, is_connect = self._armed
        return flow.is_new if is_connect else pattern.search(data) is not None

    async def _hold(self, flow: _Flow, *faults: str) -> None:
        if flow.is_exempt:
            return
        if self._lasting == "latency":
            await asyncio.sleep(LATENCY_S)
        while self._lasting in faults:
            await self._healed.wait()


@contextmanager
def in_a_thread(port: int, of: Callable[[int], bool] | None = None) -> Iterator[tuple[Network, Callable[..., object]]]:
    """A `Network` for tests that have no event loop, and how to call its methods: `call(network.arm, phase, fault)`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="network", daemon=True)
    thread.start()
    manager = Network.to(port, of)
    network = asyncio.run_coroutine_threadsafe(manager.__aenter__(), loop).result(10)
    try:
        yield network, loop.call_soon_threadsafe
    finally:
        asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def through(port: int, kubeconfig: Path, cluster: Cluster, folder: Path) -> Path:
    """This kubeconfig of the cluster as it leads through a `Network` on that port; written to the folder."""
    text = kubeconfig.read_text(encoding="utf-8")
    path = folder / f"through-{port}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(text.replace(cluster.url, f"https://127.0.0.1:{port}"), encoding="utf-8")
    return path


def port_of(cluster: Cluster) -> int:
    return urlsplit(cluster.url).port or 443


def table(reports: Sequence[Any]) -> list[str]:
    """Lines for the end of a test run, from the properties that tests have recorded: all phases of a fault in one."""
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == FINDING and report.when == "call":
                what, _, fault, *numbers = value
                found[what, fault].append(tuple(numbers))
    if not found:
        return []
    lines = [
        f"{'what':8} {'fault':10} {'times':>5} {'violations':>10} {'p50 s':>7} {'max s':>7} {'longest call s':>14}"
    ]
    for (what, fault), results in sorted(found.items()):
        broken, seconds, calls = zip(*results, strict=True)
        row = f"{len(results):5} {sum(broken):10} {median(seconds):7.2f} {max(seconds):7.2f} {max(calls):14.2f}"
        lines.append(f"{what:8} {fault:10} {row}")
    return lines
