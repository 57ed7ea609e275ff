"""Looks from a real Prometheus: live series, weeks of past ones, and what it says when it is asked wrongly."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from feature_rollout.api.promql import with_arguments
from feature_rollout.api.resolve_metrics import PrometheusQuery
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import MetricType
from feature_rollout.metrics.prometheus import Prometheus, PrometheusMetricSource
from feature_rollout.sandbox.prometheus import PrometheusBinaries, PrometheusServer
from support.exporter import Exporter
from support.waiting import wait_for_async

LENGTH = timedelta(seconds=4)
RATIO = PrometheusQuery(
    "p",
    MetricType.RATIO,
    events='sum(increase(http_requests_total{service="checkout", code=~"5.."}[{{window}}]))',
    units='sum(increase(http_requests_total{service="checkout"}[{{window}}]))',
)
# Characters that mean something in a string, in a regular expression and in PromQL.
ODD = "a\"b\\c\nd{}[](.*)|é'`"


@pytest.fixture
async def client(live: PrometheusServer) -> AsyncIterator[Prometheus]:
    client = Prometheus(live.url, timeout_s=20.0)
    yield client
    await client.close()


async def newest(client: Prometheus, query: PrometheusQuery = RATIO) -> Look:
    end = datetime.now(UTC).replace(microsecond=0)
    return await PrometheusMetricSource(lambda _: client, {"m": query}).look("m", Window(end - LENGTH, end))


async def test_live_counters(client: Prometheus, exporter: Exporter) -> None:
    async def healthy() -> bool:
        seen = await newest(client)
        # 200 a second; scrapes are not on the window's edges.
        return seen.is_measured and seen.events == 0.0 and 400 < (seen.units or 0) < 1200

    await wait_for_async(healthy, 60.0)
    exporter.failed = 0.25

    async def failing() -> bool:
        seen = await newest(client)
        return seen.number is not None and 0.2 < seen.number < 0.3

    await wait_for_async(failing, 60.0)


async def test_live_gauges_and_what_is_not_there(client: Prometheus) -> None:
    gauge = PrometheusQuery("p", MetricType.GAUGE, value="queue_seconds")

    async def there() -> bool:
        return (await newest(client, gauge)).value == 0.1

    await wait_for_async(there, 60.0)
    missing = PrometheusQuery("p", MetricType.GAUGE, value="no_such_seconds")
    assert (await newest(client, missing)).number is None
    assert (await newest(client, missing)).error is None
    nothing = PrometheusQuery("p", MetricType.GAUGE, value="histogram_quantile(0.95, vector(0) * 0 / 0)")
    assert (await newest(client, nothing)).error is None
    zero = PrometheusQuery("p", MetricType.RATIO, events="vector(0)", units="vector(0) / 0")
    assert (await newest(client, zero)).error == "Prometheus: units is NaN"
    misspelt = PrometheusQuery("p", MetricType.RATIO, events="sum(no_such_total)", units="vector(5)")
    assert "events has no series while units has" in ((await newest(client, misspelt)).error or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sum(", "value: bad_data: it refuses the query"),
        ("http_requests_total", "value: 2 series were returned, one is wanted: aggregate them, as in sum(...)"),
        ("queue_seconds[1m]", "value: a range of values was returned"),
        ('"text"', "value: a string was returned"),
        ('vector(1) * on() group_left label_replace(http_requests_total, "x", "", "", "") * on() vector(1)', "value: "),
    ],
    ids=["syntax", "several", "range", "string", "matching"],
)
async def test_wrong_queries(client: Prometheus, text: str, words: str) -> None:
    async def scraped() -> bool:
        return (await newest(client)).is_measured

    await wait_for_async(scraped, 60.0)
    seen = await newest(client, PrometheusQuery("p", MetricType.GAUGE, value=text))
    assert words in (seen.error or "")
    assert len(seen.error or "") < 200


async def test_it_goes_away_and_comes_back(live: PrometheusServer) -> None:
    client = Prometheus(live.url, timeout_s=1.0)
    await client.check(datetime.now(UTC))
    live.stop()
    assert (await newest(client)).error == "Prometheus: the connection was refused"
    live.start()

    async def back() -> bool:
        return (await newest(client)).error is None

    await wait_for_async(back, 60.0)
    live.pause()

    async def hangs() -> bool:
        return (await newest(client)).error == "Prometheus: timeout after 1s"

    await wait_for_async(hangs, 60.0)
    live.resume()
    await wait_for_async(back, 60.0)
    await client.close()


async def test_arguments_mean_themselves(binaries: PrometheusBinaries) -> None:
    """Whatever characters a label's value has, it is found, and nothing else is."""
    now = datetime.now(UTC) - timedelta(hours=4)
    value = ODD.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    server = PrometheusServer(binaries=binaries)
    server.backfill({f'x{{a="{value}"}}': [(now, 7.0)], 'x{a="axbxc"}': [(now, 9.0)]})
    with server:
        client = Prometheus(server.url, timeout_s=20.0)
        for text in ('sum(x{a="{{f}}"})', "sum(x{a='{{f}}'})", 'sum(x{a=~"{{f}}"})', "sum(x{a=~'no|{{f}}'})"):
            assert await client.instant(with_arguments(text, {"f": ODD}), now) == 7.0, text
        assert await client.instant(with_arguments('sum(x{a=~"{{f}}"})', {"f": "a.b.c"}), now) is None
        assert await client.instant(with_arguments('sum(x{a!~"{{f}}"})', {"f": ODD}), now) == 9.0
        await client.close()


class TestThreeWeeks:
    """A sample a minute: 60 requests, one of them failing, three in the last week; nothing on the tenth day."""

    END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=4)
    BEGIN = END - timedelta(days=21)

    @pytest.fixture
    async def source(self, binaries: PrometheusBinaries) -> AsyncIterator[PrometheusMetricSource]:
        requests, failures = [], []
        failed = 0
        for minute in range(21 * 1440):
            at = self.BEGIN + timedelta(minutes=minute)
            failed += 3 if minute >= 14 * 1440 else 1
            if 9 * 1440 <= minute < 10 * 1440:
                continue
            requests.append((at, 60.0 * minute))
            failures.append((at, float(failed)))
        server = PrometheusServer(binaries=binaries)
        server.backfill({'r{code="all"}': requests, 'r{code="500"}': failures})
        query = PrometheusQuery(
            "p",
            MetricType.RATIO,
            events='sum(increase(r{code="500"}[{{window}}]))',
            units='sum(increase(r{code="all"}[{{window}}]))',
        )
        with server:
            client = Prometheus(server.url, timeout_s=60.0)
            yield PrometheusMetricSource(lambda _: client, {"m": query})
            await client.close()

    async def test_the_last_week_in_blocks(self, source: PrometheusMetricSource) -> None:
        length = timedelta(minutes=30)
        first = self.END - timedelta(days=7)
        windows = [Window(first + i * length, first + (i + 1) * length) for i in range(336)]
        looks = await source.history("m", windows)
        assert [look.window for look in looks] == windows
        # Prometheus extrapolates to the window's edges; the last sample is a minute before the end.
        assert {round(look.units or 0) for look in looks[:-1]} == {1800}
        assert {round(look.events or 0) for look in looks[1:-1]} == {90}
        # A window asked by itself gives the same.
        assert await source.look("m", windows[100]) == looks[100]

    async def test_a_wide_look_and_a_day_without_data(self, source: PrometheusMetricSource) -> None:
        (wide,) = await source.history("m", [Window(self.END - timedelta(days=7), self.END)])
        assert wide.units == pytest.approx(7 * 1440 * 60, rel=0.01)
        gap = self.BEGIN + timedelta(days=9, hours=1)
        hours = [Window(gap + timedelta(hours=i), gap + timedelta(hours=i + 1)) for i in range(20)]
        assert [look for look in await source.history("m", hours) if look != Look("m", look.window)] == []
