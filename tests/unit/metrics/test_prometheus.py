"""Looks from Prometheus: what its API may answer, and what a server that is none may.

| answer | look |
|---|---|
| one series, or a scalar | its numbers |
| no series anywhere, NaN of a gauge, no units | no data |
| no series of events beside units | an error that says what to write |
| several series, NaN or infinite counts, a histogram, a range, another time | an error |
| a warning | an error: the numbers may be incomplete |
| a page, a redirect, something compressed or endless, 4xx, 5xx, nothing at all | an error in our words, bounded |
"""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from feature_rollout.api.resolve_metrics import PrometheusQuery
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics import prometheus
from feature_rollout.metrics.prometheus import Prometheus, PrometheusError, PrometheusMetricSource
from feature_rollout.ports import Problem
from support import fakeprometheus
from support.fakeprometheus import FakePrometheus, Handler, data, text

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(seconds=30))
AT = WINDOW.end.timestamp()
RATIO = PrometheusQuery("p", MetricType.RATIO, events="bad", units="all")
ARMS = PrometheusQuery("p", MetricType.RATIO, events="bad", units="all", control_events="cbad", control_units="call")
GAUGE = PrometheusQuery("p", MetricType.GAUGE, value="p95", units="all")
GAUGES = PrometheusQuery("p", MetricType.GAUGE, value="p95", control_value="cp95")
SECRET = "hunter2-said-the-server"


@pytest.fixture
async def server() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus() as server:
        yield server


@pytest.fixture
async def client(server: FakePrometheus) -> AsyncIterator[Prometheus]:
    client = Prometheus(server.url, timeout_s=20.0)
    yield client
    await client.close()


async def look(client: Prometheus, query: PrometheusQuery = RATIO) -> Look:
    return await PrometheusMetricSource(lambda _: client, {"m": query}).look("m", WINDOW)


LOOKS: list[tuple[str, PrometheusQuery, dict[str, Any], dict[str, Any]]] = [
    ("counts", RATIO, {"bad": 3, "all": 300.5}, {"events": 3.0, "units": 300.5}),
    ("more events than units", RATIO, {"bad": 3.2, "all": 3}, {"events": 3.2, "units": 3.0}),
    ("no series at all", RATIO, {"bad": None, "all": None}, {}),
    ("no traffic", RATIO, {"bad": None, "all": 0}, {}),
    ("nothing happened", RATIO, {"bad": 0, "all": 0}, {"events": 0.0, "units": 0.0}),
    ("none of nothing", RATIO, {"bad": 0, "all": None}, {}),
    (
        "arms",
        ARMS,
        {"bad": 1, "all": 2, "cbad": 3, "call": 4},
        {"events": 1.0, "units": 2.0, "control_events": 3.0, "control_units": 4.0},
    ),
    (
        "an empty arm",
        ARMS,
        {"bad": None, "all": None, "cbad": 3, "call": 4},
        {"events": 0.0, "units": 0.0, "control_events": 3.0, "control_units": 4.0},
    ),
    ("a value", GAUGE, {"p95": 0.4, "all": 10}, {"value": 0.4, "units": 10.0}),
    ("a negative value", GAUGE, {"p95": -1, "all": 10}, {"value": -1.0, "units": 10.0}),
    ("the quantile of nothing", GAUGE, {"p95": "NaN", "all": 10}, {"units": 10.0}),
    ("a value of nobody", GAUGE, {"p95": 0.4, "all": 0}, {"units": 0.0}),
    ("values of both arms", GAUGES, {"p95": 0.4, "cp95": -0.2}, {"value": 0.4, "control_value": -0.2}),
    ("nobody without the flags", GAUGES, {"p95": 0.4, "cp95": "NaN"}, {"value": 0.4, "control_units": 0.0}),
    ("nobody with the flags", GAUGES, {"p95": None, "cp95": 0.3}, {"control_value": 0.3}),
    ("no series of a value", GAUGE, {"p95": None, "all": None}, {}),
]


@pytest.mark.parametrize(("query", "numbers", "wanted"), [c[1:] for c in LOOKS], ids=[c[0] for c in LOOKS])
async def test_a_look(
    server: FakePrometheus,
    client: Prometheus,
    query: PrometheusQuery,
    numbers: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    server.numbers = numbers
    seen = await look(client, query)
    assert seen == Look("m", WINDOW, **wanted)
    assert seen.checked() == seen
    assert seen.is_measured == bool("value" in wanted or (wanted.get("units") and "events" in wanted))


NUMBERS = [
    ("no errors yet", {"bad": None, "all": 5}, 'events has no series while units has: write "or vector(0)"'),
    ("errors of nothing", {"bad": 5, "all": None}, "units has no series while events has"),
    ("NaN", {"bad": "NaN", "all": 5}, "events is NaN"),
    ("infinite", {"bad": 1, "all": "+Inf"}, "units is infinite"),
    ("negative", {"bad": -1, "all": 5}, "events is -1, 0 or more is wanted"),
    ("no number", {"bad": SECRET, "all": 5}, "none of the Prometheus API"),
]


@pytest.mark.parametrize(("numbers", "words"), [c[1:] for c in NUMBERS], ids=[c[0] for c in NUMBERS])
async def test_numbers_that_say_nothing(
    server: FakePrometheus, client: Prometheus, numbers: dict[str, Any], words: str
) -> None:
    server.numbers = numbers
    seen = await look(client)
    assert words in (seen.error or "")
    assert not seen.is_measured


async def test_an_infinite_value_is_an_error(server: FakePrometheus, client: Prometheus) -> None:
    server.numbers = {"p95": "-Inf", "all": 1}
    assert (await look(client, GAUGE)).error == "Prometheus: value is infinite"


def series(count: int) -> list[dict[str, Any]]:
    return [{"metric": {"pod": f"{SECRET}-{i}"}, "value": [AT, "1"]} for i in range(count)]


def json_text(body: str, status: int = 200) -> Handler:
    return text(status, body, "application/json")


ANSWERS: list[tuple[str, Handler, str]] = [
    ("several series", fakeprometheus.always(lambda: data("vector", series(3))), "3 series were returned, one is"),
    ("a range", fakeprometheus.always(lambda: data("matrix", [])), "a range of values was returned"),
    ("a string", fakeprometheus.always(lambda: data("string", [AT, SECRET])), "a string was returned"),
    (
        "a histogram",
        fakeprometheus.always(lambda: data("vector", [{"metric": {}, "histogram": [AT, {}]}])),
        "a histogram was returned",
    ),
    ("another time", fakeprometheus.always(lambda: data("scalar", [AT - 300, "1"])), "for another time"),
    (
        "warnings",
        fakeprometheus.always(lambda: data("scalar", [AT, "1"], warnings=[SECRET, "b"])),
        "it gave 2 warnings with its answer",
    ),
    ("bad_data", fakeprometheus.error(400, "bad_data", SECRET), "bad_data: it refuses the query: is it valid PromQL?"),
    ("execution", fakeprometheus.error(422, "execution", SECRET), "execution: it could not evaluate"),
    ("its time-out", fakeprometheus.error(503, "timeout", SECRET), "timeout: the query takes it too long"),
    ("an unknown error", fakeprometheus.error(422, SECRET, SECRET), "HTTP 422: it does not accept the query"),
    ("an error that is 200", fakeprometheus.error(200, SECRET, SECRET), "none of the Prometheus API"),
    ("a login page", text(200, f"<html>{SECRET}"), "the answer is none of the Prometheus API"),
    ("a redirect", text(302, SECRET, Location="http://127.0.0.1:1/login"), "HTTP 302: it redirects"),
    ("401", text(401, SECRET), "HTTP 401: it wants credentials"),
    ("403", text(403, SECRET), "HTTP 403: it forbids"),
    ("404", text(404, SECRET), "HTTP 404: there is no Prometheus API"),
    ("418", text(418, SECRET), "HTTP 418: it does not accept the query"),
    ("429", text(429, SECRET), "HTTP 429: it is asked too often"),
    ("500", text(500, SECRET), "HTTP 500: it has no answer"),
    ("503", text(503, SECRET), "HTTP 503: it has no answer"),
    (
        "a gzip bomb",
        text(200, gzip.compress(b"0" * 10_000_000), "application/json", **{"Content-Encoding": "gzip"}),
        "the answer is compressed",
    ),
    ("no JSON", json_text("{"), "none of the Prometheus API"),
    ("deep JSON", json_text("[" * 100_000), "none of the Prometheus API"),
    ("a JSON list", json_text("[]"), "none of the Prometheus API"),
    ("no data", json_text('{"status": "success"}'), "none of the Prometheus API"),
    ("null results", fakeprometheus.always(lambda: data("vector", None)), "none of the Prometheus API"),
    ("a result that is none", fakeprometheus.always(lambda: data("vector", [7])), "none of the Prometheus API"),
    ("a value that is none", fakeprometheus.always(lambda: data("scalar", ["x", 1])), "none of the Prometheus API"),
    ("an endless time", fakeprometheus.always(lambda: data("scalar", [1e400, "1"])), "none of the Prometheus API"),
    ("an unknown type", fakeprometheus.always(lambda: data(SECRET, [])), "none of the Prometheus API"),
]


@pytest.mark.parametrize(("answer", "words"), [c[1:] for c in ANSWERS], ids=[c[0] for c in ANSWERS])
async def test_an_answer_that_is_none(
    server: FakePrometheus, client: Prometheus, answer: Handler, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = answer
    seen = await look(client)
    assert words in (seen.error or "")
    assert not seen.is_measured
    said = f"{seen.error}{caplog.text}"
    assert SECRET not in said
    assert server.url not in said
    assert len(said) < 300
    assert len(server.calls) == 2


async def test_a_look_is_two_queries_at_the_windows_end(server: FakePrometheus, client: Prometheus) -> None:
    server.numbers = {"sum(increase(e[30s]))": 1, "sum(increase(a[30s])) offset 30s": 2}
    query = PrometheusQuery(
        "p",
        MetricType.RATIO,
        events="sum(increase(e[{{window}}]))",
        units="sum(increase(a[{{window}}])) offset {{window}}",
    )
    assert (await look(client, query)).events == 1.0
    assert sorted(server.queries) == sorted(server.numbers)
    assert {call["time"] for call in server.calls} == {f"{AT:.3f}"}
    assert {call["path"] for call in server.calls} == {"/api/v1/query"}


async def test_an_address_may_have_a_path(server: FakePrometheus) -> None:
    server.numbers = {"1": 1}
    for address in (f"{server.url}/prometheus", f"{server.url}/prometheus/"):
        client = Prometheus(address)
        assert await client.instant("1", WINDOW.end) == 1.0
        await client.close()
    assert {call["path"] for call in server.calls} == {"/prometheus/api/v1/query"}


async def test_the_same_is_asked_once_for_all_rollouts(server: FakePrometheus, client: Prometheus) -> None:
    server.numbers = {"bad": 1, "all": 2, "p95": 3}
    looks = await asyncio.gather(*(look(client, query) for query in [RATIO, GAUGE] * 100))
    assert {(seen.events, seen.value, seen.units) for seen in looks} == {(1.0, None, 2.0), (None, 3.0, 2.0)}
    assert sorted(server.queries) == ["all", "bad", "p95"]


async def test_an_endless_answer_is_cut_off(server: FakePrometheus, client: Prometheus) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    server.answer = endless
    assert "larger than 1024 KiB" in ((await look(client)).error or "")
    await server.wait_closed()


@pytest.mark.parametrize("headers_first", [False, True])
async def test_a_server_that_hangs_is_left_and_its_socket_closed(server: FakePrometheus, headers_first: bool) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b" ")
        return await server.hang(request)

    server.answer = drip if headers_first else server.hang
    # Long enough for both queries to arrive, on a busy machine too.
    client = Prometheus(server.url, timeout_s=2)
    assert (await look(client)).error == "Prometheus: timeout after 2s"
    await server.wait_closed()
    assert len(server.calls) == 2
    await client.close()


async def test_a_look_that_is_given_up_closes_its_sockets(server: FakePrometheus, client: Prometheus) -> None:
    server.answer = server.hang
    task = asyncio.create_task(look(client))
    await server.wait_calls(2)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await server.wait_closed()


async def test_so_many_queries_at_a_time(server: FakePrometheus) -> None:
    server.answer = server.hang
    client = Prometheus(server.url, timeout_s=1.0)
    queries = [PrometheusQuery("p", MetricType.GAUGE, value=f"v{i}") for i in range(50)]
    looks = await asyncio.gather(*(look(client, query) for query in queries))
    assert {seen.error for seen in looks} == {"Prometheus: timeout after 1s"}
    assert server.most_open == prometheus.QUERIES_AT_A_TIME
    await client.close()


async def test_a_connection_that_ended_while_idle_is_replaced(server: FakePrometheus, client: Prometheus) -> None:
    server.numbers = {"bad": 1, "all": 2}

    async def last_words(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if len(server.calls) == 2:
            request.transport.abort()
            raise asyncio.CancelledError
        return fakeprometheus.vector(7, AT)

    server.answer = last_words
    assert await client.instant("a", WINDOW.end) == 7.0
    assert await client.instant("b", WINDOW.end) == 7.0
    assert server.queries == ["a", "b", "b"]


async def test_a_connection_that_is_lost_again_is_not_tried_a_third_time(
    server: FakePrometheus, client: Prometheus
) -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    server.answer = gone
    with pytest.raises(PrometheusError, match="the connection was lost"):
        await client.instant("a", WINDOW.end)
    assert server.queries == ["a", "a"]


async def test_nobody_listens(unused_tcp_port: int) -> None:
    client = Prometheus(f"http://127.0.0.1:{unused_tcp_port}")
    assert (await look(client)).error == "Prometheus: the connection was refused"
    await client.close()


async def test_a_name_that_is_none() -> None:
    client = Prometheus("http://prometheus.invalid:9090")
    assert re.fullmatch(r"Prometheus: (its host name cannot be resolved|timeout .*)", (await look(client)).error or "")
    await client.close()


async def test_tls_with_a_server_that_speaks_none(server: FakePrometheus) -> None:
    client = Prometheus(server.url.replace("http://", "https://"))
    assert (await look(client)).error == "Prometheus: no TLS connection can be made"
    await client.close()


async def test_a_server_that_speaks_no_http() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SECRET.encode() + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    client = Prometheus(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    error = (await look(client)).error or ""
    assert "the answer is no HTTP" in error
    assert SECRET not in error
    await client.close()
    server.close()


async def test_a_client_that_was_closed(client: Prometheus) -> None:
    await client.close()
    assert (await look(client)).error == "Prometheus: the provider was changed meanwhile"


async def test_a_provider_that_may_not_be_asked() -> None:
    def forbidden(name: str) -> Prometheus:
        raise Problem("ProviderNotAllowed", f"the MetricProvider {name} is not for you")

    source = PrometheusMetricSource(forbidden, {"m": RATIO})
    wanted = "ProviderNotAllowed: the MetricProvider p is not for you"
    assert (await source.look("m", WINDOW)).error == wanted
    assert [seen.error for seen in await source.history("m", [WINDOW])] == [wanted]
    assert (await source.look("other", WINDOW)).error == "this rollout has no metric of that name"


@pytest.mark.parametrize(
    ("answer", "words", "transient"),
    [
        (None, "", False),
        (text(404, "no"), "HTTP 404", False),
        (text(503, "starting"), "HTTP 503", True),
        (fakeprometheus.always(lambda: data("vector", [])), "none of the Prometheus API", False),
    ],
    ids=["well", "elsewhere", "starting", "nonsense"],
)
async def test_a_check(
    server: FakePrometheus, client: Prometheus, answer: Handler | None, words: str, transient: bool
) -> None:
    server.answer, server.numbers = answer, {"1": 1}
    if not words:
        await client.check(WINDOW.end)
        return
    with pytest.raises(PrometheusError, match=words) as raised:
        await client.check(WINDOW.end)
    assert raised.value.transient is transient


class TestHistory:
    def windows(self, count: int, gap_s: float = 0.0) -> list[Window]:
        length = timedelta(minutes=30)
        starts = [START + i * (length + timedelta(seconds=gap_s)) for i in range(count)]
        return [Window(start, start + length) for start in starts]

    async def ask(self, client: Prometheus, windows: list[Window], query: PrometheusQuery = RATIO) -> list[Look]:
        return list(await PrometheusMetricSource(lambda _: client, {"m": query}).history("m", windows))

    def matrix(self, numbers: dict[str, list[str | None]], windows: list[Window]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            ends = [window.end.timestamp() for window in windows]
            values = [[at, n] for at, n in zip(ends, numbers[request.query["query"]], strict=True) if n is not None]
            return data("matrix", [{"metric": {}, "values": values}] if values else [])

        return answer

    async def test_one_range_query_for_each_number(self, server: FakePrometheus, client: Prometheus) -> None:
        windows = self.windows(4)
        server.answer = self.matrix({"bad": ["1", "2", "NaN", None], "all": ["10", None, "30", None]}, windows)
        looks = await self.ask(client, windows)
        assert [look.window for look in looks] == windows
        assert (looks[0].events, looks[0].units) == (1.0, 10.0)
        assert looks[1].error == "units has no series while events has"
        assert looks[2].error == "events is NaN"
        assert looks[3] == Look("m", windows[3])
        assert len(server.calls) == 2
        call = server.calls[0]
        assert call["path"] == "/api/v1/query_range"
        assert float(call["start"]) == windows[0].end.timestamp()
        assert float(call["end"]) == windows[-1].end.timestamp()
        assert float(call["step"]) == 1800.0

    async def test_windows_with_gaps_are_asked_one_by_one(self, server: FakePrometheus, client: Prometheus) -> None:
        server.numbers = {"bad": 1, "all": 2}
        looks = await self.ask(client, self.windows(3, gap_s=1.0))
        assert [look.units for look in looks] == [2.0] * 3
        assert len(server.calls) == 6
        assert await self.ask(client, []) == []

    async def test_after_three_failures_nothing_more_is_asked(self, server: FakePrometheus, client: Prometheus) -> None:
        server.answer = text(500, SECRET)
        looks = await self.ask(client, self.windows(9, gap_s=1.0))
        assert {look.error for look in looks} == {"Prometheus: HTTP 500: it has no answer"}
        assert len(server.calls) == 6

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (text(500, SECRET), "HTTP 500"),
            (fakeprometheus.always(lambda: data("vector", [])), "none of the Prometheus API"),
            (fakeprometheus.always(lambda: data("matrix", [{"values": [1]}])), "none of the Prometheus API"),
            (fakeprometheus.always(lambda: data("matrix", [{}, {}])), "2 series were returned"),
        ],
        ids=["500", "a vector", "no points", "two series"],
    )
    async def test_a_failure_is_that_of_every_window(
        self, server: FakePrometheus, client: Prometheus, answer: Handler, words: str
    ) -> None:
        server.answer = answer
        looks = await self.ask(client, self.windows(3))
        assert all(words in (look.error or "") for look in looks)
        assert len(looks) == 3
