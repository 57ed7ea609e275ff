"""The operator's metrics for Prometheus. Their names are part of the API."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Up to four hours, the longest respondWithin of the examples.
REVERT_SECONDS = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


@dataclass(frozen=True)
class Telemetry:
    """All metrics, with a registry of their own, so that two operators in one test do not share them."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    looks: Counter = field(init=False)
    reconcile_seconds: Histogram = field(init=False)
    queue_depth: Gauge = field(init=False)
    queue_wait_seconds: Histogram = field(init=False)
    reverts: Counter = field(init=False)
    time_to_revert_seconds: Histogram = field(init=False)
    look_to_revert_seconds: Histogram = field(init=False)
    rollouts: Gauge = field(init=False)
    api_requests: Counter = field(init=False)
    invariant_violations: Counter = field(init=False)
    watch_restarts: Counter = field(init=False)
    events_dropped: Counter = field(init=False)

    def __post_init__(self) -> None:
        p, r = "featurerollout_", self.registry
        metrics: dict[str, Counter | Gauge | Histogram] = {
            "looks": Counter(f"{p}looks_total", "Looks at metrics, by verdict.", ["verdict"], registry=r),
            "reconcile_seconds": Histogram(
                f"{p}reconcile_seconds", "How long one reconcile of one rollout took.", buckets=SECONDS, registry=r
            ),
            "queue_depth": Gauge(f"{p}queue_depth", "Rollouts that wait for a worker.", registry=r),
            "queue_wait_seconds": Histogram(
                f"{p}queue_wait_seconds", "How long a rollout waited for a worker.", buckets=SECONDS, registry=r
            ),
            "reverts": Counter(f"{p}reverts_total", "Reverts by the rollback matrix.", ["severity"], registry=r),
            "time_to_revert_seconds": Histogram(
                f"{p}time_to_revert_seconds",
                "From the onset of a breach to the committed action.",
                buckets=REVERT_SECONDS,
                registry=r,
            ),
            "look_to_revert_seconds": Histogram(
                f"{p}look_to_revert_seconds",
                "From the answer of the look that decided to the committed revert.",
                buckets=SECONDS,
                registry=r,
            ),
            "rollouts": Gauge(f"{p}rollouts", "Rollouts, by phase.", ["phase"], registry=r),
            "api_requests": Counter(
                f"{p}api_requests_total",
                "Calls to the Kubernetes API, by HTTP verb and code.",
                ["verb", "code"],
                registry=r,
            ),
            "invariant_violations": Counter(
                f"{p}invariant_violations_total", "Invariants found broken; must stay 0.", ["id"], registry=r
            ),
            "watch_restarts": Counter(
                f"{p}watch_restarts_total", "Times that the watch was started again.", registry=r
            ),
            "events_dropped": Counter(
                f"{p}events_dropped_total", "Kubernetes Events that were not written.", registry=r
            ),
        }
        for name, metric in metrics.items():
            object.__setattr__(self, name, metric)

    def api_request(self, verb: str, code: str) -> None:
        """Count a call; the hook of `kube.client.Api`."""
        self.api_requests.labels(verb, code).inc()
