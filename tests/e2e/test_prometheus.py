"""Rollouts that are measured by a real Prometheus: a regression in its series, its outage, its move, who may ask it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from feature_rollout.sandbox.prometheus import PrometheusServer, prometheus_binaries, scrape
from support.exporter import Exporter
from support.manifests import STORE, A, Object, key_of, manifest, metric, rollout, row, stage, store
from support.operatorprocess import Operator
from support.world import World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
# So long may a busy machine take for what takes a second.
LONG_S = 90.0
REQUESTS = {"metric": "requests", "above": "1%"}


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter() as exporter:
        yield exporter


@pytest.fixture
def prometheus(exporter: Exporter) -> Iterator[PrometheusServer]:
    binaries = prometheus_binaries(build_missing=False)
    with PrometheusServer(scrape("shop", exporter.port), binaries=binaries) as server:
        yield server


@pytest.fixture
def provide(world: World) -> Iterator[Callable[..., str]]:
    """Makes the MetricProvider, or changes it; it belongs to the whole cluster, so its name is the test's own."""
    name = f"prometheus-{world.namespace}"

    def made(address: str, *namespaces: str) -> str:
        spec = {"prometheus": {"address": address}, "allowedNamespaces": list(namespaces or [world.namespace])}
        world.apply(manifest("MetricProvider", name, spec))
        return name

    yield made
    if world.get("MetricProvider", name):
        world.delete("MetricProvider", name)


def measured(provider: str, name: str = "error-rate") -> Object:
    """The share of failed requests, by a window of two seconds and ten scrapes."""
    source = {
        "providerRef": {"name": provider},
        "events": 'sum(increase(http_requests_total{service="{{service}}", code=~"5.."}[{{window}}]))',
        "units": 'sum(increase(http_requests_total{service="{{service}}"}[{{window}}]))',
    }
    template = {"type": "Ratio", "counts": "Users", "delay": "500ms", "args": [{"name": "service"}]}
    return {
        "name": name,
        "template": {**template, "prometheus": source},
        "args": {"service": "checkout"},
        "interval": "2s",
    }


def without_reader() -> Object:
    roles = {role: key_of(f"{role}-uri") for role in ("writer", "owner")}
    return manifest("FlagStore", STORE, {"postgres": roles})


def test_a_regression_in_its_series(
    world: World, operator: Operator, exporter: Exporter, prometheus: PrometheusServer, provide: Callable[..., str]
) -> None:
    """Raised by stages, taken back, and told; the FlagStore needs no reader for that."""
    provider = provide(prometheus.url)
    stages = [stage("ten", 10, "4s"), stage("half", 50, "1h")]
    world.apply(without_reader(), rollout(stages=stages, metrics=[measured(provider)]))
    world.wait_row(A, TEN, LONG_S)
    world.wait_row(A, HALF, LONG_S)
    world.wait_condition("Ready", "True", "ProviderUsable", name=provider, kind="MetricProvider")
    world.wait_condition("FieldsInEffect", "True", "AllFieldsInEffect")
    operator.wait_looks(2, verdict="Pass")
    exporter.failed = 0.3
    world.wait_row(A, (False, 50, frozenset()), LONG_S)
    world.soon(lambda: world.status()["phase"] == "RolledBack", LONG_S)
    rollback = world.status()["rollback"]
    assert rollback["metric"] == "error-rate"
    assert [entry["kind"] for entry in world.audit(A)] == ["Raise", "Raise", "Lower"]
    assert prometheus.url not in world.everything_said()


@pytest.mark.parametrize("hangs", [False, True], ids=["down", "hangs"])
def test_an_outage_holds_and_another_address_goes_on(
    world: World,
    operator: Operator,
    exporter: Exporter,
    prometheus: PrometheusServer,
    provide: Callable[..., str],
    *,
    hangs: bool,
) -> None:
    provider = provide(prometheus.url)
    stages = [stage("ten", 10, "8s"), stage("half", 50)]
    world.apply(store(), rollout(stages=stages, metrics=[measured(provider)]))
    world.wait_row(A, TEN, LONG_S)
    operator.wait_looks(1, verdict="Pass")
    if hangs:
        prometheus.pause()
    else:
        prometheus.stop()
    said = "Prometheus: timeout after 10s" if hangs else "Prometheus: the connection was refused"
    world.soon(lambda: world.conditions()["GuardsHealthy"] == ("False", "GuardsBlind"), LONG_S)
    world.soon(lambda: said in world.condition("GuardsHealthy")["message"], LONG_S)
    if not hangs:
        # Longer than the rest of the bake.
        operator.wait_looks(5, verdict="Error")
    assert world.row(A) == TEN
    with PrometheusServer(scrape("shop", exporter.port)) as other:
        provide(other.url)
        world.wait_row(A, HALF, LONG_S)
        world.wait_condition("GuardsHealthy", "True", "GuardsWatching", timeout_s=LONG_S)
        world.wait_condition("Ready", "True", "ProviderUsable", name=provider, kind="MetricProvider", timeout_s=LONG_S)
        assert not [entry for entry in world.audit() if entry["kind"] == "Lower"]
        # And what is found there acts.
        if not hangs:
            world.edit_spec(stages=[*stages, stage("most", 90, "1h")])
            world.wait_row(A, (True, 90, frozenset()), LONG_S)
            exporter.failed = 0.3
            world.wait_row(A, (False, 90, frozenset()), LONG_S)


def test_the_quickstart(
    world: World, operator: Operator, prometheus: PrometheusServer, provide: Callable[..., str]
) -> None:
    """As it is in the examples, but for names, the connection string and the interval."""
    provider = provide(prometheus.url)
    path = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    text = path.read_text(encoding="utf-8").replace(
        "providerRef: {name: prometheus}", f"providerRef: {{name: {provider}}}"
    )
    text = text.replace("new_checkout", A).replace("interval: 30s", "interval: 2s")
    _, flag_store, plan = yaml.safe_load_all(text)
    # The owner instead of `featurerollout store install`.
    flag_store["spec"]["postgres"] = {role: key_of(f"{role}-uri") for role in ("writer", "owner")}
    for obj in (flag_store, plan):
        obj["metadata"].pop("namespace")
        world.apply(obj)
    world.wait_row(A, (True, 5, frozenset()), LONG_S)
    operator.wait_looks(2, verdict="Pass")


def test_who_may_ask_it(
    world: World, operator: Operator, prometheus: PrometheusServer, provide: Callable[..., str]
) -> None:
    missing = f"prometheus-{world.namespace}"
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], metrics=[measured(missing)]))
    absent = world.wait_condition("Ready", "False", "ProviderNotFound", timeout_s=LONG_S)
    assert f"there is no MetricProvider {missing}: create it or correct the name" in absent["message"]
    provide(prometheus.url, "somebody-else")
    refused = world.wait_condition("Ready", "False", "ProviderNotAllowed", timeout_s=LONG_S)
    assert f"is not for namespace {world.namespace}" in refused["message"]
    assert prometheus.url not in world.everything_said()
    assert world.row(A) == (False, 0, frozenset())
    provide(prometheus.url, "*")
    world.wait_row(A, TEN, LONG_S)
    operator.wait_looks(1, verdict="Pass")
    # Taken away in mid-stage: it is not asked any more, and that is no reason to revert.
    provide(prometheus.url, "somebody-else")
    world.soon(lambda: world.conditions()["Ready"] == ("False", "ProviderNotAllowed"), LONG_S)
    operator.wait_looks(2, verdict="Error")
    assert world.row(A) == TEN


def test_one_that_hangs_delays_no_other_metric(
    world: World, operator: Operator, prometheus: PrometheusServer, provide: Callable[..., str]
) -> None:
    """A metric that hangs, in the same rollout as one in SQL, whose guard acts meanwhile."""
    provider = provide(prometheus.url)
    mixed = [metric(), measured(provider, "requests")]
    rows = [row("High", {"type": "DisableFlags"}), row("Low", {"type": "Hold"}, clause=REQUESTS)]
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], metrics=mixed, rows=rows))
    world.wait_row(A, TEN, LONG_S)
    operator.wait_looks(2, verdict="Pass")
    prometheus.pause()
    operator.wait_looks(1, verdict="Error")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()), LONG_S)
    world.soon(lambda: world.status()["phase"] == "RolledBack", LONG_S)
