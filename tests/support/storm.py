"""A reverse proxy before the real API server that answers for it for a while: 429, 500, 503; or spoils watches."""

import asyncio
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import cycle
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from feature_rollout.sandbox.cluster import Cluster
from support.tls import Authority

HOST = "localhost"
HOP_BY_HOP = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}
REASONS = {
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
}
# How watches are spoilt.
EXPIRED, ENDING = "410 in each watch", "each watch ends at once"


class Storm:
    """`breaks` begins it with these answers in turn, `spoils` with each watch ending at once in one of these ways. Both
    cut all watches. `ends` it. Counts are since then.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._answers: Iterator[HTTPStatus] | None = None
        self.watches: str | None = None
        self._streams: set[asyncio.Task[None]] = set()
        # Requests that were answered here, and those that were passed on, by method.
        self.refused: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.port = 0
        self.session: aiohttp.ClientSession | None = None

    def breaks(self, *answers: HTTPStatus) -> None:
        self._answers = cycle(answers)
        self.refused.clear()
        self._cut()

    def spoils(self, how: str) -> None:
        self.passed.clear()
        self.refused.clear()
        self._cut()
        self.watches = how

    def ends(self) -> None:
        self._answers = self.watches = None
        self.passed.clear()

    def _cut(self) -> None:
        for stream in self._streams:
            stream.cancel()

    @property
    def writes(self) -> int:
        """How many requests that change something were passed on."""
        return sum(count for method, count in self.passed.items() if method != "GET")

    def kubeconfig(self, original: Path, folder: Path) -> Path:
        """This kubeconfig of the cluster as it leads through here; written to the folder."""
        content = yaml.safe_load(original.read_text(encoding="utf-8"))
        authority = folder / "authority" / "ca.crt"
        content["clusters"][0]["cluster"] = {
            "server": f"https://{HOST}:{self.port}",
            "certificate-authority": str(authority),
        }
        path = folder / "storm.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self._answers is not None:
            self.refused[request.method] += 1
            return _refusal(next(self._answers))
        path = request.raw_path
        if self.watches is not None and "watch" in request.query:
            self.refused[request.method] += 1
            if self.watches == ENDING:
                return web.Response()
            # What the API server has forgotten: it answers so itself.
            path = re.sub("resourceVersion=[0-9]+", "resourceVersion=1", path)
        else:
            self.passed[request.method] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self._cluster.url + path
        assert self.session is not None
        async with self.session.request(
            request.method, url, headers=headers, data=await request.read() or None
        ) as upstream:
            response = web.StreamResponse(status=upstream.status)
            response.content_type = upstream.content_type
            await response.prepare(request)
            passing = asyncio.create_task(_pass_on(upstream, response))
            self._streams.add(passing)
            try:
                await asyncio.wait([passing])
            finally:
                self._streams.discard(passing)
                passing.cancel()
                await asyncio.gather(passing, return_exceptions=True)
            if passing.cancelled() and request.transport is not None:
                request.transport.abort()
        return response


async def _pass_on(upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for part in upstream.content.iter_any():
        await response.write(part)
    await response.write_eof()


def _refusal(status: HTTPStatus) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": REASONS[status], "code": int(status)}
    headers = {"Retry-After": "1"} if status is HTTPStatus.TOO_MANY_REQUESTS else {}
    return web.json_response(body, status=status, headers=headers)


@contextmanager
def before(cluster: Cluster, folder: Path) -> Iterator[tuple[Storm, Callable[..., object]]]:
    """A storm in a thread of its own, and how to call its methods: `call(storm.breaks, status, …)`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="storm", daemon=True)
    thread.start()
    storm = Storm(cluster)
    runner = asyncio.run_coroutine_threadsafe(_serve(storm, _certified(folder)), loop).result(10)
    try:
        yield storm, loop.call_soon_threadsafe
    finally:
        asyncio.run_coroutine_threadsafe(_end(runner), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(runner: web.AppRunner) -> None:
    await runner.cleanup()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _certified(folder: Path) -> ssl.SSLContext:
    certificate, key = Authority(folder / "authority").issue(HOST)
    file = folder / "storm.pem"
    file.touch(mode=0o600)
    file.write_text(certificate + key, encoding="ascii")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


async def _serve(storm: Storm, certified: ssl.SSLContext) -> web.AppRunner:
    trusted = ssl.create_default_context(cafile=str(storm._cluster.ca_file))
    app = web.Application(client_max_size=16 * 1024**2)
    connector = aiohttp.TCPConnector(ssl=trusted)
    storm.session = session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout())
    app.on_cleanup.append(lambda _app: session.close())
    app.router.add_route("*", "/{path:.*}", storm.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certified).start()
    storm.port = runner.addresses[0][1]
    return runner
