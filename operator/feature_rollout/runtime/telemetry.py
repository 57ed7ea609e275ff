"""The operator's metrics for Prometheus. Their names are part of the API."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feature_rollout.core.election import Role
from feature_rollout.core.plan import Severity
from feature_rollout.runtime.figures import RolloutFigures

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Up to four hours, the longest respondWithin of the examples.
REVERT_SECONDS = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


@dataclass(frozen=True)
class Telemetry:
    """All metrics, with a registry of their own, so that two operators in one test do not share them."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    of_each: RolloutFigures = field(default_factory=RolloutFigures)

    looks: Counter = field(init=False)
    reconcile_seconds: Histogram = field(init=False)
    queue_depth: Gauge = field(init=False)
    queue_wait_seconds: Histogram = field(init=False)
    loop_lag_seconds: Histogram = field(init=False)
    reverts: Counter = field(init=False)
    reverts_late: Counter = field(init=False)
    time_to_revert_seconds: Histogram = field(init=False)
    look_to_revert_seconds: Histogram = field(init=False)
    rollouts: Gauge = field(init=False)
    rollouts_exposed: Gauge = field(init=False)
    rollout_conditions: Gauge = field(init=False)
    api_requests: Counter = field(init=False)
    api_request_seconds: Histogram = field(init=False)
    database_seconds: Histogram = field(init=False)
    invariant_violations: Counter = field(init=False)
    watch_restarts: Counter = field(init=False)
    events_dropped: Counter = field(init=False)
    leader: Gauge = field(init=False)
    shards: Gauge = field(init=False)
    role_changes: Counter = field(init=False)
    notifications: Counter = field(init=False)
    notifications_waiting: Gauge = field(init=False)
    outbox_age_seconds: Gauge = field(init=False)

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
            "loop_lag_seconds": Histogram(
                f"{p}loop_lag_seconds",
                "How much later than it was due the event loop came to a small task, asked once a second.",
                buckets=SECONDS,
                registry=r,
            ),
            "reverts": Counter(f"{p}reverts_total", "Reverts by the rollback matrix.", ["severity"], registry=r),
            "reverts_late": Counter(
                f"{p}reverts_late_total",
                "Reverts that took longer than the respondWithin of their row.",
                ["severity"],
                registry=r,
            ),
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
            "rollouts_exposed": Gauge(
                f"{p}rollouts_exposed", "Rollouts under way that have a flag switched on.", registry=r
            ),
            "rollout_conditions": Gauge(
                f"{p}rollout_conditions",
                "Rollouts, by the status of each of their conditions.",
                ["type", "status"],
                registry=r,
            ),
            "api_requests": Counter(
                f"{p}api_requests_total",
                "Calls to the Kubernetes API, by HTTP verb and code.",
                ["verb", "code"],
                registry=r,
            ),
            "api_request_seconds": Histogram(
                f"{p}api_request_seconds",
                "How long a call to the Kubernetes API took, by HTTP verb.",
                ["verb"],
                buckets=SECONDS,
                registry=r,
            ),
            "database_seconds": Histogram(
                f"{p}database_seconds",
                "How long the flag store took, by operation: open, read, commit, lower, observe, tell, checkpoint, "
                "release.",
                ["operation"],
                buckets=SECONDS,
                registry=r,
            ),
            "invariant_violations": Counter(
                f"{p}invariant_violations_total", "Invariants found broken; must stay 0.", ["id"], registry=r
            ),
            "watch_restarts": Counter(
                f"{p}watch_restarts_total", "Times that the watch was started again.", registry=r
            ),
            "leader": Gauge(f"{p}leader", "How many shards this replica leads: of the only one, 1 or 0.", registry=r),
            "shards": Gauge(f"{p}shards", "How many shards the replicas share.", registry=r),
            "role_changes": Counter(
                f"{p}role_changes_total",
                "Times that this replica became one that leads, stands by, or sees nobody lead.",
                ["role"],
                registry=r,
            ),
            "events_dropped": Counter(
                f"{p}events_dropped_total", "Kubernetes Events that were not written.", registry=r
            ),
            "notifications": Counter(
                f"{p}notifications_total",
                "Transitions that a recipient (webhook, slack, pagerduty) was to be told of, by outcome: delivered, "
                "failed (and tried again), given_up.",
                ["recipient", "outcome"],
                registry=r,
            ),
            "notifications_waiting": Gauge(
                f"{p}notifications_waiting",
                "Transitions that a recipient was not told of yet.",
                ["recipient"],
                registry=r,
            ),
            "outbox_age_seconds": Gauge(
                f"{p}outbox_age_seconds",
                "The age of the oldest transition that a recipient was not told of yet; 0 when there is none.",
                ["recipient"],
                registry=r,
            ),
        }
        for name, metric in metrics.items():
            object.__setattr__(self, name, metric)
        r.register(self.of_each)
        for severity in Severity:
            # A counter that begins with its first increment shows no increase to Prometheus.
            self.reverts.labels(str(severity))
            self.reverts_late.labels(str(severity))
        for role in Role:
            self.role_changes.labels(role)

    def count(self, statuses: Iterable[Mapping[str, Any]]) -> None:
        """Set the gauges of rollouts from the statuses of all of them."""
        phases: Tally[str] = Tally()
        conditions: Tally[tuple[str, str]] = Tally()
        exposed = 0
        for status in statuses:
            phases[status.get("phase", "Pending")] += 1
            now = {(condition["type"], condition["status"]) for condition in status.get("conditions") or ()}
            conditions.update(now)
            exposed += ("Completed", "True") not in now and any(map(_is_on, status.get("exposure") or ()))
        self.rollouts_exposed.set(exposed)
        self.rollouts.clear()
        for phase, count in phases.items():
            self.rollouts.labels(phase).set(count)
        self.rollout_conditions.clear()
        for labels, count in conditions.items():
            self.rollout_conditions.labels(*labels).set(count)

    def api_request(self, verb: str, code: str, seconds: float) -> None:
        """Count a call; the hook of `kube.client.Api`."""
        self.api_requests.labels(verb, code).inc()
        self.api_request_seconds.labels(verb).observe(seconds)

    def database_call(self, operation: str, seconds: float) -> None:
        """Count an operation; the hook of `store.PostgresFlagStore`."""
        self.database_seconds.labels(operation).observe(seconds)


def _is_on(flag: Mapping[str, Any]) -> bool:
    return bool(flag.get("enabled")) and float(flag.get("percentage", 0)) > 0
