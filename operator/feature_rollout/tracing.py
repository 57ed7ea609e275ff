"""Spans of what the operator does, for OpenTelemetry. Until `start` was called, and has found something to do, nothing.

Needs the extra `otel`, and OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. All else of the standard
variables is the SDK's. Spans go out in a thread of their own, and are dropped when nobody takes them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
SERVICE: Final = "feature-rollout-operator"
# In front of each attribute's name.
PREFIX: Final = "featurerollout."


class Span(Protocol):
    def set(self, **attributes: str) -> None:
        """Say more of it: rollout, stage, operation …; a text that is empty says nothing."""


class _Nothing:
    def set(self, **attributes: str) -> None: ...


_NOTHING: Final = nullcontext[Span](_Nothing())
_begin: Callable[[str, Mapping[str, str]], AbstractContextManager[Span]] | None = None
_provider: TracerProvider | None = None


def span(name: str, **attributes: str) -> AbstractContextManager[Span]:
    """A span around a block, within that around it. The words of an error that ends it are not told, its type is."""
    return _NOTHING if _begin is None else _begin(name, attributes)


def start(version: str, environ: Mapping[str, str] = os.environ) -> str:
    """Begin, where the environment asks for it; what keeps it from that, as a sentence for a log, or nothing."""
    global _begin, _provider  # noqa: PLW0603 - as the SDK's own
    endpoint = next((name for name in ENDPOINTS if environ.get(name)), "")
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if not endpoint or is_off:
        return ""
    if not environ[endpoint].startswith(("http://", "https://")):
        return f"no traces: {endpoint} must begin with http:// or https://"
    protocol = next((name for name in PROTOCOLS if environ.get(name)), "")
    if protocol and environ[protocol] != PROTOCOL:
        return f"no traces: {protocol} must be {PROTOCOL}, or unset"
    try:
        _provider = _made(version)
    except ImportError:
        return f"no traces: {endpoint} is set, but not the extra: pip install 'feature-rollout-operator[otel]'"
    except ValueError as error:
        # Of a variable whose value it cannot take; its words may hold that value, and headers are secret.
        return f"no traces: an OTEL_ variable has a value that the SDK does not take ({type(error).__name__})"
    tracer = _provider.get_tracer(SERVICE, version)
    _begin = lambda name, attributes: _traced(tracer, name, attributes)  # noqa: E731 - one that closes over `tracer`
    return ""


def stop(timeout_s: float) -> None:
    """Send what is left, for so long at most."""
    global _begin, _provider  # noqa: PLW0603 - likewise
    if _provider is None:
        return
    ending = threading.Thread(target=_provider.shutdown, daemon=True)
    ending.start()
    ending.join(timeout_s)
    _begin = _provider = None


def _made(version: str) -> TracerProvider:
    # Half a second of imports, which nobody else need wait for.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    ours = Resource.create({"service.name": SERVICE, "service.version": version})
    # What the environment says goes before it.
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _Told:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def set(self, **attributes: str) -> None:
        self._span.set_attributes(_named(attributes))


@contextmanager
def _traced(tracer: Tracer, name: str, attributes: Mapping[str, str]) -> Iterator[Span]:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - it is there by now

    with tracer.start_as_current_span(
        name, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    ) as begun:
        try:
            yield _Told(begun)
        except Exception as error:
            begun.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    return {PREFIX + name: value for name, value in attributes.items() if value}
