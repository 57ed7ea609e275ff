"""The watch: kopf in a thread and event loop of its own, which only hands objects over.

Of kopf we use `on.event` alone: it makes no API write, so every replica watches. It has
a thread of its own because on its exit kopf cancels every task that was created after
it began, and in the main thread it takes over the signals.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf

# Not public, but it is the type of a parameter of `kopf.operator`; a contract test holds it.
from kopf._cogs.structs import references

from feature_rollout.kube.client import FIELD_MANAGER
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.errors import ApiError
from feature_rollout.kube.resources import GROUP, RESOURCES, VERSION
from feature_rollout.runtime.logs import describe, report
from feature_rollout.runtime.pace import Pace
from feature_rollout.runtime.reachable import Reachable

log = logging.getLogger(__name__)

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A run of this length was a good one: the next one starts without delay.
GOOD_RUN_S = 60.0
BEAT_S = 1.0
SILENCE_S_MAX = 30.0
CREDENTIALS_LIFE = timedelta(minutes=5)
LOGIN_PAUSE_S = 2.0
# How long kopf may take to end by itself.
END_S = 1.0
CANCELS_MAX = 5
CLOSE_S = 0.5
SERVED_TIMEOUT_S = 15.0
SERVED_POLL_S = 2.0

Offer = Callable[[str, str | None, Mapping[str, Any]], None]


class EndlessBackoffs:
    """1, 2, 4 … 30, 30, 30: kopf gives up, and ends itself, when the backoffs end. Iterated anew for each request."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(BACKOFF_S, itertools.repeat(BACKOFF_S[-1]))


class Watch:
    """`start()`, `restart(why)` and `stop()` from the main loop.

    `offer(plural, event type, object)` is called on the main loop; it must be quick and
    must not raise. `served()` is awaited on the main loop: it says which resources the
    API server has, and kopf is started when all of ours are there, because it would
    silently ignore one that comes later. `on_restart()` is called from the main loop.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        offer: Offer,
        served: Callable[[], Awaitable[frozenset[str]]],
        namespaces: Sequence[str] = (),
        on_restart: Callable[[], None] | None = None,
        plurals: Sequence[str] = tuple(RESOURCES),
    ) -> None:
        self._connection = connection
        self._offer = offer
        self._served = served
        self._namespaces = tuple(namespaces)
        self._on_restart = on_restart or (lambda: None)
        self._plurals = tuple(plurals)
        self._main: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reachable = Reachable()
        self._pace = Pace()
        # These three belong to the thread; the main loop touches them by `_call` only.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._run_flag: asyncio.Event | None = None
        # Plain values, written by one thread and read by the other.
        self._stop_wanted = False
        self._beat_s = 0.0
        self._crds_seen = False
        self._login_s = float("-inf")
        # Those of the running kopf; they belong to the thread.
        self._sessions: list[aiohttp.ClientSession] = []

    def start(self) -> None:
        """Start the thread; call it once, on the main loop."""
        if self._thread is not None:
            raise RuntimeError("the watch was started already")
        self._main = asyncio.get_running_loop()
        self._beat_s = time.monotonic()
        # A daemon, so that a kopf that hangs in its exit cannot keep the process from ending.
        self._thread = threading.Thread(target=self._in_thread, name="watch", daemon=True)
        self._thread.start()

    def restart(self, why: str) -> None:
        """End the running kopf; the next one lists everything again."""
        log.warning("starting the watch again: %s", why)
        self._call(self._end_run)

    async def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread; return whether it ended in time."""
        self._stop_wanted = True
        self._call(self._end_all)
        deadline = time.monotonic() + timeout_s
        while self._thread is not None and self._thread.is_alive():
            if time.monotonic() > deadline:
                log.warning("the watch did not end within %g s and is left behind", timeout_s)
                return False
            await asyncio.sleep(0.02)
        return True

    @property
    def crds_seen(self) -> bool:
        """Whether all our resources were there when kopf was last started."""
        return self._crds_seen

    def problems(self) -> list[str]:
        """What is wrong with the thread, for /livez."""
        if self._thread is None or not self._thread.is_alive():
            return [] if self._stop_wanted else ["the watch thread is not running"]
        silence_s = time.monotonic() - self._beat_s
        return [f"the watch thread was silent for {silence_s:.0f} s"] if silence_s > SILENCE_S_MAX else []

    def _call(self, function: Callable[[], None]) -> None:
        """Run this in the thread's loop, if there is one."""
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            # Its loop is closed: there is nothing left to end.
            return

    def _end_run(self) -> None:
        if self._run_flag is not None:
            self._run_flag.set()

    def _end_all(self) -> None:
        if self._stopping is not None:
            self._stopping.set()
        self._end_run()

    # From here on, everything runs in the thread.

    def _in_thread(self) -> None:
        try:
            asyncio.run(self._supervise())
        except Exception as error:  # noqa: BLE001 - the last stop of a thread: say why it ends; /livez does the rest
            report(log, "the watch thread has ended", error)

    async def _supervise(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # Before kopf, which cancels every task that is younger than itself when it ends.
        heartbeat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        failures = 0
        while not self._stop_wanted:
            began_s = time.monotonic()
            if await self._all_served():
                await self._run_once()
                failures = 0 if time.monotonic() - began_s > GOOD_RUN_S else failures + 1
                if not self._stop_wanted:
                    self._to_main(self._on_restart)
                    await self._pause(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else 0.0)
            else:
                await self._pause(SERVED_POLL_S)
        heartbeat.cancel()
        # A connection that was made just when its session was closed says good-bye to the other side first, and is left
        # open when the loop ends before the answer.
        await asyncio.sleep(CLOSE_S)

    async def _run_once(self) -> None:
        """Run kopf until it ends or is ended. Nothing that it raises gets out."""
        flag = self._run_flag = asyncio.Event()
        if self._stop_wanted:
            return
        where: dict[str, Any] = {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        # Before kopf, which cancels every task that is younger than itself when it ends.
        insights = references.Insights()
        ending = asyncio.create_task(flag.wait(), name="ending")
        deaf = asyncio.create_task(self._end_if_deaf(insights, flag), name="deaf")
        # A task of its own, with a context of its own: kopf keeps its credentials in context variables.
        task = asyncio.create_task(
            kopf.operator(
                registry=self._registry(flag),
                settings=_settings(),
                insights=insights,
                standalone=True,
                stop_flag=flag,
                **where,
            ),
            name="kopf",
        )
        await asyncio.wait([task, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        deaf.cancel()
        await _end(task, stop_wanted=lambda: self._stop_wanted)
        # When it is ended while it still asks what resources there are, kopf leaves sessions open, so they are ours.
        for session in self._sessions:
            await session.close()
        self._run_flag = None

    async def _end_if_deaf(self, insights: references.Insights, flag: asyncio.Event) -> None:
        """End kopf when it has not found all our resources, because it looks for them only once.

        An API server that has just started says for a moment that it has none of them,
        whatever we were told before.
        """
        await insights.ready_resources.wait()
        missing = set(self._plurals) - {resource.plural for resource in insights.watched_resources}
        if missing:
            log.warning("the watch did not find %s, starting it again", ", ".join(sorted(missing)))
            flag.set()

    async def _all_served(self) -> bool:
        assert self._main is not None  # noqa: S101 - for the type checker: `start` has set it
        try:
            async with asyncio.timeout(SERVED_TIMEOUT_S):
                served = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask_served(), self._main))
        except (ApiError, TimeoutError) as error:
            self._reachable.failed(describe(error))
            return False
        missing = sorted(set(self._plurals) - served)
        self._crds_seen = not missing
        if missing:
            log.warning("waiting for CustomResourceDefinitions: %s", ", ".join(missing))
        return not missing

    async def _ask_served(self) -> frozenset[str]:
        return await self._served()

    def _registry(self, flag: asyncio.Event) -> kopf.OperatorRegistry:
        async def ending_by_itself(**_: Any) -> None:
            flag.set()

        registry = kopf.OperatorRegistry()
        kopf.on.cleanup(registry=registry, id="ending")(ending_by_itself)
        kopf.on.login(registry=registry, id="login", backoff=5.0)(self._login)
        for plural in self._plurals:
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"offer-{plural}")(self._handler(plural))
        return registry

    def _handler(self, plural: str) -> Callable[..., Any]:
        async def hand_over(event: Mapping[str, Any], **_: Any) -> None:
            self._to_main(lambda: self._offer(plural, event["type"], event["object"]))

        return hand_over

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        # A token that is refused is asked for again at once; without a pause that would be a tight loop.
        await asyncio.sleep(max(0.0, self._login_s + LOGIN_PAUSE_S - time.monotonic()))
        self._login_s = time.monotonic()
        configuration = await self._connection.load()
        session = await _session(configuration, [self._reachable.tracing(), self._pace.tracing()])
        self._sessions = [*(old for old in self._sessions if not old.closed), session]
        return kopf.AiohttpSession(
            server=configuration.host,
            aiohttp_session=session,
            # Without it the token would be read once, and a pod's token changes every hour.
            expiration=datetime.now(UTC) + CREDENTIALS_LIFE,
        )

    async def _heartbeat(self) -> None:
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)

    async def _pause(self, seconds: float) -> None:
        assert self._stopping is not None  # noqa: S101 - for the type checker: `_supervise` has set it
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _to_main(self, function: Callable[[], None]) -> None:
        assert self._main is not None  # noqa: S101 - for the type checker: `start` has set it
        try:
            self._main.call_soon_threadsafe(function)
        except RuntimeError:
            # The main loop is closed: the process ends, and nobody wants the event any more.
            return


async def _end(task: asyncio.Task[None], *, stop_wanted: Callable[[], bool]) -> None:
    """Wait for kopf, which is ending or was told to, and make it end when it takes too long.

    It waits for what was under way, and one cancellation is not always enough: its
    watches that lose their session in the middle swallow the first and wait for ever.
    """
    for _ in range(CANCELS_MAX):
        await asyncio.wait([task], timeout=END_S)
        if task.done():
            break
        task.cancel()
    else:
        log.error("kopf does not end and is left behind")
        return
    error = None if task.cancelled() else task.exception()
    if error is not None and not stop_wanted():
        report(log, "the watch has ended", error)


async def _session(configuration: Any, tracing: list[aiohttp.TraceConfig]) -> aiohttp.ClientSession:
    """An HTTP session with the credentials of a `kubernetes.aio` configuration."""
    header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    info = kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={"User-Agent": FIELD_MANAGER} | ({"Authorization": header} if header else {}),
        # As `kubernetes.aio` does it, so that both of our clients take the same way.
        proxy=configuration.proxy,
        trust_env=True,
        trace_configs=tracing,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    # Otherwise it lists and watches all CRDs and namespaces, for which it would need the right.
    settings.scanning.disabled = True
    # An int: 300.0 is answered with 400.
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.queueing.worker_limit = None
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.networking.trust_env = True
    # Its last resort is a SIGKILL, which would end the whole process and not only this thread.
    settings.process.ultimate_exiting_timeout = None
    return settings
