"""Metrics from Prometheus, or from whatever answers its HTTP API (v1).

A query is written by a tenant, an answer by a server that may be anything: a login page,
a proxy, a process that hangs. One GET a query with a hard time-out, no redirect followed,
nothing compressed, at most 1 MiB read, and every error told in our words: no text of the
server is repeated. A connection that had ended while it was idle is replaced once, by
aiohttp, which does so for GET; nothing else is tried twice.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp

from feature_rollout.api.promql import with_window
from feature_rollout.api.resolve_metrics import PrometheusQuery
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.hub import UNKNOWN, Shared
from feature_rollout.ports import Problem

QUERIES_AT_A_TIME: Final = 8
TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1024 * 1024
# The server refuses more points of a series in one answer.
POINTS_MAX: Final = 11_000
# After so many failures in a row no other window of a history is asked for.
_FAILURES_MAX: Final = 3

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "featurerollout"}
_ERROR_TYPES: Final = {
    "bad_data": "it refuses the query: is it valid PromQL?",
    "execution": "it could not evaluate the query: perhaps series do not match each other",
    "timeout": "the query takes it too long",
    "canceled": "it gave the query up",
    "internal": "it has an internal error",
    "unavailable": "it is not available",
    "not_found": "it has no such API",
    "not_acceptable": "it cannot answer in JSON",
    "too_many_requests": "it is asked too often",
}
_HTTP: Final = {
    401: "it wants credentials, which a MetricProvider does not give",
    403: "it forbids the query",
    404: "there is no Prometheus API at the provider's address: is its path right?",
    414: "the query is too long for it",
    429: "it is asked too often",
}
_KINDS: Final = {
    "matrix": "a range of values was returned, one number is wanted: is there a [...] without a function around it?",
    "string": "a string was returned, a number is wanted",
}


class PrometheusError(Exception):
    """No usable answer; the text says why, in our words. `transient`: waiting alone may heal it."""

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


class Prometheus:
    """The connections to one address, shared by all metrics of all rollouts.

    The constructor connects to nothing. `timeout_s` is that of everything in a query:
    waiting for a connection, connecting, the whole answer.
    """

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._shared: Shared[float | None] = Shared()

    async def instant(self, query: str, at: datetime) -> float | None:
        """The query's one number at that time, which may be NaN or infinite; None for no series.

        Raises PrometheusError. Who asks the same at the same time gets the same answer.
        """
        return await self._shared.ask((query, at), lambda: self._instant(query, at))

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> dict[int, float]:
        """The query's number at start, start + step, … end, by milliseconds since the epoch; raises PrometheusError."""
        params = {"start": _time(start), "end": _time(end), "step": f"{step.total_seconds():.3f}"}
        data = await self._get("query_range", {"query": query, **params})
        if data.get("resultType") != "matrix":
            raise _unreadable()
        series = _one_series(data.get("result"))
        points = [] if series is None else series.get("values", [])
        return dict(_point(point) for point in points)

    async def check(self, at: datetime) -> None:
        """Whether it answers queries: the cheapest one. Raises PrometheusError."""
        if await self._instant("1", at) != 1:
            raise _unreadable()

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _instant(self, query: str, at: datetime) -> float | None:
        data = await self._get("query", {"query": query, "time": _time(at)})
        kind, result = data.get("resultType"), data.get("result")
        if kind == "vector":
            series = _one_series(result)
            if series is None:
                return None
            if "value" not in series and "histogram" in series:
                raise PrometheusError(
                    "a histogram was returned, a number is wanted: use histogram_quantile or the like"
                )
            result = series.get("value")
        elif kind != "scalar":
            raise PrometheusError(_KINDS.get(str(kind), "the answer is none of the Prometheus API"))
        time_ms, number = _point(result)
        if abs(time_ms - at.timestamp() * 1000) > 1000:
            raise PrometheusError("the answer is for another time than was asked for: is there a cache in between?")
        return number

    async def _get(self, call: str, params: Mapping[str, str]) -> dict[str, Any]:
        """The `data` of an answer."""
        url = f"{self.address.rstrip('/')}/api/v1/{call}"
        try:
            async with asyncio.timeout(self._timeout_s):
                # The server shall not go on with what nobody waits for any more.
                asked = {**params, "timeout": f"{self._timeout_s:g}"}
                async with self._connected().get(url, params=asked, allow_redirects=False) as response:
                    return _data(response, await _body(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._described(error) from None

    def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise PrometheusError("the provider was changed meanwhile", transient=True)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=QUERIES_AT_A_TIME),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    def _described(self, error: Exception) -> PrometheusError:
        match error:
            case TimeoutError():
                text = f"timeout after {self._timeout_s:g}s"
            case aiohttp.ClientConnectorCertificateError():
                text = "its TLS certificate is not trusted, or is for another name"
            case aiohttp.ClientConnectorDNSError():
                text = "its host name cannot be resolved"
            case aiohttp.ClientSSLError():
                text = "no TLS connection can be made"
            case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
                text = "the connection was refused"
            case aiohttp.ClientConnectorError():
                text = "it cannot be reached"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
                text = "the connection was lost"
            case aiohttp.InvalidURL():
                text = "the provider's address cannot be used"
            case _:
                text = f"the answer is no HTTP ({type(error).__name__})"
        return PrometheusError(text, transient=True)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """At most ANSWER_BYTES_MAX, and not compressed: a few kilobytes can stand for a gigabyte."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise PrometheusError("the answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise PrometheusError(f"the answer is larger than {ANSWER_BYTES_MAX // 1024} KiB: aggregate in the query")
    return bytes(body)


def _data(response: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
    if 300 <= response.status < 400:
        raise PrometheusError(
            f"HTTP {response.status}: it redirects, which is not followed: name where it leads to in the provider"
        )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    parsed: dict[str, Any] = answer if isinstance(answer, dict) else {}
    kind = parsed.get("errorType")
    transient = response.status == 429 or response.status >= 500
    if isinstance(kind, str) and kind in _ERROR_TYPES:
        raise PrometheusError(f"{kind}: {_ERROR_TYPES[kind]}", transient=transient)
    if response.status != 200:
        words = _HTTP.get(response.status, "it has no answer" if transient else "it does not accept the query")
        raise PrometheusError(f"HTTP {response.status}: {words}", transient=transient)
    if parsed.get("status") != "success" or not isinstance(parsed.get("data"), dict):
        raise PrometheusError("the answer is none of the Prometheus API: is the provider's address right?")
    warnings = parsed.get("warnings")
    if warnings:
        count = len(warnings) if isinstance(warnings, list) else 1
        raise PrometheusError(
            f"it gave {count} warning{'s' if count > 1 else ''} with its answer, which may be incomplete: "
            "run the query by hand to read them"
        )
    data: dict[str, Any] = parsed["data"]
    return data


def _one_series(result: object) -> dict[str, Any] | None:
    if not isinstance(result, list):
        raise _unreadable()
    if len(result) > 1:
        raise PrometheusError(f"{len(result)} series were returned, one is wanted: aggregate them, as in sum(...)")
    if result and not isinstance(result[0], dict):
        raise _unreadable()
    return result[0] if result else None


def _point(point: object) -> tuple[int, float]:
    """Time in milliseconds and number of a `[1700000000.123, "0.5"]`."""
    match point:
        case [int() | float() as time_s, str(text)]:
            try:
                return round(time_s * 1000), float(text)
            except (ValueError, OverflowError):
                raise _unreadable() from None
    raise _unreadable()


def _unreadable() -> PrometheusError:
    return PrometheusError("the answer is none of the Prometheus API")


def _time(at: datetime) -> str:
    return f"{at.timestamp():.3f}"


class PrometheusMetricSource:
    """The Prometheus metrics of one rollout, by name. Implements `ports.MetricSource`.

    `provider` finds a MetricProvider's client by name at each look, so that an edit of
    the provider takes effect on the next one; it raises Problem when there is none or
    when the rollout may not ask it.
    """

    def __init__(self, provider: Callable[[str], Prometheus], queries: Mapping[str, PrometheusQuery]) -> None:
        self._provider = provider
        self._queries = queries

    async def look(self, metric: str, window: Window) -> Look:
        """One evaluation; never raises but when it is cancelled. No series, and no units, are a look without number."""
        query = self._queries.get(metric)
        if query is None:
            return Look(metric, window, error=UNKNOWN)
        try:
            provider = self._provider(query.provider)
            length = window.end - window.start
            numbers = await _each(query, lambda text: provider.instant(with_window(text, length), window.end))
            return _look(metric, window, query, numbers)
        except Exception as error:  # noqa: BLE001 - a metric must not end the loop that asks for it
            return Look(metric, window, error=_words(error))

    async def history(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        """As `ports.MetricSource` says: in one range query when the windows touch and are equally long."""
        query = self._queries.get(metric)
        if query is None or not _is_grid(windows):
            return await self._one_by_one(metric, windows)
        first, last = windows[0], windows[-1]
        step = first.end - first.start
        try:
            provider = self._provider(query.provider)
            series = await _each(query, lambda text: provider.range(with_window(text, step), first.end, last.end, step))
        except Exception as error:  # noqa: BLE001 - as in `look`
            return [Look(metric, window, error=_words(error)) for window in windows]
        return [_past_look(metric, window, query, series) for window in windows]

    async def _one_by_one(self, metric: str, windows: Sequence[Window]) -> Sequence[Look]:
        looks: list[Look] = []
        for window in windows:
            newest = looks[-_FAILURES_MAX:]
            if len(newest) == _FAILURES_MAX and all(look.error is not None for look in newest):
                looks.append(Look(metric, window, error=newest[-1].error))
            else:
                looks.append(await self.look(metric, window))
        return looks


def _texts(query: PrometheusQuery) -> dict[str, str]:
    named = {
        "events": query.events,
        "units": query.units,
        "value": query.value,
        "controlEvents": query.control_events,
        "controlUnits": query.control_units,
        "controlValue": query.control_value,
    }
    return {name: text for name, text in named.items() if text is not None}


async def _each(query: PrometheusQuery, ask: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
    """What each of the query's texts gives, by its name; all are asked at once."""
    texts = _texts(query)

    async def one(name: str, text: str) -> Any:
        try:
            return await ask(text)
        except PrometheusError as error:
            if error.transient:
                raise
            raise PrometheusError(f"{name}: {error}") from None

    return dict(zip(texts, await asyncio.gather(*(one(name, text) for name, text in texts.items())), strict=True))


def _past_look(metric: str, window: Window, query: PrometheusQuery, series: Mapping[str, Mapping[int, float]]) -> Look:
    at_ms = round(window.end.timestamp() * 1000)
    try:
        return _look(metric, window, query, {name: points.get(at_ms) for name, points in series.items()})
    except PrometheusError as error:
        return Look(metric, window, error=str(error))


def _look(metric: str, window: Window, query: PrometheusQuery, numbers: Mapping[str, float | None]) -> Look:
    units = _count("units", numbers.get("units"))
    if query.type is MetricType.GAUGE:
        value = _value("value", numbers["value"])
        if units == 0:
            value = None
        if query.control_value is None:
            return Look(metric, window, units=units, value=value)
        control = _value("controlValue", numbers["controlValue"])
        is_empty = 0.0 if control is None else None
        return Look(metric, window, units=units, value=value, control_units=is_empty, control_value=control)
    events, units = _arm(numbers, "events", "units")
    control_events, control_units = _arm(numbers, "controlEvents", "controlUnits")
    if query.control_events is not None:
        events, units = events or 0.0, units or 0.0
        control_events, control_units = control_events or 0.0, control_units or 0.0
    return Look(metric, window, events, units, control_events=control_events, control_units=control_units)


def _arm(numbers: Mapping[str, float | None], events_name: str, units_name: str) -> tuple[float | None, float | None]:
    """Events and units of one arm; None and None when there is nothing to count.

    A counter of bad things has no series before the first of them, and none either when
    its name is misspelt: a guard must not take the second for health.
    """
    events, units = (_count(name, numbers.get(name)) for name in (events_name, units_name))
    if events is None and not units:
        return None, None
    if events is None:
        raise PrometheusError(
            f"{events_name} has no series while {units_name} has: "
            'write "or vector(0)" behind the query if that means none'
        )
    if units is None:
        if events:
            raise PrometheusError(f"{units_name} has no series while {events_name} has")
        return None, None
    return events, units


def _value(name: str, number: float | None) -> float | None:
    """A Gauge's value. NaN is what 0/0 and the quantile of nothing give: nothing was measured."""
    if number is not None and math.isinf(number):
        raise PrometheusError(f"{name} is infinite")
    return None if number is None or math.isnan(number) else number


def _count(name: str, number: float | None) -> float | None:
    if number is None:
        return None
    if not math.isfinite(number):
        raise PrometheusError(f"{name} is {'NaN' if math.isnan(number) else 'infinite'}")
    if number < 0:
        raise PrometheusError(f"{name} is {number:g}, 0 or more is wanted")
    return number


def _is_grid(windows: Sequence[Window]) -> bool:
    """Whether the windows touch, are equally long, and are so few that one answer holds them."""
    if not 0 < len(windows) <= POINTS_MAX:
        return False
    length = windows[0].end - windows[0].start
    touching = all(a.end == b.start for a, b in itertools.pairwise(windows))
    return touching and all(window.end - window.start == length for window in windows)


def _words(error: Exception) -> str:
    match error:
        case PrometheusError():
            return f"Prometheus: {error}"
        case Problem():
            return f"{error.reason}: {error.message}"
        case _:
            return f"the answer cannot be read ({type(error).__name__})"
