"""Fixtures of the tests on a real Prometheus: `binaries`, and `live`, which scrapes an `exporter`."""

from collections.abc import Iterator

import pytest

from feature_rollout.sandbox.prometheus import (
    PrometheusBinaries,
    PrometheusServer,
    prometheus_binaries,
    scrape,
)
from support.exporter import Exporter


@pytest.fixture(scope="session")
def binaries() -> PrometheusBinaries:
    """Fails at once, and says what to do, rather than install within the time limit of a test."""
    return prometheus_binaries(build_missing=False)


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter() as exporter:
        yield exporter


@pytest.fixture
def live(binaries: PrometheusBinaries, exporter: Exporter) -> Iterator[PrometheusServer]:
    with PrometheusServer(scrape("shop", exporter.port), binaries=binaries) as server:
        yield server
