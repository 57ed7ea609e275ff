"""Tracing that is not asked for, or cannot be had; spans themselves are seen in `tests/e2e/test_traces.py`."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from feature_rollout import tracing
from feature_rollout.sandbox.processes import free_ports

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    tracing.stop(1.0)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param({}, "", id="nobody asks for it"),
        pytest.param({"OTEL_SERVICE_NAME": "flags"}, "", id="a name is no endpoint"),
        pytest.param(COLLECTOR | {"OTEL_SDK_DISABLED": "true"}, "", id="switched off"),
        pytest.param(COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"}, "", id="no traces wanted"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT must begin with http:// or https://",
            id="no URL",
        ),
        pytest.param(
            COLLECTOR | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "no traces: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, or unset",
            id="another protocol",
        ),
    ],
)
def test_it_does_nothing_and_says_why_where_it_was_asked_for(environ: dict[str, str], said: str) -> None:
    assert tracing.start("1.0", environ) == said
    assert tracing.span("reconcile", rollout="a") is tracing.span("look"), "nothing is made for a span"
    with tracing.span("reconcile") as span:
        span.set(stage="ten")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    said = tracing.start("1.0", COLLECTOR)
    assert said.endswith("is set, but not the extra: pip install 'feature-rollout-operator[otel]'")


def test_a_value_that_the_sdk_does_not_take_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-53")
    said = tracing.start("1.0")
    assert said.startswith("no traces: an OTEL_ variable has a value that the SDK does not take")
    assert "-53" not in said


def test_nothing_of_it_is_imported_before_there_is_an_endpoint() -> None:
    code = (
        "import sys; from feature_rollout import tracing; tracing.start('1.0', {}); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_error_goes_on_through_a_span_and_a_collector_that_is_away_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    assert tracing.start("1.0") == ""
    with pytest.raises(KeyError), tracing.span("reconcile"):
        raise KeyError
    tracing.stop(10.0)
